"""Sealed holdouts: the ledger's lines, the gap by hand, and the gate that stops a memoriser."""

import json
import math

import pytest

from ftlib import holdouts, sealed
from ftlib.gates import wilson
from ftlib.ledger import gate_states, read_ledger, verify_ledger
from ftlib.profiles import resolve
from ftlib.records import GateResult
from ftlib.runs import open_run


def opened_run(folder, notebook="05_validate"):
    return open_run(notebook, folder, profile=resolve("cpu"), seed=1, model_id="embedded")


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "holdout.jsonl"
    path.write_text('{"id": "v1"}\n', encoding="utf-8")
    return path


def test_the_hash_is_in_the_ledger_before_the_file_is_opened(tmp_path, rows):
    digest = sealed.seal(opened_run(tmp_path / "r", "01_decision_scorecard"), rows)
    run = opened_run(tmp_path / "r")
    assert sealed.seal(run, rows) == digest  # once is enough
    first = sealed.open_sealed(run, rows, candidate="c1", why="gap")
    assert (first.sealed_by, first.candidates, first.openings) == ("01_decision_scorecard", 1, 1)
    again = sealed.open_sealed(run, rows, candidate="c1", why="the cell was run again")
    other = sealed.open_sealed(run, rows, candidate="c2", why="gap")
    assert (again.candidates, again.openings, other.candidates, other.openings) == (1, 2, 2, 3)
    lines = read_ledger(run.path / "gates.jsonl")
    assert [line["kind"] for line in lines] == ["seal", "opened", "opened", "opened"]
    assert {line["sha256"] for line in lines} == {digest}
    assert "opened 3 times in this run for 2 candidates" in other.sentence()
    verify_ledger(run.path / "gates.jsonl")


