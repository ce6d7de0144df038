"""Two models on the same items, right or wrong each: is the candidate no worse than a margin (Tango's score test)?

A bootstrap of few changed items gives intervals that are too narrow, and one of no width where nothing changed. The
score test (Tango, Statistics in Medicine 17:891, 1998) keeps its level there, and says something about 0 changes of n.

Items that come in clusters, such as one prompt under twelve attacks, are no independent ones: what one attack finds the
next finds too. So counts are divided by the design effect (Rao & Scott, Biometrics 48:577, 1992), and the limit is
Student's, with as many degrees of freedom as clusters less one.

Left out on purpose: superiority at 0, which is McNemar's test (`gates.mcnemar`); the bootstrap for scores between 0 and
1, to which `difference` hands them on; and clusters of scores: average over those of a cluster first.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from ftlib import gates
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


def design_effect(values: ArrayLike, clusters: Sequence[Hashable]) -> float:
    """How many items of these count as much as one independent item: the variance of the mean with clusters, over that
    without them. Never below 1, for clusters that differ less than chance are chance.

    Args:
        values: one number per item, shape (n,).
        clusters: of each item, e.g. the id of the prompt that was attacked.

    Returns:
        1 where items of a cluster are no more alike than others; about the size of a cluster where they are all equal.
        Where no value differs from another, nothing tells how alike they are: then each cluster counts as one item.

    Raises:
        ValueError: values and clusters differ in number, or there are none.

    Example:
        >>> design_effect([1, 1, 0, 0], ["p", "p", "q", "q"])  # off the mean by 1 and -1: 2 / 1 * 2 over 4 * 0.25
        4.0
    """
    values_N = np.asarray(values, dtype=float)
    if values_N.ndim != 1 or values_N.size == 0 or len(clusters) != values_N.size:
        raise ValueError(f"expected one cluster per item, got {values_N.shape} items and {len(clusters)} clusters")
    names = list(dict.fromkeys(clusters))
    place = {name: k for k, name in enumerate(names)}
    off_N = values_N - values_N.mean()
    plain = float((off_N**2).sum())
    if plain < 1e-12 or len(names) == 1:
        return values_N.size / len(names)
    off_G = np.bincount([place[name] for name in clusters], weights=off_N)
    return max(1.0, len(names) / (len(names) - 1) * float((off_G**2).sum()) / plain)


def share(results: ArrayLike, clusters: Sequence[Hashable], *, confidence: float = 0.95) -> tuple[float, Interval]:
    """A share of items that come in clusters, with Wilson's interval at as many items as they are worth.

    Args:
        results: 0 or 1 per item, shape (n,).
        clusters: of each item.

    Raises:
        ValueError: no items, a result that is neither 0 nor 1, or not one cluster per item.
    """
    hits, _, n = changes(np.zeros(len(clusters)), results)
    worth = design_effect(results, clusters)
    limit = _limit(1 - confidence, clusters)
    if math.isinf(limit):
        return hits / n, Interval(0.0, 1.0)
    return hits / n, gates.wilson(hits / worth, max(1.0, n / worth), confidence=1 - 2 * float(stats.norm.sf(limit)))


def score_z(gained: float, lost: float, n: float, difference: float) -> float:
    """Tango's score statistic of candidate - baseline against a hypothesised difference; above 0: it is larger.

    At difference 0 it is McNemar's (gained - lost) / sqrt(gained + lost). Counts need not be whole: those of clusters
    are divided by their design effect.

    Raises:
        ValueError: counts that do not fit n, or a difference outside (-1, 1).
    """
    if min(gained, lost) < 0 or gained + lost > n * (1 + 1e-9) or n <= 0 or not -1 < difference < 1:
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


def not_worse_p(
    baseline: ArrayLike,
    candidate: ArrayLike,
    *,
    margin: float,
    higher_is_better: bool = True,
    clusters: Sequence[Hashable] | None = None,
) -> float:
    """One-sided p-value of "the candidate is worse by the margin or more"; small: it is not.

    Args:
        clusters: of each item, where several items are no independent ones.

    Raises:
        ValueError: as `changes` and `design_effect`; or the margin is not inside (0, 1).
    """
    if not 0 < margin < 1:
        raise ValueError(f"expected a margin inside (0, 1), got {margin}; state how much may be lost, beforehand")
    gained, lost, n = _counts(baseline, candidate, clusters)
    if not higher_is_better:
        gained, lost = lost, gained
    z = score_z(gained, lost, n, -margin)
    if clusters is None:
        return float(stats.norm.sf(z))
    free = len(set(clusters)) - 1
    return float(stats.t.sf(z, free)) if free else 1.0


def share_difference(
    baseline: ArrayLike,
    candidate: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
) -> tuple[float, Interval]:
    """Candidate's share minus baseline's on the same items, with Tango's score interval.

    Args:
        baseline, candidate: 0 or 1 per item, the same items in the same order, shape (n,).
        clusters: of each item, where several items are no independent ones; the interval is then wider. One cluster
            alone says nothing of others: from -1 to 1.

    Raises:
        ValueError: as `changes` and `design_effect`.

    Example:
        >>> difference, (low, high) = share_difference([1] * 44, [1] * 43 + [0])
        >>> round(difference, 4), round(low, 3), round(high, 3)
        (-0.0227, -0.118, 0.059)
    """
    gained, lost, n = _counts(baseline, candidate, clusters)
    limit = _limit(1 - confidence, clusters)
    won, missed, items = changes(baseline, candidate)  # whole counts: the share itself knows no clusters
    difference = (won - missed) / items
    edge = 1 - 1e-9
    if math.isinf(limit):
        return difference, Interval(-1.0, 1.0)

    def end(sign: int) -> float:
        def beyond(d: float) -> float:
            return sign * score_z(gained, lost, n, d) + limit

        far = sign * edge
        if beyond(far) > 0:  # the statistic does not reach the limit before the end of the scale
            return float(sign)
        return float(optimize.brentq(beyond, difference * edge, far, xtol=1e-9))

    return difference, Interval(end(-1), end(1))


def difference(
    baseline: ArrayLike, candidate: ArrayLike, *, seed: int, clusters: Sequence[Hashable] | None = None
) -> tuple[float, Interval]:
    """Candidate minus baseline on the same items: by `share_difference` where all are 0 or 1, else by the bootstrap.

    Args:
        baseline, candidate: one score per item, the same items in the same order, shape (n,).
        seed: of the bootstrap, where there is one.
        clusters: of each item; for results of 0 and 1 only.

    Raises:
        ValueError: lengths that differ, a score that is not finite, or clusters of other scores than 0 and 1.
    """
    if are_results(baseline, candidate):
        return share_difference(baseline, candidate, clusters=clusters)
    if clusters is not None:
        raise ValueError("clusters: expected results of 0 and 1 only; average other scores over each cluster first")
    return gates.paired_difference(baseline, candidate, seed=seed)


def are_results(*values: ArrayLike) -> bool:
    """Whether all of them are 0 or 1: then they are counted, else they are scores."""
    return all(bool(np.isin(np.asarray(one, dtype=float), (0, 1)).all()) for one in values)


def _counts(
    baseline: ArrayLike, candidate: ArrayLike, clusters: Sequence[Hashable] | None
) -> tuple[float, float, float]:
    """`changes`, as many as they are worth where items come in clusters."""
    gained, lost, n = changes(baseline, candidate)
    if clusters is None:
        return gained, lost, n
    worth = design_effect(np.asarray(candidate, dtype=float) - np.asarray(baseline, dtype=float), clusters)
    return gained / worth, lost / worth, n / worth


def _limit(alpha: float, clusters: Sequence[Hashable] | None) -> float:
    """What a two-sided statistic must not exceed; infinite where one cluster is all there is."""
    if clusters is None:
        return float(stats.norm.isf(alpha / 2))
    free = len(set(clusters)) - 1
    return float(stats.t.isf(alpha / 2, free)) if free else math.inf
