"""How far raters agree: percent agreement, and Krippendorff's alpha with its interval (by evalica).

Percent agreement flatters where one choice is common; alpha takes chance off. Neither says that raters are right.

Left out on purpose: kappas (alpha takes any number of raters and missing ratings), and models of single raters.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ftlib.records import Rating


def basis(ratings: Iterable[Rating]) -> str:
    """What a number rests on: "simulated raters", "human raters", "human and simulated raters" or "no raters"."""
    kinds = {"simulated" if rating.simulated else "human" for rating in ratings}
    return f"{' and '.join(sorted(kinds)) or 'no'} raters"


@dataclass(frozen=True)
class Agreement:
    """How far raters agree. Skipped items count as not rated; an item needs two ratings to say anything.

    Attributes:
        percent: chance that two raters of an item chose the same, averaged over items; None without such items.
        alpha: Krippendorff's alpha, nominal: 1 perfect, 0 as by chance; None where all choices are equal.
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


def agreement(ratings: Sequence[Rating], *, seed: int, resamples: int = 5_000) -> Agreement:
    """Percent agreement and Krippendorff's alpha with its interval (by evalica) over A, B, tie and both_bad."""
    import evalica
    import pandas as pd

    choices: dict[str, dict[str, str]] = {}
    for rating in ratings:
        if rating.choice != "skip":
            choices.setdefault(rating.item_id, {})[rating.rater] = rating.choice
    shared = {item: given for item, given in choices.items() if len(given) > 1}
    counted = [rating for rating in ratings if rating.item_id in shared and rating.choice != "skip"]
    raters = {rating.rater for rating in counted}
    if not shared:
        return Agreement(None, None, None, 0, 0, 0, basis(counted))
    agreeing = [
        float(np.mean([one == other for one, other in itertools.combinations(given.values(), 2)]))
        for given in shared.values()
    ]
    alpha, interval = None, None
    if len({choice for given in shared.values() for choice in given.values()}) > 1:  # else 0 / 0
        found = evalica.alpha_bootstrap(pd.DataFrame(shared), "nominal", n_resamples=resamples, random_state=seed)
        alpha, interval = float(found.alpha), (float(found.low), float(found.high))
    return Agreement(float(np.mean(agreeing)), alpha, interval, len(shared), len(raters), len(counted), basis(counted))
