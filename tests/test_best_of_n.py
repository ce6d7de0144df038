"""Best-of-n by hand, and against every draw counted."""

import itertools
import math

import numpy as np
import pytest

from ftlib.best_of_n import best_of, kl, value_per_score


def test_three_samples_by_hand():
    """Scores 1, 2, 3 with values 10, 0, 5. Of one: their mean, 5. Of two: {1, 2} -> 0, {1, 3} and {2, 3} -> 5. Of
    three: 5. By its own score: 2, then (2 + 3 + 3) / 3, then 3."""
    score, value = [[1.0, 2.0, 3.0]], [[10.0, 0.0, 5.0]]
    assert [best_of(score, value, n)[0] for n in (1, 2, 3)] == pytest.approx([5, 10 / 3, 5])
    assert [best_of(score, score, n)[0] for n in (1, 2, 3)] == pytest.approx([2, 8 / 3, 3])


def by_counting(score, value, n):
    """Every draw; among equal best ones each is taken alike."""
    found = []
    for drawn in itertools.combinations(range(len(score)), n):
        best = max(score[i] for i in drawn)
        found.append(np.mean([value[i] for i in drawn if score[i] == best]))
    return np.mean(found)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7])
def test_against_every_draw_without_equal_scores(n):
    rng = np.random.default_rng(n)
    score, value = rng.permutation(7.0 * np.arange(7)), rng.random(7)
    assert best_of([score], [value], n)[0] == pytest.approx(by_counting(score, value, n))


def test_equal_scores_share_their_places():
    """All equal: any n is the mean. Two at the top, values 1 and 0, one below, value 0. Of two: the draw of both gives
    a half, a draw of one of them with the third gives that one's value: (1/2 + 1 + 0) / 3."""
    assert best_of([[2, 2, 2, 2]], [[1, 0, 0, 1]], 3)[0] == pytest.approx(0.5)
    assert best_of([[5, 5, 1]], [[1, 0, 0]], 2)[0] == pytest.approx(0.5)
    assert by_counting([5, 5, 1], [1, 0, 0], 2) == pytest.approx(0.5)


def test_prompts_stay_apart_and_their_order_is_kept():
    found = best_of([[0, 1], [100, 99]], [[3, 7], [1, 2]], 2)
    assert found.tolist() == [7.0, 1.0]


def test_a_score_that_is_wrong_at_the_top_loses_value_as_n_grows():
    """Value rises with the score but for the one with the highest."""
    score = [np.arange(8.0)]
    value = [[0, 1, 2, 3, 4, 5, 6, -20]]
    worth = [best_of(score, value, n)[0] for n in (1, 2, 4, 8)]
    assert worth[0] > worth[1] > worth[2] > worth[3] == -20
    promised = [best_of(score, score, n)[0] for n in (1, 2, 4, 8)]
    assert promised == sorted(promised)


@pytest.mark.parametrize(("n", "nats"), [(1, 0.0), (2, math.log(2) - 1 / 2), (16, math.log(16) - 15 / 16)])
def test_kl(n, nats):
    assert kl(n) == pytest.approx(nats)


def test_kl_is_that_of_the_best_of_n_of_answers_that_are_all_different():
    """Two of m answers, all with chance 1/m: the one of rank i is the best with (2 i - 1) / m^2. For m -> infinity its
    KL goes to log 2 - 1/2; from below, because two draws may be the same answer."""
    for m, near in ((10, 0.1), (1000, 0.001)):
        chance = (2 * np.arange(1, m + 1) - 1) / m**2
        found = float((chance * np.log(chance * m)).sum())
        assert 0 < kl(2) - found < near


def test_value_per_score_within_prompts():
    """From the means: scores -1, 1 and -2, 2; values -1/2, 1/2 and -1, 1: (1 + 4) / (2 + 8)."""
    assert value_per_score([[0, 2], [10, 14]], [[0, 1], [5, 7]]) == pytest.approx(0.5)
    assert value_per_score([[3, 3]], [[0, 1]]) == 0.0
    assert value_per_score([[0, 1]], [[1, 0]]) == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("score", "value", "n", "words"),
    [
        ([[1, 2]], [[1, 2]], 3, "1 <= n <= 2"),
        ([[1, 2]], [[1, 2]], 0, "1 <= n <= 2"),
        ([[1, 2]], [[1]], 1, "one shape"),
        ([1, 2], [1, 2], 1, "one shape"),
        ([[]], [[]], 1, "one shape"),
        ([[1, math.nan]], [[1, 2]], 1, "finite"),
    ],
)
def test_what_is_refused(score, value, n, words):
    with pytest.raises(ValueError, match=words):
        best_of(score, value, n)
    with pytest.raises(ValueError, match="expected n >= 1"):
        kl(0)
