"""gates: intervals against numbers worked by hand, power against the published tables, verdicts by rule."""

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from ftlib.gates import (
    Interval,
    holm,
    judge_gate,
    mcnemar,
    mean_interval,
    paired_difference,
    pairs_needed,
    score_interval,
    statistic_interval,
    target_rows,
    wilson,
    win_rate,
    zero_failures_needed,
)


def test_wilson_by_hand():
    """k = 5, n = 10, z = 1.96: centre 0.5, half width z sqrt(pq/n + z^2/4n^2) / (1 + z^2/n) = 0.3646 / 1.3842."""
    low, high = wilson(5, 10)
    assert low == pytest.approx(0.5 - 0.26341, abs=1e-4)
    assert high == pytest.approx(0.5 + 0.26341, abs=1e-4)


def test_wilson_at_the_ends_stays_inside_and_keeps_a_width():
    """k = 0: the upper end is z^2 / (n + z^2) = 3.8415 / 13.8415."""
    assert wilson(0, 10) == (0.0, pytest.approx(0.27753, abs=1e-5))
    assert wilson(10, 10) == (pytest.approx(1 - 0.27753, abs=1e-5), 1.0)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (5, 4), (-1, 3)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="expected n > 0 and 0 <= successes <= n"):
        wilson(successes, n)


def test_paired_difference_is_the_mean_of_the_differences():
    """100 items: 30 gained, 10 lost: d = 0.2; sd of d = sqrt(0.4 - 0.04) = 0.6; half width 1.96 * 0.06 = 0.118."""
    baseline = [0] * 30 + [1] * 10 + [1] * 60
    candidate = [1] * 30 + [0] * 10 + [1] * 60
    difference, (low, high) = paired_difference(baseline, candidate, seed=1)
    assert difference == pytest.approx(0.2)
    assert low == pytest.approx(0.2 - 0.118, abs=0.02)
    assert high == pytest.approx(0.2 + 0.118, abs=0.02)


def test_pairing_narrows_the_interval():
    """Items that differ much in difficulty, a gain of exactly 0.1 +- 0.01 each: only the +- 0.01 may be left."""
    easy = np.linspace(0, 1, 50)
    gain = 0.1 + 0.01 * np.where(np.arange(50) % 2, 1, -1)
    _, (low, high) = paired_difference(easy, easy + gain, seed=1)
    assert 0.095 < low < high < 0.105


def test_paired_difference_repeats_with_its_seed_and_changes_with_it():
    baseline, candidate = np.zeros(20), np.sqrt(np.arange(20))
    assert paired_difference(baseline, candidate, seed=1) == paired_difference(baseline, candidate, seed=1)
    assert paired_difference(baseline, candidate, seed=1) != paired_difference(baseline, candidate, seed=2)


def test_equal_values_give_an_interval_of_no_width():
    assert paired_difference([0, 0, 1], [1, 1, 2], seed=1) == (1.0, Interval(1.0, 1.0))
    assert mean_interval([0.5], seed=1) == (0.5, Interval(0.5, 0.5))


def test_a_share_has_wilsons_interval_also_where_all_are_right():
    """10 of 10: z^2 = 3.8415, so the low end is 10 / (10 + 3.8415) = 0.7225; 0 of 10 mirrors it."""
    assert score_interval([1] * 10, seed=1) == (1.0, (pytest.approx(0.7225, abs=1e-4), 1.0))
    assert score_interval([0] * 10, seed=1) == (0.0, (0.0, pytest.approx(0.2775, abs=1e-4)))
    assert score_interval([0, 1, 1, 1], seed=1) == (0.75, wilson(3, 4))
    halves = [0.5, 1.0, 0.0, 0.25]
    assert score_interval(halves, seed=1) == mean_interval(halves, seed=1)
    with pytest.raises(ValueError, match=r"scores within \[0, 1\], got 0..2"):
        score_interval([0, 2], seed=1)


