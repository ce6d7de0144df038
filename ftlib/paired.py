"""Two models on the same items, right or wrong each: is the candidate no worse than a margin (Tango's score test)?

A bootstrap of few changed items gives intervals that are too narrow, and one of no width where nothing changed. The
score test (Tango, Statistics in Medicine 17:891, 1998) keeps its level there, and says something about 0 changes of n.

Items that come in clusters, such as one prompt under twelve attacks or one request in three wordings, are not
independent: what one attack finds the next finds too. So counts are divided by the design effect (Rao & Scott,
Biometrics 48:577, 1992), and the limit is Student's, with as many degrees of freedom as clusters less one. Where the
set holds a fixed number of items of each kind, the kinds are strata: that they differ from one another is no chance,
and says nothing of how alike the items of a cluster are.

Left out on purpose: superiority at 0 for items that are independent, which is McNemar's exact test (`gates.mcnemar`),
and the bootstrap for scores of such items, to which `difference` hands them on.
"""

import math
from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from ftlib import gates
from ftlib.gates import Interval

# How alike the items of a cluster are taken to be (intra-class correlation) where hardly a value differs, so that the
# items do not tell. Above all that was measured on this playbook's held-out prompts, which were in sight when it was
# chosen (refusals, wins and broken answers of two candidates by kind: 0 to 0.19). Attacks on one prompt were not
# measured. Where items are more alike than this and none fails, the evidence is overstated.
ALIKE = 0.3


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


def design_effect(
    values: ArrayLike, clusters: Sequence[Hashable] | None, *, strata: Sequence[Hashable] | None = None
) -> float:
    """How many items of these count as much as one independent item: the variance of the mean with clusters, over that
    without them. Never below 1, for clusters that differ less than chance are chance.

    Args:
        values: one number per item, shape (n,).
        clusters: of each item, e.g. the id of the prompt that was attacked; None: each item stands for itself.
        strata: of each item, e.g. its kind, where each kind has a number of items that was fixed beforehand. Clusters
            are then held beside their own stratum's mean. A stratum of a single cluster is put to another.

    Returns:
        1 where items of a cluster are no more alike than others; about the size of a cluster where they are all equal.
        Where no value differs from another, nothing tells how alike they are, and a correlation of `ALIKE` is assumed:
        1 + (m - 1) * ALIKE for clusters of m. That guess weighs as much as one cluster's items, beside those that do
        not have the commonest value: so one failure is never better evidence than none.

    Raises:
        ValueError: values, clusters and strata differ in number, there are none, a value is not finite, or a cluster
            lies in two strata.

    Example:
        >>> design_effect([1, 1, 0, 0], ["p", "p", "q", "q"])  # off the mean by 1 and -1: 2 / 1 * 2 over 4 * 0.25
        4.0
    """
    values_N = np.asarray(values, dtype=float)
    if clusters is None:
        return 1.0
    if values_N.ndim != 1 or values_N.size == 0 or len(clusters) != values_N.size:
        raise ValueError(f"expected one cluster per item, got {values_N.shape} items and {len(clusters)} clusters")
    if not np.isfinite(values_N).all():
        raise ValueError("expected finite values, got NaN or infinity; look at the items before they are counted")
    place_N, parts = _parts(clusters, strata)
    if place_N.max() == 0:
        return float(values_N.size)
    size = float((np.bincount(place_N) ** 2).sum() / values_N.size)  # of the cluster that an item is in, on average
    guess = 1 + (size - 1) * ALIKE
    plain = float(((values_N - values_N.mean()) ** 2).sum())
    if plain < 1e-12:
        return guess
    between = 0.0
    for members in parts:  # items of one stratum, shape (m,)
        names = np.unique(place_N[members])
        off_G = np.bincount(place_N[members], weights=values_N[members] - values_N[members].mean())
        between += names.size / (names.size - 1) * float((off_G**2).sum())
    found = max(1.0, between / plain)
    odd = values_N.size - int(np.unique(values_N, return_counts=True)[1].max())
    return max(found, (odd * found + size * guess) / (odd + size))


def effective_n(
    values: ArrayLike,
    clusters: Sequence[Hashable] | None,
    *,
    strata: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
) -> float:
    """How many independent items these are worth: n over the design effect, and a little fewer where clusters are few,
    by (normal limit / Student's limit)^2 (Korn & Graubard, Survey Methodology 24:193, 1998).

    Wilson's interval and the binomial test of so many are then those by cluster. 0 where one cluster is all there is.

    Raises:
        ValueError: as `design_effect`.
    """
    limit, normal = _limit(1 - confidence, clusters, strata), _limit(1 - confidence, None)
    return np.size(values) / design_effect(values, clusters, strata=strata) * (normal / limit) ** 2


