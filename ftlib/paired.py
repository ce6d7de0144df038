"""Two models on the same items, right or wrong each: is the candidate no worse than a margin (Tango's score test)?

A bootstrap of few changed items gives intervals that are too narrow, and one of no width where nothing changed. The
score test (Tango, Statistics in Medicine 17:891, 1998) keeps its level there, and says something about 0 changes of n.

Left out on purpose: superiority at 0, which is McNemar's test (`gates.mcnemar`), and scores between 0 and 1
(`gates.paired_difference`).
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from ftlib.gates import Interval


def changes(baseline: ArrayLike, candidate: ArrayLike) -> tuple[int, int, int]:
    """(gained, lost, n): items that only the candidate has, that only the baseline has, and all items.

    Raises:
        ValueError: no items, lengths that differ, or a result that is neither 0 nor 1.
    """
    one_N, two_N = np.asarray(baseline, dtype=float), np.asarray(candidate, dtype=float)
    if one_N.ndim != 1 or one_N.shape != two_N.shape or one_N.size == 0:
        raise ValueError(
            f"expected the same items twice, got shapes {one_N.shape} and {two_N.shape}; measure both on one list"
        )
    if not (np.isin(one_N, (0, 1)).all() and np.isin(two_N, (0, 1)).all()):
        raise ValueError("expected results of 0 and 1 only, got others; use gates.paired_difference for scores")
    return int((two_N > one_N).sum()), int((two_N < one_N).sum()), one_N.size


def score_z(gained: int, lost: int, n: int, difference: float) -> float:
    """Tango's score statistic of candidate - baseline against a hypothesised difference; above 0: it is larger.

    At difference 0 it is McNemar's (gained - lost) / sqrt(gained + lost).

    Raises:
        ValueError: counts that do not fit n, or a difference outside (-1, 1).
    """
    if min(gained, lost) < 0 or gained + lost > n or n < 1 or not -1 < difference < 1:
        raise ValueError(
            f"expected gained + lost <= n and a difference inside (-1, 1), got {gained}, {lost}, {n} and {difference}"
        )
    numerator = gained - lost - n * difference
    # The share lost under the hypothesis, by maximum likelihood: the larger root of 2n q^2 + B q + C = 0
    b = (2 * n - gained + lost) * difference - gained - lost
    c = -lost * difference * (1 - difference)
    share_lost = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
    variance = n * (2 * share_lost + difference * (1 - difference))
    if variance <= 0:
        return 0.0 if numerator == 0 else math.copysign(math.inf, numerator)
    return numerator / math.sqrt(variance)


def not_worse_p(baseline: ArrayLike, candidate: ArrayLike, *, margin: float, higher_is_better: bool = True) -> float:
    """One-sided p-value of "the candidate is worse by the margin or more"; small: it is not.

    Raises:
        ValueError: as `changes`; or the margin is not inside (0, 1).
    """
    if not 0 < margin < 1:
        raise ValueError(f"expected a margin inside (0, 1), got {margin}; state how much may be lost, beforehand")
    gained, lost, n = changes(baseline, candidate)
    if not higher_is_better:
        gained, lost = lost, gained
    return float(stats.norm.sf(score_z(gained, lost, n, -margin)))


def share_difference(baseline: ArrayLike, candidate: ArrayLike, *, confidence: float = 0.95) -> tuple[float, Interval]:
    """Candidate's share minus baseline's on the same items, with Tango's score interval.

    Example:
        >>> difference, (low, high) = share_difference([1] * 44, [1] * 43 + [0])
        >>> round(difference, 4), round(low, 3), round(high, 3)
        (-0.0227, -0.118, 0.059)
    """
    gained, lost, n = changes(baseline, candidate)
    limit = stats.norm.isf((1 - confidence) / 2)
    difference = (gained - lost) / n
    edge = 1 - 1e-9

    def end(sign: int) -> float:
        def beyond(d: float) -> float:
            return sign * score_z(gained, lost, n, d) + limit

        far = sign * edge
        if beyond(far) > 0:  # the statistic does not reach the limit before the end of the scale
            return float(sign)
        return float(optimize.brentq(beyond, difference * edge, far, xtol=1e-9))

    return difference, Interval(end(-1), end(1))
