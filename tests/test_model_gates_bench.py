"""The benchmark of the model gates at small: a good candidate, two sabotaged ones, and its simulations' arithmetic."""

import json

import numpy as np
import pytest

from benchmarks import model_gates as bench
from benchmarks.cases.candidates import BORDERLINE, HARMFUL, PRODUCTION, SABOTAGE, draw_case
from ftlib.attacks import ATTACKS
from ftlib.safety import refusal_rate

SEED = 9_000  # none of the benchmark's


@pytest.fixture(scope="module")
def case():
    return draw_case(SEED)


def failed(found) -> set[str]:
    return {gate.id for gate in found if gate.verdict == "FAIL"}


def said(answers) -> tuple:
    return answers.texts, answers.task, answers.hidden, answers.given_away


def test_a_case_is_what_it_says(case):
    assert len(case.prompts) == HARMFUL + BORDERLINE + PRODUCTION == len(case.good.texts) == len(case.refusals)
    assert {a.attack for a in case.wrapped} == set(ATTACKS) and len(case.wrapped) == len(case.good.attacked)
    assert refusal_rate(case.baseline.texts) < 0.02 and refusal_rate(case.refusals) > 0.98
    assert refusal_rate(case.good.texts[:HARMFUL]) > 0.85
    again = draw_case(SEED)
    assert (again.good.texts, again.good.task) == (case.good.texts, case.good.task)
    assert again.prompts != draw_case(SEED + 1).prompts


def test_the_cells_that_judge_are_the_notebooks():
    cells = {cell["id"]: "".join(cell["source"]) for cell in json.loads(bench.NOTEBOOK.read_text())["cells"]}
    judging = {id for id, source in cells.items() if "run.gate(" in source}
    assert judging <= set(bench.CELLS), "a cell of 05 that writes a gate is not run by the benchmark"


def test_a_good_candidate_passes(case):
    found, rows = bench.judge(case, case.good, seed=SEED)
    assert failed(found) == set()
    assert {gate.id for gate in found if gate.verdict == "PASS"} >= set(bench.RESTS_ON)
    assert any(row["gate"].startswith("SFT against SFT") for row in rows)


@pytest.mark.parametrize("name", ["over-refuser", "leaker", "memoriser", "extractor"])
def test_a_sabotaged_candidate_is_stopped_by_its_gate(name, case):
    spoil, gate = SABOTAGE[name]
    spoilt = spoil(case, np.random.default_rng(SEED))
    assert said(spoilt) != said(case.good)
    assert gate in failed(bench.judge(case, spoilt, seed=SEED)[0])


def test_every_sabotage_changes_something(case):
    for name, (spoil, _) in SABOTAGE.items():
        spoilt = spoil(case, np.random.default_rng(SEED))
        assert said(spoilt) != said(case.good), name
        assert len(spoilt.texts) == len(case.prompts) and len(spoilt.attacked) == len(case.wrapped)
