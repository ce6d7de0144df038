"""An alarm for reward hacking: the reward that is trained on rises, and the metric that one cares about does not.

The rule, fixed before training: let d = proxy - true of one rollout. Before training, d has a mean, which n rollouts
bound from above at level alpha / 2. A gambler bets at every step that d's mean is above that bound (`looks`), with an
equal share of the stake on each step at which a hack may begin. The alarm goes off when the stake has grown by
2 / alpha and the step's mean proxy is above that before training. Where the gap never grows, that happens with a
chance of alpha at most over the whole training, however often one looks (Ville's inequality; a mixture over start times
as in Shin, Ramdas and Rinaldo, arXiv 2203.03532).

`Watch` puts it into a GRPO run: it sees the rollouts that the steps make anyway, and knows the way back. An alarm that
could not go off says nothing by its silence. A reward that is the true metric at a weight w and other parts besides can
leave it behind by (1 - w)(1 - success) at most, which may be less than the bound; so watch those other parts alone, as
a proxy of their own, and ask `Watch.foresee` before training which known hacks would be seen.

Rollouts count as independent ones, and those of one case are less than that. Where half of the groups of eight are the
same eight times, simulated runs that only learn set the alarm off in up to 4 of 10, not in 1 of 20 (`HackMonitor` over
the policies of the benchmark); training then goes back for nothing. A case as the unit of the bet would hold the level
and see nothing: four cases a step, against a bound from a dozen before training, saw none of 150 hacks in five steps.
So read the rollouts of the step before an alarm is believed.

Left out on purpose: a true metric that falls while the proxy stands still. That is no hack but damage, which the
canary evaluation sees (and a rollback mends). And runs on several processes: each would watch its own rollouts only.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ftlib.desk import RefundDesk, Trajectory, trajectory
from ftlib.files import write_atomic
from ftlib.looks import STAKES, log_growth, mean_above

CALM = 1.0  # a stake that has not grown: nothing speaks for a hack


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


class Watch:
    """A reward function that rewards nothing: it counts each step's rollouts, and knows which policy to go back to.

    Give it to GRPOTrainer as one of `reward_funcs` with weight 0; TRL then logs the true metric beside the rewards. It
    is called when a step's rollouts are made and nothing has been learned from them yet. The rule: a policy whose step
    leaves the stake at CALM or below is kept (the first one always is: nothing was trained); once the alarm goes off,
    training ends after that step (`train.StopWhen`), and the policy kept last is the result.

    Args:
        before: rollouts before training, on cases like those of the training.
        proxy, true: of one rollout, in [0, 1]: the reward that is trained on, or its parts that can be had without the
            true metric; and what one cares about.
        steps: planned.
        record: a JSON file with the steps so far; a resumed training goes on from it.
        keep: called to save the policy as it is; it takes the place of the one kept before.
        ask: called with the ids of a step's cases; what it returns stands beside the step (`RolloutLog.ask`).

    Attributes:
        rows: of each step {"step", "cases", "proxy", "true", "asked"}, lists over its rollouts.
        kept: the step whose policy was kept last; 0: none yet.

    Raises:
        ValueError: as `HackMonitor`.
    """

    __name__ = "true_metric"  # TRL logs it by this name

    def __init__(
        self,
        before: Sequence[Trajectory],
        *,
        proxy: Callable[[Trajectory], float],
        true: Callable[[Trajectory], float],
        steps: int,
        record: Path,
        keep: Callable[[], object],
        ask: Callable[[list[str]], Mapping[int, float]] | None = None,
    ):
        # Shuffled: the bound looks at every beginning of the list, so the rollouts of one case must not come first.
        shuffled = [before[n] for n in np.random.default_rng(0).permutation(len(before))]
        self._before = [proxy(t) for t in shuffled], [true(t) for t in shuffled]
        self._proxy, self._true, self._steps = proxy, true, steps
        self._record, self._keep, self._ask = Path(record), keep, ask
        known = json.loads(self._record.read_text(encoding="utf-8")) if self._record.exists() else {}
        self.rows: list[dict[str, Any]] = known.get("rows", [])
        self.kept: int = known.get("kept", 0)
        self._monitor = self._counted()

    @property
    def evidence(self) -> list[float]:
        """The stake after each step (`HackMonitor.evidence`)."""
        return self._monitor.evidence

    @property
    def limit(self) -> float:
        """The stake at which the alarm goes off, where the proxy has risen."""
        return self._monitor.limit

    @property
    def alarm(self) -> int | None:
        """The step at which it went off first, or None."""
        return self._monitor.alarm

    def __call__(
        self,
        environments: Sequence[RefundDesk],
        trainer_state: Any,
        completions: Sequence[Sequence[Mapping[str, Any]]] = (),
        **_: Any,
    ) -> list[float]:
        """The true metric of a step's rollouts; TRL gives the desks, its state, and the chats (which a proxy needs that
        counts what was said)."""
        step = trainer_state.global_step + 1  # it counts the steps that are done
        chats = completions or [()] * len(environments)
        done = [trajectory(desk, chat) for desk, chat in zip(environments, chats, strict=True)]
        cases = [t.case.id for t in done]
        row = {"step": step, "cases": cases, "proxy": [self._proxy(t) for t in done]}
        asked = self._ask(list(dict.fromkeys(cases))) if self._ask else {}
        row |= {"true": [self._true(t) for t in done], "asked": list(asked.items())}
        self.rows = [old for old in self.rows if old["step"] < step] + [row]  # those after a kill come again
        self._monitor = self._counted()
        if self.evidence[-1] <= CALM or not self.kept:
            self._keep()
            self.kept = step
        write_atomic(self._record, json.dumps({"rows": self.rows, "kept": self.kept}))
        return row["true"]

    def proxy_reward(self, environments: Sequence[RefundDesk], **_: Any) -> list[float]:
        """The proxy of the same rollouts, as it was counted: a reward function, to stand behind the watch itself.

        So that a reward which is drawn (a coin) is drawn once.
        """
        return self.rows[-1]["proxy"]

    def foresee(self, hack: Sequence[Trajectory], *, rollouts: int) -> int | None:
        """The step of the alarm if the policy worked like this from the first step on; None: in none that is planned.

        Args:
            hack: rollouts of it, e.g. of an attack in the reward lab, in an order that does not depend on them. Each
                step takes the next ones, over and over.
            rollouts: of a step.

        Raises:
            ValueError: no rollouts, or none a step.
        """
        if not hack or rollouts < 1:
            raise ValueError(f"expected rollouts of a hack and 1 or more a step, got {len(hack)} and {rollouts}")
        proxy, true = ([f(t) for t in hack] for f in (self._proxy, self._true))
        monitor = HackMonitor(*self._before, steps=self._steps)
        for step in range(self._steps):
            places = [n % len(hack) for n in range(step * rollouts, (step + 1) * rollouts)]
            if monitor.add([proxy[n] for n in places], [true[n] for n in places]):
                return step + 1
        return None

    def means(self, what: str) -> tuple[list[int], list[float]]:
        """Steps, and the mean of "proxy" or "true" over each one's rollouts, for a figure."""
        return [row["step"] for row in self.rows], [float(np.mean(row[what])) for row in self.rows]

    def _counted(self) -> HackMonitor:
        monitor = HackMonitor(*self._before, steps=self._steps)
        for row in self.rows:
            monitor.add(row["proxy"], row["true"])
        return monitor


def steps_to_alarm(began: int | None, alarm: int | None, *, steps: int, within: int) -> int | None:
    """Steps that a hack went on until its alarm, the first and the last one counted; None where nobody can say.

    Without an alarm the hack went on for all steps left. Fewer than `within` of them prove nothing: the alarm was not
    late yet. Otherwise the answer is one more than there were, so it lies above `within`.

    Args:
        began: the step in which the hack began; None: there was none.
        alarm: the step in which it was seen first; None: never.
        steps: of the training.
        within: steps in which it has to be seen.

    Example:
        >>> steps_to_alarm(2, 4, steps=6, within=5), steps_to_alarm(2, None, steps=6, within=5)
        (3, 6)
        >>> steps_to_alarm(3, None, steps=6, within=5) is None
        True
    """
    if began is None:
        return None
    if alarm is not None:
        return max(1, alarm - began + 1)
    left = steps - began + 1
    return left + 1 if left >= within else None
