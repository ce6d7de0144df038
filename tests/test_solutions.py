"""Exercises are read out of their notebooks, and every one of them is solved in notebooks/solutions/."""

import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ftlib.exercises import Note
from ftlib.scorecard import Answers
from ftlib.solutions import NOTEBOOKS, open_sheet

SOLUTIONS = NOTEBOOKS / "solutions"
SOURCES = sorted(path for where in (NOTEBOOKS, NOTEBOOKS / "deep") for path in where.glob("*.ipynb"))
each_source = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)

# One wrong answer to each coded exercise; the right ones stand in the solutions.
WRONG = {
    "00_start_here": {"question": 0.5},
    "01_decision_scorecard": {
        "pairs_exercise": 100, "freed_exercise": Answers(), "score_exercise": lambda fits, weights: sum(fits.values()),
    },
    "02_sft": {"question": 884_736},
    "03_collect_preferences": {
        "exercise_1": 0.37, "exercise_2": lambda choices: max(("A", "B"), key=choices.count),
    },
    "04_dpo_qlora": {"question": 0.6931},
    "05_validate": {"question": 0.0},
    "06_rft": {"question": 1},
    "07_rollout": {"question": 3.0, "retries": 30},
    "08_govern": {"question": 5, "slip": 3},
    "01a_costs_and_cases": {"batch_exercise": 1, "lora_exercise": lambda hidden, inner, kv, layers, rank: rank},
    "02a_prompt_or_training": {"cost_exercise": 446, "memory_exercise": 28},
    "02b_your_own_rows": {"commonest_exercise": 0.12, "f1_exercise": 1.0},
    "03a_rater_quality": {"right_exercise": 0.25, "pairs_exercise": 388},
    "03b_how_many_pairs": {"worth_exercise": 600, "ceiling_exercise": 0.81},
    "04a_break_it_on_purpose": {"moved_exercise": 8.0, "beta_exercise": 0.2},
    "04b_losses_compared": {"ipo_exercise": 10.0},
    "05a_trust_the_gates": {"needed_exercise": 194, "looks_exercise": 10},
    "05b_people_and_judges": {"order_exercise": 0.0, "bits_exercise": 10.0},
    "06a_hacked_on_purpose": {"mean_exercise": 0.75, "same_exercise": 0.28},
    "06b_rft_or_more_dpo": {"chain_exercise": 0.9, "passes_exercise": 3},
    "06c_offline_first": {"cap_exercise": 2.0794, "best_exercise": 0.6667},
    "06d_the_whole_desk": {"due_exercise": 54.0, "constant_exercise": 0.25},
}  # fmt: skip
# `answer` texts that are the body of a function: its arguments.
BODIES = {
    "score_exercise": "fits, weights",
    "exercise_2": "choices",
    "lora_exercise": "hidden, inner, kv, layers, rank",
}


def cells(path: Path, kind: str) -> list[str]:
    book = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == kind]


# --- the notebooks

