"""The lean head and plain attention give TRL's numbers and gradients; only the way to them differs."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import tiny_model, tiny_nf4_peft, tiny_peft
from trl.trainer.utils import add_fused_lm_head

from ftlib import lean, tree

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
    assert lean.speed_up(trainer_of(ours, temperature=temperature)) == {
        "head": True,
        "attention": True,
        "unpacked": 0,
        "adapters": 14,
    }
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
    "system, rows, tokens",  # the last token of an answer predicts nothing: it is not read
    [(0, 4, 7 + 2 + 1 + 1 + 3), (10, 4, 10 + 7 + 2 + 1 + 1 + 3), (10, 2, 10 + 6 + 4), (0, 2, 6 + 4)],
)
@pytest.mark.parametrize("scores", [320 * 320, 0])  # attention as products of matrices, and PyTorch's fused one
def test_what_rows_share_is_read_once_and_gives_the_same_numbers_and_gradients(
    system, rows, tokens, left_padded, scores, monkeypatch
):
    monkeypatch.setattr(tree, "PLAIN_SCORES", scores)
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
    assert read == [(1, tokens)]
    for name in FIELDS:
        torch.testing.assert_close(getattr(got, name), getattr(expected, name), atol=1e-5, rtol=1e-4, msg=name)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], atol=1e-5, rtol=1e-3, msg=name)


def test_what_answers_to_a_prompt_begin_with_is_read_once_and_gives_the_same_numbers_and_gradients(monkeypatch):
    """Four rollouts of one case: three begin with the same nine tokens, two are the same to the end; two tokens in
    common are not worth a segment. Tokens: prompt 4, shared 9, then 1 (twice the same) and 2, and the fourth's 4."""
    shared = [20, 21, 22, 23, 24, 25, 26, 27, 28]
    answers = [[*shared, 11, 1], [*shared, 12, 13, 1], [*shared, 11, 1], [20, 21, 30, 31, 1]]
    ids = torch.tensor([[5, 6, 7, 8] + a + [0] * (12 - len(a)) for a in answers])
    labels = ids.masked_fill(ids == 0, -100)
    labels[:, :4] = -100
    labels[:, 6:8] = -100  # what a tool said: read, and not learned
    given = lambda: {"input_ids": ids.clone(), "attention_mask": (ids != 0).long(), "labels": labels.clone()}
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
    assert read == [(1, 4 + 9 + 1 + 2 + 4)]
    for name in FIELDS:
        torch.testing.assert_close(getattr(got, name), getattr(expected, name), atol=1e-5, rtol=1e-4, msg=name)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("seed", range(5))
def test_every_place_in_a_tree_has_read_the_tokens_before_it(seed):
    """Random rows that part and meet: the tokens on the branch up to a place are the row's up to that column."""
    rng = np.random.default_rng(seed)
    stem = rng.integers(5, 8, 30).tolist()
    prompts = [tuple(stem[:12]), tuple([*stem[:10], 9]), tuple(stem[:12])]
    rows = []
    for _ in range(12):
        cut = int(rng.integers(0, 18))
        rows.append((prompts[rng.integers(3)], stem[12 : 12 + cut] + rng.integers(5, 8, rng.integers(0, 6)).tolist()))
    scored = [(n, column) for n, (_, answer) in enumerate(rows) for column in range(len(answer) + 1)]
    of_rows = tree.Tree._of_rows(rows, scored)
    texts = [[*prompt, *answer] for prompt, answer in rows]
    of_texts = tree.Tree.of_texts(texts, [range(len(p) - 1, len(p) + len(a)) for p, a in rows])

    def read(laid, segment, column):
        ids, parent = laid.segments[segment]
        return ([] if parent is None else read(laid, parent, len(laid.segments[parent][0]) - 1)) + ids[: column + 1]

    wanted = [texts[n][: len(rows[n][0]) + column] for n, column in scored]
    for laid in (of_rows, of_texts):
        assert [read(laid, *place) for place in laid.scored] == wanted
    assert sum(len(ids) for ids, _ in of_texts.segments) == len(
        {tuple(t[:n]) for t in texts for n in range(1, len(t) + 1)}
    )


def test_answers_of_one_token_cost_no_more_than_their_prompts():
    """DPO that is decided by the first token: two prompts, each with two one-token answers."""
    given = shared_batch(left_padded=False)
    first = (given["labels"] != -100).int().argmax(1)
    after = torch.arange(9) > first[:, None]
    given["labels"][after], given["attention_mask"][after] = -100, 0
    found = tree.Tree.of(**given)
    assert found.segments == [([5, 6, 7, 8], None), ([9, 8, 7], None)]
    assert found.scored == [(0, 3), (1, 2), (0, 3), (1, 2)]


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
    assert tree.Tree.of(**given) is None


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


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("rows", [1, 3, 200])
def test_the_head_of_a_frozen_vocabulary_gives_what_the_plain_one_does(rows, temperature, monkeypatch):
    """Seven positions in portions of 1, 3 and all; values, and the gradient of a weighted sum of log-probs."""
    monkeypatch.setattr(lean, "HEAD_ROWS", rows)
    torch.manual_seed(0)
    hidden, head = torch.randn(7, 16), torch.nn.Linear(16, 30, bias=False).requires_grad_(False)
    targets, weights = torch.tensor([3, 29, 0, 7, 7, 1, 2]), torch.arange(7.0) - 2
    one, two = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    expected = lean._score_plainly(one, head, targets, temperature)
    got = lean._score_frozen()(two, head.weight, targets, temperature)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    (expected[0] * weights).sum().backward()
    (got[0] * weights).sum().backward()
    torch.testing.assert_close(two.grad, one.grad, atol=1e-5, rtol=1e-5)
    assert not any(other.requires_grad for other in got[1:])


