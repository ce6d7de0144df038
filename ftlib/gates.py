"""Intervals, paired tests, power, and the verdict of a gate: PASS, FAIL or ABSTAIN.

The statistics are scipy's and statsmodels'; here they get one vocabulary and the checks that keep them honest.
Every test is paired where the items are the same, and several tests at once are corrected by Holm. The ledger that
verdicts are written to is the run's (`run.gate`).

Left out on purpose: looking at a number while it grows. Each look costs alpha, so a gate is judged once, at an n
that was fixed before (`pairs_needed`, `zero_failures_needed`); the sequential test for a rollout lives elsewhere.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats import contingency_tables, proportion
from statsmodels.stats.power import normal_sample_size_one_tail

from ftlib.records import GateResult, NotFinite

LEAST_GAIN = 0.001  # not 0: a model that answers as its baseline does has a gain of exactly 0, with both ends
RESAMPLES = 9_999
BATCH = 500  # resamples held at once: memory stays at BATCH x n floats


class Interval(NamedTuple):
    """A two-sided interval, 95 % unless said otherwise; unpacks as (low, high)."""

    low: float
    high: float


def wilson(successes: float, n: float, *, confidence: float = 0.95) -> Interval:
    """Wilson's interval of a share: it stays inside [0, 1] and is sound near both ends and for small n.

    Raises:
        ValueError: if n is not above 0, or successes are not within 0..n.

    Example:
        >>> low, high = wilson(0, 10)
        >>> round(low, 3), round(high, 3)
        (0.0, 0.278)
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"expected n > 0 and 0 <= successes <= n, got {successes} of {n}; count the items again")
    low, high = proportion.proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    # At the ends the formula gives 0 and 1 but for rounding.
    return Interval(0.0 if successes == 0 else float(low), 1.0 if successes == n else float(high))


def mean_interval(values: ArrayLike, *, seed: int, confidence: float = 0.95) -> tuple[float, Interval]:
    """The mean, and its bootstrap interval over items (BCa; percentile where BCa is not defined).

    Args:
        values: one number per item, shape (n,). Items must be independent: average over repeats of an item first.
        seed: of the resampling.

    Returns:
        (mean, interval). Values that are all equal give an interval of no width: then n says how far to trust it.

    Raises:
        ValueError: if there is no value, or one is not finite.
    """
    values_N = _finite(values, "values")
    mean = float(values_N.mean())
    if np.ptp(values_N) == 0:
        return mean, Interval(mean, mean)
    return mean, _bootstrap(values_N, np.mean, seed=seed, confidence=confidence)


def score_interval(values: ArrayLike, *, seed: int, confidence: float = 0.95) -> tuple[float, Interval]:
    """The mean of scores in [0, 1]: Wilson's interval where all are 0 or 1 (a share), else `mean_interval`.

    The bootstrap cannot leave what it saw: to it ten right answers of ten are 1.0 for sure, and Wilson's says 0.72.

    Args:
        values: one score per item, shape (n,).
        seed: of the resampling, where there is one.

    Raises:
        ValueError: if there is no value, or one is not finite or lies outside [0, 1].

    Example:
        >>> mean, (low, high) = score_interval([1, 1, 1, 1, 1, 1, 1, 1, 1, 1], seed=1)
        >>> mean, round(low, 2), high
        (1.0, 0.72, 1.0)
    """
    values_N = _finite(values, "values")
    if values_N.min() < 0 or values_N.max() > 1:
        raise ValueError(
            f"expected scores within [0, 1], got {values_N.min():g}..{values_N.max():g}; use mean_interval for others"
        )
    if np.isin(values_N, (0, 1)).all():
        return float(values_N.mean()), wilson(float(values_N.sum()), values_N.size, confidence=confidence)
    return mean_interval(values_N, seed=seed, confidence=confidence)


