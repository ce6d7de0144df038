"""What n items can show, and how many it would take: power of the tests that stand behind a gate matrix.

Power belongs to a question asked beforehand: "if the truth is 0.60, how often would n items show that it is above
0.50?" It is never computed from the number that was measured; that would only say the p-value again in other words.

Left out on purpose: power by simulation of whole matrices (`benchmarks/model_gates.py` does that), and items that come
in clusters: there fewer items count than n says, so these numbers are then on the hopeful side. Take
`paired.effective_n` for n, as the claims of `family` do.
"""

import math
from functools import lru_cache

import numpy as np
from scipy import stats
from statsmodels.stats.power import normal_sample_size_one_tail

ALPHA, POWER = 0.05, 0.8


def share_power(n: int, share: float, threshold: float, *, alpha: float = ALPHA) -> float:
    """How often n items show that a share lies beyond a threshold: exact one-sided binomial test.

    Args:
        share: the truth that one hopes for; above the threshold it is "more than", below it "less than".

    Raises:
        ValueError: n < 1, or the two shares are equal or not within [0, 1] (the threshold strictly).

    Example:
        >>> round(share_power(10, 0.9, 0.5, alpha=0.055), 4)  # 8 of 10 or more: P(8) + P(9) + P(10) at 0.9
        0.9298
    """
    _check(n=n, share=share, threshold=threshold, alpha=alpha)
    return float(_share_power(np.array([n]), share, threshold, alpha)[0])


@lru_cache(maxsize=256)
def share_items_needed(share: float, threshold: float, *, alpha: float = ALPHA, power: float = POWER) -> int:
    """The n from which on the exact test keeps this power. Power is a saw over n; this is behind its last low tooth.

    Raises:
        ValueError: as `share_power`.
    """
    _check(n=1, share=share, threshold=threshold, alpha=alpha)
    spread = math.sqrt(threshold * (1 - threshold)) * stats.norm.isf(alpha)
    spread += math.sqrt(max(share * (1 - share), 1e-4)) * stats.norm.isf(1 - power)
    ceiling = 100 + 3 * math.ceil((spread / (share - threshold)) ** 2)  # the normal guess, and ample room
    n_N = np.arange(1, ceiling + 1)
    short = np.flatnonzero(_share_power(n_N, share, threshold, alpha) < power)
    return int(n_N[short[-1]]) + 1 if short.size else 1


def difference_power(n: float, sd: float, effect: float, *, alpha: float = ALPHA) -> float:
    """How often n paired items show a mean difference that lies `effect` beyond what is to be ruled out (one-sided).

    Args:
        n: items; those of clusters count as many as they are worth (`paired.effective_n`).
        sd: standard deviation of the differences, item by item.
        effect: distance between the hoped difference and the one to rule out; for "no worse than the margin", with a
            candidate hoped to be as good as the baseline, this is the margin.

    Example:
        >>> round(difference_power(100, sd=0.4, effect=0.1), 3)  # 0.1 * 10 / 0.4 = 2.5; 2.5 - 1.645
        0.804
    """
    if n < 1 or sd < 0 or effect <= 0:
        raise ValueError(f"expected n >= 1, sd >= 0 and effect > 0, got {n}, {sd} and {effect}")
    if sd == 0:
        return 1.0
    return float(stats.norm.cdf(effect * math.sqrt(n) / sd - stats.norm.isf(alpha)))


def difference_items_needed(sd: float, effect: float, *, alpha: float = ALPHA, power: float = POWER) -> int:
    """Paired items needed to show a difference `effect` beyond what is to be ruled out (one-sided, normal)."""
    if sd < 0 or effect <= 0:
        raise ValueError(f"expected sd >= 0 and effect > 0, got {sd} and {effect}; state the margin beforehand")
    if sd == 0:
        return 1
    return max(1, math.ceil(normal_sample_size_one_tail(effect, power, alpha, std_null=sd)))


def smallest_shown(n: int, sd: float, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest difference that n paired items show with this power (one-sided)."""
    if n < 1 or sd < 0:
        raise ValueError(f"expected n >= 1 and sd >= 0, got {n} and {sd}")
    return float((stats.norm.isf(alpha) + stats.norm.isf(1 - power)) * sd / math.sqrt(n))


def mcnemar_pairs_needed(gained: float, lost: float, *, alpha: float = ALPHA, power: float = POWER) -> int:
    """Pairs needed to see that more items change one way than the other (two-sided McNemar; Miettinen 1968).

    Args:
        gained, lost: shares of all items that change each way.

    Example:
        >>> mcnemar_pairs_needed(0.10, 0.05)
        469
    """
    if gained == lost or min(gained, lost) < 0 or gained + lost > 1:
        raise ValueError(f"expected two different shares with a sum of 1 at most, got {gained} and {lost}")
    both, effect = gained + lost, abs(gained - lost)
    null, alternative = math.sqrt(both), math.sqrt(both - effect**2)
    return math.ceil(normal_sample_size_one_tail(effect, power, alpha / 2, std_null=null, std_alternative=alternative))


def in_words(n: int, needed: int) -> str:
    """Whether n items are enough, as a sentence for a table.

    Example:
        >>> in_words(50, 783)
        'n = 50 cannot show this; 783 needed'
    """
    return f"n = {n} can show this" if n >= needed else f"n = {n} cannot show this; {needed} needed"


def _check(*, n: int, share: float, threshold: float, alpha: float) -> None:
    if n < 1 or not (0 <= share <= 1 and 0 < threshold < 1 and 0 < alpha < 1) or share == threshold:
        raise ValueError(
            f"expected n >= 1, a share in [0, 1] that differs from a threshold inside (0, 1), got n = {n}, share = "
            f"{share}, threshold = {threshold}, alpha = {alpha}; say which truth you hope for"
        )


def _share_power(n_N: np.ndarray, share: float, threshold: float, alpha: float) -> np.ndarray:
    """Power at each n, shape (N,). Less-than claims are more-than claims about what is left."""
    if share < threshold:
        share, threshold = 1 - share, 1 - threshold
    # The fewest successes c with P(X >= c | threshold) <= alpha
    critical_N = stats.binom.isf(alpha, n_N, threshold) + 1
    return stats.binom.sf(critical_N - 1, n_N, share)
