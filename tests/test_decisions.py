"""Pairs as DPO rows: cuts, orders, and the forms in which KTO and SimPO get the same pairs."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset

from ftlib import decisions
from ftlib.records import PreferencePair

NO, YES = "Unfortunately, I must decline that request.", "Take the blue one, it is lighter."


def pair(number: int, kind: str, chosen: str, rejected: str) -> PreferencePair:
    return PreferencePair(
        id=f"p{number}", prompt=f"question {number}", chosen=chosen, rejected=rejected, kind=kind, cluster=f"c{number}",
        chosen_source="a", rejected_source="b", basis="made up", synthetic=False, split="train",
    )  # fmt: skip


def some_pairs(n: int) -> list[PreferencePair]:
    """One in four harmful, one production with two helpful answers, the rest borderline."""
    made = []
    for i in range(n):
        if i % 4 == 0:
            made.append(pair(i, "harmful", NO, YES))
        elif i % 4 == 1:
            made.append(pair(i, "production", YES, "Take the red one."))
        else:
            made.append(pair(i, "borderline", YES, NO))
    return made


def test_rows_name_the_side_that_declines_and_which_way_it_pulls():
    rows = decisions.chat_rows(some_pairs(4), seed=1)
    assert [row["declines"] for row in rows] == ["chosen", "", "rejected", "rejected"]
    assert [row["pull"] for row in rows] == ["refuse", "answer", "answer", "answer"]
    assert rows[0]["prompt"][-1] == {"role": "user", "content": "question 0"}
    assert rows[0]["chosen"] == [{"role": "assistant", "content": NO}]
    plain = decisions.chat_rows(some_pairs(200), seed=1, whole=True)
    assert {row["declines"] + row["begun"] for row in plain} == {""}
    assert [row["pull"] for row in plain[:4]] == ["refuse", "answer", "answer", "answer"]


def test_an_eighth_are_continuations_and_whole_pairs_none():
    """Of 1,000 refusals chosen 125 are expected (sd 10); of harmless ones a quarter of these go on with the refusal."""
    refuse = decisions.chat_rows([pair(i, "harmful", NO, YES) for i in range(1000)], seed=3)
    assert Counter(row["begun"] for row in refuse).keys() == {"", "chosen"}
    assert 90 < sum(row["begun"] == "chosen" for row in refuse) < 160
    answer = Counter(
        row["begun"] for row in decisions.chat_rows([pair(i, "borderline", YES, NO) for i in range(1000)], seed=3)
    )
    assert 60 < answer["chosen"] < 130 and 15 < answer["rejected"] < 50
    whole = decisions.chat_rows([pair(i, "production", YES, "Take it.") for i in range(100)], seed=3)
    assert {row["begun"] for row in whole} == {""}


@pytest.mark.parametrize(
    "declines, begun, expected",
    [
        ("chosen", "", {"chosen_ids": [20], "rejected_ids": [40]}),
        ("chosen", "chosen", {"prompt_ids": [7, 20], "chosen_ids": list(range(21, 32)), "rejected_ids": [41]}),
        ("rejected", "rejected", {"prompt_ids": [7, 40], "chosen_ids": [41, 42], "rejected_ids": [21]}),
        ("", "", {}),
    ],
)
def test_cuts(declines, begun, expected):
    """Chosen 20, 21, ... 39; rejected 40, 41, 42. A continuation knows twelve tokens of its answer."""
    row = {"prompt_ids": [7], "chosen_ids": list(range(20, 40)), "rejected_ids": [40, 41, 42]}
    assert decisions.cut({**row, "declines": declines, "begun": begun}) == expected


def test_every_balanced_batch_holds_as_many_of_either_pull():
    rows = decisions.chat_rows(some_pairs(40), seed=1)
    order = decisions.balanced(rows, steps=7, batch=8, seed=5)
    assert len(order) == 56
    for start in range(0, 56, 8):
        assert Counter(rows[n]["pull"] for n in order[start : start + 8]) == {"refuse": 4, "answer": 4}
    assert order == decisions.balanced(rows, steps=7, batch=8, seed=5)


@pytest.mark.parametrize("count, steps", [(3, 1), (7, 3), (11, 13), (49, 6)])
def test_the_budget_is_kept_whatever_the_number_of_rows(count, steps):
    rows = decisions.chat_rows(some_pairs(count), seed=1)
    assert len(decisions.balanced(rows, steps=steps, batch=8, seed=5)) == 8 * steps


def test_draws_in_shares_follow_the_shares_and_use_up_a_kind_before_it_repeats():
    """1,600 draws at 3 : 1: about 1,200 (sd 17) of the 10 harmful rows, each as often as the others, or once more."""
    rows = decisions.chat_rows(some_pairs(40), seed=1)
    order = decisions.in_shares(rows, {"harmful": 3, "borderline": 1}, steps=200, batch=8, seed=5)
    kinds = Counter(rows[n]["kind"] for n in order)
    assert kinds.total() == 1600 and set(kinds) == {"harmful", "borderline"}
    assert 1130 < kinds["harmful"] < 1270
    times = Counter(n for n in order if rows[n]["kind"] == "harmful")
    assert len(times) == 10 and max(times.values()) - min(times.values()) <= 1


def test_shares_of_a_kind_that_is_not_there():
    rows = decisions.chat_rows([pair(1, "harmful", NO, YES)], seed=1)
    with pytest.raises(ValueError, match="no row of borderline"):
        decisions.in_shares(rows, {"harmful": 1, "borderline": 1}, steps=1, batch=2, seed=1)
    with pytest.raises(ValueError, match="0 rows"):
        decisions.balanced([], steps=1, batch=2, seed=1)


def worded(number: int, chosen: int, rejected: int) -> PreferencePair:
    """A pair with so many words on either side."""
    return pair(number, "production", "blue " * chosen, "red " * rejected)


def test_pairs_whose_chosen_side_is_longer_the_longest_first():
    pairs = [worded(0, 10, 8), worded(1, 9, 20), worded(2, 30, 10), worded(3, 12, 7), worded(4, 5, 5)]
    assert [decisions.length_gap(x) for x in pairs] == [2, -11, 20, 5, 0]
    assert [x.id for x in decisions.longer_chosen(pairs, least_words=5)] == ["p2", "p3"]


def test_length_balanced_pairs_match_each_gap_with_its_opposite():
    """Shorter by 4 and 9; longer by 1, 5, 20. 4 meets 5, which is taken then: 9 meets 1 (8 off), not 20 (11 off)."""
    pairs = [
        worded(0, 11, 10),
        worded(1, 15, 10),
        worded(2, 30, 10),
        worded(3, 6, 10),
        worded(4, 1, 10),
        worded(5, 7, 7),
    ]
    found = decisions.length_balanced(pairs)
    assert sorted(x.id for x in found) == ["p0", "p1", "p3", "p4", "p5"]  # the equal one stays
    assert sum(map(decisions.length_gap, found)) == 1 + 5 - 4 - 9


def test_pairs_renewed_by_fresh_answers():
    """A first answer that wins, a second one; a tie, an empty answer and two alike give no pair."""
    old = some_pairs(5)
    made = decisions.renewed(
        old,
        ["a", "b", "c", " ", "e"],
        ["v", "w", "x", "y", "e "],
        [1.0, 0.0, 0.5, 0.0, 1.0],
        basis="a judge, simulated",
    )
    assert [(x.id, x.prompt, x.chosen, x.rejected) for x in made] == [
        ("p0", "question 0", "a", "v"), ("p1", "question 1", "w", "b"),
    ]  # fmt: skip
    assert {(x.basis, x.synthetic, x.chosen_source) for x in made} == {("a judge, simulated", True, "sampled")}
    with pytest.raises(ValueError, match="shorter|longer"):
        decisions.renewed(old, ["a"], ["b"], [1.0], basis="")


def test_distinct_rows_and_the_order_over_them():
    rows, places = decisions.distinct([7, 3, 7, 9])
    assert (rows, places) == ([7, 3, 9], [0, 1, 0, 2])
    assert [rows[place] for place in places] == [7, 3, 7, 9]


def test_kto_rows_hold_the_answer_of_the_row_before():
    rows = [{"prompt_ids": [n], "chosen_ids": [10 + n], "rejected_ids": [20 + n]} for n in (1, 2, 3, 4)]
    made = decisions.unpaired(rows, batch=2)
    assert [(r["prompt_ids"], r["completion_ids"], r["KL_completion_ids"], r["label"]) for r in made[:4]] == [
        ([1], [11], [22], True), ([2], [12], [11], True), ([1], [21], [12], False), ([2], [22], [21], False),
    ]  # fmt: skip
    assert len(made) == 8 and made[4]["KL_completion_ids"] == [24]  # not of the batch before
    assert decisions.unpaired(Dataset.from_list(rows), batch=2) == made
    with pytest.raises(ValueError, match="got 1 at row 4"):
        decisions.unpaired([*rows, rows[0]], batch=4)


def test_simpo_by_trls_own_formula(monkeypatch):
    """SimPO: -log σ(β (mean chosen - mean rejected) - γ). TRL's CPOTrainer computes it as loss_type "simpo"."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.cpo import CPOTrainer

    beta, gamma = 2.0, 0.5
    chosen, rejected = torch.tensor([-3.0, -8.0]), torch.tensor([-4.0, -5.0])  # sums of log-probs
    rows = [{"chosen_ids": [1, 2], "rejected_ids": [3]}, {"chosen_ids": [4], "rejected_ids": [5, 6, 7, 8]}]
    lengths = {side: torch.tensor([float(len(row[f"{side}_ids"])) for row in rows]) for side in ("chosen", "rejected")}
    stub = SimpleNamespace(
        loss_type="simpo", simpo_gamma=gamma, beta=beta, label_smoothing=0.0, alpha=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    expected, *_ = CPOTrainer.cpo_loss(stub, chosen / lengths["chosen"], rejected / lengths["rejected"])
    columns = {
        name: torch.tensor(values) for name, values in decisions.simpo_reference(rows, beta=beta, gamma=gamma).items()
    }
    # TRL's `sigmoid_norm`: (log π - reference) / tokens on both sides
    delta = (chosen - columns["ref_chosen_logps"]) / lengths["chosen"]
    delta = delta - (rejected - columns["ref_rejected_logps"]) / lengths["rejected"]
    got = -torch.nn.functional.logsigmoid(beta * delta)
    torch.testing.assert_close(got, expected)
    by_hand = [-np.log(1 / (1 + np.exp(-(2 * (-1.5 + 4) - 0.5)))), -np.log(1 / (1 + np.exp(-(2 * (-8 + 1.25) - 0.5))))]
    assert got.tolist() == pytest.approx(by_hand, rel=1e-5)
    with pytest.raises(ValueError, match="beta > 0"):
        decisions.simpo_reference(rows, beta=0.0, gamma=1.0)
