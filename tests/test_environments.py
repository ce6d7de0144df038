"""The second environment and the check of one's own: TRL's conventions, kept and broken."""

import sys
from dataclasses import asdict
from functools import partial
from types import SimpleNamespace

import pytest
from transformers.utils import get_json_schema

from ftlib import desk
from ftlib.environments import Puzzle, Totals, attempts, faults_of, tasks_of, tools_of
from ftlib.generate import Sample
from ftlib.reward_attacks import call

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


class CountsOnTheClass(Good):
    calls = 0

    def look_up(self, number: str) -> str:
        """Show an order.

        Args:
            number: The order's number.
        """
        type(self).calls += 1
        return "…"


class NeverForgets(Good):
    def __init__(self):
        self._done = []

    def reset(self, case, **_):
        self._case = case


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
        (CountsOnTheClass, "share state"),
        (NeverForgets, "a second reset leaves state"),
        (NumberFromReset, "neither a text nor None"),
        (LargeReward, "outside [0, 1]"),
    ],
)
def test_broken_environments_are_found(make, fault):
    found = faults_of(make, {"case": {"number": "TH-1"}})
    assert found == [] if fault is None else any(fault in line for line in found), found


# --- tasks by name, and a model at them


def test_tasks_by_name(monkeypatch):
    assert tasks_of("", size=3, seed=2)[1] == Totals(3, seed=2)[1]
    asked = []

    def create_dataset(name, **options):
        if name != "chain_sum":
            raise ValueError(f"Dataset '{name}' not registered")
        asked.append(options)
        return TASKS

    monkeypatch.setitem(sys.modules, "reasoning_gym", SimpleNamespace(create_dataset=create_dataset))
    assert tasks_of("chain_sum", size=5, seed=9) is TASKS and asked == [{"size": 5, "seed": 9}]
    with pytest.raises(ValueError, match="'chain_sums': expected the name of a reasoning_gym .* not registered"):
        tasks_of("chain_sums", size=5, seed=9)


def test_a_package_that_is_not_there_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)  # Python's own way to say: not installed
    with pytest.raises(ModuleNotFoundError, match=r"'chain_sum': .*run `pip install reasoning-gym`"):
        tasks_of("chain_sum", size=5, seed=9)


def test_a_model_at_an_environment(monkeypatch):
    """Right by the tool; wrong; in plain words only; by no tool, then right; and one that calls for ever."""
    right = [TASKS[i]["answer"] for i in range(5)]
    written = {
        0: [call("answer", text=right[0]), "Done."], 1: [call("answer", text="7"), call("answer", text=right[1])],
        2: [f"It is {right[2]}."], 3: [call("solve", x=1), call("answer", text=right[3])],
        4: [call("answer", question="?"), call("answer", number=1)],
    }  # fmt: skip
    monkeypatch.setattr("ftlib.generate.chat_ids", lambda tokenizer, chats, *, tools: chats)

    asked = []

    def sample(model, tokenizer, prompts, **options):
        asked.append((options["seed"], options["row_seeds"]))
        row = {TASKS[i]["question"]: i for i in written}
        return [Sample(written[row[chat[0]["content"].removeprefix("Q: ")]].pop(0), [], [], True) for chat in prompts]

    monkeypatch.setattr("ftlib.generate.sample", sample)
    rows = [{"prompt": [{"role": "user", "content": "Q: "}], "index": i} for i in written]
    rewards, chats = attempts(None, None, partial(Puzzle, TASKS), rows, seed=8)
    assert asked == [(8, [0, 1, 2, 3, 4]), (9, [0, 1, 3, 4])]  # each turn draws anew, each row by its own key
    assert rewards == [1.0, 0.0, 0.0, 1.0, 0.0]
    assert [m["role"] for m in chats[3]] == ["user", "assistant", "tool", "assistant", "tool"]
    assert chats[3][2]["content"] == chats[4][2]["content"] == "Unknown tool or wrong arguments."
    assert chats[2][-1] == {"role": "assistant", "content": f"It is {right[2]}."}
    assert attempts(None, None, partial(Puzzle, TASKS), []) == ([], [])
