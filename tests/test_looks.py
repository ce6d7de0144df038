"""looks: stakes by hand, and the level held by simulation under a look after every comparison."""

import numpy as np
import pytest

from ftlib import looks, paired
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


# --- looks at a model while it trains


def steady(tmp_path, **change):
    return looks.Steady(**{"within": 0.1, "looks": 4, "record": tmp_path / "wins.json"} | change)


def test_a_win_rate_is_steady_when_its_move_is_shown_to_be_small(tmp_path):
    """400 comparisons, 4 of which change each way from look 2 to 3: Tango's interval at 98.75 %."""
    rng, rule = np.random.default_rng(1), steady(tmp_path)
    one = (rng.random(400) < 0.3).astype(float)
    two = np.where(np.arange(400) < 150, 1.0, one)
    three = two.copy()
    three[np.flatnonzero(two == 1)[:4]], three[np.flatnonzero(two == 0)[:4]] = 0.0, 1.0
    assert [rule.see(step, scores)["steady"] for step, scores in enumerate((one, one, two, three))] == [0, 0, 0, 1]
    assert rule.confidence == pytest.approx(1 - 0.05 / 4)
    found = rule.see(3, three)
    low, high = paired.share_difference(two, three, confidence=1 - 0.05 / 4)[1]
    assert (found["moved"], found["moved_low"], found["moved_high"]) == (0.0, low, high) and high < 0.03


def test_few_comparisons_show_no_steadiness(tmp_path):
    """92 prompts, a third of which change their verdict: no mean move, but anything up to a tenth might be."""
    rng, rule = np.random.default_rng(2), steady(tmp_path)
    for step in (1, 2):
        found = rule.see(step, rng.permutation([1.0, 0.0] * 46))
    assert found["steady"] == 0 and found["moved_high"] - found["moved_low"] > 0.2


def test_nothing_changed_says_as_much_as_so_many_items_can(tmp_path):
    """z^2 / (n + z^2) at 98.75 %, z = 2.498: 0.064 of 92, and 0.236 of 20."""
    for n, is_steady in ((92, 1), (20, 0)):
        rule = steady(tmp_path, record=tmp_path / f"{n}.json")
        rule.see(1, [0.5] * n)
        found = rule.see(2, [0.5] * n)
        assert found["moved_high"] == pytest.approx(2.4977**2 / (n + 2.4977**2), abs=1e-4)
        assert found["steady"] == is_steady


def test_wordings_that_did_not_change_say_as_much_as_they_are_worth(tmp_path):
    """90 comparisons in 30 requests count as 90 / 1.6; in one request they say nothing."""
    for name, of, ends in (("three", [n // 3 for n in range(90)], (0.05, 0.15)), ("one", ["a"] * 90, (1.0, 1.0))):
        rule = steady(tmp_path, record=tmp_path / f"{name}.json", clusters=of)
        rule.see(1, [0.5] * 90)
        assert ends[0] <= rule.see(2, [0.5] * 90)["moved_high"] <= ends[1]
    with pytest.raises(ValueError, match="expected the scores of one comparison or more"):
        rule.see(3, [])


def test_a_killed_training_compares_with_the_look_before(tmp_path):
    wins = np.repeat([1.0, 0.0], 100)
    steady(tmp_path).see(1, wins)
    steady(tmp_path).see(2, 1 - wins)  # then killed: step 2 comes again
    again = steady(tmp_path).see(2, wins)
    assert (again["moved"], again["steady"]) == (0.0, 1.0)
    assert steady(tmp_path).see(1, wins)["moved_low"] == -1.0  # begun from the start again


def test_the_error_is_shared_out_over_the_looks(tmp_path):
    """A win-rate that moves by the margin each time: called steady at any of four looks in no more than 5 %."""
    rng, called = np.random.default_rng(3), 0
    for run in range(200):
        rule, now = steady(tmp_path, record=tmp_path / f"{run}.json"), np.full(300, 0.5)
        found = []
        for step in (1, 2, 3, 4):
            now = now + rng.choice([0.5, -0.5, 0.0], size=300, p=[0.35, 0.15, 0.5])  # by 0.1 on average
            found.append(rule.see(step, now)["steady"])
        called += any(found)
    assert called / 200 <= 0.05


def test_wordings_of_one_request_are_no_comparisons_of_their_own(tmp_path):
    first, second = np.repeat([1.0, 0.0] * 20, 3), np.repeat([1.0, 0.0] * 18 + [0.0, 1.0] * 2, 3)
    wide = {}
    for name, of in (("plain", None), ("by request", np.repeat(np.arange(40), 3))):
        rule = steady(tmp_path, record=tmp_path / f"{name}.json", clusters=of)
        rule.see(1, first)
        found = rule.see(2, second)
        wide[name] = found["moved_high"] - found["moved_low"]
    assert wide["by request"] > 1.5 * wide["plain"]


def test_a_rule_that_cannot_be_kept_is_refused(tmp_path):
    for change in ({"within": 0.0}, {"looks": 0}, {"alpha": 1.0}):
        with pytest.raises(ValueError, match="expected a move above 0"):
            steady(tmp_path, **change)
