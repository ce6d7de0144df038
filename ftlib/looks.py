"""Evidence that may be looked at as often as one likes: a bet against "the candidate is no better".

A test at 5 % that is looked at 20 times while its numbers grow is wrong 27 times in a hundred. Here a gambler bets on
each comparison that the candidate wins; if it is no better, no way of betting multiplies the stake by 1 / alpha with a
probability above alpha, whenever one stops (Ville's inequality; Waudby-Smith & Ramdas, arXiv 2010.09686).

Where a program looks, the number of looks is known beforehand and kept: then the error is shared out over them, an
equal part each (Bonferroni), as `Steady` does for a model that is looked at while it trains.

Left out on purpose: other ways of sharing it out (O'Brien and Fleming's spend little early, which is for studies that
should seldom end early), and the rollout's guardrails, which count failures of two models in live traffic
(`rollout.Evidence`).
"""

import json
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ftlib import paired
from ftlib.files import write_atomic

# Stakes as shares of what may be staked at most; their mean is itself a fair bet (method of mixtures).
STAKES = (0.05, 0.1, 0.2, 0.4, 0.8)


def evidence(scores: ArrayLike, *, null: float = 0.5) -> np.ndarray:
    """The stake after each comparison, from 1: evidence that the mean score is above `null`.

    Args:
        scores: 1 a win, 0.5 a tie, 0 a loss, in the order in which they came, shape (n,). The order must not depend
            on the scores: shuffle the items once, before anything is judged.
        null: the mean that is to be ruled out.

    Returns:
        Shape (n,). At 1 / alpha or more, the mean is above `null` at level alpha, at whatever look.

    Raises:
        ValueError: a score outside [0, 1], no scores, or a null not inside (0, 1).

    Example:
        >>> evidence([1.0]).round(2)  # stakes 0.05 ... 0.8 won, at even odds: 1 + their mean, 0.31
        array([1.31])
    """
    scores_N = np.asarray(scores, dtype=float)
    if scores_N.ndim != 1 or scores_N.size == 0 or not (np.isfinite(scores_N).all() and 0 < null < 1):
        raise ValueError(f"expected a list of finite scores and a null inside (0, 1), got {scores_N.shape} and {null}")
    if scores_N.min() < 0 or scores_N.max() > 1:
        raise ValueError(f"expected scores within [0, 1], got {scores_N.min():g}..{scores_N.max():g}; 1 is a win")
    return np.exp(np.cumsum(log_growth(scores_N, null), axis=1)).mean(axis=0)


def log_growth(scores_N: np.ndarray, null: float) -> np.ndarray:
    """What each comparison does to each stake: log of its growth, shape (stakes, N)."""
    return np.log1p(np.array(STAKES)[:, None] * (scores_N[None, :] - null) / null)


def mean_above(scores: ArrayLike, *, alpha: float = 0.05) -> float:
    """The greatest mean that the scores rule out from below at level alpha: a lower bound of the mean, 0 at least.

    It makes no assumption on the scores but that they lie in [0, 1] and have one mean (arXiv 2010.09686, section 4).

    Raises:
        ValueError: as `evidence`; or an alpha not inside (0, 1).

    Example:
        >>> round(mean_above([1.0] * 100), 2), mean_above([0.0] * 100)
        (0.96, 0.0)
    """
    if not 0 < alpha < 1:
        raise ValueError(f"expected alpha inside (0, 1), got {alpha}")
    low, high = 0.0, 1.0
    for _ in range(40):  # evidence falls as the null rises, so halving finds where it crosses 1 / alpha
        middle = (low + high) / 2
        shown = evidence(scores, null=middle).max() >= 1 / alpha
        low, high = (middle, high) if shown else (low, middle)
    return low if low > 1e-9 else 0.0


def first_shown(scores: ArrayLike, *, null: float = 0.5, alpha: float = 0.05) -> int | None:
    """After how many comparisons the mean is shown to be above `null`; None if it never is."""
    if not 0 < alpha < 1:
        raise ValueError(f"expected alpha inside (0, 1), got {alpha}")
    reached = np.flatnonzero(evidence(scores, null=null) >= 1 / alpha)
    return int(reached[0]) + 1 if reached.size else None


class Steady:
    """Has a win-rate stopped moving from one look to the next? A sequential rule that spends its error over the looks.

    The same prompts are judged at each look. Two looks are alike when the whole interval of their paired difference
    lies within `within`, a move that one would not train on for. Each interval may err in an equal part of `alpha`, so
    over all looks a move of `within` or more is called steady in no more than `alpha` of the trainings.

    Args:
        within: the move that no longer counts, in points of win-rate, > 0.
        looks: how many there will be, after the one before training.
        record: a JSON file of the scores so far: a training that was killed compares with the look before.
        alpha: error of the whole series.
        clusters, strata: of each comparison, as in `paired.design_effect`.

    Raises:
        ValueError: a move that is not positive, no looks, or an alpha not inside (0, 1).
    """

    def __init__(
        self,
        *,
        within: float,
        looks: int,
        record: Path,
        alpha: float = 0.05,
        clusters: Sequence[Hashable] | None = None,
        strata: Sequence[Hashable] | None = None,
    ):
        if not within > 0 or looks < 1 or not 0 < alpha < 1:
            raise ValueError(
                f"expected a move above 0, one look or more and alpha inside (0, 1), got {within}, {looks} and {alpha}"
            )
        self.within, self.record = within, Path(record)
        self.confidence, self.groups = 1 - alpha / looks, {"clusters": clusters, "strata": strata}

    def see(self, step: int, scores: ArrayLike) -> dict[str, float]:
        """Take the scores of this look, and compare them with those of the look before it.

        Args:
            step: of the training; looks of this step or a later one, from before a kill, are forgotten.
            scores: 1 a win, 0.5 a tie, 0 a loss, of the same comparisons in the same order each time.

        Returns:
            {"moved", "moved_low", "moved_high", "steady"}; "steady" is 1 or 0. Before the second look after training
            began nothing is compared: moved by 0, anywhere from -1 to 1, not steady.

        Raises:
            ValueError: no scores, or another number of them than at the look before.
        """
        scores_N = np.asarray(scores, dtype=float)
        if scores_N.size == 0:
            raise ValueError("expected the scores of one comparison or more, got none; judge some prompts at each look")
        known = json.loads(self.record.read_text(encoding="utf-8")) if self.record.exists() else []
        known = [row for row in known if row["step"] < step]
        self.record.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.record, json.dumps([*known, {"step": step, "scores": scores_N.tolist()}]))
        if not known or known[-1]["step"] == 0:
            return {"moved": 0.0, "moved_low": -1.0, "moved_high": 1.0, "steady": 0.0}
        before_N = np.array(known[-1]["scores"])
        given = {"confidence": self.confidence, **self.groups}
        if np.array_equal(before_N, scores_N):  # no spread to judge by: no comparison has changed
            zeros = np.zeros(scores_N.size)
            moved, (low, high) = paired.share_difference(zeros, zeros, **given)
        else:
            moved, (low, high) = paired.difference(before_N, scores_N, seed=step, **given)
        steady = -self.within < low and high < self.within
        return {"moved": moved, "moved_low": low, "moved_high": high, "steady": float(steady)}
