"""Two rewards of the same samples: do they rank alike? Prompt by prompt, with an interval over prompts.

A reward model's score means something beside another sample of the *same* prompt only, so nothing here compares two
prompts. Samples of a prompt are alike, so the interval takes prompts for its items, not samples.

Left out on purpose: agreement of raters (`agreement`), and one number over all samples pooled.
"""

import itertools
import warnings

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ftlib.best_of_n import of_same_samples
from ftlib.gates import Interval, mean_interval


def rank_correlations(one_PN: ArrayLike, two_PN: ArrayLike) -> np.ndarray:
    """Kendall's tau-b of each prompt's samples under two rewards; NaN where one of them tells no two samples apart.

    Args:
        one_PN, two_PN: shape (P, N): P prompts, N samples each.

    Returns:
        Shape (P,), from -1 to 1.

    Raises:
        ValueError: shapes that differ, or numbers that are not finite.
    """
    one, two = of_same_samples(one_PN, two_PN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a constant prompt is NaN, which is said
        return np.array([stats.kendalltau(a, b).statistic for a, b in zip(one, two, strict=True)], dtype=float)


def pairs_right(score_PN: ArrayLike, true_PN: ArrayLike, *, least: float = 0.0) -> np.ndarray:
    """Share of each prompt's pairs that a score ranks as the true reward does; an equal score counts half.

    Args:
        score_PN, true_PN: shape (P, N).
        least: pairs whose true rewards differ by no more than this are left out.

    Returns:
        Shape (P,); NaN where no pair of a prompt is left.

    Raises:
        ValueError: shapes that differ, numbers that are not finite, or least < 0.

    Example:
        >>> pairs_right([[3, 1, 1]], [[1, 0, 0.5]])  # 3 over 1 twice is right; 1 and 1 is a half
        array([0.83333333])
    """
    score, true = of_same_samples(score_PN, true_PN)
    if not least >= 0:
        raise ValueError(f"expected least >= 0, got {least}")
    left, right = np.array(list(itertools.combinations(range(score.shape[1]), 2))).reshape(-1, 2).T
    gap = true[:, left] - true[:, right]  # (P, pairs)
    right_PQ = 0.5 + 0.5 * np.sign(score[:, left] - score[:, right]) * np.sign(gap)
    asked = np.abs(gap) > least
    counts = asked.sum(axis=1)
    return np.where(counts > 0, (right_PQ * asked).sum(axis=1) / np.maximum(counts, 1), np.nan)


def over_prompts(value_P: ArrayLike, *, seed: int) -> tuple[float | None, Interval | None, int]:
    """The mean over the prompts that say something, its 95 % bootstrap interval over prompts, and how many they are.

    Returns:
        (mean, interval, prompts); (None, None, 0) where no prompt says anything.
    """
    values = np.asarray(value_P, dtype=float)
    kept = values[~np.isnan(values)]
    if kept.size == 0:
        return None, None, 0
    return *mean_interval(kept, seed=seed), int(kept.size)
