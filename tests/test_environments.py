"""The second environment and the check of one's own: TRL's conventions, kept and broken."""

from dataclasses import asdict
from functools import partial

import pytest
from transformers.utils import get_json_schema

from ftlib import desk
from ftlib.environments import Puzzle, Totals, faults_of, tools_of

TASKS = Totals(20, seed=3)


def test_a_puzzle_by_hand():
    one = Puzzle(TASKS)
    assert one.reset(index=4, prompt="other columns come too") == TASKS[4]["question"]
    assert one.get_reward() == 0.0
    assert one.answer(f" {TASKS[4]['answer']} ") == "Taken."
    assert one.get_reward() == 1.0
    assert one.answer("7") == "An answer was given already." and one.get_reward() == 1.0
    one.reset(index=5)
    one.answer("I do not know")
    assert one.get_reward() == 0.0


def test_totals_are_right_and_the_same_by_seed():
    for entry in (TASKS[i] for i in range(len(TASKS))):
        tent, mats, mat = (int(word) for word in entry["question"].split() if word.isdigit())
        assert entry["answer"] == str(tent + mats * mat)
    assert TASKS[0] == Totals(20, seed=3)[0] != Totals(20, seed=4)[0]


def test_both_environments_keep_to_trls_conventions():
    case = asdict(desk.make_cases(4, seed=1)[0])
    assert faults_of(desk.RefundDesk, {"case": case, "prompt": []}) == []
    assert faults_of(partial(Puzzle, TASKS), {"index": 1, "prompt": []}) == []
    (tool,) = tools_of(Puzzle(TASKS))
    assert get_json_schema(tool)["function"]["parameters"]["required"] == ["text"]
    assert [t.__name__ for t in tools_of(desk.RefundDesk())] == [t.__name__ for t in desk.tools()]


class Good:
    """As in the room's template."""

    def reset(self, case, **_):
        self._case, self._done = case, []

    def look_up(self, number: str) -> str:
        """Show an order.

        Args:
            number: The order's number.
        """
        self._done.append(("look_up", number))
        return "…"

    def get_reward(self) -> float:
        return float(self._done == [("look_up", self._case["number"])])


class NoReset:
    pass


class NoTool:
    def reset(self, **_):
        return None


class Undocumented(Good):
    def look_up(self, number):
        return "…"


class Raises(Good):
    def look_up(self, number: str) -> str:
        """Show an order.

        Args:
            number: The order's number.
        """
        return number.upper()


class ReturnsNone(Good):
    def look_up(self, number: str) -> None:
        """Show an order.

        Args:
            number: The order's number.
        """


class Shares(Good):
    everybodys = []

    def reset(self, case, **_):
        self._case, self._done = case, self.everybodys


class NumberFromReset(Good):
    def reset(self, case, **_):
        super().reset(case)
        return 1


class LargeReward(Good):
    def get_reward(self) -> float:
        return 10.0


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (Good, None),
        (NoReset, "no method reset"),
        (NoTool, "no public method"),
        (Undocumented, "look_up: no schema"),
        (Raises, "look_up('None') raises AttributeError"),
        (ReturnsNone, "look_up returns NoneType"),
        (Shares, "share state"),
        (NumberFromReset, "neither a text nor None"),
        (LargeReward, "outside [0, 1]"),
    ],
)
def test_broken_environments_are_found(make, fault):
    found = faults_of(make, {"case": {"number": "TH-1"}})
    assert found == [] if fault is None else any(fault in line for line in found), found
