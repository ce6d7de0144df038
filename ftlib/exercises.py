"""Exercises inside a notebook: `check(answer)`, `hint()`, `solution()`; "not tried yet" is not the same as "wrong".

The answer is handed over, never looked up in the notebook's variables, so an exercise works in any cell and any order,
and a test can hand over wrong answers too. A notebook that nobody has edited runs through: checking the starter
value says "not tried yet" and raises nothing. The idea is that of Kaggle's learntools.

Left out on purpose: points, progress that is stored, and grading.
"""

import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

STATES = {
    "question": ("?", "#2f6f9f"),
    "not tried yet": ("○", "#5b6770"),
    "wrong": ("✘", "#b5473c"),
    "right": ("✔", "#2f7d5b"),
    "hint": ("→", "#2f6f9f"),
    "solution": ("=", "#2f6f9f"),
}


@dataclass(frozen=True)
class Note:
    """What an exercise says; shows itself as a cell's last line, in a browser and as text."""

    state: Literal["question", "not tried yet", "wrong", "right", "hint", "solution"]
    text: str

    def __repr__(self) -> str:
        return f"{STATES[self.state][0]} {self.state}: {self.text}"

    def _repr_html_(self) -> str:
        sign, colour = STATES[self.state]
        return (
            f'<div style="border-left:4px solid {colour};padding:6px 12px;margin:4px 0;max-width:860px">'
            f'<b style="color:{colour}">{sign} {self.state}</b>'
            f'<div style="white-space:pre-wrap">{html.escape(self.text)}</div></div>'
        )


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        question: what to do, in a sentence or two.
        starter: what `read` gives for the value that the notebook starts with.
        test: takes what `read` gave; returns None when it is right, else what is wrong, in words for the learner.
        hints: from vague to plain.
        answer: the solution, as text or code.
        read: turns the learner's answer into what is compared and tested, e.g. calls a function on some inputs;
            by default it is the answer itself.
    """

    question: str
    starter: Any
    test: Callable[[Any], str | None]
    hints: tuple[str, ...]
    answer: str
    read: Callable[[Any], Any] = lambda answer: answer

    def __post_init__(self) -> None:
        if not self.hints or isinstance(self.hints, str):
            raise ValueError(
                f"exercise {self.question[:40]!r}: expected a tuple of one or more hints, got {self.hints!r}"
            )
        if self.test(self.starter) is None:
            raise ValueError(
                f"exercise {self.question[:40]!r}: the starter value is already right; start from a poorer one"
            )

    def check(self, answer: Any) -> Note:
        """Judge an answer. An answer that raises is wrong, and the note says what it raised."""
        try:
            value = self.read(answer)
            if _same(value, self.starter):
                return Note("not tried yet", self.question)
            fault = self.test(value)
        except Exception as error:  # the learner's code may raise anything
            return Note("wrong", f"{type(error).__name__}: {error}")
        return Note("right", "that is it") if fault is None else Note("wrong", fault)

    def hint(self, number: int = 1) -> Note:
        """A hint; higher numbers are plainer, and beyond the last it is the last."""
        place = min(max(number, 1), len(self.hints))
        more = f" ({place} of {len(self.hints)}; .hint({place + 1}) says more)" if place < len(self.hints) else ""
        return Note("hint", self.hints[place - 1] + more)

    def solution(self) -> Note:
        """The solution."""
        return Note("solution", self.answer)


def _same(left: Any, right: Any) -> bool:
    """Equality that also holds for arrays, and for containers of them."""
    if type(left) is not type(right) and not (np.isscalar(left) and np.isscalar(right)):
        return False
    if isinstance(left, np.ndarray):
        return left.shape == right.shape and bool(np.array_equal(left, right))
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    return bool(left == right)
