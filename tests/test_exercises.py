"""The checker: "not tried yet" is not "wrong", wrong answers are told why, and nothing raises."""

import numpy as np
import pytest

from ftlib.exercises import Exercise, Note
from ftlib.rollout import Evidence, Guardrail
from ftlib.solutions import open_sheet

DOUBLE = Exercise(
    question="Double it.",
    starter=[0, 0],
    read=lambda f: [f(1), f(2)],
    test=lambda got: None if got == [2, 4] else f"expected [2, 4], got {got}",
    hints=("Add it to itself.", "x + x"),
    answer="lambda x: 2 * x",
)


def test_three_states():
    assert DOUBLE.check(lambda x: 0) == Note("not tried yet", "Double it.")
    assert DOUBLE.check(lambda x: x) == Note("wrong", "expected [2, 4], got [1, 2]")
    assert DOUBLE.check(lambda x: 2 * x).state == "right"


def test_an_answer_that_raises_is_wrong_and_does_not_stop_the_notebook():
    assert DOUBLE.check(lambda x: 1 / 0) == Note("wrong", "ZeroDivisionError: division by zero")
    assert DOUBLE.check(None).state == "wrong"


def test_hints_go_from_vague_to_plain():
    assert DOUBLE.hint().text == "Add it to itself. (1 of 2; .hint(2) says more)"
    assert DOUBLE.hint(2).text == DOUBLE.hint(9).text == "x + x"
    assert DOUBLE.hint(0).text == DOUBLE.hint().text
    assert DOUBLE.solution() == Note("solution", "lambda x: 2 * x")


def test_arrays_can_be_starters():
    exercise = Exercise("q", np.zeros(2), lambda got: None if got.sum() == 2 else "sum is not 2", ("h",), "ones")
    assert exercise.check(np.zeros(2)).state == "not tried yet"
    assert exercise.check(np.zeros(3)).state == "wrong"
    assert exercise.check(np.ones(2)).state == "right"
    nested = Exercise("q", {"a": (np.zeros(2), 1)}, lambda got: "no", ("h",), "a")
    assert nested.check({"a": (np.zeros(2), 1)}).state == "not tried yet"
    assert nested.check({"a": (np.ones(2), 1)}).state == "wrong"


def test_a_number_of_another_kind_is_still_the_starter():
    exercise = Exercise("q", 1, lambda got: None if got == 2 else "no", ("h",), "2")
    assert exercise.check(1.0).state == "not tried yet"
    assert exercise.check("1").state == "wrong"


def test_faulty_exercises_are_refused():
    with pytest.raises(ValueError, match="the starter value is already right"):
        Exercise("q", 2, lambda got: None, ("h",), "2")
    with pytest.raises(ValueError, match="expected a tuple of one or more hints"):
        Exercise("q", 2, lambda got: "no", "a hint", "2")


def test_notes_are_escaped_and_readable_as_text():
    note = Note("wrong", "<b>x</b>")
    assert "<b>x</b>" not in note._repr_html_()
    assert "&lt;b&gt;x" in note._repr_html_()
    assert repr(note) == "✘ wrong: <b>x</b>"


def test_the_tries_of_one_customer_by_counting():
    """07's second exercise: each try under a name of its own; alpha = 0.05 stops at 20."""
    evidence = Evidence(Guardrail("failed", 0.05))
    tries = (n for n in range(1, 31) if evidence.add(f"try {n}", share=0.05, of_candidate=True) >= 20)
    assert open_sheet("07_rollout").solve("retries", next(tries)).state == "right"
