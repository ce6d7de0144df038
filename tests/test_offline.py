"""pass@k, cases that can teach and the off-policy estimate, by hand and against brute force."""

import itertools
import math

import numpy as np
import pytest

from ftlib.offline import mixed_at_k, off_policy, pass_at_k, sort_cases


@pytest.mark.parametrize(
    ("n", "c", "k", "chance"),
    [
        (4, 1, 1, 1 / 4),
        (4, 1, 2, 1 / 2),  # 3 of 6 pairs hold the one
        (5, 2, 3, 9 / 10),  # 1 of 10 triples holds neither
        (8, 0, 8, 0.0),
        (8, 8, 1, 1.0),
        (4, 2, 4, 1.0),
        (200, 3, 100, 1 - (100 * 99 * 98) / (200 * 199 * 198)),
    ],
)
def test_pass_at_k_by_hand(n, c, k, chance):
    assert pass_at_k(n, c, k) == pytest.approx(chance)


@pytest.mark.parametrize(("n", "c", "k"), [(6, 2, 3), (7, 5, 2), (5, 5, 3), (6, 0, 2), (6, 3, 6)])
def test_both_chances_by_counting_every_choice(n, c, k):
    chosen = [sum(which) for which in itertools.combinations([1] * c + [0] * (n - c), k)]
    assert pass_at_k(n, c, k) == pytest.approx(np.mean([s > 0 for s in chosen]))
    assert mixed_at_k(n, c, k) == pytest.approx(np.mean([0 < s < k for s in chosen]))


def test_pass_at_k_is_unbiased():
    """Over all counts of n = 6 at p = 0.3, its mean is 1 - 0.7^2; the plug-in's is not."""
    weights = [math.comb(6, c) * 0.3**c * 0.7 ** (6 - c) for c in range(7)]
    assert sum(w * pass_at_k(6, c, 2) for c, w in enumerate(weights)) == pytest.approx(1 - 0.7**2)
    assert sum(w * (1 - (1 - c / 6) ** 2) for c, w in enumerate(weights)) != pytest.approx(1 - 0.7**2, abs=0.01)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 0), (4, 1, 5), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_counts_that_are_none(n, c, k):
    with pytest.raises(ValueError, match="expected 1 <= k <= n"):
        pass_at_k(n, c, k)


def test_cases_in_the_band_can_teach():
    """Shares 0, 0.2, 0.4, 0.8 and 1: both ends of the band belong to it."""
    success_PG = [[0] * 5, [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1] * 5]
    assert sort_cases(success_PG) == {"too hard": [0], "teaches": [1, 2, 3], "too easy": [4]}
    assert sort_cases(success_PG, band=(0.3, 0.5)) == {"too hard": [0, 1], "teaches": [2], "too easy": [3, 4]}
    for wrong, band in (([[0.5]], (0, 1)), ([1, 0], (0, 1)), ([[]], (0, 1)), ([[1]], (0.8, 0.2))):
        with pytest.raises(ValueError, match="expected 0 and 1"):
            sort_cases(wrong, band=band)


def test_the_estimate_by_hand():
    """Weights 2, 0.5, 0.5, 1 and rewards 1, 0, 1, 0: (2 + 0.5) / 4. Deviations r - v are 0.375, -0.625, 0.375, -0.625;
    their weighted squares add up to 0.5625 + 0.09765625 + 0.03515625 + 0.390625 = 1.0859375."""
    found = off_policy([1, 0, 1, 0], np.log([0.4, 0.6, 0.6, 0.5]), np.log([0.8, 0.3, 0.3, 0.5]))
    assert found.value == pytest.approx(0.625)
    assert found.effective_n == pytest.approx(16 / 5.5)
    half = 3.1824463 * math.sqrt(1.0859375) / 4  # Student's, 3 degrees of freedom
    assert found.interval == pytest.approx((max(0, 0.625 - half), min(1, 0.625 + half)), abs=1e-6)
    assert found.n == 4 and 0 <= found.lower < 0.625


def test_the_same_policy_is_the_plain_mean():
    rewards = np.array([1.0] * 60 + [0.0] * 40)
    logp = np.log(np.random.default_rng(1).random(100))
    found = off_policy(rewards[np.random.default_rng(2).permutation(100)], logp, logp)
    assert (found.value, found.effective_n) == (pytest.approx(0.6), pytest.approx(100))
    assert found.interval == pytest.approx((0.502, 0.698), abs=0.002)  # 0.6 -+ 1.984 sqrt(0.24 / 100)
    assert 0.2 < found.lower < 0.6


def test_what_the_target_never_does_counts_for_nothing():
    found = off_policy([1, 0, 1, 1], np.log([0.5] * 4), [-math.inf, math.log(0.5), math.log(0.5), -math.inf])
    assert (found.value, found.effective_n) == (pytest.approx(0.5), pytest.approx(2))


def test_a_huge_weight_lifts_the_estimate_and_not_the_bound():
    """One lucky rollout that the log hardly ever makes: weight e^5, against 50 failures at weight 1."""
    logp, target = np.zeros(51), np.zeros(51)
    target[25] = 5.0
    rewards = np.zeros(51)
    rewards[25] = 1.0
    found = off_policy(rewards, logp, target)
    assert found.value > 0.7 and found.effective_n < 2
    assert found.lower < 0.1


@pytest.mark.parametrize(
    ("rewards", "behaviour", "target", "clip", "words"),
    [
        ([1.0], [0.0], [0.0], 10, "three lists of one length"),
        ([1.0, 0.0], [0.0], [0.0, 0.0], 10, "three lists of one length"),
        ([1.5, 0.0], [0.0, 0.0], [0.0, 0.0], 10, "rewards in"),
        ([1.0, 0.0], [0.0, 0.0], [0.0, 0.0], 0.5, "clip >= 1"),
        ([1.0, 0.0], [-math.inf, 0.0], [0.0, 0.0], 10, "finite log-probabilities"),
        ([1.0, 0.0], [0.0, 0.0], [-math.inf, -math.inf], 10, "finite log-probabilities"),
        ([1.0, 0.0], [0.0, 0.0], [math.nan, 0.0], 10, "finite log-probabilities"),
    ],
)
def test_logs_that_say_nothing(rewards, behaviour, target, clip, words):
    with pytest.raises(ValueError, match=words):
        off_policy(rewards, behaviour, target, clip=clip)
