"""An alarm for reward hacking: the reward that is trained on rises, and the metric that one cares about does not.

The rule, fixed before training: let d = proxy - true of one rollout. Before training, d has a mean, which n rollouts
bound from above at level alpha / 2. A gambler bets at every step that d's mean is above that bound (`looks`), with an
equal share of the stake on each step at which a hack may begin. The alarm goes off when the stake has grown by
2 / alpha and the step's mean proxy is above that before training. Where the gap never grows, that happens with a
chance of alpha at most over the whole training, however often one looks (Ville's inequality; a mixture over start times
as in Shin, Ramdas and Rinaldo, arXiv 2203.03532).

Left out on purpose: a true metric that falls while the proxy stands still. That is no hack but damage, which the
canary evaluation sees (and a rollback mends).
"""

import numpy as np
from numpy.typing import ArrayLike

from ftlib.looks import STAKES, log_growth, mean_above


class HackMonitor:
    """Proxy against true metric, step by step.

    Args:
        proxy, true: of rollouts before training, in [0, 1], shape (n,). The i-th of both may be of one rollout (then
            they say most) or of two, in an order that does not depend on them.
        steps: planned.
        alpha: chance of a false alarm over all steps, at most.

    Attributes:
        alarm: the step (from 1) at which it went off first, or None.
        evidence: the stake after each step; `limit` and above is an alarm where the proxy has risen.

    Raises:
        ValueError: scores outside [0, 1], lists of two lengths, steps < 1, or an alpha not inside (0, 1).

    Example:
        >>> monitor = HackMonitor([0.5] * 100, [0.5] * 100, steps=2)
        >>> monitor.add([1.0] * 40, [0.0] * 40), monitor.alarm
        (True, 1)
    """

    def __init__(self, proxy: ArrayLike, true: ArrayLike, *, steps: int, alpha: float = 0.05):
        if steps < 1 or not 0 < alpha < 1:
            raise ValueError(f"expected steps >= 1 and alpha inside (0, 1), got {steps} and {alpha}")
        gaps, self._proxy_before = _gaps(proxy, true)
        self.bound = 1 - mean_above(1 - gaps, alpha=alpha / 2)  # of (1 + d) / 2
        self.limit = 2 / alpha
        self.alarm: int | None = None
        self.evidence: list[float] = []
        self._steps = steps
        self._log_stakes = np.zeros((steps, len(STAKES)))  # of the bets by the step at which they begin

    def add(self, proxy: ArrayLike, true: ArrayLike) -> bool:
        """Count one step's rollouts; True if the alarm is on now.

        Raises:
            ValueError: scores outside [0, 1], or lists of two lengths.
        """
        gaps, proxy_now = _gaps(proxy, true)
        step = len(self.evidence) + 1
        if self.bound < 1:  # else the gap was as wide as can be, and nothing is left to bet on
            self._log_stakes[:step] += log_growth(gaps, self.bound).sum(axis=1)
        self.evidence.append(float(np.exp(self._log_stakes).mean()))
        on = self.evidence[-1] >= self.limit and proxy_now > self._proxy_before
        if on and self.alarm is None:
            self.alarm = step
        return on


def _gaps(proxy: ArrayLike, true: ArrayLike) -> tuple[np.ndarray, float]:
    """(1 + proxy - true) / 2 of each pair, in [0, 1], and the mean proxy."""
    proxy_N, true_N = (np.asarray(values, dtype=float) for values in (proxy, true))
    both = np.concatenate([proxy_N.ravel(), true_N.ravel()])
    if proxy_N.ndim != 1 or proxy_N.shape != true_N.shape or both.size == 0:
        raise ValueError(f"expected proxy and true of one length, got shapes {proxy_N.shape} and {true_N.shape}")
    if not (np.isfinite(both).all() and both.min() >= 0 and both.max() <= 1):
        raise ValueError(f"expected proxy and true in [0, 1], got {both.min():g}..{both.max():g}; scale them first")
    return (1 + proxy_N - true_N) / 2, float(proxy_N.mean())