def statistic_interval(
    statistic: Callable[[np.ndarray], np.ndarray], n: int, *, seed: int, confidence: float = 0.95
) -> tuple[float, Interval]:
    """Any number that is computed from n items together (an F1, a difference of two), with its bootstrap interval.

    Args:
        statistic: takes places of items, whole numbers in 0..n-1 of shape (…, m), and returns one number for each row
            of places, shape (…). The same places for a baseline and a candidate make a paired test.
        seed: of the resampling.

    Returns:
        (value, interval): BCa over items, percentile where BCa is not defined. One item has an interval of no width.

    Raises:
        ValueError: there is no item, or the statistic is not finite.

    Example:
        >>> values = np.array([0.0, 1.0, 1.0, 0.0])
        >>> statistic_interval(lambda places: values[places].mean(-1), 4, seed=1)[0]
        0.5
    """
    if n < 1:
        raise ValueError(f"expected one or more items, got {n}; measure some first")
    value = float(statistic(np.arange(n)))
    if not math.isfinite(value):
        raise ValueError(f"expected a statistic that is finite on these {n} items, got {value}; drop or mend items")
    if n == 1:
        return value, Interval(value, value)
    of_places = lambda places, axis: statistic(places.astype(int))  # scipy has moved the items to the last axis
    return value, _bootstrap(np.arange(n), of_places, seed=seed, confidence=confidence)


def _bootstrap(items_N: np.ndarray, statistic: Callable, *, seed: int, confidence: float) -> Interval:
    ends = (math.nan, math.nan)
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            found = stats.bootstrap(
                (items_N,),
                statistic,
                n_resamples=RESAMPLES,
                batch=BATCH,
                vectorized=True,
                confidence_level=confidence,
                method=method,
                rng=np.random.default_rng(seed),
            )
        ends = (float(found.confidence_interval.low), float(found.confidence_interval.high))
        if all(map(math.isfinite, ends)):
            break
    return Interval(*ends)


def paired_difference(
    baseline: ArrayLike, candidate: ArrayLike, *, seed: int, confidence: float = 0.95
) -> tuple[float, Interval]:
    """Mean of candidate - baseline on the same items, with its bootstrap interval over items.

    Args:
        baseline: one score per item (0/1 or any number), shape (n,).
        candidate: scores of the same items in the same order, shape (n,).
        seed: of the resampling.

    Returns:
        (difference, interval); the interval is what `run.metric` takes as `ci95`.

    Raises:
        ValueError: if the lengths differ, or a score is not finite.
    """
    baseline_N, candidate_N = paired_scores(baseline, candidate)
    return mean_interval(candidate_N - baseline_N, seed=seed, confidence=confidence)


