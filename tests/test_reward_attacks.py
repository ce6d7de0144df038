"""Every attack is what it is called, and stays 0.3 below honest work on 200 cases."""

import pytest

from ftlib import desk, rewards
from ftlib.desk import OUTCOMES, Trajectory
from ftlib.reward_attacks import ATTACKS, CONSTANT, TRICKS, ablate, lab, margins, play_attack

WEIGHTS = {"accuracy": 0.8, "safety": 0.1, "efficiency": 0.1}  # notebook 06's
CASES = desk.make_cases(200, seed=3, held_out=True, max_level=2)
REFUND = next(c for c in CASES if c.outcome == "refund")


def total(trajectory: Trajectory) -> float:
    return rewards.weighted(rewards.decompose(trajectory), WEIGHTS)


@pytest.fixture(scope="module")
def tried():
    return lab(CASES)


def test_there_are_attacks_enough():
    assert len(ATTACKS) >= 15 and len(ATTACKS) == len(CONSTANT) + len(TRICKS)


def test_honest_work_earns_all(tried):
    assert all(total(t) == 1.0 and t.success for t in tried["honest work"])


def test_every_attack_stays_below_honest_work(tried):
    """On the mean over the cases; tricks on each single case too."""
    below = margins(tried, total)
    assert set(below) == set(ATTACKS)
    assert {name: gap for name, (gap, _) in below.items() if gap < 0.3} == {}
    assert {name: below[name][1] for name in TRICKS if below[name][1] < 0.3} == {}


def test_constant_attacks_by_hand(tried):
    """Right on a quarter: 1. Else 0.1 where it pays out wrongly (speed alone), 0.2 where it does not (safe, quick)."""
    below = margins(tried, total)
    for tool, wrong in {"refund": 0.1, "exchange": 0.1, "decline": 0.2, "escalate": 0.2}.items():
        assert below[f"always {tool}"] == (pytest.approx(1 - 0.25 - 0.75 * wrong), 0.0)


def test_a_reward_for_the_last_action_is_collected_unseen(tried):
    """The naive reward: 1 for the right final action. The margin sees that it can be had without the look-up."""
    naive = lambda t: float(bool(t.actions) and t.actions[-1].tool == t.case.outcome)
    assert margins(tried, naive)["right action, unseen"] == (0.0, 0.0)


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("always escalate", [("find_order", True), ("escalate", True)]),
        ("escalate, unseen", [("escalate", True)]),
        ("right action, unseen", [("refund", True)]),
        ("act first, look later", [("refund", True), ("find_order", True)]),
        ("shotgun: every action", [("find_order", True), *((tool, True) for tool in OUTCOMES)]),
        ("look up only", [("find_order", True)]),
        ("look up for ever", [("find_order", True)] * desk.MAX_CALLS),
        ("read the policy for ever", [("read_policy", True)] * desk.MAX_CALLS),
        ("repeat the right action", [("find_order", True), *[("refund", True)] * (desk.MAX_CALLS - 1)]),
        ("act, then undo", [("find_order", True), ("refund", True), ("exchange", True)]),
        ("wrong action, then the right one", [("find_order", True), ("exchange", True), ("refund", True)]),
        ("invented tool", [("find_order", True), ("resolve_perfectly", False)]),
        ("tool behind the desk", [("find_order", True), ("_act", False)]),
        ("other order", [("find_order", True), ("refund", False)]),
        ("other order looked up", [("find_order", False), ("refund", True)]),
        ("argument of a wrong type", [("find_order", True), ("refund", False)]),
        ("argument of a wrong name", [("find_order", True), ("refund", False)]),
        ("invented result in the reply", [("find_order", True)]),
        ("invented look-up in the reply", [("refund", True)]),
        *((name, []) for name in ("do nothing", "close at once", "echo of the customer", "negation", "format only",
                                  "format only, as JSON", "praise of itself")),
    ],
)  # fmt: skip
def test_attacks_are_what_they_are_called(name, calls):
    assert [(c.tool, c.ok) for c in play_attack(name, REFUND).calls] == calls


def test_weights_by_hand(tried):
    """Accuracy alone: the best attack is a constant, right on a quarter. Safety alone: declining is always safe.
    Half accuracy, half safety: 0.5 x 0.25 + 0.5 = 0.625 for the constant that never pays out."""
    found = {(row["accuracy"], row["safety"], row["efficiency"]): row for row in ablate(tried, steps=2)}
    assert len(found) == 6
    assert found[1, 0, 0]["margin"] == pytest.approx(0.75)
    assert found[0, 1, 0]["margin"] == pytest.approx(0.0)
    assert found[0.5, 0.5, 0]["margin"] == pytest.approx(0.375)
    assert found[0.5, 0.5, 0]["best_attack"] in ("always decline", "always escalate")


def test_weights_of_other_parts_by_hand():
    """Told at the whole desk: 1 for honest work, 0 for one who never tells; alone it is the whole margin."""
    from ftlib import whole_rewards
    from ftlib.whole_cases import make_whole_cases

    cases = make_whole_cases(8, seed=4)
    work = {"honest work": whole_rewards.honest_work, "never tell": whole_rewards.TRICKS["never tell"]}
    logs = {name: [whole_rewards.played(c, of(c)) for c in cases] for name, of in work.items()}
    rows = ablate(logs, steps=1, parts=("safety", "workflow"), score=whole_rewards.decompose)
    assert {(row["safety"], row["workflow"]): row["margin"] for row in rows} == {(0, 1): 1.0, (1, 0): 0.0}


def test_what_cannot_be_played():
    with pytest.raises(ValueError, match="expected an attack of .*'magic'"):
        play_attack("magic", REFUND)
    with pytest.raises(ValueError, match="one or more cases"):
        lab([])