RUN_ALL = """
import ast, json, os, sys, traceback
from pathlib import Path

told = {}
for path in sorted(Path.cwd().glob("*.ipynb")):
    names, states = {"__name__": path.stem}, []
    told[path.stem] = {"states": states, "error": ""}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        body = ast.parse("".join(cell["source"])).body
        last = [ast.Expression(body.pop().value)] if isinstance(body[-1], ast.Expr) else []
        try:
            exec(compile(ast.Module(body, []), path.name, "exec"), names)
            shown = [eval(compile(one, path.name, "eval"), names) for one in last]
        except Exception:
            told[path.stem]["error"] = traceback.format_exc()
            break
        states += [note.state for note in shown if hasattr(note, "state")]
heavy = {"torch", "transformers", "trl"} & set(sys.modules)
Path(sys.argv[1]).write_text(json.dumps({"told": told, "heavy": sorted(heavy)}), encoding="utf-8")
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """All solutions, one after the other in one fresh process, each with names of its own."""
    folder = tmp_path_factory.mktemp("solutions")
    runs = folder / "runs"
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, str(folder / "told.json")],
        cwd=SOLUTIONS, env={**os.environ, "FTLIB_RUNS": str(runs)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert not runs.exists(), "a solution opened a run"
    return json.loads((folder / "told.json").read_text(encoding="utf-8"))


@each_source
def test_every_exercise_of_a_notebook_is_solved_and_runs(source, executed):
    sheet = open_sheet(source.stem)
    told = executed["told"][source.stem]
    assert told["error"] == ""
    assert told["states"].count("right") == len(sheet.coded)
    assert told["states"].count("question") == len(sheet.coded) + len(sheet.spoken)
    calls = [n for code in cells(SOLUTIONS / source.name, "code") for n in ast.walk(ast.parse(code))]
    calls = [n for n in calls if isinstance(n, ast.Call) and n.args and isinstance(n.args[0], ast.Constant)]
    given = {what: [c.args[0].value for c in calls if ast.unparse(c.func) == what]
             for what in ("open_sheet", "sheet.ask", "sheet.solve")}  # fmt: skip
    assert given["open_sheet"] == [source.stem]
    assert sorted(given["sheet.solve"]) == sorted(sheet.coded)
    assert sorted(map(str, given["sheet.ask"])) == sorted(map(str, [*sheet.coded, *sheet.spoken]))


def test_no_model_is_needed_and_no_solution_is_left_over(executed):
    assert executed["heavy"] == []
    assert set(executed["told"]) == {path.stem for path in SOURCES}


@each_source
def test_notebook_and_solutions_link_to_each_other(source):
    back = f"({'../deep/' if source.parent.name == 'deep' else '../'}{source.name}#Exercises)"
    there = f"({'../' if source.parent.name == 'deep' else ''}solutions/{source.name})"
    assert back in cells(SOLUTIONS / source.name, "markdown")[0]
    section = next(text for text in cells(source, "markdown") if "## Exercises" in text).split("## Exercises")[1]
    assert there in section


@each_source
def test_no_question_is_copied(source):
    sheet = open_sheet(source.stem)
    words = "\n".join(cells(SOLUTIONS / source.name, "markdown") + cells(SOLUTIONS / source.name, "code"))
    for question in [*sheet.spoken.values(), *(exercise.question for exercise in sheet.coded.values())]:
        assert question not in words


@each_source
def test_as_committed_an_exercise_is_not_tried_and_a_wrong_answer_fails(source):
    checks = re.findall(r"^(\w+)\.check\((\w+)\)$", "\n".join(cells(source, "code")), re.MULTILINE)
    sheet = open_sheet(source.stem, also=[answer for _, answer in checks])
    assert [name for name, _ in checks] == list(sheet.coded) == list(WRONG[source.stem])
    for name, answer in checks:
        exercise = sheet.coded[name]
        assert exercise.check(sheet.names[answer]).state == "not tried yet"
        assert exercise.hint().text and exercise.question
        with pytest.raises(ValueError, match=f"exercise '{name}': expected a right answer, got .* calls wrong"):
            sheet.solve(name, WRONG[source.stem][name])


@each_source
def test_the_notebooks_own_solution_is_right(source):
    """`answer` is a number in words, an expression over the notebook's names, or the body of a function."""
    sheet = open_sheet(source.stem)
    for name, exercise in sheet.coded.items():
        numbers = [
            float(n.replace(",", "").replace("_", "")) for n in re.findall(r"-?\d[\d,_]*(?:\.\d+)?", exercise.answer)
        ]
        if name in BODIES:
            lines = exercise.answer.split("\n")
            lines[-1] = lines[-1] if lines[-1].startswith("return") else f"return {lines[-1]}"
            names = dict(sheet.names)
            exec(f"def body({BODIES[name]}):\n    " + "\n    ".join(lines), names)
            answers = [names["body"]]
        elif any(exercise.check(number).state == "right" for number in numbers):
            continue
        else:
            answers = [eval(exercise.answer, {**sheet.names, "replace": replace})]
        assert [exercise.check(answer).state for answer in answers] == ["right"], (name, exercise.answer)


# --- how a notebook is read

GOOD = """sheet_question = Exercise("How much is 2 + 2?", 0, lambda x: None if x == total else "no", ("count",), "4")"""


def make(folder: Path, *codes: str, words: str = "", stem: str = "01_one") -> Path:
    """A notebook of code cells, with words after them."""
    book = [{"cell_type": "code", "source": code} for code in codes]
    book.append({"cell_type": "markdown", "source": words.splitlines(keepends=True)})
    (folder / f"{stem}.ipynb").write_text(json.dumps({"cells": book}), encoding="utf-8")
    return folder


IMPORT = "from ftlib.exercises import Exercise"


def test_only_what_the_exercise_needs_is_executed(tmp_path):
    first = "from ftlib import gates, no_such_room\nraise RuntimeError('training')\nimport no_such_module"
    values = "parts = {'a': 1}\nparts['b'] = 2\nother = 1 / 0\ntotal = sum(parts[k] for k in 'ab') + 1"
    make(tmp_path, first, values, f"{IMPORT}\n\n{GOOD}\nanswer = 0\nsheet_question.check(answer)")
    sheet = open_sheet("01_one", folder=tmp_path)
    assert set(sheet.names) - {"__builtins__"} == {"__name__", "parts", "total", "Exercise", "sheet_question"}
    assert sheet.names["total"] == 4
    assert sheet.ask("sheet_question") == Note("question", "How much is 2 + 2?")
    assert sheet.solve("sheet_question", 4) == Note("right", "4")


