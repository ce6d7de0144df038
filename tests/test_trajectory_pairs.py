"""Pairs of whole rollouts: which ones are compared, and that nothing the desk said carries loss."""

from types import SimpleNamespace

import pytest
import torch

from ftlib import desk, long_cases, models, trajectory_pairs
from ftlib import train as ft
from ftlib.agreement import basis
from ftlib.ratings import candidate_id
from ftlib.records import Candidate, Rating, write_jsonl
from ftlib.reward_attacks import call
from ftlib.trajectory_pairs import OPENING, make_pairs

CASES = long_cases.make_long(8, seed=11)


def played(case: desk.Case, *answers: str):
    return desk.play(case, answers)


def on(case: desk.Case, *tools: str) -> list[str]:
    return [*(call(tool, order_id=case.order_id) for tool in tools), "It is done."]


CASE = next(c for c in CASES if c.needed_calls == 2 and c.outcome == "refund")
RIGHT = played(CASE, *on(CASE, "find_order", "refund"))
SLOW = played(CASE, *on(CASE, "find_order", "find_order", "refund"))
WRONG = played(CASE, *on(CASE, "find_order", "decline"))
NONE = played(CASE, "Thanks.")
SCORE = lambda t: 0.8 * t.success + 0.2 * (len(t.calls) == 2)


def pairs_of(*rollouts, **options):
    return make_pairs([t for t, _ in rollouts], [chat for _, chat in rollouts], score=SCORE, **options)


def test_the_best_meets_the_worst_and_each_rollout_comes_once():
    """Scores 0.2, 1.0, 0.0, 0.8: best over worst 1.0 - 0.0, then 0.8 - 0.2."""
    first, second = pairs_of(WRONG, RIGHT, NONE, SLOW)
    assert first.chosen == RIGHT[1][OPENING:] and first.rejected == NONE[1][OPENING:] and first.gap == 1.0
    assert second.chosen == SLOW[1][OPENING:] and second.rejected == WRONG[1][OPENING:]
    assert second.gap == pytest.approx(0.6)
    assert first.prompt == desk.chat(CASE) and first.case == CASE.id


def test_near_scores_and_equal_rollouts_are_no_pair():
    assert [pair.gap for pair in pairs_of(WRONG, RIGHT, NONE, SLOW, least_gap=0.7)] == [1.0]
    assert pairs_of(RIGHT, RIGHT, RIGHT, RIGHT, least_gap=0.0) == []
    assert len(pairs_of(RIGHT, RIGHT, WRONG, WRONG)) == 1  # the same pair twice is one
    assert pairs_of(RIGHT) == []


def test_rollouts_of_two_cases_are_never_compared():
    other = next(c for c in CASES if c.id != CASE.id)
    assert pairs_of(RIGHT, played(other, "Thanks.")) == []


def test_what_make_pairs_refuses():
    with pytest.raises(ValueError, match="one chat for each trajectory"):
        make_pairs([RIGHT[0]], [], score=SCORE)
    with pytest.raises(ValueError, match="least_gap >= 0"):
        pairs_of(RIGHT, WRONG, least_gap=-1.0)
    with pytest.raises(ValueError, match="got none; sample more"):
        trajectory_pairs.dataset_of([], [])


# --- with TRL's trainer, a tiny random model, and the real tokenizer


LONG = next(c for c in CASES if c.needed_calls == 4)
NUMBERS = (*LONG.trail, LONG.order_id)
SOLVED = [*(call("find_order", order_id=n) for n in NUMBERS), call(LONG.outcome, order_id=LONG.order_id), "It is done."]
# Arguments that other calls lack: a plain table would give null to the others.
ODD = [call("read_policy", topic="returns"), call("refund", a=1, b="x"), "No."]
PAIRS = [*pairs_of(RIGHT, WRONG), *pairs_of(played(LONG, *SOLVED), played(LONG, *ODD))]


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer("embedded")


