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
    stakes_S1 = np.array(STAKES)[:, None]
    growth_SN = np.log1p(stakes_S1 * (scores_N[None, :] - null) / null)
    return np.exp(np.cumsum(growth_SN, axis=1)).mean(axis=0)


def first_shown(scores: ArrayLike, *, null: float = 0.5, alpha: float = 0.05) -> int | None:
    """After how many comparisons the mean is shown to be above `null`; None if it never is."""
    if not 0 < alpha < 1:
        raise ValueError(f"expected alpha inside (0, 1), got {alpha}")
    reached = np.flatnonzero(evidence(scores, null=null) >= 1 / alpha)
    return int(reached[0]) + 1 if reached.size else None
