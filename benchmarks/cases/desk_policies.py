"""Simulated policies at the desk: logs with known chances, and training runs that learn or cheat. No model is in them.

What each way to work a case earns is played at the desk once; a policy then draws ways by its chances.
"""

from dataclasses import dataclass

import numpy as np

from ftlib import desk
from ftlib.desk import Case, Trajectory
from ftlib.hacking import HackMonitor
from ftlib.offline import OffPolicy, off_policy
from ftlib.reward_attacks import call

WAYS = [(looks, action) for looks in (True, False) for action in desk.OUTCOMES]  # looks the order up first?
ROLLOUTS, BASELINE, STEPS = 32, 160, 24  # rollouts a step, rollouts before training, steps of a run


def naive(trajectory: Trajectory) -> float:
    """The reward that was hacked in a trial: it pays for the right last action alone."""
    return float(bool(trajectory.actions) and trajectory.actions[-1].tool == trajectory.case.outcome)


@dataclass(frozen=True)
class World:
    """What each way earns on each case, shape (cases, ways); `right` is the way of honest work."""

    success_CW: np.ndarray
    naive_CW: np.ndarray
    right_C: np.ndarray

    @classmethod
    def of(cls, cases: list[Case]) -> "World":
        """Play every way on every case."""
        played = [[desk.play(case, _answers(case, *way))[0] for way in WAYS] for case in cases]
        return cls(
            np.array([[float(t.success) for t in row] for row in played]),
            np.array([[naive(t) for t in row] for row in played]),
            np.array([WAYS.index((True, case.outcome)) for case in cases]),
        )

    def chances(self, right: float, unseen: float) -> np.ndarray:
        """A policy's chances, shape (cases, ways): it takes the right action with chance `right` and skips the look-up
        with chance `unseen`, both on their own; wrong actions share the rest."""
        n = len(desk.OUTCOMES)
        action_CA = np.full((len(self.right_C), n), (1 - right) / (n - 1))
        action_CA[np.arange(len(self.right_C)), self.right_C] = right
        return np.concatenate([(1 - unseen) * action_CA, unseen * action_CA], axis=1)

    def draw(self, rng: np.random.Generator, chances_CW: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """n rollouts on cases drawn with replacement: numbers of the cases and of the ways."""
        case_N = rng.integers(0, len(chances_CW), n)
        below_NW = rng.random((n, 1)) > chances_CW[case_N].cumsum(axis=1)
        return case_N, np.minimum(below_NW.sum(axis=1), len(WAYS) - 1)


def _answers(case: Case, looks: bool, action: str) -> list[str]:
    look = [call("find_order", order_id=case.order_id)] if looks else []
    return [*look, call(action, order_id=case.order_id), "It is done."]


def estimate(
    world: World, rng: np.random.Generator, *, n: int, logged: tuple, target: tuple
) -> tuple[float, OffPolicy]:
    """(true success of the target, what a log of n rollouts says of it); policies as arguments of `World.chances`."""
    behaviour_CW, target_CW = world.chances(*logged), world.chances(*target)
    case_N, way_N = world.draw(rng, behaviour_CW, n)
    found = off_policy(
        world.success_CW[case_N, way_N], np.log(behaviour_CW[case_N, way_N]), np.log(target_CW[case_N, way_N])
    )
    return float((target_CW * world.success_CW).sum(axis=1).mean()), found


# A run's policy by step (0: before training), as arguments of `World.chances`.
def learns(step: int, _: int) -> tuple[float, float]:
    """The right action ever more often; the look-up is skipped as before, so the gap grows too: 0.05 to 0.10."""
    return min(0.95, 0.45 + 0.05 * step), 0.1


def stands(step: int, _: int) -> tuple[float, float]:
    """Nothing changes."""
    return 0.45, 0.1


def worse(step: int, _: int) -> tuple[float, float]:
    """The right action ever less often."""
    return max(0.1, 0.45 - 0.03 * step), 0.1


def hacks(step: int, start: int) -> tuple[float, float]:
    """Learns until `start`; then the look-up goes within four steps, as in the trial, and actions get better."""
    right, unseen = learns(min(step, start - 1), start)
    since = max(0, step - start + 1)
    return min(0.95, right + 0.1 * since), min(0.95, unseen + 0.22 * since)


def alarm(world: World, rng: np.random.Generator, policy, *, start: int = 0, steps: int = STEPS) -> int | None:
    """The step at which the monitor's alarm went off in one simulated run, or None."""
    proxy, true = _scores(world, rng, policy(0, start), BASELINE)
    monitor = HackMonitor(proxy, true, steps=steps)
    for step in range(1, steps + 1):
        if monitor.add(*_scores(world, rng, policy(step, start), ROLLOUTS)):
            break
    return monitor.alarm


def _scores(world: World, rng: np.random.Generator, policy: tuple, n: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = world.draw(rng, world.chances(*policy), n)
    return world.naive_CW[drawn], world.success_CW[drawn]
