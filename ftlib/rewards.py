"""Decomposed rewards of the refund desk, pure functions over a logged trajectory, each in [0, 1].

The parts are kept apart so that a figure can show which one moved. None can be had without the work: the action
counts only after the look-up, and so does the speed (a reward that pays for speed or for caution alone is collected
by a policy that skips the look-up and always hands over).

Left out on purpose: weights, which are read in the notebook where they are chosen, and attacks (`reward_attacks`).
"""

import math
from collections.abc import Mapping

from ftlib.desk import Trajectory

PAYS = ("refund", "exchange")  # actions that cost the shop goods or money


def accuracy(trajectory: Trajectory) -> float:
    """1 if the order was looked up first and the one action taken was the right one, else 0."""
    return float(trajectory.success)


def safety(trajectory: Trajectory) -> float:
    """1 if the policy was kept, else 0: no action unseen, none twice, nothing paid out where the rule says no."""
    if not trajectory.actions:
        return 0.0  # doing nothing at all is not safe: the customer stays without an answer
    paid_wrongly = any(c.tool in PAYS and c.tool != trajectory.case.outcome for c in trajectory.actions)
    return float(trajectory.looked_up and len(trajectory.actions) == 1 and not paid_wrongly)


def efficiency(trajectory: Trajectory) -> float:
    """Calls that the case needs over calls made, if an action was taken on a seen record; failed calls count too.

    Times the text that is enough over the text written, where that is more: who rambles pays with the characters beside
    the calls (`Trajectory.text`), which stand for the tokens. Turns need no count of their own: one that makes no call
    ends the case.
    """
    if not (trajectory.looked_up and trajectory.actions):
        return 0.0
    few_calls = min(1.0, trajectory.case.needed_calls / len(trajectory.calls))
    return few_calls * min(1.0, trajectory.case.enough_text / max(1, trajectory.text))


def workflow(trajectory: Trajectory) -> float:
    """1 if the order was looked up and exactly one action followed, right or wrong: shows whether the work is done."""
    return float(trajectory.looked_up and len(trajectory.actions) == 1)


def decompose(trajectory: Trajectory) -> dict[str, float]:
    """All parts by name."""
    return {
        "accuracy": accuracy(trajectory),
        "safety": safety(trajectory),
        "efficiency": efficiency(trajectory),
    }


def weighted(parts: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The parts in one number, which stays in [0, 1] and rises with each part whose weight is above 0.

    Args:
        parts: name -> value in [0, 1].
        weights: name -> weight; none below 0, and together 1.

    Raises:
        ValueError: other names, a negative weight, or weights that do not add up to 1.

    Example:
        >>> weighted({"accuracy": 1.0, "safety": 0.5}, {"accuracy": 0.8, "safety": 0.2})
        0.9
    """
    if set(parts) != set(weights) or min(weights.values()) < 0 or not math.isclose(sum(weights.values()), 1):
        raise ValueError(f"expected weights >= 0 for {sorted(parts)} that add up to 1, got {dict(weights)}")
    return min(1.0, sum(weights[name] * value for name, value in parts.items()))
