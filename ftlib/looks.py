"""Evidence that may be looked at as often as one likes: a bet against "the candidate is no better".

A test at 5 % that is looked at 20 times while its numbers grow is wrong 27 times in a hundred. Here a gambler bets on
each comparison that the candidate wins; if it is no better, no way of betting multiplies the stake by 1 / alpha with a
probability above alpha, whenever one stops (Ville's inequality; Waudby-Smith & Ramdas, arXiv 2010.09686).

Left out on purpose: looks that are planned beforehand (alpha spending needs fewer items, and nobody keeps the plan),
and the rollout's guardrails, which count failures of two models in live traffic (`rollout.Evidence`).
"""

import numpy as np
from numpy.typing import ArrayLike

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