def test_an_unsealed_or_changed_file_is_refused(tmp_path, rows):
    run = opened_run(tmp_path / "r")
    with pytest.raises(ValueError, match="expected its sha256 in the ledger of run r before it is opened"):
        sealed.open_sealed(run, rows, candidate="c", why="gap")
    sealed.seal(run, rows)
    rows.write_text('{"id": "v2"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="was changed after the seal: restore it"):
        sealed.open_sealed(run, rows, candidate="c", why="gap")
    with pytest.raises(ValueError, match=r"this run has sealed holdout.jsonl"):
        sealed.seal(run, rows)
    with pytest.raises(FileNotFoundError, match="expected a file to seal"):
        sealed.seal(run, tmp_path / "none.jsonl")
    assert [line["kind"] for line in read_ledger(run.path / "gates.jsonl")] == ["seal"]  # no opening was noted


def test_a_run_may_hold_several_holdouts(tmp_path, rows):
    other = tmp_path / "hidden.jsonl"
    other.write_text('{"id": "h1"}\n', encoding="utf-8")
    run = opened_run(tmp_path / "r", "06_rft")
    sealed.seal(run, rows)
    with pytest.raises(ValueError, match=r"found none under 'hidden'; seal it now with sealed.seal"):
        sealed.open_sealed(run, other, candidate="c", why="gain", id="hidden")
    sealed.seal(run, other, id="hidden")
    found = sealed.open_sealed(run, other, candidate="c", why="gain", id="hidden")
    assert (found.sha256, found.openings, found.sealed_by) == (sealed.seal(run, other, id="hidden"), 1, "06_rft")
    with pytest.raises(ValueError, match="expected the file that was sealed"):
        sealed.open_sealed(run, other, candidate="c", why="gain")
    assert [(line["kind"], line["id"]) for line in read_ledger(run.path / "gates.jsonl")] == [
        ("seal", "holdout"), ("seal", "hidden"), ("opened", "hidden"),
    ]  # fmt: skip


def test_rows_made_anew_with_other_parameters_leave_the_sealed_file_alone(tmp_path):
    run = opened_run(tmp_path / "r", "06_rft")
    path = sealed.put_aside(run, "hidden_cases.jsonl", [{"id": "h1"}], id="hidden")
    before = path.read_bytes()
    assert sealed.put_aside(run, "hidden_cases.jsonl", [{"id": "h1"}], id="hidden") == path  # the cell was run again
    with pytest.raises(ValueError, match=r"sealed hidden_cases.jsonl .* the 2 rows made now are others"):
        sealed.put_aside(run, "hidden_cases.jsonl", [{"id": "h1"}, {"id": "h2"}], id="hidden")
    assert path.read_bytes() == before
    assert sealed.open_sealed(run, path, candidate="c", why="gain", id="hidden").openings == 1


def test_facts_are_no_gates_and_no_waivers(tmp_path, rows):
    """A fact with a gate's id does not waive it, and summary.json lists gates only."""
    run = opened_run(tmp_path / "r")
    run.gate(GateResult(id=sealed.SEAL, notebook=run.notebook, value=1, threshold=0, op="<=", n=9, ci95=None,
                        verdict="FAIL"))  # fmt: skip
    run.fact("seal", sealed.SEAL, reason="no waiver", sha256="0", file="f")
    assert "waived" not in gate_states(run.path)[0]
    assert len(json.loads((run.path / "summary.json").read_text())["gates"]) == 1
    with pytest.raises(ValueError, match="kind is 'gate'; expected one of seal, opened, approval"):
        run.fact("gate", "x")


def test_the_gap_by_hand():
    """0.9 of 10 against 0.6 of 10: 0.3; low = 0.3 - sqrt((0.9 - l1)^2 + (u2 - 0.6)^2) of the Wilson ends."""
    value, (low, high) = sealed.gap([1] * 9 + [0], [1] * 6 + [0] * 4)
    one, two = wilson(9, 10), wilson(6, 10)
    assert value == pytest.approx(0.3)
    assert low == pytest.approx(0.3 - math.hypot(0.9 - one.low, two.high - 0.6))
    assert high == pytest.approx(0.3 + math.hypot(one.high - 0.9, 0.6 - two.low))
    assert (low, high) == pytest.approx((-0.0824, 0.5988), abs=1e-4)
    for bad in ([], [0.5], [[1]]):
        with pytest.raises(ValueError, match="hidden: expected one 0 or 1 per row"):
            sealed.gap([1], bad)


def test_the_gate_stops_a_memoriser_and_passes_what_generalises(tmp_path, rows):
    judge = lambda public, hidden, **more: sealed.judge_gap("dpo.hidden_gap", "05_validate", public, hidden, **more)
    share = lambda right, n: [1] * right + [0] * (n - right)
    memoriser = judge(share(168, 170), share(70, 100))
    assert memoriser.verdict == "FAIL" and memoriser.value > sealed.MARGIN and "gap +0.288" in memoriser.note
    assert judge(share(150, 170), share(86, 100)).verdict == "PASS"
    assert judge(share(150, 170), share(80, 100)).verdict == "PASS"  # 8 points may be chance
    assert judge(share(17, 20), share(9, 10)).verdict == "ABSTAIN"
    run = opened_run(tmp_path / "r")
    sealed.seal(run, rows)
    for candidate, verdict in (("c1", "PASS"), ("c2", "ABSTAIN")):
        opening = sealed.open_sealed(run, rows, candidate=candidate, why="gap")
        found = judge(share(150, 170), share(86, 100), opening=opening)
        assert found.verdict == verdict
    assert "put new ones aside" in found.note
    assert judge(share(168, 170), share(70, 100), opening=opening).verdict == "FAIL"  # bad stays bad


def test_rows_that_another_notebook_has_read_are_sealed_no_more(tmp_path, rows):
    earlier = opened_run(tmp_path / "r", "02a_prompt_or_training")
    sealed.seal(earlier, rows)
    earlier.uses(rows)
    earlier.finish()
    run = opened_run(tmp_path / "r")
    opening = sealed.open_sealed(run, rows, candidate="c", why="gap")
    assert opening.seen_by == ("02a_prompt_or_training",) and "read before by 02a" in opening.sentence()
    found = sealed.judge_gap("g", "05_validate", [1] * 150 + [0] * 20, [1] * 86 + [0] * 14, opening=opening)
    assert found.verdict == "ABSTAIN" and "02a_prompt_or_training has read the sealed rows" in found.note


def test_a_candidate_is_its_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text("1")
    assert sealed.digest_of(tmp_path / "a") == sealed.digest_of(tmp_path / "b")
    (tmp_path / "b" / "weights").write_text("2")
    assert sealed.digest_of(tmp_path / "a") != sealed.digest_of(tmp_path / "b")


def test_the_card_reads_the_gap_of_05(tmp_path):
    run = opened_run(tmp_path / "r")
    assert "opened no sealed rows" in holdouts.public_gap(run.path)[-1]["note"]
    found = {"public": 0.9, "hidden": 0.8, "gap": 0.1, "ci95": [0.0, 0.2], "n": [170, 100], "opening": "opened once"}
    run.write_json("sealed.json", found)
    row = holdouts.public_gap(run.path)[-1]
    assert (row["score"], row["gap"], row["note"]) == ("intent accuracy of DPO", 0.1, "opened once")