def share(
    results: ArrayLike,
    clusters: Sequence[Hashable] | None,
    *,
    strata: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
) -> tuple[float, Interval]:
    """A share of items that come in clusters, with Wilson's interval at as many items as they are worth.

    Args:
        results: 0 or 1 per item, shape (n,).
        clusters: of each item; None: each stands for itself.
        strata: as in `design_effect`.

    Raises:
        ValueError: no items, a result that is neither 0 nor 1, or not one cluster per item.
    """
    changes(np.zeros(np.size(results)), results)
    return win_rate(results, clusters, strata=strata, confidence=confidence)


def win_rate(
    scores: ArrayLike,
    clusters: Sequence[Hashable] | None,
    *,
    strata: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
) -> tuple[float, Interval]:
    """`gates.win_rate` of comparisons that come in clusters: Wilson's interval at as many as they are worth.

    Args:
        scores: 1 a win, 0.5 a tie, 0 a loss, shape (n,).
        clusters: of each comparison, e.g. what its prompt is one wording of; None: each stands for itself.
        strata: as in `design_effect`.

    Raises:
        ValueError: no score, one outside [0, 1], or not one cluster per score.
    """
    rate, _ = gates.win_rate(scores)
    items = effective_n(scores, clusters, strata=strata, confidence=confidence)
    return rate, gates.wilson(rate * items, items, confidence=confidence) if items else Interval(0.0, 1.0)


def share_p(
    results: ArrayLike,
    clusters: Sequence[Hashable] | None,
    *,
    threshold: float,
    op: Literal[">=", "<="],
    strata: Sequence[Hashable] | None = None,
) -> float:
    """One-sided p-value of "the share does not lie beyond the threshold", for items that come in clusters.

    The exact binomial test of `effective_n` items. Counts need not be whole.

    Args:
        results: 0 or 1 per item, shape (n,).
        clusters: of each item; None: each stands for itself.
        op: ">=" for the claim that the share is more than the threshold, "<=" that it is less.
        strata: as in `design_effect`.

    Raises:
        ValueError: as `share`; an unknown op, or a threshold that is not inside (0, 1).
    """
    if op not in (">=", "<=") or not 0 < threshold < 1:
        raise ValueError(f"expected op '>=' or '<=' and a threshold inside (0, 1), got {op!r} and {threshold}")
    hits, _, n = changes(np.zeros(np.size(results)), results)
    items = effective_n(results, clusters, strata=strata)
    if not items:
        return 1.0
    found = hits / n * items
    if op == ">=":
        return float(stats.beta.cdf(threshold, found, items - found + 1)) if found else 1.0
    return float(stats.beta.sf(threshold, found + 1, items - found)) if hits < n else 1.0


def change_p(
    baseline: ArrayLike,
    candidate: ArrayLike,
    clusters: Sequence[Hashable],
) -> float:
    """Two-sided p-value of "no difference" for results in clusters: McNemar's statistic at what the items are worth.

    Raises:
        ValueError: as `changes` and `design_effect`.
    """
    gained, lost, n = _counts(baseline, candidate, clusters)
    free = degrees_of_freedom(clusters)
    if not free or gained + lost == 0:
        return 1.0
    return float(2 * stats.t.sf(abs(score_z(gained, lost, n, 0.0)), free))


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
    strata: Sequence[Hashable] | None = None,
) -> float:
    """One-sided p-value of "the candidate is worse by the margin or more"; small: it is not.

    Args:
        clusters: of each item, where several items are no independent ones.
        strata: as in `design_effect`.

    Raises:
        ValueError: as `changes` and `design_effect`; or the margin is not inside (0, 1).
    """
    if not 0 < margin < 1:
        raise ValueError(f"expected a margin inside (0, 1), got {margin}; state how much may be lost, beforehand")
    gained, lost, n = _counts(baseline, candidate, clusters, strata)
    if not higher_is_better:
        gained, lost = lost, gained
    z = score_z(gained, lost, n, -margin)
    if clusters is None:
        return float(stats.norm.sf(z))
    free = degrees_of_freedom(clusters, strata)
    return float(stats.t.sf(z, free)) if free else 1.0


def share_difference(
    baseline: ArrayLike,
    candidate: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
) -> tuple[float, Interval]:
    """Candidate's share minus baseline's on the same items, with Tango's score interval.

    Args:
        baseline, candidate: 0 or 1 per item, the same items in the same order, shape (n,).
        clusters: of each item, where several items are no independent ones; the interval is then wider. One cluster
            alone says nothing of others: from -1 to 1.
        strata: as in `design_effect`.

    Raises:
        ValueError: as `changes` and `design_effect`.

    Example:
        >>> difference, (low, high) = share_difference([1] * 44, [1] * 43 + [0])
        >>> round(difference, 4), round(low, 3), round(high, 3)
        (-0.0227, -0.118, 0.059)
    """
    gained, lost, n = _counts(baseline, candidate, clusters, strata)
    limit = _limit(1 - confidence, clusters, strata)
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
    baseline: ArrayLike,
    candidate: ArrayLike,
    *,
    seed: int,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
) -> tuple[float, Interval]:
    """Candidate minus baseline on the same items: by `share_difference` where all are 0 or 1; other scores by the
    bootstrap, and in clusters by Student's interval of their mean.

    Args:
        baseline, candidate: one score per item, the same items in the same order, shape (n,).
        seed: of the bootstrap, where there is one.
        clusters: of each item, where several items are no independent ones.
        strata: as in `design_effect`.

    Raises:
        ValueError: lengths that differ, a score that is not finite, or not one cluster per item.
    """
    if are_results(baseline, candidate):
        return share_difference(baseline, candidate, clusters=clusters, strata=strata, confidence=confidence)
    if clusters is None:
        return gates.paired_difference(baseline, candidate, seed=seed, confidence=confidence)
    one_N, two_N = gates.paired_scores(baseline, candidate)
    value, ends = mean(two_N - one_N, clusters, strata=strata, confidence=confidence)
    return value, ends if np.isfinite(ends).all() else Interval(-1.0, 1.0)