@pytest.fixture
def make_trainer(tokenizer, tmp_path):
    from peft import LoraConfig
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import get_json_schema
    from trl import DPOConfig, DPOTrainer

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=768,
        )
    )  # fmt: skip

    def make(**more):
        config = DPOConfig(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, fp16=False, activation_checkpointing=False, max_steps=1,
            per_device_train_batch_size=2, learning_rate=1e-2, report_to="none", disable_tqdm=True, save_strategy="no",
            **{"max_length": 768, "remove_unused_columns": False, **more},
        )  # fmt: skip
        return DPOTrainer(
            model=model, args=config, processing_class=tokenizer,
            train_dataset=trajectory_pairs.dataset_of(PAIRS, [get_json_schema(tool) for tool in desk.tools()]),
            peft_config=LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
        )  # fmt: skip

    return make


def carrying(trainer, tokenizer) -> list[str]:
    """The text of what carries loss in one batch of all rows: the chosen sides first."""
    batch = trainer.data_collator(list(trainer.train_dataset))
    return [
        tokenizer.decode(ids[mask == 1]) for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]


def written(messages: list[dict], tokenizer) -> str:
    """What the model wrote in a side, by the template, one turn after the other."""
    turns = [tokenizer.apply_chat_template([m], tokenize=False) for m in messages if m["role"] == "assistant"]
    return "".join(turn.removeprefix("<|im_start|>assistant\n").removesuffix("\n") for turn in turns)


def test_no_token_of_a_tool_result_carries_loss(make_trainer, tokenizer):
    trainer = make_trainer()
    said = [m["content"] for pair in PAIRS for m in (*pair.chosen, *pair.rejected) if m["role"] == "tool"]
    unmasked = "".join(carrying(trainer, tokenizer))
    assert len(said) == 10 and all(text in unmasked for text in said)  # TRL alone trains on all of them
    tokens = trajectory_pairs.mask_tools(trainer)
    kept = carrying(trainer, tokenizer)
    assert kept == [written(side, tokenizer) for side in (*(p.chosen for p in PAIRS), *(p.rejected for p in PAIRS))]
    assert [text for text in said if text in "".join(kept)] == []
    batch = trainer.data_collator(list(trainer.train_dataset))
    assert tokens == int(batch["completion_mask"].sum())


def test_arguments_come_as_they_were_written(make_trainer, tokenizer):
    """Not with null for the names that only other calls have."""
    text = tokenizer.decode(make_trainer().train_dataset[1]["rejected_ids"])
    assert '"arguments": {"topic": "returns"}}' in text and '"arguments": {"a": 1, "b": "x"}}' in text


@pytest.mark.parametrize("kept", [False, True])
def test_the_loss_does_not_hang_on_how_likely_the_desks_words_are(make_trainer, kept):
    """Labels as the model gets them, in a real step of TRL's trainer: -100 wherever the desk speaks.

    With the reference kept from before, too: were it summed over other tokens, the first loss would not be ln 2.
    """
    trainer = make_trainer()
    trajectory_pairs.mask_tools(trainer)
    if kept:
        ft.keep_reference(trainer)
    seen = []
    hook = trainer.model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append((kwargs["input_ids"], kwargs["labels"])), with_kwargs=True
    )
    assert trainer.train().training_loss == pytest.approx(0.6931, abs=1e-4)  # policy = reference: ln 2
    hook.remove()
    batch = trainer.data_collator(list(trainer.train_dataset))
    for ids, labels in seen:  # the policy's pass and the reference's
        assert int((labels != -100).sum()) == int(batch["completion_mask"].sum())
        assert torch.equal(ids[labels != -100], labels[labels != -100])


def test_a_batch_that_is_cut_at_max_length_keeps_its_masks(make_trainer, tokenizer):
    trainer = make_trainer(max_length=180)
    trajectory_pairs.mask_tools(trainer)
    whole = [written(side, tokenizer) for side in (*(p.chosen for p in PAIRS), *(p.rejected for p in PAIRS))]
    cut = carrying(trainer, tokenizer)
    assert all(text.startswith(part) for text, part in zip(whole, cut, strict=True)) and cut != whole


