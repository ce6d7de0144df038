"""lengths: what is left of a win-rate when length is held equal."""

import numpy as np
import pytest
from scipy import special

from ftlib.lengths import length_controlled_win_rate, word_counts


def test_equal_lengths_leave_the_rate():
    """Three wins of four, 100 times, and two ties added: (300 + 1) / 402."""
    rate, (low, high) = length_controlled_win_rate([1, 1, 1, 0] * 100, [9] * 400, [9] * 400)
    assert rate == pytest.approx(301 / 402, abs=1e-6)
    assert (low, high) == pytest.approx((0.704, 0.789), abs=2e-3)


def test_a_candidate_that_wins_by_length_alone_does_not_win():
    """The longer answer wins 90 % of 600 comparisons, the candidate's answers are longer in most."""
    rng = np.random.default_rng(1)
    gap = rng.normal(12, 20, size=600)
    scores = (rng.random(600) < np.where(gap > 0, 0.9, 0.1)).astype(float)
    rate, (low, high) = length_controlled_win_rate(scores, np.zeros(600), gap)
    assert scores.mean() > 0.6
    assert low < 0.5 < high and abs(rate - 0.5) < 0.08


def test_length_that_decides_everything_has_a_finite_answer():
    gap = np.linspace(-40, 80, 60)
    rate, (low, high) = length_controlled_win_rate((gap > 0).astype(float), np.zeros(60), gap)
    assert 0 < low < 0.5 < high < 1 and 0.3 < rate < 0.7


@pytest.mark.filterwarnings("error")
def test_all_lost_is_close_to_none_won():
    """Two ties among 402: 1 / 402, without a warning."""
    rate, (low, high) = length_controlled_win_rate([0] * 400, [30] * 400, [0] * 400)
    assert rate == pytest.approx(1 / 402, rel=1e-3) and low < rate < high < 0.02


def test_the_truth_is_covered():
    """60 data sets from the model itself, a = 0.4: 95 % hold expit(0.4) = 0.599 (sd 3 %)."""
    rng = np.random.default_rng(2)
    held = []
    for _ in range(60):
        gap = rng.normal(0, 10, size=300)
        scores = rng.random(300) < special.expit(0.4 + np.tanh(gap / 10))
        low, high = length_controlled_win_rate(scores, np.zeros(300), gap)[1]
        held.append(low <= special.expit(0.4) <= high)
    assert np.mean(held) >= 0.86


def test_wordings_of_one_request_are_no_comparisons_of_their_own():
    """Each comparison three times over: the rate stays, the interval is about as wide as that of one copy."""
    rng = np.random.default_rng(4)
    gap = rng.normal(0, 10, size=120)
    scores = (rng.random(120) < 0.6).astype(float)
    once = length_controlled_win_rate(scores, np.zeros(120), gap)[1]
    thrice = np.repeat(scores, 3), np.zeros(360), np.repeat(gap, 3)
    of = np.repeat(np.arange(120), 3)
    rate, plain = length_controlled_win_rate(*thrice)
    fair_rate, fair = length_controlled_win_rate(*thrice, clusters=of)
    width = lambda ends: ends.high - ends.low
    assert fair_rate == rate and width(fair) == pytest.approx(width(once), rel=0.05)
    assert width(fair) > 1.6 * width(plain)
    kinds = np.where(np.repeat(scores, 3) > 0, "won", "lost")  # kinds of a fixed number: no noise
    assert width(length_controlled_win_rate(*thrice, clusters=of, strata=kinds)[1]) < width(fair)
    assert length_controlled_win_rate(*thrice, clusters=["one"] * 360)[1] == (0.0, 1.0)


def test_word_counts():
    assert word_counts(["", "one", "two words\nand more"]).tolist() == [0, 1, 4]


@pytest.mark.parametrize(
    ("scores", "first", "second", "message"),
    [
        ([1, 0], [1, 1], [1, 1], "three or more"),
        ([1, 0, 1], [1, 1, 1], [1, 1], "broadcast|three or more"),
        ([1, 0, 2], [1, 1, 1], [1, 2, 3], r"scores within \[0, 1\]"),
    ],
)
def test_bad_input_is_refused(scores, first, second, message):
    with pytest.raises(ValueError, match=message):
        length_controlled_win_rate(scores, first, second)