def test_mean_interval_covers_the_truth_as_often_as_it_says():
    """200 samples of 40 from a normal with mean 0: near 95 % of the intervals hold 0 (binomial sd 1.5 %)."""
    rng = np.random.default_rng(0)
    held = [low <= 0 <= high for _, (low, high) in (mean_interval(rng.normal(size=40), seed=k) for k in range(200))]
    assert 0.89 <= np.mean(held) <= 0.99


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0, 2.0]]])
def test_values_that_are_no_list_of_numbers_are_refused(values):
    with pytest.raises(ValueError, match="expected a list of one or more finite numbers"):
        mean_interval(values, seed=1)


def test_items_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="expected the same items twice, got 2 of the baseline and 3"):
        paired_difference([0, 1], [0, 1, 1], seed=1)


def test_mcnemar_is_the_exact_sign_test_of_the_items_that_differ():
    """5 gained, 1 lost: p = 2 * (C(6,0) + C(6,1)) / 2^6 = 14 / 64. Items alike in both do not matter."""
    baseline, candidate = [0] * 5 + [1], [1] * 5 + [0]
    assert mcnemar(baseline, candidate) == pytest.approx(14 / 64)
    assert mcnemar(baseline + [1] * 50, candidate + [1] * 50) == pytest.approx(14 / 64)
    assert mcnemar(candidate, baseline) == pytest.approx(14 / 64)


def test_mcnemar_without_a_difference_is_one_and_scores_are_refused():
    assert mcnemar([0, 1], [0, 1]) == 1.0
    with pytest.raises(ValueError, match="use paired_difference for scores"):
        mcnemar([0, 0.5], [0, 1])


def test_win_rate_counts_a_tie_half():
    rate, interval = win_rate([1, 1, 0.5, 0])
    assert rate == 0.625
    assert interval == wilson(2.5, 4)
    assert win_rate([0.5] * 10)[0] == 0.5
    with pytest.raises(ValueError, match=r"expected scores within \[0, 1\], got -1..1"):
        win_rate([1, -1])


@pytest.mark.parametrize(("p", "n"), [(0.55, 783), (0.60, 194), (0.65, 85), (0.70, 47)])
def test_pairs_needed_gives_the_known_table(p, n):
    """n = ((1.95996 * sqrt(p0 q0) + 0.84162 * sqrt(p q)) / (p - p0))^2, rounded up."""
    assert pairs_needed(p) == n
    assert pairs_needed(1 - p) == n


def test_pairs_needed_refuses_no_difference():
    with pytest.raises(ValueError, match="two different shares"):
        pairs_needed(0.5)


@pytest.mark.parametrize(("rate", "n"), [(0.01, 299), (0.02, 149), (0.05, 59)])
def test_zero_failures_needed_gives_the_known_table(rate, n):
    assert zero_failures_needed(rate) == n
    assert (1 - rate) ** n <= 0.05 < (1 - rate) ** (n - 1)


def test_holm_by_hand():
    """Sorted .01 .02 .04 times 3, 2, 1: .03 .04 .04, made non-decreasing, in the order given."""
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    with pytest.raises(ValueError, match=r"p-values within \[0, 1\]"):
        holm([1.2])


@pytest.mark.parametrize("seed", range(5))
def test_holm_equals_statsmodels(seed):
    p_values = np.random.default_rng(seed).random(12).round(1 + seed % 2)  # rounded: with ties
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-12)


def judged(**change):
    case = {"value": 0.9, "threshold": 0.85, "op": ">=", "n": 150, "interval": (0.84, 0.94), "need_n": 150}
    return judge_gate("g", "05_validate", **case | change)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "PASS"),
        ({"value": 0.85}, "PASS"),  # meeting it is enough
        ({"value": 0.84}, "FAIL"),
        ({"n": 149}, "ABSTAIN"),
        ({"n": 149, "value": 0.84}, "ABSTAIN"),  # too few to say, either way
        ({"n": 20, "value": 0.2, "interval": (0.08, 0.42)}, "FAIL"),  # few, but the whole interval says no
        ({"value": None, "interval": None}, "ABSTAIN"),
        ({"clusters": 50, "need_clusters": 50}, "PASS"),
        ({"clusters": 49, "need_clusters": 50}, "ABSTAIN"),  # items enough, of too few requests
        ({"clusters": 9, "need_clusters": 50, "value": 0.2, "interval": (0.08, 0.42)}, "FAIL"),
        ({"margin": 0.02}, "PASS"),  # 0.84 misses by 0.01
        ({"margin": 0.005}, "ABSTAIN"),
        ({"op": "<=", "threshold": 0.10, "value": 0.08, "interval": (0.05, 0.13)}, "PASS"),
        ({"op": "<=", "threshold": 0.10, "value": 0.11, "interval": (0.05, 0.13)}, "FAIL"),
        ({"op": "<=", "threshold": 0.10, "value": 0.08, "interval": (0.05, 0.13), "margin": 0.02}, "ABSTAIN"),
        ({"op": "<=", "threshold": 0.10, "n": 9, "value": 0.8, "interval": (0.5, 0.95)}, "FAIL"),
    ],
)
def test_verdicts(change, verdict):
    assert judged(**change).verdict == verdict


