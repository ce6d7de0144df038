"""How far raters agree: percent, Cohen's kappa, Fleiss' kappa and Krippendorff's alpha, each with its interval.

Percent agreement flatters where one choice is common; the others take chance off. None says that raters are right.
Cohen's kappa is for two raters, Fleiss' for the same number of ratings on every item; alpha takes any number of raters
and missing ratings, and knows an order of the values (rubric marks). The numbers are evalica's and statsmodels'.

Only votes that were given independently count: not an adjudicator's, who is asked where others differ, and no simulated
one on an item that people voted on (`people_first`, the rule of `pairs`).

Left out on purpose: models of single raters (`truth`), weighted kappas (alpha covers ordered values), and words such as
"substantial" for a number: what it means for the labels is worked out in `label_noise`.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ftlib.records import Rating

DIMENSIONS = ("helpfulness", "harmlessness", "task_fit")
RESAMPLES = 999  # of the kappas' bootstraps; alpha's is faster and takes more

Dimension = Literal["choice", "helpfulness", "harmlessness", "task_fit"]
Level = Literal["nominal", "ordinal", "interval", "ratio"]
Values = Mapping[str, Mapping[str, str | int]]  # item -> rater -> value


def basis(ratings: Iterable[Rating]) -> str:
    """What a number rests on: "simulated raters", "human raters", "human and simulated raters" or "no raters"."""
    kinds = {"simulated" if rating.simulated else "human" for rating in ratings}
    return f"{' and '.join(sorted(kinds)) or 'no'} raters"


def strict_majority(choices: Iterable[str]) -> str:
    """What more than half of the choices are; "" where none is that frequent.

    Example:
        >>> strict_majority(["A", "A", "tie"]), strict_majority(["A", "tie"])
        ('A', '')
    """
    counts = Counter(choices)
    choice, most = counts.most_common(1)[0] if counts else ("", 0)
    return choice if 2 * most > counts.total() else ""


def people_first(ratings: Iterable[Rating]) -> list[Rating]:
    """The votes that count, in their order: where a person voted on an item, simulated votes on it are set aside.

    Example:
        ann (a person) and sim-1 on item 1, sim-1 and sim-2 on item 2 -> ann on item 1, sim-1 and sim-2 on item 2.
    """
    given = list(ratings)
    by_people = {vote.item_id for vote in given if not vote.simulated}
    return [vote for vote in given if not (vote.simulated and vote.item_id in by_people)]


def independent(ratings: Iterable[Rating]) -> list[Rating]:
    """The votes that agreement is counted on: without adjudicators, people first."""
    return people_first(vote for vote in ratings if not vote.by_adjudicator)


@dataclass(frozen=True)
class Agreement:
    """How far raters agree. Skipped items count as not rated; an item needs two ratings to say anything.

    Attributes:
        percent: chance that two raters of an item chose the same, averaged over items; None without such items.
        alpha: Krippendorff's alpha: 1 perfect, 0 as by chance; None where all values are equal.
        alpha_interval: 95 % bootstrap interval (Hayes' KALPHA: disagreements are resampled), or None.
        items, raters, ratings: counts behind the numbers.
        basis: "simulated raters", "human raters", …
    """

    percent: float | None
    alpha: float | None
    alpha_interval: tuple[float, float] | None
    items: int
    raters: int
    ratings: int
    basis: str


@dataclass(frozen=True)
class Coefficient:
    """A coefficient with its 95 % bootstrap interval, over `items`; None without items, or where all values are equal.

    `raters` are those behind it.
    """

    value: float | None
    interval: tuple[float, float] | None
    items: int
    raters: tuple[str, ...]


def agreement(
    ratings: Sequence[Rating], *, seed: int, resamples: int = 5_000, dimension: Dimension = "choice"
) -> Agreement:
    """Percent agreement and Krippendorff's alpha of votes.

    Args:
        ratings: standing votes; those of adjudicators, and simulated ones where people voted, are passed over.
        seed: of the resampling.
        resamples: of alpha's bootstrap.
        dimension: "choice" (A, B, tie, both_bad: nominal), or a rubric mark (-1, 0, 1: ordinal).
    """
    counting = independent(ratings)
    shared = values_of(counting, dimension)
    counted = [vote for vote in counting if vote.item_id in shared and vote.rater in shared[vote.item_id]]
    found = krippendorff_alpha(
        shared, "nominal" if dimension == "choice" else "ordinal", seed=seed, resamples=resamples
    )
    return Agreement(
        _percent(shared), found.value, found.interval, found.items, len(found.raters), len(counted), basis(counted)
    )


def values_of(ratings: Iterable[Rating], dimension: Dimension = "choice") -> Values:
    """Item -> rater -> what the rater said, for items with two ratings or more; skips and missing marks left out.

    Votes of adjudicators, and simulated ones where people voted, are passed over.

    Raises:
        ValueError: an unknown dimension.
    """
    if dimension not in ("choice", *DIMENSIONS):
        raise ValueError(f"dimension is {dimension!r}; expected one of choice, {', '.join(DIMENSIONS)}")
    values: dict[str, dict[str, str | int]] = {}
    for rating in independent(ratings):
        value = getattr(rating, dimension)
        if rating.choice != "skip" and value is not None:
            values.setdefault(rating.item_id, {})[rating.rater] = value
    return {item: given for item, given in values.items() if len(given) > 1}


def krippendorff_alpha(values: Values, level: Level, *, seed: int, resamples: int = 5_000) -> Coefficient:
    """Krippendorff's alpha (by evalica): any number of raters, missing ratings, ordered values.

    Its interval is Hayes' KALPHA: disagreements are resampled.

    Args:
        values: as `values_of` gives them.
        level: what the distance of two values counts for.
        seed: of the resampling.
        resamples: of the bootstrap.
    """
    import evalica
    import pandas as pd

    shared = {item: given for item, given in values.items() if len(given) > 1}
    raters = _raters(shared)
    if len({value for given in shared.values() for value in given.values()}) < 2:  # 0 / 0
        return Coefficient(None, None, len(shared), raters)
    found = evalica.alpha_bootstrap(pd.DataFrame(shared), level, n_resamples=resamples, random_state=seed)
    return Coefficient(float(found.alpha), (float(found.low), float(found.high)), len(shared), raters)


def cohen_kappa(values: Values, one: str, two: str, *, seed: int, resamples: int = RESAMPLES) -> Coefficient:
    """Cohen's kappa of two raters over the items that both rated (by statsmodels); items are resampled."""
    from statsmodels.stats.inter_rater import cohens_kappa

    both = [(given[one], given[two]) for given in values.values() if one in given and two in given]
    codes = {value: place for place, value in enumerate(sorted({value for pair in both for value in pair}))}
    cells_N = np.array([codes[a] * len(codes) + codes[b] for a, b in both], dtype=int)
    counts = np.bincount(cells_N, minlength=len(codes) ** 2)

    def kappa(table: np.ndarray) -> float:
        return cohens_kappa(table.reshape(len(codes), -1), return_results=False)

    return Coefficient(*_with_interval(kappa, counts, seed, resamples), len(both), (one, two))


def cohen_kappas(values: Values, *, seed: int, resamples: int = RESAMPLES) -> list[Coefficient]:
    """Cohen's kappa of every two raters who share an item, those who agree least first."""
    pairs = itertools.combinations(_raters(values), 2)
    found = [cohen_kappa(values, *pair, seed=seed, resamples=resamples) for pair in pairs]
    shared = [one for one in found if one.items]
    return sorted(shared, key=lambda one: 2.0 if one.value is None else one.value)


def fleiss_kappa(values: Values, *, seed: int, resamples: int = RESAMPLES) -> Coefficient:
    """Fleiss' kappa (by statsmodels) over the items with the most common number of ratings; others are left out."""
    from statsmodels.stats import inter_rater

    sizes = [len(given) for given in values.values() if len(given) > 1]
    if not sizes:
        return Coefficient(None, None, 0, ())
    usual = max(sorted(set(sizes), reverse=True), key=sizes.count)
    kept = {item: given for item, given in values.items() if len(given) == usual}
    said = sorted({value for given in kept.values() for value in given.values()})
    rows = [[list(given.values()).count(value) for value in said] for given in kept.values()]
    rows_RV, counts_R = np.unique(np.array(rows), axis=0, return_counts=True)  # rows that are equal, and how many

    def kappa(drawn_R: np.ndarray) -> float:
        return inter_rater.fleiss_kappa(np.repeat(rows_RV, drawn_R, axis=0))

    return Coefficient(*_with_interval(kappa, counts_R, seed, resamples), len(kept), _raters(kept))


def _raters(values: Values) -> tuple[str, ...]:
    return tuple(sorted({rater for given in values.values() for rater in given}))


def _percent(shared: Values) -> float | None:
    agreeing = [
        float(np.mean([one == other for one, other in itertools.combinations(given.values(), 2)]))
        for given in shared.values()
    ]
    return float(np.mean(agreeing)) if agreeing else None


def _with_interval(
    kappa: Callable[[np.ndarray], float], counts: np.ndarray, seed: int, resamples: int
) -> tuple[float | None, tuple[float, float] | None]:
    """A kappa of counted kinds of items, and its percentile interval: items are drawn again with repeats."""
    n = int(counts.sum())
    if n == 0:
        return None, None
    rng = np.random.default_rng(seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(kappa(counts))
        drawn = np.array([kappa(row) for row in rng.multinomial(n, counts / n, size=resamples)], dtype=float)
    if not np.isfinite(value):  # all values are equal: 0 / 0
        return None, None
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return value, (float(low), float(high))