@pytest.mark.parametrize("odd", [{"remove_unused_columns": True}, {"truncation_mode": "keep_end"}])
def test_settings_that_would_lose_the_masks_are_refused(make_trainer, odd):
    with pytest.raises(ValueError, match="the masks would be lost"):
        trajectory_pairs.mask_tools(make_trainer(**odd))


def test_a_template_without_marks_is_refused(tokenizer):
    """A tokenizer whose template marks nothing: every mask would be empty, and nothing would be learned."""
    plain = lambda chat, **_: {"input_ids": [1, 2], "assistant_masks": [0, 0]}
    row = {"prompt": [], "chosen": [], "rejected": [], "tools": "[]", "prompt_ids": [1], "chosen_ids": [2]}
    with pytest.raises(ValueError, match="pair 3, chosen: .* with {% generation %}"):
        trajectory_pairs._masks(SimpleNamespace(apply_chat_template=plain), row, 3)


# --- votes of an earlier run


def kept_votes(folder, *given: tuple[str, str, str, bool]):
    """Two pairs of rollouts and votes on them, (rater, pair, choice, simulated) each, as a run leaves them."""
    texts = [f"way {n}" for n in range(4)]
    items = [
        Candidate(
            id=candidate_id(CASE.id, a, b), prompt_id=CASE.id, prompt=CASE.message, kind="production", answer_a=a,
            source_a="rollout", answer_b=b, source_b="rollout", cluster=CASE.id,
        )
        for a, b in (texts[:2], texts[2:])
    ]  # fmt: skip
    ids = {"first": items[0].id, "second": items[1].id}
    votes = [
        Rating(
            item_id=ids.get(item, item), rater=rater, choice=choice, helpfulness=None, harmlessness=None, task_fit=1,
            reason="", seconds=7.5, left="B", simulated=simulated, created_at="2026-11-30T08:00:00Z",
        )
        for rater, item, choice, simulated in given
    ]  # fmt: skip
    write_jsonl(folder / trajectory_pairs.ITEMS, items)
    return items, votes, write_jsonl(folder / "ratings.jsonl", votes)


def test_votes_of_an_earlier_run_are_replayed_as_they_were_given(tmp_path):
    given = (("ann", "first", "A", False), ("ann", "second", "tie", False), ("bo", "first", "B", False))
    items, votes, path = kept_votes(tmp_path, *given, ("sim-1", "second", "A", True))
    found, replayed = trajectory_pairs.recorded_votes(path, seed=3)
    assert found == items
    assert sorted(replayed, key=lambda v: (v.rater, v.item_id)) == sorted(votes, key=lambda v: (v.rater, v.item_id))
    people = [vote for vote in replayed if not vote.simulated]
    assert "simulated" not in basis(people) and "simulated" in basis(replayed)


def test_votes_do_not_move_to_other_texts(tmp_path):
    items, _, path = kept_votes(tmp_path, ("ann", "first", "A", False))
    turned = items[0].model_copy(update={"answer_a": items[0].answer_b, "answer_b": items[0].answer_a})
    write_jsonl(tmp_path / trajectory_pairs.ITEMS, [turned, items[1]])
    with pytest.raises(ValueError, match=f"got other texts under '{items[0].id}'.*unchanged"):
        trajectory_pairs.recorded_votes(path, seed=3)


def test_votes_without_their_pairs_are_refused(tmp_path):
    *_, path = kept_votes(tmp_path, ("ann", "first", "A", False), ("ann", "elsewhere", "B", False))
    with pytest.raises(ValueError, match="1 of 2 votes are on pairs that rating_items.jsonl does not have"):
        trajectory_pairs.recorded_votes(path, seed=3)
    *_, none = kept_votes(tmp_path)
    with pytest.raises(ValueError, match="expected Rating rows, found none"):
        trajectory_pairs.recorded_votes(none, seed=3)
    (tmp_path / trajectory_pairs.ITEMS).unlink()
    with pytest.raises(FileNotFoundError):
        trajectory_pairs.recorded_votes(path, seed=3)
