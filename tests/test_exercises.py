"""The checker: "not tried yet" is not "wrong", wrong answers are told why, and nothing raises."""

import json
from pathlib import Path

import numpy as np
import pytest

from ftlib.exercises import Exercise, Note
from ftlib.rollout import Evidence, Guardrail

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"

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


# Notebooks whose exercises stand alone: name of the exercise -> (a right answer, a wrong one).
ANSWERS = {
    "00_start_here": {"question": (0.096, 0.5)},
    "02_sft": {"question": (33_792, 884_736)},
    "04_dpo_qlora": {"question": (0.3133, 0.6931)},
    "05_validate": {"question": (0.025, 0.0)},
    "06_rft": {"question": (0, 1)},
    "07_rollout": {"question": (2.0, 3.0), "retries": (4, 30)},
    "08_govern": {"question": (4, 5), "slip": (1, 3)},
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_exercises_of_a_notebook_tell_right_from_wrong(name):
    """As committed they run and say "not tried yet"; each has hints and a solution."""
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names = {}
    for source in sources:
        if "Exercise(" in source:
            lines = source.rstrip().split("\n")
            exec("\n".join(lines[:-1]), names)
            assert eval(lines[-1], names).state == "not tried yet"
    found = {key: value for key, value in names.items() if isinstance(value, Exercise)}
    assert set(found) == set(ANSWERS[name])
    for key, (right, wrong) in ANSWERS[name].items():
        assert found[key].check(right).state == "right" and found[key].check(wrong).state == "wrong", key
        assert found[key].hint().text and found[key].solution().text, key


def test_the_tries_of_one_customer_by_counting():
    """07's second exercise: each try under a name of its own; alpha = 0.05 stops at 20."""
    evidence = Evidence(Guardrail("failed", 0.05))
    tries = (n for n in range(1, 31) if evidence.add(f"try {n}", share=0.05, of_candidate=True) >= 20)
    assert next(tries) == ANSWERS["07_rollout"]["retries"][0]
