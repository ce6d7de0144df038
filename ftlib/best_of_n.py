"""Best-of-n over samples that are there: what choosing by a score is worth, and how far it goes.

Of each prompt's N samples, n are drawn without replacement and the one with the highest score is taken. The mean over
all such draws needs no drawing (Nakano et al. 2021, arXiv 2112.09332, appendix I). The more is chosen from, the further
the chosen are from the policy that wrote them, and the more a score's faults are found (Gao et al. 2022, arXiv
2210.10760).

Left out on purpose: sampling more than N, which needs the policy.
"""

import math

import numpy as np
from numpy.typing import ArrayLike


def best_of(score_PN: ArrayLike, value_PN: ArrayLike, n: int) -> np.ndarray:
    """What the best of n by score is worth on the mean, for each prompt.

    The sample with i others at or below it in rank is the best of C(i, n - 1) draws of C(N, n). Equal scores share
    their places, as if a coin chose among them.

    Args:
        score_PN: what is chosen by, shape (P, N): P prompts, N samples each.
        value_PN: what the chosen one is worth, same shape; the score itself tells what the score promises.

    Returns:
        Shape (P,).

    Raises:
        ValueError: shapes that differ, numbers that are not finite, or not 1 <= n <= N.

    Example:
        >>> best_of([[1, 2, 3]], [[10, 0, 5]], 2)  # of 3 pairs, one has the second as its best, two the third
        array([3.33333333])
    """
    scores, values = of_same_samples(score_PN, value_PN)
    samples = scores.shape[1]
    if not 1 <= n <= samples:
        raise ValueError(f"expected 1 <= n <= {samples} samples a prompt, got n={n}; sample more of each")
    chance_N = np.array([math.comb(i, n - 1) for i in range(samples)]) / math.comb(samples, n)
    found = []
    for score_N, value_N in zip(scores, values, strict=True):
        order = np.argsort(score_N, kind="stable")
        _, group_N = np.unique(score_N[order], return_inverse=True)
        shared = np.bincount(group_N, chance_N) / np.bincount(group_N)
        found.append(float((shared[group_N] * value_N[order]).sum()))
    return np.array(found)


def kl(n: int) -> float:
    """KL(best of n || the policy) in nats an answer: log n - (n - 1) / n (Stiennon et al. 2020, arXiv 2009.01325,
    appendix G.3). Exact where no two answers are alike; where answers repeat it is an upper bound (arXiv 2401.01879).

    Raises:
        ValueError: n < 1.

    Example:
        >>> round(kl(16), 3)
        1.835
    """
    if n < 1:
        raise ValueError(f"expected n >= 1, got {n}")
    return math.log(n) - (n - 1) / n


def value_per_score(score_PN: ArrayLike, value_PN: ArrayLike) -> float:
    """How much value a unit of score promises: the least-squares slope within prompts; 0 where scores do not vary.

    Scores of different prompts are not compared: each is taken from its prompt's mean.

    Raises:
        ValueError: shapes that differ, or numbers that are not finite.

    Example:
        >>> value_per_score([[0, 2], [10, 14]], [[0, 1], [5, 7]])
        0.5
    """
    scores, values = of_same_samples(score_PN, value_PN)
    scores, values = (of - of.mean(axis=1, keepdims=True) for of in (scores, values))
    spread = float((scores**2).sum())
    return float((scores * values).sum()) / spread if spread > 0 else 0.0


def of_same_samples(one_PN: ArrayLike, two_PN: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Two numbers of each sample, such as a score and what it is worth, as arrays of shape (P, N).

    Raises:
        ValueError: shapes that differ or are not (P, N), or numbers that are not finite.
    """
    one, two = (np.asarray(of, dtype=float) for of in (one_PN, two_PN))
    if one.ndim != 2 or one.shape != two.shape or 0 in one.shape:
        raise ValueError(
            f"expected two numbers a sample, both of one shape (prompts, samples), got {one.shape} and {two.shape}"
        )
    if not (np.isfinite(one).all() and np.isfinite(two).all()):
        raise ValueError("expected finite numbers; drop the samples that have none")
    return one, two