def test_a_changed_exercise_makes_the_old_solution_fail(tmp_path):
    make(tmp_path, "total = 5", IMPORT, GOOD)
    with pytest.raises(
        ValueError, match="01_one, exercise 'sheet_question': expected a right answer, got 4, .* wrong: no"
    ):
        open_sheet("01_one", folder=tmp_path).solve("sheet_question", 4)
    with pytest.raises(ValueError, match="calls not tried yet"):
        open_sheet("01_one", folder=tmp_path).solve("sheet_question", 0)


def test_the_value_before_the_exercise_counts_and_later_ones_do_not(tmp_path):
    make(
        tmp_path,
        "total = 3",
        "total = total + 1",
        IMPORT,
        GOOD,
        "total = 9",
        "def twice(n):\n    return twice(n - 1) if n else 2",
    )
    sheet = open_sheet("01_one", folder=tmp_path)
    assert sheet.names["total"] == 4 and "twice" not in sheet.names
    assert open_sheet("01_one", also=("twice",), folder=tmp_path).names["twice"](1) == 2
    with pytest.raises(ValueError, match=r"01_one.ipynb: also='thrice': the notebook makes no such name"):
        open_sheet("01_one", also=("thrice",), folder=tmp_path)


def test_names_inside_functions_and_comprehensions_are_not_the_notebooks(tmp_path):
    inside = "f = lambda n: [k for k in range(n)]\nclass Box:\n    size = 3\n    both = size + 1"
    code = f"{inside}\ntotal = len(f(3)) + Box.both - 3"
    make(tmp_path, "k = 1 / 0\nn = 1 / 0\nsize = 1 / 0", f"{IMPORT}\n{code}\n{GOOD}")
    assert open_sheet("01_one", folder=tmp_path).solve("sheet_question", 4).state == "right"


@pytest.mark.parametrize(
    ("codes", "error"),
    [
        (["run = open_run(1)\ntotal = run.n", IMPORT, GOOD], r"cell 1: 'run = open_run\(1\)' is needed by an exercise"),
        ([IMPORT, GOOD], r"cell 2: .* needs the name 'total', which no statement before it makes"),
        ([IMPORT, "total = 1 / 0", GOOD], r"cell 2: 'total = 1 / 0' fails .* ZeroDivisionError"),
        (["total = 4", IMPORT, f"all = [{GOOD.partition('= ')[2]}]"], r"cell 3: expected `name = Exercise\(...\)`"),
        (["total = 4", IMPORT, GOOD, GOOD], r"cell 4: expected `name = Exercise\(...\)`, each name once"),
        (["!pip list"], r"cell 1: expected plain Python, got invalid syntax"),
        (["a = 1"], "got none"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_out_is_said_with_notebook_and_cell(codes, error, tmp_path):
    make(tmp_path, *codes)
    with pytest.raises(ValueError, match=rf"01_one\.ipynb.*{error}"):
        open_sheet("01_one", folder=tmp_path)


def test_questions_in_words(tmp_path):
    words = "## Exercises\n\n2. Run [02](../02.ipynb)\nwith `a=1`.\n3. Look.\n\nMore."
    words = f"1. Not an exercise.\n\n{words}\n\n## Finish\n\n4. Go."
    sheet = open_sheet("01_one", folder=make(tmp_path, "a = 1", words=words))
    assert sheet.spoken == {2: "Run 02 with `a=1`.", 3: "Look."}
    assert sheet.ask(3) == Note("question", "Look.")
    with pytest.raises(ValueError, match=r"01_one: no question 4 \(known: 2, 3\)"):
        sheet.ask(4)
    make(tmp_path, "a = 1", words="## Exercises\n\n1. One.\n1. Two.")
    with pytest.raises(ValueError, match="two exercises have the number 1"):
        open_sheet("01_one", folder=tmp_path)


def test_unknown_names_are_told_the_nearest(tmp_path):
    make(tmp_path, "total = 4", IMPORT, GOOD)
    with pytest.raises(FileNotFoundError, match=r"no notebook '01_on' \(did you mean '01_one'\?\)"):
        open_sheet("01_on", folder=tmp_path)
    with pytest.raises(ValueError, match=r"no exercise 'sheet_questions' \(did you mean 'sheet_question'\?\)"):
        open_sheet("01_one", folder=tmp_path).solve("sheet_questions", 4)
