"""A gate matrix as one family of claims: a p-value each, its power, Holm's correction, and "no metric worse".

Three different questions are kept apart. A threshold asks whether the number measured is good enough (`gates`). A claim
asks whether the items show it, and is corrected over the family, because of eight claims that are all false one looks
shown in 34 % of the cases at 5 % each. "No metric worse" must hold for every metric at once; there, asking for all of
them at 5 % each is strict enough (an intersection-union test, Berger 1982), and an alarm over one of them is corrected.

Left out on purpose: correction of thresholds (they decide, and are fixed beforehand), and dependence between metrics
(Holm holds under any).
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ftlib import gates, paired, power
from ftlib.gates import Interval
from ftlib.records import GateResult

ALPHA = 0.05


@dataclass(frozen=True)
class Claim:
    """One row of the family: what is claimed, and how far n items show it."""

    id: str
    says: str  # the claim in words, with its number
    value: float  # measured
    interval: Interval  # two-sided, 95 %
    n: int
    p: float  # one-sided, of the claim's opposite
    power: float  # to show it on n items, if the truth is what was hoped
    needed: int  # items for a power of 0.8
    margin: float | None = None  # of a claim "no worse": what may be lost
    lost: float = 0.0  # ... and what was lost, in the metric's unit; below 0 it is a gain
    clusters: int | None = None  # that the n items come in; None: each stands for itself


def share_claim(
    id: str,
    results: ArrayLike,
    *,
    threshold: float,
    op: Literal[">=", "<="],
    hoped: float,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
) -> Claim:
    """The claim that a share lies beyond its threshold: exact binomial test.

    Args:
        results: 0 or 1 per item, shape (n,).
        hoped: the share that one expects of a good candidate, for the power; stated beforehand.
        clusters: of each item, where several are wordings of one request or the like: p, interval and power are then
            those of fewer items (`paired.share_p`).
        strata: of each item, as in `paired.design_effect`.

    Raises:
        ValueError: results other than 0 and 1, or a hope on the wrong side of the threshold.
    """
    results_N = _zeros_and_ones(id, results)
    _hope(id, hoped, threshold, op)
    n, count = results_N.size, int(results_N.sum())
    interval = paired.share(results_N, clusters, strata=strata)[1]
    size = _size(results_N, clusters, strata)
    p = paired.share_p(results_N, clusters, threshold=threshold, op=op, strata=strata)
    return Claim(
        id,
        f"{'more' if op == '>=' else 'less'} than {threshold:g}",
        count / n,
        interval,
        n,
        p,
        power.share_power(int(size), hoped, threshold),
        math.ceil(n / size * power.share_items_needed(hoped, threshold)),
        clusters=_number_of(clusters),
    )


def win_claim(
    id: str,
    scores: ArrayLike,
    *,
    hoped: float = 0.6,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
) -> Claim:
    """The claim that the candidate wins more often than it loses: sign test of the comparisons that are no ties.

    Args:
        scores: 1 a win, 0.5 a tie, 0 a loss, shape (n,); above a half counts as won.
        clusters, strata: of each comparison, as in `share_claim`.
    """
    value, interval = paired.win_rate(scores, clusters, strata=strata)
    _hope(id, hoped, 0.5, ">=")
    scores_N = np.asarray(scores, dtype=float)
    n, decided = scores_N.size, np.flatnonzero(scores_N != 0.5)
    size = _size(scores_N, clusters, strata)
    of_decided = lambda names: None if names is None else [names[k] for k in decided]
    given = {"clusters": of_decided(clusters), "strata": of_decided(strata), "threshold": 0.5, "op": ">="}
    p = paired.share_p(scores_N[decided] > 0.5, **given) if decided.size else 1.0
    return Claim(
        id,
        "more than 0.5",
        value,
        interval,
        n,
        p,
        power.share_power(int(size), hoped, 0.5),
        math.ceil(n / size * power.share_items_needed(hoped, 0.5)),
        clusters=_number_of(clusters),
    )


def not_worse_claim(
    id: str,
    baseline: ArrayLike,
    candidate: ArrayLike,
    *,
    margin: float,
    seed: int,
    higher_is_better: bool = True,
    hoped: float = 0.0,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
) -> Claim:
    """The claim that the candidate is no worse than the baseline by as much as the margin (non-inferiority).

    Results of 0 and 1 are compared by Tango's score test, other scores by a one-sided t-test of the differences.

    Args:
        baseline, candidate: one score per item in [0, 1], the same items in the same order, shape (n,).
        margin: what may be lost, in the metric's own unit, stated beforehand.
        seed: of the bootstrap interval of scores.
        hoped: the gain (in the good direction) that one expects; 0: as good as the baseline.
        clusters: of each item, where several are one prompt's: p, interval and power are then those of fewer items.
        strata: of each item, as in `paired.design_effect`.

    Returns:
        A claim whose value and interval are candidate - baseline, in the metric's own direction.

    Raises:
        ValueError: lengths that differ, scores further apart than 1, a margin or a hope that cannot be.
    """
    one_N, two_N = np.asarray(baseline, dtype=float), np.asarray(candidate, dtype=float)
    if not 0 < margin < 1 or hoped <= -margin:
        raise ValueError(f"{id}: expected a margin inside (0, 1) and a hope above -margin, got {margin} and {hoped}")
    counted = paired.are_results(one_N, two_N)
    value, interval = paired.difference(one_N, two_N, seed=seed, clusters=clusters, strata=strata)
    gain_N = (two_N - one_N) * (1 if higher_is_better else -1)
    if np.abs(gain_N).max() > 1:
        raise ValueError(f"{id}: expected scores within [0, 1], got a difference of {np.abs(gain_N).max():g}; rescale")
    n = gain_N.size
    size = _size(gain_N, clusters, strata)
    if counted:
        of = {"clusters": clusters, "strata": strata}
        p = paired.not_worse_p(one_N, two_N, margin=margin, higher_is_better=higher_is_better, **of)
        # What noise there is: what was lost, and as much gained. A gain beyond that is no noise, and at the margin at
        # least that share of the items would have changed.
        lost = float((gain_N < 0).mean())
        sd = math.sqrt(max(margin, lost + min(lost, float((gain_N > 0).mean()))))
    else:
        p = _mean_above(gain_N, -margin, clusters, strata)
        # No spread to judge by: at the margin a share of it would lose all, as above.
        sd = float(gain_N.std(ddof=1)) if np.ptp(gain_N) > 0 else math.sqrt(margin)
    return Claim(
        id,
        f"no worse than {margin:g}",
        value,
        interval,
        n,
        p,
        power.difference_power(size, sd, hoped + margin),
        math.ceil(n / size * power.difference_items_needed(sd, hoped + margin)),
        margin,
        -float(gain_N.mean()),
        _number_of(clusters),
    )


def none_claim(
    id: str,
    bad: ArrayLike,
    *,
    rate: float,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
) -> Claim:
    """The claim that something never allowed happens in less than `rate` of the tries: exact, 0 seen of n tries.

    Args:
        bad: 0 or 1 per try, shape (n,).
        clusters: of each try. Where nothing is seen, nothing tells how alike the tries of a cluster are: a guess is
            taken (`paired.ALIKE`).
        strata: of each try, as in `paired.design_effect`.

    Raises:
        ValueError: results other than 0 and 1, or a rate that is not inside (0, 1).
    """
    bad_N = _zeros_and_ones(id, bad)
    n, seen = bad_N.size, int(bad_N.sum())
    interval = paired.share(bad_N, clusters, strata=strata)[1]
    p = paired.share_p(bad_N, clusters, threshold=rate, op="<=", strata=strata)
    needed = math.ceil(n / _size(bad_N, clusters, strata) * gates.zero_failures_needed(rate))
    can = 1.0 if n >= needed else 0.0  # with nothing to find, zero of n shows it or does not
    return Claim(id, f"less than {rate:g}", seen / n, interval, n, p, can, needed, clusters=_number_of(clusters))


def noise_row(id: str, first: ArrayLike, second: ArrayLike, *, seed: int) -> dict:
    """The noise floor: the baseline against itself, answered twice. A row to stand below those of `family_rows`.

    Its interval says how large a difference this measurement shows where there is none: a candidate's difference
    inside it says nothing. It is not corrected, because it is no claim; "shown" here means that the measurement, not
    a model, makes a difference.

    Raises:
        ValueError: lengths that differ, or a score that is not finite.
    """
    value, interval = paired.difference(first, second, seed=seed)
    gap_N = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    p = float(gap_N[0] == 0) if np.ptp(gap_N) == 0 else float(stats.ttest_1samp(gap_N, 0.0).pvalue)
    floor = max(abs(interval.low), abs(interval.high))
    return {
        "gate": id,
        "claim": f"none: noise, up to {floor:.3f}",
        "n": gap_N.size,
        "value": value,
        "95 %": f"{interval.low:+.3f} to {interval.high:+.3f}",
        "p": p,
        "shown": p <= ALPHA,
    }


def family_rows(claims: Sequence[Claim], *, alpha: float = ALPHA) -> list[dict]:
    """The family as rows of a table: each claim with its power and its p-value, alone and corrected (Holm).

    Raises:
        ValueError: no claims, or two of one id.
    """
    _distinct(claims)
    adjusted = gates.holm([claim.p for claim in claims])
    return [
        {
            "gate": claim.id,
            "claim": claim.says,
            "n": claim.n,
            "clusters": claim.clusters,
            "value": claim.value,
            "95 %": f"{claim.interval.low:+.3f} to {claim.interval.high:+.3f}",
            "power": claim.power,
            "can n show it?": power.in_words(claim.n, claim.needed),
            "p": claim.p,
            "p (Holm)": float(p),
            "shown": bool(p <= alpha),
        }
        for claim, p in zip(claims, adjusted, strict=True)
    ]


def judge_no_worse(id: str, notebook: str, claims: Sequence[Claim], *, alpha: float = ALPHA) -> GateResult:
    """The rule "no metric worse than the baseline", over all metrics at once and with each one's stated margin.

    FAIL when a metric lost more than its margin, on as many items as it needs, or by its whole interval. PASS when
    every metric is shown to be no worse (p <= alpha each). ABSTAIN in between: too few items to say.

    Args:
        claims: of `not_worse_claim`, one a metric.

    Returns:
        The gate; its value is how many metrics are worse (FAIL) or not shown to be no worse (ABSTAIN), its n the
        smallest.

    Raises:
        ValueError: no claims, two of one id, or a claim without a margin.
    """
    _distinct(claims)
    if any(claim.margin is None for claim in claims):
        raise ValueError(f"{id}: expected claims of not_worse_claim only, because each needs its margin")
    worse = [claim for claim in claims if claim.lost > claim.margin and (claim.n >= claim.needed or _surely(claim))]
    open_ = [claim for claim in claims if claim.p > alpha]
    why = [f"{claim.id} lost {claim.lost:.3g}, allowed {claim.margin:g}" for claim in worse] or [
        f"{claim.id}: {power.in_words(claim.n, claim.needed) if claim.n < claim.needed else 'not shown'}"
        for claim in open_
    ]
    return GateResult(
        id=id,
        notebook=notebook,
        value=float(len(worse) or len(open_)),
        threshold=0.0,
        op="<=",
        n=min(claim.n for claim in claims),
        ci95=None,
        verdict="FAIL" if worse else "ABSTAIN" if open_ else "PASS",
        note="; ".join(why),
    )


def _surely(claim: Claim) -> bool:
    """Does the whole interval of a difference lie beyond the margin, on the side of the loss?"""
    ends = claim.interval
    return min(abs(end) for end in ends) > claim.margin and math.copysign(1, ends.low) == math.copysign(1, ends.high)


def _distinct(claims: Sequence[Claim]) -> None:
    if not claims or len({claim.id for claim in claims}) < len(claims):
        raise ValueError(f"expected claims of different ids, got {[claim.id for claim in claims]}; name each once")


def _number_of(clusters: Sequence[Hashable] | None) -> int | None:
    return None if clusters is None else len(set(clusters))


def _size(values_N: np.ndarray, clusters: Sequence[Hashable] | None, strata: Sequence[Hashable] | None) -> float:
    """As how many independent items these count; one at least, for power is asked of items."""
    return max(1.0, paired.effective_n(values_N, clusters, strata=strata))


def _mean_above(
    values_N: np.ndarray,
    floor: float,
    clusters: Sequence[Hashable] | None,
    strata: Sequence[Hashable] | None,
) -> float:
    """One-sided p of "the mean is at most `floor`" for values in [-1, 1]."""
    if np.ptp(values_N) > 0:
        if clusters is None:
            return float(stats.ttest_1samp(values_N, floor, alternative="greater").pvalue)
        error, free = paired.mean_error(values_N, clusters, strata=strata)
        return float(stats.t.sf((values_N.mean() - floor) / error, free)) if free else 1.0
    if values_N[0] <= floor:
        return 1.0
    # No spread to judge by. A mean at the floor needs a share of -floor that loses all; none of n did.
    return float((1 - abs(floor)) ** _size(values_N, clusters, strata)) if floor < 0 else 0.0


def _zeros_and_ones(id: str, results: ArrayLike) -> np.ndarray:
    results_N = np.asarray(results, dtype=float)
    if results_N.ndim != 1 or results_N.size == 0 or not np.isin(results_N, (0, 1)).all():
        raise ValueError(f"{id}: expected a list of results of 0 and 1, got shape {results_N.shape}; count items first")
    return results_N


def _hope(id: str, hoped: float, threshold: float, op: str) -> None:
    if (hoped > threshold) != (op == ">=") or hoped == threshold:
        raise ValueError(f"{id}: expected a hope beyond the threshold ({op} {threshold}), got {hoped}")