def test_a_head_that_trains_keeps_its_gradient():
    model = tiny_model(2)  # nothing is frozen here, and the vocabulary matrix is the embedding too
    lean.speed_up(trainer_of(model))
    model(**batch(), fused_lm_head=True).loss.backward()
    assert float(model.lm_head.weight.grad.abs().sum()) > 0


def test_slopes_of_a_bf16_head_are_rounded_once():
    """A target that is almost sure: its slope is small, and must not be the difference of two large rounded numbers."""
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 30, bias=False).requires_grad_(False)
    hidden = (head.weight[5] * 60)[None].detach()
    targets = torch.tensor([5])
    grads = {}
    for dtype in (torch.float64, torch.bfloat16):
        h = hidden.to(dtype).requires_grad_()
        weight = head.weight.to(torch.bfloat16).to(dtype)
        if dtype == torch.float64:
            (h @ weight.t()).log_softmax(-1)[0, 5].backward()
        else:
            lean._score_frozen()(h, weight, targets, 1.0)[0].sum().backward()
        grads[dtype] = h.grad.double()
    size = grads[torch.float64].abs().max()
    assert 0 < size < 0.5 and (grads[torch.bfloat16] - grads[torch.float64]).abs().max() < 0.1 * size


def adapted(**lora):
    """One product of 6 to 4 numbers with a LoRA of rank 2, B not zero, inside a PEFT model."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    given = {"r": 2, "lora_alpha": 6, "target_modules": ["0"], "init_lora_weights": False, **lora}
    return get_peft_model(torch.nn.Sequential(torch.nn.Linear(6, 4)), LoraConfig(**given)).train()


@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 6)])
def test_an_adapter_added_in_place_gives_pefts_numbers_and_gradients(shape):
    """y = x W' + b + 3 x A' B' with rank 2 and alpha 6; gradients of x, A and B, and none where it is off."""
    plain, ours = adapted(), adapted()
    assert lean._lean_adapters(ours) == 1
    found = []
    for model in (plain, ours):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1), requires_grad=True)
        y = model(x)
        y.square().sum().backward()
        with model.disable_adapter():
            off = model(x)
        a, b = (p for p in model.parameters() if p.requires_grad)
        found.append((y, off, x.grad, a.grad, b.grad))
        by_hand = off + 3 * (x @ a.t()) @ b.t()
        torch.testing.assert_close(y, by_hand)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("odd", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}])
def test_other_adapters_keep_pefts_way(odd):
    assert lean._lean_adapters(adapted(**odd)) == 0


@pytest.mark.parametrize("kind", ["soft cap", "sinks"])
def test_plain_attention_of_other_families(kind):
    """A soft cap and a window are kept, in a padded batch and as a tree; attention sinks are left to the model."""
    from transformers import Gemma2Config, Gemma2ForCausalLM, GptOssConfig, GptOssForCausalLM

    sizes = {
        "vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3, "pad_token_id": 0,
    }  # fmt: skip
    if kind == "soft cap":
        capped = Gemma2Config(**sizes, sliding_window=3, query_pre_attn_scalar=8, attn_logit_softcapping=2.0)
        model = Gemma2ForCausalLM(capped).eval()
    else:
        model = GptOssForCausalLM(GptOssConfig(**sizes, num_local_experts=2, num_experts_per_tok=1)).eval()
    given = {name: batch()[name] for name in ("input_ids", "attention_mask")}
    seen = given["attention_mask"].bool()
    model.set_attn_implementation("eager")
    expected = model(**given)
    last = model.model(**given).last_hidden_state
    assert tree.set_attention(model) is (kind == "soft cap")
    torch.testing.assert_close(model(**given).logits[seen], expected.logits[seen], atol=1e-4, rtol=1e-3)
    if kind == "soft cap":
        got = tree.Tree.of(**batch()).hidden(model.model)
        carries = batch()["labels"] != -100
        torch.testing.assert_close(got, last[carries.roll(-1, 1)], atol=1e-4, rtol=1e-3)


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
    assert (
        lean.speed_up(trainer) == {"head": False, "attention": False, "unpacked": 0, "adapters": 0}
        and model.forward == before
    )
