"""What logged rollouts say before anything is trained online: which cases can teach, and how good another policy is.

Left out on purpose: per-step corrections and doubly robust estimates. A case at the desk takes two or three calls, and
no model of its value is at hand that one would trust.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ftlib.gates import Interval
from ftlib.looks import mean_above

BAND = (0.2, 0.8)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that at least one of k rollouts succeeds, from n rollouts of which c did (Chen et al. 2021,
    arXiv 2107.03374, eq. 1): 1 - C(n - c, k) / C(n, k). Unbiased, which 1 - (1 - c/n)^k is not.

    Raises:
        ValueError: not 1 <= k <= n, or c outside 0..n.

    Example:
        >>> pass_at_k(4, 1, 2)  # of the 6 pairs, 3 hold the one that succeeded
        0.5
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"expected 1 <= k <= n and 0 <= c <= n, got n={n}, c={c}, k={k}")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def mixed_at_k(n: int, c: int, k: int) -> float:
    """Chance that k rollouts hold a success and a failure, so that a GRPO group of k has something to compare.

    Example:
        >>> round(mixed_at_k(4, 1, 2), 2)  # 3 of 6 pairs
        0.5
    """
    return pass_at_k(n, c, k) - math.comb(c, k) / math.comb(n, k)


def sort_cases(success_PG: ArrayLike, *, band: tuple[float, float] = BAND) -> dict[str, list[int]]:
    """Which cases can teach: those that succeed sometimes.

    Args:
        success_PG: 0 or 1, shape (P, G): P cases, G rollouts each.
        band: shares of success, ends included, that count as "teaches".

    Returns:
        "too hard", "teaches" and "too easy" -> numbers of the cases.

    Raises:
        ValueError: another shape, values other than 0 and 1, or a band that is none.
    """
    done_PG = np.asarray(success_PG, dtype=float)
    low, high = band
    if done_PG.ndim != 2 or 0 in done_PG.shape or not np.isin(done_PG, (0, 1)).all() or not 0 <= low <= high <= 1:
        raise ValueError(
            f"expected 0 and 1 in shape (cases, rollouts) and a band in [0, 1], got {done_PG.shape}, {band}"
        )
    share_P = done_PG.mean(axis=1)
    names = np.where(share_P < low, "too hard", np.where(share_P > high, "too easy", "teaches"))
    return {name: np.flatnonzero(names == name).tolist() for name in ("too hard", "teaches", "too easy")}


@dataclass(frozen=True)
class OffPolicy:
    """What a log of one policy says about another.

    Attributes:
        value: self-normalised importance-sampling estimate of the mean reward.
        interval: of it, 95 %, by the delta method.
        lower: one-sided 95 % lower bound that assumes nothing about the weights.
        n: logged rollouts.
        effective_n: rollouts drawn from the target that would say as much, (sum w)^2 / sum w^2 (Kish).
    """

    value: float
    interval: Interval
    lower: float
    n: int
    effective_n: float


def off_policy(
    rewards: ArrayLike, behaviour_logp: ArrayLike, target_logp: ArrayLike, *, clip: float = 10.0
) -> OffPolicy:
    """How well a target policy would do, from rollouts that a behaviour policy made.

    Each rollout counts w = p(rollout | target) / p(rollout | behaviour). The estimate is sum w r / sum w (Swaminathan
    and Joachims 2015, NeurIPS 28, "self-normalized"); its interval is Student's over the linearised ratio (Owen,
    Monte Carlo theory, methods and examples, section 9.2), and holds while effective_n is not small. The lower bound is
    conservative: weights are cut at `clip`, which can only lower the mean of w r for r >= 0 (Thomas et al. 2015, AAAI,
    "High-confidence off-policy evaluation"), and that mean is bounded by betting (`looks.mean_above`).

    Args:
        rewards: of each logged rollout, in [0, 1], shape (n,), in an order that does not depend on them.
        behaviour_logp: log-probability of all that the policy wrote in it, as it was sampled (temperature, top-k).
        target_logp: the same under the target. -inf: the target would never write it.
        clip: fixed before the log is seen. Larger is less conservative on average and wider.

    Raises:
        ValueError: fewer than 2 rollouts, other shapes, rewards outside [0, 1], a rollout that the behaviour policy
            cannot have made, no rollout that the target would make, or clip < 1.
    """
    r_N, b_N, t_N = (np.asarray(values, dtype=float) for values in (rewards, behaviour_logp, target_logp))
    if r_N.ndim != 1 or r_N.size < 2 or not r_N.shape == b_N.shape == t_N.shape:
        raise ValueError(f"expected three lists of one length >= 2, got shapes {r_N.shape}, {b_N.shape}, {t_N.shape}")
    if not (np.isfinite(r_N).all() and r_N.min() >= 0 and r_N.max() <= 1 and clip >= 1):
        raise ValueError(f"expected rewards in [0, 1] and clip >= 1, got {r_N.min():g}..{r_N.max():g} and {clip:g}")
    if not np.isfinite(b_N).all() or np.isnan(t_N).any() or t_N.max() in (np.inf, -np.inf):
        raise ValueError(
            "expected finite log-probabilities (the target's may be -inf for some rollouts); score them again"
        )
    w_N = np.exp(t_N - b_N)
    value = float((w_N * r_N).sum() / w_N.sum())
    spread = math.sqrt(float((w_N**2 * (r_N - value) ** 2).sum())) / w_N.sum()
    half = float(stats.t.ppf(0.975, r_N.size - 1)) * spread
    return OffPolicy(
        value=value,
        interval=Interval(max(0.0, value - half), min(1.0, value + half)),
        lower=clip * mean_above(np.minimum(w_N, clip) * r_N / clip),
        n=r_N.size,
        effective_n=float(w_N.sum() ** 2 / (w_N**2).sum()),
    )