def test_the_note_says_why_a_gate_abstains_and_keeps_the_fix():
    assert judged(n=40, note="add red-team prompts").note == "n = 40, 150 needed; add red-team prompts"
    few = judged(n=100, clusters=9, need_clusters=12, note="more prompts")
    assert few.note == "n = 100, 150 needed; 9 clusters, 12 needed; more prompts" and few.clusters == 9
    assert judged().clusters is None and judged(clusters=60, note="train longer").note == "train longer"
    assert judged(value=None, interval=None).note == "not measured"
    assert judged(note="train longer").note == "train longer"


def test_judge_gate_keeps_numbers_plain_and_refuses_nan():
    result = judged(value=np.float32(0.5), n=np.int64(150), interval=wilson(75, 150))
    assert (result.value, result.n) == (0.5, 150)
    assert result.ci95 == list(wilson(75, 150))
    with pytest.raises(ValueError, match="gate 'g': expected finite numbers, got value nan"):
        judged(value=float("nan"))
    with pytest.raises(ValueError, match="expected op '>=' or '<=', got '>'"):
        judged(op=">")


def test_a_statistic_of_rows_has_the_interval_that_the_mean_has():
    values = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.3, 0.9])
    found = statistic_interval(lambda places: values[places].mean(-1), 7, seed=3)
    mean, interval = mean_interval(values, seed=3)
    assert found[0] == pytest.approx(mean)
    assert found[1] == pytest.approx(interval)


def test_a_statistic_that_never_moves_has_an_interval_of_no_width():
    still = lambda places: np.full(places.shape[:-1], 0.25)
    assert statistic_interval(still, 5, seed=1) == (0.25, (0.25, 0.25))
    assert statistic_interval(lambda places: places.sum(-1) + 2.0, 1, seed=1) == (2.0, (2.0, 2.0))
    with pytest.raises(ValueError, match="one or more items, got 0"):
        statistic_interval(still, 0, seed=1)
    with pytest.raises(ValueError, match="finite on these 2 items"):
        statistic_interval(lambda places: np.full(places.shape[:-1], np.nan), 2, seed=1)


def test_targets_stand_beside_the_numbers():
    """By the value; "shown" where both ends of the interval say the same. At the target is reached."""
    rows = target_rows(
        [
            ("wins", 0.61, ">=", 0.6, 472, (0.56, 0.65)),
            ("wins, surely", 0.61, ">=", 0.5, 472, (0.56, 0.65)),
            ("attacks", 0.25, "<=", 0.15, 156, (0.16, 0.37)),
            ("refused", 0.1, "<=", 0.08, 180, Interval(0.06, 0.15)),
            ("leaks", 0.0, "<=", 0.0, 300, None),
            ("kl", None, "<=", 2.0, 0, None),
        ]
    )
    assert [row["says"] for row in rows] == [
        "reached", "reached, shown", "missed, shown", "missed", "reached", "not measured",
    ]  # fmt: skip
    assert rows[2] == {"target": "attacks", "value": 0.25, "95 %": "0.160 to 0.370", "wanted": "<= 0.15", "n": 156,
                       "says": "missed, shown"}  # fmt: skip
    for wrong in (("x", float("nan"), ">=", 0.5, 1, None), ("x", 0.5, ">", 0.5, 1, None)):
        with pytest.raises(ValueError, match="target 'x': expected op"):
            target_rows([wrong])
