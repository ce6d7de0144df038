"""looks: stakes by hand, and the level held by simulation under a look after every comparison."""

import numpy as np
import pytest

from ftlib.looks import STAKES, evidence, first_shown, mean_above


def test_stakes_by_hand():
    """A win at stake s gives 1 + s, a loss 1 - s, a tie 1; the evidence is the mean over the stakes."""
    after_one, after_two, after_three = evidence([1, 0, 0.5])
    assert after_one == pytest.approx(1 + np.mean(STAKES))
    assert after_two == pytest.approx(np.mean([(1 + s) * (1 - s) for s in STAKES]))
    assert after_three == pytest.approx(after_two)


def test_another_null():
    """Against 0.8 a win adds a quarter of the stake: (1 - 0.8) / 0.8."""
    assert evidence([1.0], null=0.8)[0] == pytest.approx(1 + 0.25 * np.mean(STAKES))


def test_peeking_after_every_comparison_promotes_a_coin_in_five_percent_at_most():
    rng = np.random.default_rng(3)
    coins = rng.integers(0, 2, size=(1_000, 300))
    assert np.mean([first_shown(row) is not None for row in coins]) <= 0.05
    looks = np.arange(15, 301, 15)  # the same data, a test at 5 % after every 15
    wins = coins.cumsum(axis=1)[:, looks - 1]
    naive = ((wins - looks / 2) / np.sqrt(looks / 4) >= 1.645).any(axis=1).mean()
    assert naive > 0.15


def test_a_better_candidate_is_shown():
    rng = np.random.default_rng(4)
    found = [first_shown(rng.random(500) < 0.65) for _ in range(50)]
    assert None not in found and np.median(found) < 150
    assert first_shown([0.5] * 400) is None


def test_a_mean_is_bounded_from_below():
    """One win at alpha 0.5: evidence 1 + 0.31 (1 - m) / m reaches 2 at m = 0.31 / 1.31."""
    assert mean_above([1.0], alpha=0.5) == pytest.approx(0.31 / 1.31)
    assert mean_above([0.0] * 50) == 0.0
    assert mean_above([1.0] * 200) > mean_above([1.0] * 50) > mean_above([0.5] * 50)
    assert mean_above([0.5] * 200) == pytest.approx(0.5, abs=0.04)
    with pytest.raises(ValueError, match="alpha inside"):
        mean_above([1.0], alpha=0.0)


def test_the_bound_of_a_mean_holds():
    """In 150 draws of 100 skewed scores with mean 0.2 it lies above the mean in 5 % at most."""
    rng = np.random.default_rng(8)
    bounds = np.array([mean_above(rng.beta(0.4, 1.6, 100)) for _ in range(150)])
    assert (bounds > 0.2).mean() <= 0.05 and np.median(bounds) > 0.1


@pytest.mark.parametrize("scores", [[], [1.5], [float("nan")]])
def test_scores_that_cannot_be_bet_on(scores):
    with pytest.raises(ValueError, match="expected"):
        evidence(scores)
    with pytest.raises(ValueError, match="alpha inside"):
        first_shown([1.0], alpha=1.0)