def paired_scores(baseline: ArrayLike, candidate: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both lists as arrays of shape (n,), checked.

    Raises:
        ValueError: if the lengths differ, or a score is not finite.
    """
    baseline_N, candidate_N = _finite(baseline, "baseline"), _finite(candidate, "candidate")
    if baseline_N.size != candidate_N.size:
        raise ValueError(
            f"expected the same items twice, got {baseline_N.size} of the baseline and {candidate_N.size} of the "
            "candidate; measure both on one list of items"
        )
    return baseline_N, candidate_N


def mcnemar(baseline: ArrayLike, candidate: ArrayLike) -> float:
    """McNemar's exact p-value: do two sets of 0/1 results on the same items differ? Only items that differ count.

    Raises:
        ValueError: if the lengths differ, or a result is neither 0 nor 1.
    """
    baseline_N, candidate_N = paired_scores(baseline, candidate)
    if not (np.isin(baseline_N, (0, 1)).all() and np.isin(candidate_N, (0, 1)).all()):
        raise ValueError("expected results of 0 and 1 only, got others; use paired_difference for scores")
    gained = int(((baseline_N == 0) & (candidate_N == 1)).sum())
    lost = int(((baseline_N == 1) & (candidate_N == 0)).sum())
    if gained + lost == 0:
        return 1.0
    return float(contingency_tables.mcnemar([[0, gained], [lost, 0]], exact=True).pvalue)


def win_rate(scores: ArrayLike, *, confidence: float = 0.95) -> tuple[float, Interval]:
    """Share of comparisons won, a tie counting half, with Wilson's interval (with ties rather too wide).

    Args:
        scores: 1 a win, 0.5 a tie, 0 a loss; averages over both orders of the answers are fine. Shape (n,).

    Returns:
        (rate, interval) to compare with 0.5. For `run.metric(baseline=0.5, …)` take 0.5 off both ends.

    Raises:
        ValueError: if there is no score, or one lies outside [0, 1].
    """
    scores_N = _finite(scores, "scores")
    if scores_N.min() < 0 or scores_N.max() > 1:
        raise ValueError(f"expected scores within [0, 1], got {scores_N.min():g}..{scores_N.max():g}; 1 is a win")
    return float(scores_N.mean()), wilson(float(scores_N.sum()), scores_N.size, confidence=confidence)


def pairs_needed(p: float, p0: float = 0.5, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Comparisons needed to see a win rate of p against p0 (two-sided test, normal approximation).

    Raises:
        ValueError: if p equals p0, or a share is not strictly between 0 and 1.

    Example:
        >>> pairs_needed(0.60)
        194
    """
    if p == p0 or not (0 < p < 1 and 0 < p0 < 1):
        raise ValueError(f"expected two different shares between 0 and 1, got p = {p}, p0 = {p0}")
    n = normal_sample_size_one_tail(
        abs(p - p0), power, alpha / 2, std_null=math.sqrt(p0 * (1 - p0)), std_alternative=math.sqrt(p * (1 - p))
    )
    return math.ceil(n)


def zero_failures_needed(rate: float, *, confidence: float = 0.95) -> int:
    """Tries needed, without a single failure, to claim a failure rate below `rate`.

    The least n with (1 - rate)^n <= 1 - confidence.

    Example:
        >>> zero_failures_needed(0.01)
        299
    """
    if not (0 < rate < 1 and 0 < confidence < 1):
        raise ValueError(f"expected rate and confidence between 0 and 1, got {rate} and {confidence}")
    return math.ceil(math.log(1 - confidence) / math.log(1 - rate))


def lower_bound(successes: int, n: int, *, confidence: float = 0.95) -> float:
    """The least share that the count still allows: Clopper and Pearson's exact one-sided bound.

    Exact means never too high, also where all of few items are right: Wilson's would be there.

    Raises:
        ValueError: if n < 1, or successes are not within 0..n.

    Example:
        >>> round(lower_bound(29, 29), 3), round(lower_bound(46, 48), 3)
        (0.902, 0.875)
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"expected n >= 1 and 0 <= successes <= n, got {successes} of {n}; count the items again")
    return 0.0 if successes == 0 else float(stats.beta.ppf(1 - confidence, successes, n - successes + 1))


def successes_needed(share: float, failures: int = 0, *, confidence: float = 0.95) -> int:
    """The least n at which n - failures of n show a share of at least `share` (`lower_bound`).

    Example:
        >>> [successes_needed(0.9, failures) for failures in range(4)]
        [29, 46, 61, 76]
    """
    if not 0 < share < 1 or failures < 0:
        raise ValueError(f"expected a share between 0 and 1 and failures >= 0, got {share} and {failures}")
    n = failures + 1
    while lower_bound(n - failures, n, confidence=confidence) < share:
        n += 1
    return n


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p-values, in the order given: compare each with alpha as if it were the only test.

    Holm 1979, Scandinavian Journal of Statistics 6, 65-70. Not statsmodels' `multipletests`: it runs Python's garbage
    collector in every call, which takes a quarter of a second and more, and simulations call it thousands of times.
    """
    p_N = _finite(p_values, "p_values")
    if p_N.min() < 0 or p_N.max() > 1:
        raise ValueError(f"expected p-values within [0, 1], got {p_N.min():g}..{p_N.max():g}")
    order_N = np.argsort(p_N)
    adjusted_N = np.empty_like(p_N)
    adjusted_N[order_N] = np.maximum.accumulate(p_N[order_N] * np.arange(p_N.size, 0, -1))
    return np.minimum(adjusted_N, 1.0)


def judge_gate(
    id: str,
    notebook: str,
    *,
    value: float | None,
    threshold: float,
    op: Literal[">=", "<="],
    n: int,
    interval: Interval | Sequence[float] | None = None,
    need_n: int = 1,
    clusters: int | None = None,
    need_clusters: int = 1,
    margin: float | None = None,
    note: str = "",
) -> GateResult:
    """Judge one number against its threshold.

    Enough items: PASS when the value meets the threshold, else FAIL. With a `margin`, a pass whose interval reaches
    more than that margin beyond the threshold is an ABSTAIN.
    Too few (n < need_n, or clusters < need_clusters): ABSTAIN; but FAIL when the whole interval lies on the wrong side,
    for then even few items say no.

    Args:
        value: the number; None where it could not be measured, which is an ABSTAIN.
        interval: of the value, not of a difference.
        need_n: items needed to say anything, fixed beforehand.
        clusters: that the items come in, where they are not independent (wordings of one request, attacks on one
            prompt); the interval must be by cluster too (`paired`). None: each item stands for itself.
        need_clusters: clusters needed to say anything, fixed beforehand: more tries at one prompt are no more prompts.
        margin: how far the interval's far end may miss the threshold, in the value's unit.
        note: what to do when the gate fails; shown in the refusal of the next notebook.

    Raises:
        ValueError: an unknown op, or a number that is not finite.
    """
    if op not in (">=", "<="):
        raise ValueError(f"gate {id!r}: expected op '>=' or '<=', got {op!r}")
    ends = None if interval is None else [float(end) for end in interval]
    if not all(math.isfinite(number) for number in (value or 0.0, threshold, *(ends or []))):
        raise ValueError(
            f"gate {id!r}: expected finite numbers, got value {value}, threshold {threshold}, interval {ends}"
        )

    sign = 1 if op == ">=" else -1  # spare room: positive on the right side of the threshold

    def spare(number: float) -> float:
        return sign * (number - threshold)

    reason = ""
    few = [f"n = {n}, {need_n} needed"] if n < need_n else []
    few += [f"{clusters} clusters, {need_clusters} needed"] if clusters is not None and clusters < need_clusters else []
    if value is None:
        verdict, reason = "ABSTAIN", "not measured"
    elif few:
        hopeless = bool(ends) and max(map(spare, ends)) < 0
        verdict, reason = ("FAIL" if hopeless else "ABSTAIN"), "; ".join(few)
    elif spare(value) < 0:
        verdict = "FAIL"
    elif margin is not None and ends and min(map(spare, ends)) < -margin:
        verdict, reason = "ABSTAIN", f"the interval misses the threshold by more than {margin:g}"
    else:
        verdict = "PASS"
    return GateResult(
        id=id,
        notebook=notebook,
        value=None if value is None else float(value),
        threshold=float(threshold),
        op=op,
        n=int(n),
        clusters=clusters,
        ci95=ends,
        verdict=verdict,
        note="; ".join(part for part in (reason, note) if part),
    )


def target_rows(
    targets: Sequence[tuple[str, float | None, Literal[">=", "<="], float, int, Interval | Sequence[float] | None]],
) -> list[dict]:
    """What was aimed at beside what was measured. A target blocks nothing; it says what a gate's threshold left open.

    Args:
        targets: (what, value, op, wanted, n, interval of the value or None) each; a value of None was not measured.

    Returns:
        Rows {"target", "value", "95 %", "wanted", "n", "says"}. "says" is reached, missed or not measured, by the
        value; where the whole interval lies on the value's side, it adds "shown".

    Raises:
        ValueError: an unknown op, or a number that is not finite.

    Example:
        >>> target_rows([("win-rate", 0.61, ">=", 0.6, 472, (0.56, 0.65))])[0]["says"]
        'reached'
    """
    rows = []
    for what, value, op, wanted, n, interval in targets:
        ends = [] if interval is None else [float(end) for end in interval]
        if op not in (">=", "<=") or not all(math.isfinite(x) for x in (value or 0.0, wanted, *ends)):
            raise ValueError(
                f"target {what!r}: expected op '>=' or '<=' and finite numbers, got {op!r}, {value}, {ends}"
            )
        sign = 1 if op == ">=" else -1
        says = "not measured"
        if value is not None:
            meets = [sign * (number - wanted) >= 0 for number in (value, *ends)]
            says = ("reached" if meets[0] else "missed") + (", shown" if ends and len(set(meets)) == 1 else "")
        rows.append(
            {
                "target": what,
                "value": None if value is None else float(value),
                "95 %": f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else "",
                "wanted": f"{op} {wanted:g}",
                "n": int(n),
                "says": says,
            }
        )
    return rows


def _finite(values: ArrayLike, what: str) -> np.ndarray:
    values_N = np.asarray(values, dtype=float)
    if values_N.ndim != 1 or values_N.size == 0 or not np.isfinite(values_N).all():
        raise (NotFinite if values_N.ndim == 1 and values_N.size else ValueError)(
            f"{what}: expected a list of one or more finite numbers, got shape {values_N.shape} with "
            f"{int((~np.isfinite(values_N)).sum())} not finite; drop or mend those items"
        )
    return values_N
