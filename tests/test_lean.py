"""The lean head and plain attention give TRL's numbers and gradients; only the way to them differs."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from tiny import tiny_model, tiny_nf4_peft, tiny_peft
from trl.trainer.utils import add_fused_lm_head

from ftlib import lean

FIELDS = ("loss", "log_probs", "entropy", "mean_logits", "is_top1", "label_mask")


def trainer_of(model, *, temperature: float = 1.0, rows: list[list[int]] = ([5] * 8,), **args) -> SimpleNamespace:
    """What `speed_up` reads of a TRL trainer, with TRL's own head on the model."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    add_fused_lm_head(base, temperature=temperature, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    return SimpleNamespace(
        model=model, temperature=temperature, args=SimpleNamespace(**args),
        accelerator=SimpleNamespace(unwrap_model=lambda wrapped: wrapped),
        train_dataset=Dataset.from_dict({"input_ids": list(rows)}),
    )  # fmt: skip


def batch() -> dict:
    """Two rows of eight tokens, the second padded on the right; loss on some tokens only."""
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 1], [9, 8, 7, 6, 5, 1, 0, 0]])
    labels = torch.full_like(ids, -100)
    labels[0, 4:], labels[1, 2:6] = ids[0, 4:], ids[1, 2:6]
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def run(model, given: dict, **more):
    """Output and the gradient of every adapter weight."""
    model.zero_grad()
    out = model(**given, **more, fused_lm_head=True)
    out.loss.backward()
    return out, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("temperature, more", [(1.0, {}), (0.7, {"num_items_in_batch": 5})])
def test_same_numbers_and_gradients_as_trl(temperature, more):
    trl, ours = tiny_peft(3), tiny_peft(3)
    trainer_of(trl, temperature=temperature)
    assert lean.speed_up(trainer_of(ours, temperature=temperature)) == {"head": True, "attention": True, "unpacked": 0}
    expected, expected_grads = run(trl, batch(), **more)
    got, grads = run(ours, batch(), **more)
    for name in FIELDS:
        torch.testing.assert_close(getattr(got, name), getattr(expected, name), atol=1e-5, rtol=1e-4, msg=name)
    assert grads.keys() == expected_grads.keys() and len(grads) > 10
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], atol=1e-5, rtol=1e-3, msg=name)


def shared_batch(*, left_padded: bool, system: int = 0, rows: int = 4) -> dict:
    """Two prompts with two answers each, in TRL's two layouts: answers right after the prompt, or in one column.

    All begin with the same `system` tokens; with `rows` = 2 each prompt has one answer.
    """
    prompts, answers = [[5, 6, 7, 8], [9, 8, 7]] * 2, [[11, 12, 1], [13, 1], [14, 1], [15, 16, 17, 1]]
    prompts, answers = [list(range(20, 20 + system)) + p for p in prompts[:rows]], answers[:rows]
    width = max(map(len, prompts)) if left_padded else 0
    rows = [[0] * max(0, width - len(p)) + p + a for p, a in zip(prompts, answers, strict=True)]
    ends = [len(row) - len(a) for row, a in zip(rows, answers, strict=True)]
    ids = torch.tensor([row + [0] * (system + 9 - len(row)) for row in rows])
    labels = ids.masked_fill(ids == 0, -100)
    for row, end in zip(labels, ends, strict=True):
        row[:end] = -100
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


@pytest.mark.parametrize("left_padded", [False, True])
@pytest.mark.parametrize(
    "system, rows, passes",  # the last token of an answer predicts nothing: it is not read
    [(0, 4, [(2, 4), (4, 3)]), (10, 4, [(1, 10), (2, 4), (4, 3)]), (10, 2, [(1, 10), (2, 6)])],
)
def test_what_rows_share_is_read_once_and_gives_the_same_numbers_and_gradients(
    system, rows, passes, left_padded, monkeypatch
):
    given = lambda: shared_batch(left_padded=left_padded, system=system, rows=rows)
    trl, ours = tiny_peft(3), tiny_peft(3)
    trainer_of(trl)
    lean.speed_up(trainer_of(ours))
    expected, expected_grads = run(trl, given())
    read, inner = [], ours.get_base_model().model
    inner_forward = inner.forward
    monkeypatch.setattr(
        inner, "forward", lambda *a, **k: (read.append(tuple(k["input_ids"].shape)), inner_forward(*a, **k))[1]
    )
    got, grads = run(ours, given())
    assert read == passes
    for name in FIELDS:
        torch.testing.assert_close(getattr(got, name), getattr(expected, name), atol=1e-5, rtol=1e-4, msg=name)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], atol=1e-5, rtol=1e-3, msg=name)


