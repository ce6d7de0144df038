"""Two rewards of the same samples, prompt by prompt, by hand."""

import math

import numpy as np
import pytest

from ftlib.reward_agreement import over_prompts, pairs_right, rank_correlations


def test_rank_correlation_of_each_prompt():
    """Alike: 1. Turned round: -1. Four samples, of six pairs five alike and one not: (5 - 1) / 6. Constant: NaN."""
    one = [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [2, 2, 2, 2]]
    two = [[10, 20, 30, 99], [4, 3, 2, 1], [1, 2, 4, 3], [1, 2, 3, 4]]
    found = rank_correlations(one, two)
    assert found[:3] == pytest.approx([1, -1, 4 / 6])
    assert math.isnan(found[3])


def test_equal_rewards_count_as_tau_b_counts_them():
    """Scores 1, 2, 3 beside 0, 0, 1: two pairs alike of three; sqrt((3 - 0) (3 - 1)) below."""
    assert rank_correlations([[1, 2, 3]], [[0, 0, 1]]) == pytest.approx([2 / math.sqrt(6)])


def test_prompts_are_not_compared():
    """Each prompt ranks alike, though all scores of the second lie below those of the first."""
    score, true = [[10, 20], [1, 2]], [[0, 1], [5, 6]]
    assert rank_correlations(score, true).tolist() == [1.0, 1.0]
    assert pairs_right(score, true).tolist() == [1.0, 1.0]


def test_pairs_right_by_hand():
    """True rewards 1, 0, 0.5 ask three pairs. Scores 3, 1, 1: two right, one equal. Turned round: none right, one
    equal. All alike in truth: nothing is asked."""
    found = pairs_right([[3, 1, 1], [1, 3, 3], [3, 2, 1]], [[1, 0, 0.5], [1, 0, 0.5], [0.2, 0.2, 0.2]])
    assert found[:2] == pytest.approx([2.5 / 3, 0.5 / 3])
    assert math.isnan(found[2])


def test_small_differences_are_not_asked():
    """0.5 lies within 0.5 of both others: one pair is left, and it is right."""
    assert pairs_right([[3, 1, 9]], [[1, 0, 0.5]], least=0.5).tolist() == [1.0]


def test_the_mean_is_over_prompts_that_say_something():
    mean, ends, n = over_prompts([1.0, 0.0, math.nan, 0.5, 0.5], seed=1)
    assert (mean, n) == (0.5, 4)
    assert 0 <= ends.low < 0.5 < ends.high <= 1
    assert over_prompts([math.nan] * 3, seed=1) == (None, None, 0)
    assert over_prompts([0.75], seed=1) == (0.75, (0.75, 0.75), 1)


@pytest.mark.parametrize("both", [([[1, 2]], [[1, 2, 3]]), ([1, 2], [1, 2]), (np.empty((0, 2)), np.empty((0, 2)))])
@pytest.mark.parametrize("ask", [rank_correlations, pairs_right])
def test_shapes_that_differ(ask, both):
    with pytest.raises(ValueError, match="one shape"):
        ask(*both)


def test_numbers_that_are_none():
    with pytest.raises(ValueError, match="finite"):
        pairs_right([[1, math.inf]], [[0, 1]])
    with pytest.raises(ValueError, match="least >= 0"):
        pairs_right([[1, 2]], [[0, 1]], least=-0.1)