def mean(
    values: ArrayLike,
    clusters: Sequence[Hashable],
    *,
    strata: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
) -> tuple[float, Interval]:
    """The mean of values that come in clusters, with Student's interval; of one cluster alone it has no ends.

    Raises:
        ValueError: as `design_effect`.
    """
    value = float(np.mean(np.asarray(values, dtype=float)))
    error, free = mean_error(values, clusters, strata=strata)
    if not free:
        return value, Interval(-math.inf, math.inf)
    reach = float(stats.t.isf((1 - confidence) / 2, free)) * error
    return value, Interval(value - reach, value + reach)


def mean_error(
    values: ArrayLike, clusters: Sequence[Hashable], *, strata: Sequence[Hashable] | None = None
) -> tuple[float, int]:
    """(standard error, degrees of freedom) of the mean of values that come in clusters.

    Raises:
        ValueError: as `design_effect`.
    """
    values_N = np.asarray(values, dtype=float)
    worth = design_effect(values_N, clusters, strata=strata)
    spread = float(values_N.std(ddof=1)) if values_N.size > 1 else 0.0
    return spread * math.sqrt(worth / values_N.size), degrees_of_freedom(clusters, strata)


def are_results(*values: ArrayLike) -> bool:
    """Whether all of them are 0 or 1: then they are counted, else they are scores."""
    return all(bool(np.isin(np.asarray(one, dtype=float), (0, 1)).all()) for one in values)


def _counts(
    baseline: ArrayLike,
    candidate: ArrayLike,
    clusters: Sequence[Hashable] | None,
    strata: Sequence[Hashable] | None = None,
) -> tuple[float, float, float]:
    """`changes`, as many as they are worth where items come in clusters."""
    gained, lost, n = changes(baseline, candidate)
    gap_N = np.asarray(candidate, dtype=float) - np.asarray(baseline, dtype=float)
    worth = design_effect(gap_N, clusters, strata=strata)
    return gained / worth, lost / worth, n / worth


def _parts(clusters: Sequence[Hashable], strata: Sequence[Hashable] | None) -> tuple[np.ndarray, list[np.ndarray]]:
    """The number of each item's cluster, and the places of each stratum's items; none of them is of one cluster alone,
    where there are more."""
    number: dict = {}
    place_N = np.array([number.setdefault(name, len(number)) for name in clusters])
    if strata is None:
        return place_N, [np.arange(place_N.size)]
    if len(strata) != place_N.size:
        raise ValueError(f"expected one stratum per item, got {len(strata)} for {place_N.size} items")
    home: dict = {}
    for cluster, stratum in zip(clusters, strata, strict=True):
        if home.setdefault(cluster, stratum) != stratum:
            raise ValueError(f"expected each cluster in one stratum, got {cluster!r} in two; name clusters apart")
    order = dict.fromkeys(strata)
    found = [np.array([n for n, name in enumerate(strata) if name == stratum]) for stratum in order]
    alone = [part for part in found if np.unique(place_N[part]).size == 1]
    parts = [part for part in found if np.unique(place_N[part]).size > 1]
    if len(alone) == 1 and parts:
        parts[0] = np.concatenate([parts[0], *alone])
    elif alone:
        parts.append(np.concatenate(alone))
    return place_N, parts


def degrees_of_freedom(clusters: Sequence[Hashable], strata: Sequence[Hashable] | None = None) -> int:
    """Degrees of freedom: clusters less one of each stratum."""
    place_N, parts = _parts(clusters, strata)
    return int(place_N.max()) + 1 - len(parts)


def _limit(alpha: float, clusters: Sequence[Hashable] | None, strata: Sequence[Hashable] | None = None) -> float:
    """What a two-sided statistic must not exceed; infinite where one cluster is all there is."""
    if clusters is None:
        return float(stats.norm.isf(alpha / 2))
    free = degrees_of_freedom(clusters, strata)
    return float(stats.t.isf(alpha / 2, free)) if free else math.inf