def test_answers_of_one_token_cost_no_more_than_their_prompts():
    """DPO that is decided by the first token: two prompts, each with two one-token answers."""
    given = shared_batch(left_padded=False)
    first = (given["labels"] != -100).int().argmax(1)
    after = torch.arange(9) > first[:, None]
    given["labels"][after], given["attention_mask"][after] = -100, 0
    found = lean._SharedPrompts.find(**given)
    assert found.passes == [([[5, 6, 7, 8], [9, 8, 7]], [0, 0])]
    assert found.scored == [(0, 0, 3), (0, 1, 2), (0, 0, 3), (0, 1, 2)]


@pytest.mark.parametrize("change", ["hole", "no mask", "no prompt", "other input"])
def test_a_batch_that_is_not_plain_is_read_as_it_stands(change):
    given = shared_batch(left_padded=False)
    if change == "hole":
        given["attention_mask"][0, 2] = 0
    elif change == "no prompt":
        given["labels"] = given["input_ids"].masked_fill(given["input_ids"] == 0, -100)
    elif change == "no mask":
        del given["attention_mask"]
    else:
        given["position_ids"] = torch.arange(9).expand(4, 9)
    assert lean._SharedPrompts.find(**given) is None


def test_nf4_weights_are_unpacked_once_and_give_the_same_numbers_and_gradients(tmp_path):
    packed, ours = tiny_nf4_peft(tmp_path).train(), tiny_nf4_peft(tmp_path).train()
    trainer_of(packed)
    assert lean.speed_up(trainer_of(ours))["unpacked"] == 14  # two layers of seven products each
    assert not any(hasattr(weight, "quant_state") for weight in ours.parameters())
    expected, expected_grads = run(packed, batch())
    got, grads = run(ours, batch())
    torch.testing.assert_close(got.log_probs, expected.log_probs, atol=1e-4, rtol=1e-4)
    assert grads.keys() == expected_grads.keys() and len(grads) == 28
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], atol=1e-4, rtol=1e-3, msg=name)


def test_the_loss_by_hand():
    """Loss is minus the mean log-prob of the eight labels (four a row), from the plain logits of the model."""
    model = tiny_model(2)
    lean.speed_up(trainer_of(model))
    given = batch()
    out = model(**given, fused_lm_head=True)
    logits = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits[:, :-1]
    labels = given["labels"][:, 1:]
    picked = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0][labels != -100]
    assert picked.shape == (8,)
    assert out.loss.item() == pytest.approx(-picked.mean().item(), rel=1e-5)


def test_shifted_labels_are_taken_as_they_are():
    model = tiny_model(2)
    lean.speed_up(trainer_of(model))
    given = batch()
    labels = given.pop("labels")
    shifted = torch.cat([labels[:, 1:], torch.full((2, 1), -100)], dim=1)
    one = model(**given, labels=labels, fused_lm_head=True)
    two = model(**given, shift_labels=shifted, fused_lm_head=True)
    assert two.log_probs.shape == (2, 8) and one.log_probs.shape == (2, 7)
    torch.testing.assert_close(two.log_probs[:, :-1], one.log_probs)


def test_rows_without_loss_give_a_zero_that_can_go_backward():
    model = tiny_peft(3)
    lean.speed_up(trainer_of(model))
    out, grads = run(model, {**batch(), "labels": torch.full((2, 8), -100)})
    assert out.loss.item() == 0 and all(float(grad.abs().sum()) == 0 for grad in grads.values())


def test_sampling_is_as_it_was():
    plain, model = tiny_model(4), tiny_model(4)
    lean.speed_up(trainer_of(model))
    ids = torch.tensor([[40, 41, 42]])
    options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    assert model.generate(ids, **options).tolist() == plain.generate(ids, **options).tolist()


def test_long_rows_keep_fused_attention():
    model = tiny_model()
    set_up = lean.speed_up(trainer_of(model, rows=[[5] * 8, [5] * (lean.SHORT_ROWS + 1)]))
    assert set_up == {"head": True, "attention": False, "unpacked": 0} and model.config._attn_implementation == "sdpa"


def test_preference_rows_count_prompt_and_both_answers():
    trainer = trainer_of(tiny_model())
    row = {"prompt_ids": [[5] * 300], "chosen_ids": [[5] * 15], "rejected_ids": [[5] * 6]}
    trainer.train_dataset = Dataset.from_dict(row)
    assert not lean.speed_up(trainer)["attention"]


def test_a_head_that_scales_keeps_trls_way():
    model = tiny_model()
    trainer = trainer_of(model)
    model.config.final_logit_softcapping = 30.0
    before = model.forward
    assert lean.speed_up(trainer)["head"] is False and model.forward == before


def test_an_entropy_bonus_is_refused():
    with pytest.raises(ValueError, match="entropy_coef must be 0"):
        lean.speed_up(trainer_of(tiny_model(), entropy_coef=0.1))


def test_nothing_changes_off_the_cpu():
    model = tiny_model().to("meta")
    before = model.forward
    trainer = SimpleNamespace(model=model, accelerator=SimpleNamespace(unwrap_model=lambda wrapped: wrapped))
    assert lean.speed_up(trainer) == {"head": False, "attention": False, "unpacked": 0} and model.forward == before
