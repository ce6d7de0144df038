"""Random action sequences through the desk, and proof that the check sees what it looks for."""

from collections import Counter

import pytest

from benchmarks.cases import desk_fuzz
from ftlib import desk
from ftlib.desk import Call, RefundDesk, Trajectory
from ftlib.whole_cases import make_whole_cases
from ftlib.whole_desk import MAX_CALLS, WholeDesk, WholeTrajectory

CASES = desk.make_cases(40, seed=11, held_out=True, max_level=2)


def test_random_sequences_break_nothing():
    """500 more than the 10,000 that `make bench ONLY=rft` plays; money does move in many of them."""
    found = Counter()
    moved = Counter()
    for seed in range(100_000, 100_500):
        broken, (trajectory, _) = desk_fuzz.faults(seed, CASES)
        found.update(broken)
        money, goods = desk_fuzz.left_the_shop(trajectory)
        moved.update({"money": money > 0, "goods": goods > 0, "full log": len(trajectory.calls) == desk.MAX_CALLS})
    assert found == {}
    assert all(moved[what] > 50 for what in ("money", "goods", "full log")), moved


WHOLE = make_whole_cases(48, seed=11, held_out=True)


def test_random_sequences_break_nothing_at_the_whole_desk():
    found, moved = Counter(), Counter()
    for seed in range(200_000, 200_500):
        broken, (trajectory, other) = desk_fuzz.faults(seed, WHOLE, WholeDesk)
        found.update(broken)
        money, goods = desk_fuzz.left_the_shop(trajectory)
        moved.update({"money": money > 0, "goods": goods > 0, "full log": len(trajectory.calls) == MAX_CALLS})
        moved.update({"closed": trajectory.closed, "leaks": bool(trajectory.leaks)})
        moved.update({"success": trajectory.success, "success of the second": other.success})
    assert found == {}
    assert all(moved[what] > 15 for what in ("money", "goods", "closed", "leaks", "full log")), moved
    assert moved["success"] > 50 and moved["success of the second"] > 50, moved


class PaysTheWholeTwice(WholeDesk):
    def _acted(self):
        return []


class PaysWhateverIsAsked(WholeDesk):
    def refund(self, order_id, amount):
        return self._act("refund", order_id, done=f"refund: {amount} paid.", amount=amount)


class ExecutesAmounts(WholeDesk):
    def refund(self, order_id, amount):
        return super().refund(order_id, eval(str(amount)))


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (PaysTheWholeTwice, "money not conserved"),
        (PaysWhateverIsAsked, "money not conserved"),
        (ExecutesAmounts, "exception: "),
    ],
)
def test_a_broken_whole_desk_is_found(make, fault):
    found = [desk_fuzz.faults(seed, WHOLE, make)[0] for seed in range(120)]
    assert any(fault in name for broken in found for name in broken)


def test_what_left_the_whole_desk_by_hand():
    case = WHOLE[0]
    done = [Call("refund", {"amount": "12.50"}, f"refund: {x} paid.", True) for x in ("12.50", "0.10")]
    refused = Call("refund", {}, "Refused: more than was paid.", False)
    assert desk_fuzz.left_the_shop(WholeTrajectory(case, (*done, refused))) == (12.6, 0)


class PaysTwice(RefundDesk):
    def _act(self, tool, order_id):
        return self._log(tool, {"order_id": order_id}, f"{tool}: done.", ok=True)


class Shares(RefundDesk):
    everybodys = []

    def reset(self, case, **_):
        super().reset(case)
        self.everybodys.clear()
        self._calls = self.everybodys


class Raises(RefundDesk):
    def read_policy(self, topic):
        return desk.POLICY[topic]


class KeepsAll(RefundDesk):
    def _log(self, tool, arguments, result, *, ok):
        self._calls.append(Call(tool, arguments, result, ok))
        return result


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (PaysTwice, "money not conserved"),
        (Shares, "shared state"),
        (Raises, "exception: KeyError"),
        (KeepsAll, "log without bounds"),
    ],
)
def test_a_broken_desk_is_found(make, fault):
    assert any(fault in desk_fuzz.faults(seed, CASES, make)[0] for seed in range(60))


def test_what_left_the_shop_by_hand():
    case = CASES[0]
    done = [Call(t, {}, f"{t}: done.", True) for t in ("refund", "exchange", "refund", "decline")]
    refused = Call("refund", {}, "An action was taken already.", True)
    assert desk_fuzz.left_the_shop(Trajectory(case, (*done, refused))) == (2 * case.price, 1)
