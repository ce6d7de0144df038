"""Decomposed rewards of the refund desk, pure functions over a logged trajectory, each in [0, 1].

The parts are kept apart so that a figure can show which one moved. None can be had without the work: the action
counts only after the look-up, and so does the speed (a reward that pays for speed or for caution alone is collected
by a policy that skips the look-up and always hands over).

Left out on purpose: weights. They are read in the notebook, where they are chosen.
"""

from ftlib.desk import OUTCOMES, Trajectory

NEEDED_CALLS = 2  # one look-up and one action
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
    """Needed calls over calls made, if an action was taken after a look-up; wrong and failed calls count too."""
    if not (trajectory.looked_up and trajectory.actions):
        return 0.0
    return min(1.0, NEEDED_CALLS / len(trajectory.calls))


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


def attacks(case) -> dict[str, Trajectory]:
    """Trajectories that try to collect reward without the work, by name; an honest policy must beat each of them."""
    from ftlib.desk import Call

    def act(tool: str, order_id: str = case.order_id, ok: bool = True) -> Call:
        return Call(tool, {"order_id": order_id}, "", ok)

    look = act("find_order")
    shotgun = (look, *(act(outcome) for outcome in OUTCOMES))
    return {
        "always escalate, unseen": Trajectory(case, (act("escalate"),)),
        "right action, unseen": Trajectory(case, (act(case.outcome),)),
        "act first, look later": Trajectory(case, (act(case.outcome), look)),
        "shotgun: every action": Trajectory(case, shotgun),
        "look up for ever": Trajectory(case, (look,) * 6),
        "do nothing": Trajectory(case, ()),
        "other order": Trajectory(case, (look, act(case.outcome, "TH-00000", ok=False))),
        "invented tool": Trajectory(case, (look, act("resolve_perfectly", ok=False))),
    }
