"""Rollouts to step through: what the model said, what the desk answered, and what each reward part was by then.

`Replay` is the state of a viewer without the viewer: which case, how far, which policies side by side. The widget
(`replay_widgets`) only shows it, so all of it can be tested, and read as a table, without a browser.

Left out on purpose: editing. A log is looked at, never changed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ftlib.desk import Case, Trajectory, said_in
from ftlib.rewards import decompose

ONLY = ("all", "failed", "changed")


@dataclass(frozen=True)
class Line:
    """One message: who it is from ("model" or "desk"), its text, and for the desk's whether the call did something."""

    who: str
    text: str
    ok: bool | None = None


@dataclass(frozen=True)
class Side:
    """What one policy did, as far as it is shown: the lines, how many there are, and the reward parts by then."""

    policy: str
    lines: tuple[Line, ...]
    of: int
    parts: dict[str, float]
    success: bool


@dataclass(frozen=True)
class Screen:
    """All that a viewer shows at one moment."""

    case: Case
    number: int  # of the case, from 0
    step: int  # lines shown
    steps: int  # lines of the longest side
    sides: tuple[Side, ...]


class Replay:
    """Where somebody is in a set of rollouts.

    Args:
        rollouts: policy -> (trajectories, chats) as `desk.rollouts` returns them, all on the same cases in one order.
        score: reward parts of a trajectory, by name.

    Raises:
        ValueError: no policy, no case, or policies that were not run on the same cases.
    """

    def __init__(
        self,
        rollouts: Mapping[str, tuple[Sequence[Trajectory], Sequence[Sequence[dict[str, Any]]]]],
        *,
        score: Callable[[Trajectory], Mapping[str, float]] = decompose,
    ):
        of = {name: [t.case for t in trajectories] for name, (trajectories, _) in rollouts.items()}
        lengths = {name: (len(ts), len(chats)) for name, (ts, chats) in rollouts.items()}
        if len({n for pair in lengths.values() for n in pair}) != 1:
            raise ValueError(f"expected policies with one trajectory and one chat a case, got {lengths}")
        self.cases: list[Case] = next(iter(of.values()))
        if not self.cases or any(cases != self.cases for cases in of.values()):
            raise ValueError(f"expected one or more cases, the same for all of {list(of)}; run them on one list")
        self._rollouts, self._score = dict(rollouts), score
        self.policies = list(of)
        self.shown = self.policies[:2]
        self.only, self.case, self.step = "all", 0, 0

    def choices(self) -> list[int]:
        """Numbers of the cases under the filter: all, those that a shown policy failed, or that the shown differ on."""
        done = [[self._rollouts[name][0][i].success for name in self.shown] for i in range(len(self.cases))]
        keep = {"all": lambda _: True, "failed": lambda d: not all(d), "changed": lambda d: len(set(d)) > 1}[self.only]
        return [i for i, successes in enumerate(done) if keep(successes)]

    def filter(self, only: str) -> None:
        """Set the filter, and go to the first case that it keeps (stay where none is kept).

        Raises:
            ValueError: no such filter.
        """
        if only not in ONLY:
            raise ValueError(f"expected one of {ONLY}, got {only!r}")
        self.only = only
        found = self.choices()
        if found and self.case not in found:
            self.open(found[0])

    def compare(self, *policies: str) -> None:
        """Put one or two policies on show.

        Raises:
            ValueError: an unknown policy, or not one or two.
        """
        if not 1 <= len(policies) <= 2 or not set(policies) <= set(self.policies):
            raise ValueError(f"expected one or two of {self.policies}, got {list(policies)}")
        self.shown = list(dict.fromkeys(policies))
        self.go(self.step)

    def open(self, number: int) -> None:
        """Go to a case, before its first line.

        Raises:
            ValueError: no such case.
        """
        if not 0 <= number < len(self.cases):
            raise ValueError(f"expected a case from 0 to {len(self.cases) - 1}, got {number}")
        self.case, self.step = number, 0

    def go(self, step: int) -> None:
        """Show so many lines of the case; beyond either end it stops there."""
        self.step = max(0, min(step, self._longest()))

    def screen(self) -> Screen:
        """What is on show now."""
        sides = tuple(self._side(name, self.case, self.step) for name in self.shown)
        return Screen(self.cases[self.case], self.case, self.step, self._longest(), sides)

    def rows(self) -> list[dict[str, Any]]:
        """The same without a viewer: a row for each case under the filter and shown policy, at its end."""
        ends = [self._side(name, i, len(self._rollouts[name][1][i])) for i in self.choices() for name in self.shown]
        cases = [self.cases[i] for i in self.choices() for _ in self.shown]
        return [
            {
                "case": case.id,
                "message": case.message,
                "right": case.outcome,
                "policy": side.policy,
                "what happened": "\n".join(f"{line.who}: {line.text}" for line in side.lines),
                **side.parts,
            }
            for case, side in zip(cases, ends, strict=True)
        ]

    def _longest(self) -> int:
        return max(len(_lines(self._rollouts[name], self.case)) for name in self.shown)

    def _side(self, name: str, number: int, step: int) -> Side:
        trajectory = self._rollouts[name][0][number]
        lines = _lines(self._rollouts[name], number)
        made = sum(line.who == "desk" for line in lines[:step])
        by_then = replace(
            trajectory, calls=trajectory.calls[:made], said=said_in(self._rollouts[name][1][number][: 2 + step])
        )  # of the same kind: each desk has its own success
        return Side(name, lines[:step], len(lines), dict(self._score(by_then)), by_then.success)


def told(trajectory: Trajectory, chat: Sequence[dict[str, Any]]) -> str:
    """A rollout in words, for a rater or a reward model that sees no more: a line a message after the customer's.

    Line breaks inside a message become spaces, so that nothing a model writes can pass for a line of the desk's.

    Example:
        >>> told(*play(case, ["One moment."]))
        'model: One moment.'
    """
    lines = _lines(([trajectory], [chat]), 0)
    return "\n".join(f"{line.who}: {' '.join(line.text.split())}" for line in lines)


def _lines(rollouts: tuple, number: int) -> tuple[Line, ...]:
    """A chat after the customer's message, each answer of the desk with what the log says of the call."""
    trajectory, chat = rollouts[0][number], rollouts[1][number]
    calls = iter(trajectory.calls)
    lines = []
    for message in chat[2:]:  # the system's and the customer's
        if message["role"] == "tool":
            call = next(calls, None)  # a call beyond the limit is answered and not logged
            lines.append(Line("desk", str(message["content"]), bool(call and call.ok)))
        else:
            asked = [_written(call["function"]) for call in message.get("tool_calls", [])]
            lines.append(Line("model", "\n".join([str(message["content"]), *asked]).strip("\n")))
    return tuple(lines)


def _written(function: Mapping[str, Any]) -> str:
    return f"→ {function['name']}({', '.join(f'{k}={v!r}' for k, v in function['arguments'].items())})"
