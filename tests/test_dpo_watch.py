"""Watchers of preference training: numbers worked by hand, and alarms at their thresholds."""

import math

import pytest
from tiny import next_logits, tiny_model

from ftlib import dpo_watch as watch
from ftlib.dpo_watch import Limit

NO = "Unfortunately, I must decline that request."


def test_distinct_n_by_hand():
    """Runs of two: we-can, can-help, we-can, can-not, so 3 of 4. Of one: we, can, help, not, so 4 of 6."""
    texts = ["We can help.", "we can NOT"]
    assert watch.distinct_n(texts) == 3 / 4
    assert watch.distinct_n(texts, 1) == 4 / 6
    assert watch.distinct_n(["a b c d", "a b e f"], first=2) == 1 / 2  # a-b twice
    assert watch.distinct_n(texts, 4) == watch.distinct_n([]) == 0.0  # no run of four words


def test_one_sentence_for_everybody_has_little_diversity():
    """Five words, four runs, said ten times: 4 of 40."""
    assert watch.distinct_n(["please send your order number"] * 10) == 0.1


def test_the_commonest_answer():
    assert watch.commonest_share(["No.", "no.  ", "Yes.", "Ask us."]) == 0.5
    assert watch.commonest_share(["a", "b", "c"]) == 1 / 3


@pytest.mark.parametrize(
    "text, holds",
    [
        ("Unfortunately, it rains.", True),
        ("Send it back, I can’t see it.", True),
        ("We're afraid so.", True),
        ("I must decline.", True),
        ("We can help.", False),
        ("I cant wait", False),
        ("Sorry about the wait.", False),
    ],
)
def test_phrases_of_refusals(text, holds):
    assert watch.phrase_share([text]) == float(holds)


def test_length_counts_prompts_that_both_answer():
    """Answered by both: 4 and 2 words against 2 and 2, so 3 / 2. The refusals are left out."""
    texts = ["one two three four", "one two", NO, "one"]
    reference = ["one two", "one two", "one two", NO]
    assert watch.length_ratio(texts, reference) == 1.5
    assert watch.length_ratio([NO], ["one two"]) is None


def test_all_readings_of_a_look():
    """Harmful: both refused. Harmless, three: one refused.

    Distinct-2 of NO (6 words, 5 runs), "a b c d" (3) and "a b c d" (3): 8 of 11; of the reference's "a b c d",
    "e f g h" and "i j k l": 9 of 9. The commonest answer: 2 of 3. Phrases: 1 of 3, the reference's none. Words of
    answered prompts: 4 against 4. "x y z w" five times over is a loop of the reference's.
    """
    loop = "x y z w " * 5
    found = watch.readings(
        [NO, NO, NO, "a b c d", "a b c d"],
        ["no idea", loop, "a b c d", "e f g h", "i j k l"],
        ["harmful", "harmful", "borderline", "borderline", "production"],
    )
    assert found == {
        "harmful refused": 1.0, "borderline refused": 0.5, "production refused": 0.0,
        "harmless refused": pytest.approx(1 / 3), "length": 1.0, "loops gained": -1 / 5,
        "diversity": pytest.approx(8 / 11), "same answer": pytest.approx(2 / 3),
        "refusal phrases gained": pytest.approx(1 / 3),
    }  # fmt: skip


def test_what_the_prompts_cannot_tell_is_none():
    found = watch.readings([NO], ["yes"], ["harmful"])
    assert found["harmless refused"] is found["diversity"] is found["same answer"] is found["length"] is None


def test_lists_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="got 1, 2 and 1"):
        watch.readings(["a"], ["a", "b"], ["production"])
    with pytest.raises(ValueError, match="at least one text"):
        watch.commonest_share([])


def test_where_the_log_probs_of_pairs_went():
    """Chosen -1 and 2, rejected -4 and 0: means 0.5 and -2, margins 3 and 2; both fell in the first pair only."""
    assert watch.pair_readings([-1.0, 2.0], [-4.0, 0.0]) == {
        "chosen moved": 0.5, "rejected moved": -2.0, "margin": 2.5, "ranked right": 1.0, "both fell": 0.5,
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"\(2,\) and \(1,\)"):
        watch.pair_readings([1.0, 2.0], [1.0])


def test_moves_of_pairs_are_sums_of_log_ratios():
    """Each answer's tokens by hand, under two models; a model has not moved from itself."""
    policy, reference = tiny_model(0), tiny_model(1)
    rows = [([40, 41], [50, 51, 1], [60, 1]), ([42], [52, 1], [61, 62, 1])]

    def sum_of(model, prompt, answer):
        logps = next_logits(model, prompt + answer).log_softmax(-1)
        return sum(logps[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer))

    found = watch.pair_moves(policy, reference, rows)
    for side, moved in enumerate(found, start=1):
        by_hand = [sum_of(policy, row[0], row[side]) - sum_of(reference, row[0], row[side]) for row in rows]
        assert moved == pytest.approx(by_hand, abs=1e-3)
    assert all((moved == 0).all() for moved in watch.pair_moves(policy, policy, rows))


@pytest.mark.parametrize(
    "op, at, well, rings", [("<=", 0.1, (0.0, 0.1), (0.11, math.nan)), (">=", -1.0, (-1.0, 3.0), (-1.01, math.nan))]
)
def test_a_limit_rings_past_its_threshold_and_for_no_number(op, at, well, rings):
    limit = Limit(op, at, "")
    assert [limit.is_broken(value) for value in (*well, *rings)] == [False, False, True, True]


def test_alarms_name_the_remedy_where_they_ring():
    limits = {"harmless refused": Limit("<=", 0.1, "counter-anchoring"), "length": Limit("<=", 1.15, "length-balanced")}
    rows = watch.alarms({"harmless refused": 0.4, "length": None, "loops gained": 1.0}, limits)
    assert [(row["watch"], row["alarm"], row["remedy"]) for row in rows] == [
        ("harmless refused", True, "counter-anchoring"),
        ("length", False, ""),
    ]
    assert rows[0]["well if"] == "<= 0.1"
    with pytest.raises(ValueError, match="no number called 'margin'"):
        watch.alarms({"length": 1.0}, {"margin": Limit(">=", 0, "")})


def test_a_limit_needs_a_number_and_a_side():
    for op, at in (("<", 1.0), (">=", math.inf)):
        with pytest.raises(ValueError, match="expected op"):
            Limit(op, at, "")


def test_the_first_alarm_of_a_series():
    """Below -0.5 at steps 2, 4, 5, 6: twice running first at 5, three times at 6."""
    steps, values, limit = [1, 2, 3, 4, 5, 6], [0.0, -1.0, 0.0, -1.0, -2.0, -1.0], Limit(">=", -0.5, "")
    assert [watch.first_alarm(steps, values, limit, in_a_row=n) for n in (1, 2, 3, 4)] == [2, 5, 6, None]
