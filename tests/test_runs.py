"""runs, and what it stands on (files, ledger, lineage, machine, parameters): contracts, refusals, kills."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from ftlib import files, runs
from ftlib.ledger import gate_states, read_ledger, unwaived_failures, verify_ledger
from ftlib.parameters import check_injected, check_parameters, given_parameters, notebook_parameters
from ftlib.records import GateResult, load_jsonl
from ftlib.runs import find_run, is_complete, open_run

REPOSITORY = Path(__file__).resolve().parent.parent
SFT, PREFERENCES, DPO, VALIDATE = "02_sft", "03_collect_preferences", "04_dpo_qlora", "05_validate"


@dataclass(frozen=True)
class StandInProfile:
    name: str = "cpu"
    is_smoke: bool = False
    need_ram_mb: int = 1
    need_disk_mb: int = 1
    device: str = "cpu"


@pytest.fixture(autouse=True)
def runs_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FTLIB_RUNS", str(tmp_path / "papermill_runs"))
    return tmp_path / "papermill_runs"


def opened(notebook=SFT, run_dir="", *, profile=None, seed=17, model_id="embedded", parameters=None):
    return open_run(
        notebook, run_dir, profile=profile or StandInProfile(), seed=seed, model_id=model_id, parameters=parameters
    )


def gate(verdict="PASS", *, id="json_valid", notebook=SFT, value=0.5, note=""):
    return GateResult(
        id=id, notebook=notebook, value=value, threshold=0.98, op=">=", n=240, ci95=None, verdict=verdict, note=note
    )


def finished_sft():
    run = opened()
    run.write_text("adapter/weights.txt", "0.25")
    run.write_text("adapter/config.json", "{}")
    run.finish()
    return run


def snapshot(folder):
    """Every file but the lock, with its bytes."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def summary_of(run):
    return json.loads((run.path / "summary.json").read_text("utf-8"))


# --- opening ---


def test_a_new_run_has_a_telling_name_and_its_identity(runs_folder):
    run = opened()
    assert run.path.parent == runs_folder.resolve()
    assert run.run_id.endswith("-cpu-s17") and run.run_id[:8].isdigit()
    record = json.loads((run.path / "run.json").read_text("utf-8"))
    assert {key: record[key] for key in ("run_id", "profile", "seed", "model_id")} == {
        "run_id": run.run_id,
        "profile": "cpu",
        "seed": 17,
        "model_id": "embedded",
    }


def test_runs_of_the_same_second_get_folders_of_their_own():
    assert len({opened("00_start_here").path for _ in range(3)}) == 3


def test_without_a_run_dir_a_later_notebook_goes_on_with_the_newest_run_that_fits():
    first, second = opened("00_start_here"), opened("00_start_here")
    assert opened("02_sft").path == second.path != first.path
    other = opened("02_sft", seed=18)  # no run of that seed: a new one
    assert other.path not in (first.path, second.path)
    assert opened("03_collect_preferences", seed=18).path == other.path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 18}, "this run was made with seed 17, asked for 18; open it with seed=17"),
        ({"model_id": "other"}, "made with model_id 'embedded', asked for 'other'"),
        ({"profile": StandInProfile(name="gpu24")}, "made with profile 'cpu', asked for 'gpu24'"),
        ({"profile": StandInProfile(need_disk_mb=10**9)}, "1000000000 MB of free disk needed at .* FTLIB_RUNS"),
        ({"profile": StandInProfile(need_ram_mb=10**9)}, "1000000000 MB of free memory needed, got .*smaller profile"),
        ({"parameters": {"x": float("nan")}}, "parameters: cannot be kept as JSON"),
        ({"parameters": {"x": object()}}, "parameters: cannot be kept as JSON .object is no JSON value"),
        ({"notebook": "../02_sft"}, "notebook name '../02_sft': expected letters"),
    ],
)
def test_a_refused_open_says_why_and_changes_nothing(change, message):
    run = finished_sft()
    before = snapshot(run.path.parent)
    with pytest.raises((ValueError, RuntimeError), match=message):
        opened(**{"run_dir": run.run_id} | change)
    assert snapshot(run.path.parent) == before


def test_a_new_run_that_does_not_fit_leaves_nothing(runs_folder):
    with pytest.raises(RuntimeError, match="free disk"):
        opened(profile=StandInProfile(need_disk_mb=10**9))
    assert not runs_folder.exists()


def test_a_folder_that_is_no_run_is_refused_but_papermills_own_output_is_not(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "02_sft.ipynb").write_text("{}")
    assert opened(run_dir=folder).path == folder
    other = tmp_path / "holiday"
    other.mkdir()
    (other / "photo.png").write_text("x")
    with pytest.raises(ValueError, match="holds 'photo.png'; give another folder, or '' for a new run"):
        opened(run_dir=other)
    assert os.listdir(other) == ["photo.png"]
    with pytest.raises(ValueError, match="expected a folder, got a file"):
        opened(run_dir=other / "photo.png")


def test_a_run_is_found_by_id_and_by_path_from_any_working_directory(tmp_path, monkeypatch):
    path = opened().path
    for place in (tmp_path, path, path.parent):
        monkeypatch.chdir(place)
        assert find_run(path.name) == find_run(f"papermill_runs/{path.name}") == find_run(path) == path
    monkeypatch.chdir(tmp_path)
    assert find_run("new-run") == path.parent / "new-run"
    assert find_run("papermill_runs/new-run") == path.parent / "new-run"


def test_a_damaged_run_json_or_ledger_is_refused_on_opening():
    run = opened()
    run.gate(gate())
    (run.path / "gates.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"gates\.jsonl: expected a ledger"):
        opened(run_dir=run.path)
    (run.path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json: not JSON .*restore the file, or start a new run"):
        opened(run_dir=run.path)


# --- a stage ---


def test_artifacts_land_in_the_stage_and_finish_lists_them_by_sha256():
    run = opened(parameters={"beta": 0.1})
    run.write_rows("rows.jsonl", [gate()])
    (run.stage / "checkpoints" / "step-1").mkdir(parents=True)
    (run.stage / "checkpoints" / "step-1" / "big.bin").write_text("x")
    (run.stage / ".rows.jsonl.abc.tmp").write_text("half")
    run.uses(REPOSITORY / "data" / "policy.md")
    stage = run.finish()
    assert stage == run.path / "artifacts" / "sft"
    assert (stage / "COMPLETE").exists()
    assert load_jsonl(stage / "rows.jsonl", GateResult) == [gate()]
    manifest = json.loads((stage / "manifest.json").read_text("utf-8"))
    assert set(manifest["files"]) == {"rows.jsonl", "parameters.json"}
    assert manifest["files"]["rows.jsonl"] == hashlib.sha256((stage / "rows.jsonl").read_bytes()).hexdigest()
    policy = hashlib.sha256((REPOSITORY / "data" / "policy.md").read_bytes()).hexdigest()
    assert manifest["sources"] == {"data/policy.md": policy}
    config = json.loads((stage / "parameters.json").read_text("utf-8"))
    assert config["parameters"] == {"beta": 0.1} and config["profile"]["device"] == "cpu"


def test_opening_alone_leaves_a_complete_stage_complete_and_writing_does_not():
    run = finished_sft()
    again = opened(run_dir=run.path)
    assert is_complete(run.path, SFT)
    assert again.stage.exists()
    assert not is_complete(run.path, SFT)
    assert summary_of(run)["notebooks"][SFT]["status"] == "running"
    assert (again.stage / "adapter" / "weights.txt").read_text() == "0.25"  # what an interruption left, stays
    again.finish()
    assert is_complete(run.path, SFT)
    assert again.stage.exists() and is_complete(run.path, SFT)  # looking does not reopen it
    again.write_text("late.txt", "x")
    assert not is_complete(run.path, SFT)


@pytest.mark.parametrize("relpath", ["../x.txt", "/x.txt", "a/../../x.txt", "COMPLETE", "manifest.json"])
def test_nothing_is_written_outside_the_stage_or_over_its_records(relpath):
    run = opened()
    with pytest.raises(ValueError, match="expected a file inside the stage sft/"):
        run.write_text(relpath, "x")
    assert not (run.path / "artifacts").exists()


def test_write_json_takes_numbers_of_numpy_and_refuses_nan():
    import numpy as np

    run = opened()
    path = run.write_json("x.json", {"a": np.float64(0.5), "b": np.arange(2), "c": gate(), "d": Path("p/q")})
    found = json.loads(path.read_text("utf-8"))
    assert (found["a"], found["b"], found["c"]["id"], found["d"]) == (0.5, [0, 1], "json_valid", "p/q")
    with pytest.raises(ValueError, match=r"x\.json: cannot be kept as JSON .*finite"):
        run.write_json("x.json", {"a": float("inf")})
    assert json.loads(path.read_text("utf-8"))["a"] == 0.5


def test_samples_and_figures_are_kept_for_the_report_and_replaced_by_name():
    import plotly.graph_objects as go

    run = opened()
    run.samples("first", [{"prompt": "<b>"}])
    run.samples("second", [])
    run.samples("first", [{"prompt": "new"}])
    tables = json.loads((run.stage / "samples.json").read_text("utf-8"))
    assert tables == [{"title": "first", "rows": [{"prompt": "new"}]}, {"title": "second", "rows": []}]

    fig = go.Figure(go.Scatter(x=[1], y=[2]))
    assert run.figure("loss", fig, "Loss") is fig
    run.figure("accuracy", fig, "Accuracy")
    run.figure("loss", fig, "Loss, again")
    kept = {path.stem: json.loads(path.read_text("utf-8")) for path in (run.stage / "figures").glob("*.json")}
    assert {name: (item["order"], item["caption"]) for name, item in kept.items()} == {
        "loss": (0, "Loss, again"),
        "accuracy": (1, "Accuracy"),
    }
    assert go.Figure(kept["loss"]["figure"]).data[0].type == "scatter"
    with pytest.raises(ValueError, match="figure name 'a/b': expected letters"):
        run.figure("a/b", fig, "")


# --- upstream ---


def test_upstream_gives_files_and_folders_and_notes_them_as_inputs():
    run = finished_sft()
    dpo = opened(DPO, run.run_id)
    assert dpo.upstream(SFT, "adapter") == run.stage / "adapter"
    assert dpo.upstream(SFT, "adapter/weights.txt").read_text() == "0.25"
    dpo.finish()
    manifest = json.loads((run.path / "artifacts" / "dpo" / "manifest.json").read_text("utf-8"))
    assert set(manifest["inputs"]) == {"sft/adapter/weights.txt", "sft/adapter/config.json"}


def test_upstream_names_the_notebook_to_run_first_and_changes_nothing():
    run = finished_sft()
    before = snapshot(run.path)
    dpo = opened(DPO, run.run_id)
    message = (
        r"04_dpo_qlora needs preferences/pairs\.jsonl, but 03_collect_preferences has not been run in run "
        rf"{run.run_id}: run 03_collect_preferences first \(papermill .* or make play RUN={run.run_id}\)"
    )
    with pytest.raises(FileNotFoundError, match=message):
        dpo.upstream(PREFERENCES, "pairs.jsonl")
    with pytest.raises(FileNotFoundError, match="needs sft/merged, but 02_sft made only adapter/config.json, "):
        dpo.upstream(SFT, "merged")
    assert snapshot(run.path) == before


def test_what_a_notebook_may_leave_out_is_none_only_once_it_has_completed():
    run = finished_sft()
    dpo = opened(DPO, run.run_id)
    assert dpo.upstream_if_made(SFT, "canaries.json") is None
    assert dpo.upstream_if_made(SFT, "adapter/weights.txt").read_text() == "0.25"
    assert dpo.upstream_if_made(SFT, "adapter/") == run.stage / "adapter"  # a folder, checked file by file
    (run.stage / "adapter" / "weights.txt").write_text("0.26")
    with pytest.raises(ValueError, match=r"adapter/weights\.txt was changed after 02_sft completed"):
        dpo.upstream_if_made(SFT, "adapter/weights.txt")
    (run.stage / "COMPLETE").unlink()
    with pytest.raises(FileNotFoundError, match="02_sft was not completed in run"):
        dpo.upstream_if_made(SFT, "canaries.json")


def test_upstream_refuses_what_is_not_complete_changed_added_or_gone():
    run = finished_sft()
    dpo = opened(DPO, run.run_id)
    weights, stranger = run.stage / "adapter" / "weights.txt", run.stage / "adapter" / "extra.txt"
    weights.write_text("0.26")
    with pytest.raises(ValueError, match=r"adapter/weights\.txt was changed after 02_sft completed \(sha256 expected"):
        dpo.upstream(SFT, "adapter")
    weights.write_text("0.25")
    stranger.write_text("x")
    with pytest.raises(ValueError, match=r"adapter/extra\.txt was changed .*sha256 expected none, got"):
        dpo.upstream(SFT, "adapter")
    stranger.unlink()
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"sft/adapter/weights\.txt is gone"):
        dpo.upstream(SFT, "adapter")
    weights.write_text("0.25")
    (run.stage / "COMPLETE").unlink()
    with pytest.raises(FileNotFoundError, match="02_sft was not completed in run"):
        dpo.upstream(SFT, "adapter")


def test_a_stage_made_anew_makes_what_was_built_on_it_incomplete():
    run = finished_sft()
    dpo = opened(DPO, run.run_id)
    dpo.upstream(SFT, "adapter")
    dpo.finish()
    assert is_complete(run.path, DPO)
    again = opened(SFT, run.run_id)
    again.write_text("adapter/weights.txt", "0.5")
    assert not is_complete(run.path, DPO)  # being made
    again.finish()
    assert not is_complete(run.path, DPO)  # made, with other content
    again.write_text("adapter/weights.txt", "0.25")
    again.finish()
    assert is_complete(run.path, DPO)  # the same content again
    (dpo.stage / "parameters.json").unlink()
    assert not is_complete(run.path, DPO)


def test_work_and_verdicts_on_what_was_made_anew_are_refused_with_what_to_run_again():
    """03 -> 04 -> 05: new pairs make 04 stale, and with it 05, which has read nothing of 03 itself."""

    def step(notebook, relpath, text, *reads, verdict=""):
        run = opened(notebook, step.run_id)
        step.run_id = run.run_id
        for read in reads:
            run.upstream(*read)
        run.write_text(relpath, text)
        if verdict:
            run.gate(gate(verdict, id="dpo.win_rate", notebook=notebook))
        run.finish()
        return run

    step.run_id = ""
    step(PREFERENCES, "pairs.jsonl", "1")
    step(DPO, "adapter", "one", (PREFERENCES, "pairs.jsonl"))
    step(VALIDATE, "answers.jsonl", "a", (DPO, "adapter"), verdict="PASS")
    later = opened("07_rollout", step.run_id)
    assert later.check_gates(["dpo.win_rate"])[0]["verdict"] == "PASS"
    assert later.upstream(VALIDATE, "answers.jsonl").exists() and runs.stale_notebook(later.path, VALIDATE) == ""

    step(PREFERENCES, "pairs.jsonl", "2")
    for refused in (
        lambda: later.upstream(VALIDATE, "answers.jsonl"),
        lambda: later.check_gates(["dpo.win_rate"]),
        lambda: later.upstream(DPO, "adapter"),
    ):
        with pytest.raises(ValueError, match=r"made (anew|of what is new) since.*: run 04_dpo_qlora first \(papermill"):
            refused()
    step(DPO, "adapter", "two", (PREFERENCES, "pairs.jsonl"))
    words = (
        r"rests on gate 'dpo.win_rate' of 05_validate \(PASS\), but what .* made anew since.*: run 05_validate first"
    )
    with pytest.raises(ValueError, match=words):
        later.check_gates(["dpo.win_rate"])
    step(VALIDATE, "answers.jsonl", "b", (DPO, "adapter"), verdict="PASS")
    assert later.check_gates(["dpo.win_rate"])[0]["verdict"] == "PASS"
    opened(VALIDATE, step.run_id).write_text("answers.jsonl", "half")  # killed before its end
    with pytest.raises(ValueError, match="but 05_validate was not completed: run 05_validate first"):
        later.check_gates(["dpo.win_rate"])


# --- summary, gates, waivers ---


def test_the_summary_keeps_the_contract():
    run = opened()
    run.metric("sft.intent_accuracy", baseline=0.2, candidate=0.9, n=240, ci95=(0.6, 0.8))
    run.metric("sft.cost", baseline=2, candidate=1, n=1, ci95=None, unit="s", higher_is_better=False, basis="a clock")
    run.gate(gate("FAIL"))
    run.gate(gate("PASS", value=0.99))
    run.finish()
    dpo = opened(DPO, run.run_id)
    dpo.finish()
    summary = summary_of(run)
    assert (summary["run_id"], summary["profile"], summary["model_id"], summary["seed"]) == (
        run.run_id,
        "cpu",
        "embedded",
        17,
    )
    assert summary["metrics"]["sft.intent_accuracy"] == {
        "baseline": 0.2,
        "candidate": 0.9,
        "n": 240,
        "ci95": [0.6, 0.8],
        "unit": "fraction",
        "higher_is_better": True,
        "notebook": SFT,
    }
    assert summary["metrics"]["sft.cost"]["basis"] == "a clock"
    assert [(item["id"], item["notebook"], item["verdict"]) for item in summary["gates"]] == [
        ("json_valid", SFT, "PASS")
    ]
    parts = summary["notebooks"].values()
    assert [part["status"] for part in parts] == ["complete", "complete"]
    assert summary["wall_seconds"] == pytest.approx(sum(part["seconds"] for part in parts), abs=0.05)
    assert summary["peak_rss_mb"] == max(part["peak_rss_mb"] for part in parts) > 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ci95": (0.85, 0.95)}, r"expected ci95 of candidate - baseline = 0\.7, got \[0\.85, 0\.95\]"),
        ({"candidate": float("nan")}, "expected finite numbers"),
        ({"ci95": (0.6, float("inf"))}, "expected finite numbers"),
    ],
)
def test_a_metric_whose_interval_is_of_something_else_is_refused(change, message):
    run = opened()
    with pytest.raises(ValueError, match=message):
        run.metric("m", **{"baseline": 0.2, "candidate": 0.9, "n": 240, "ci95": (0.6, 0.8)} | change)
    assert not (run.path / "summary.json").exists()


def test_a_failed_gate_stops_the_next_notebook_until_it_is_waived_and_a_new_failure_stops_it_again():
    run = opened()
    run.gate(gate("FAIL", value=0.9123, note="train one epoch more"))
    run.finish()
    dpo = opened(DPO, run.run_id)
    message = (
        r"gate 'json_valid' of 02_sft failed: 0\.9123, needed >= 0\.98 \(n = 240\); train one epoch more and run "
        r"02_sft again, or go on knowingly with waive=\{'json_valid': 'reason'\}"
    )
    with pytest.raises(ValueError, match=message):
        dpo.check_gates(["json_valid"])
    assert [line["kind"] for line in read_ledger(run.path / "gates.jsonl")] == ["gate"]

    (line,) = dpo.check_gates(["json_valid"], {"json_valid": "known, see ticket"})
    assert line["waived"] == "known, see ticket"
    assert summary_of(run)["gates"][0]["waived"] == "known, see ticket"
    dpo.check_gates(["json_valid"], {"json_valid": "known, see ticket"})  # a second time writes nothing
    assert "waivers" not in summary_of(run)["gates"][0]
    entries = read_ledger(run.path / "gates.jsonl")
    assert [entry["kind"] for entry in entries] == ["gate", "waiver"]
    assert (entries[1]["waived_by"], entries[1]["value"]) == (DPO, 0.9123)
    opened(VALIDATE, run.run_id).check_gates(["json_valid"])  # the waiver holds for the notebooks after
    assert unwaived_failures(run.path) == []
    opened(VALIDATE, run.run_id).check_gates(["json_valid"], {"json_valid": "only here"})  # its own, beside the first
    assert gate_states(run.path)[0]["waivers"] == {DPO: "known, see ticket", VALIDATE: "only here"}

    run.gate(gate("FAIL", value=0.5))
    assert [state["value"] for state in unwaived_failures(run.path)] == [0.5]
    with pytest.raises(ValueError, match="failed: 0.5"):
        dpo.check_gates(["json_valid"])


def test_check_gates_lets_pass_and_abstain_through_and_ignores_the_notebooks_own():
    run = opened()
    run.gate(gate("PASS", id="a"))
    run.gate(gate("ABSTAIN", id="b", value=None))
    run.finish()
    dpo = opened(DPO, run.run_id)
    dpo.gate(gate("FAIL", id="a", notebook=DPO))
    assert [line["verdict"] for line in dpo.check_gates(["a", "b"])] == ["PASS", "ABSTAIN"]


def test_a_notebook_may_stop_at_its_own_gates():
    run = opened()
    run.gate(gate("FAIL"))
    with pytest.raises(ValueError, match=r"gate 'json_valid' of 02_sft failed"):
        run.check_gates(["json_valid"], own=True)
    run.check_gates(["json_valid"], {"json_valid": "known, see ticket"}, own=True)
    assert unwaived_failures(run.path) == []
    with pytest.raises(ValueError, match="which it has not measured"):
        run.check_gates(["other"], own=True)


def test_check_gates_refuses_names_that_nobody_measured_and_empty_reasons():
    run = opened()
    run.gate(gate("FAIL"))
    dpo = opened(DPO, run.run_id)
    with pytest.raises(ValueError, match=r"gate 'json_vald', which no upstream .*did you mean 'json_valid'\?"):
        dpo.check_gates(["json_vald"])
    with pytest.raises(ValueError, match="waive names 'dup_rate', which 04_dpo_qlora does not check"):
        dpo.check_gates(["json_valid"], {"dup_rate": "x"})
    with pytest.raises(ValueError, match=r"waive\['json_valid'\] needs a reason in words, got ' '"):
        dpo.check_gates(["json_valid"], {"json_valid": " "})
    with pytest.raises(ValueError, match="gate 'json_valid' names notebook '02_sft', this is '04_dpo_qlora'"):
        dpo.gate(gate())


def test_on_smoke_gates_are_no_evidence_and_block_nothing():
    smoke = StandInProfile(name="smoke", is_smoke=True)
    run = opened(profile=smoke)
    assert run.gate(gate("FAIL")).evidence is False
    assert opened(DPO, run.run_id, profile=smoke).check_gates(["json_valid"]) == []
    assert unwaived_failures(run.path) == []
    assert summary_of(run)["gates"][0]["evidence"] is False


# --- the ledger ---


def ledger_of_three():
    run = opened()
    for id in "abc":
        run.gate(gate(id=id))
    path = run.path / "gates.jsonl"
    return path, path.read_bytes().splitlines(keepends=True)


def test_each_line_carries_the_hash_of_the_line_before():
    path, raw = ledger_of_three()
    entries = [json.loads(line) for line in raw]
    assert [entry["prev"] for entry in entries] == ["0" * 64, entries[0]["hash"], entries[1]["hash"]]
    body = {key: value for key, value in entries[0].items() if key != "hash"}
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    assert entries[0]["hash"] == hashlib.sha256(text.encode()).hexdigest()
    verify_ledger(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda raw: [raw[0].replace(b"0.5", b"0.99"), *raw[1:]], "line 1: the hash chain breaks here"),
        (lambda raw: [raw[0], raw[2]], "line 2: the hash chain breaks here"),
        (lambda raw: [raw[1], raw[0], raw[2]], "line 1: the hash chain breaks here"),
        (lambda raw: [*raw, raw[2]], "line 4: the hash chain breaks here"),
        (lambda raw: [*raw[:2], b"[]\n"], "line 3: the hash chain breaks here"),
        (lambda raw: raw[:2], r"line 2: summary\.json knows 3 lines .* got 2 lines"),
        (lambda raw: [*raw, b'{"kind": "ga'], "line 4: the line is cut off"),
    ],
)
def test_edits_of_the_ledger_show_with_their_line(edit, message):
    path, raw = ledger_of_three()
    path.write_bytes(b"".join(edit(raw)))
    with pytest.raises(ValueError, match=message):
        verify_ledger(path)


def test_nothing_is_added_to_a_broken_chain():
    path, raw = ledger_of_three()
    run = opened(run_dir=path.parent)
    path.write_bytes(b"".join(raw[1:]))
    before = snapshot(path.parent)
    with pytest.raises(ValueError, match="line 1: the hash chain breaks here"):
        run.gate(gate(id="d"))
    assert snapshot(path.parent) == before


def test_the_piece_of_a_killed_write_is_dropped_and_the_ledger_goes_on():
    path, raw = ledger_of_three()
    path.write_bytes(b"".join(raw) + raw[2][:40])
    run = opened(run_dir=path.parent)
    run.gate(gate(id="d"))
    verify_ledger(path)
    assert [state["id"] for state in gate_states(path.parent)] == ["a", "b", "c", "d"]
    assert path.read_bytes().startswith(b"".join(raw))


def test_two_writers_share_one_ledger():
    run = opened()

    def write(start):
        mine = opened(run_dir=run.path)
        for number in range(start, start + 10):
            mine.gate(gate(id=f"g{number}"))
            mine.metric(f"m{number}", baseline=0, candidate=1, n=1, ci95=None)

    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    verify_ledger(run.path / "gates.jsonl")
    assert len(gate_states(run.path)) == len(summary_of(run)["gates"]) == len(summary_of(run)["metrics"]) == 30


# --- kills ---

CHILD = """
import os, signal, sys
sys.path[:0] = [{repository!r}, {tests!r}]
from test_runs import SFT, gate, opened
run = opened(run_dir={path!r})
"""


def child(code, path):
    source = CHILD.format(repository=str(REPOSITORY), tests=str(REPOSITORY / "tests"), path=str(path)) + code
    return subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)


posix_only = pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's")


@posix_only
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_stop_at_any_moment_keeps_every_gate_and_metric_that_was_written(stop):
    path = opened().path
    told = 0
    for attempt in range(3):
        writer = child(
            f"""
number = {told}
while True:
    run.gate(gate(id=f"g{{number}}", note="x" * 20_000))
    run.metric(f"m{{number}}", baseline=0, candidate=1, n=1, ci95=None)
    run.write_json("state.json", {{"number": number, "pad": "x" * 100_000}})
    print(number, flush=True)
    number += 1
""",
            path,
        )
        for _ in range(5):
            last = writer.stdout.readline()
        time.sleep(0.003 + 0.007 * attempt)
        writer.send_signal(stop)
        last = ([last, *writer.stdout.read().splitlines()])[-1]
        writer.wait(timeout=30)
        told = int(last) + 1

        ids = {state["id"] for state in gate_states(path)}
        assert {f"g{number}" for number in range(told)} <= ids
        summary = json.loads((path / "summary.json").read_text("utf-8"))
        assert {f"m{number}" for number in range(told)} <= set(summary["metrics"])
        state = json.loads((path / "artifacts" / "sft" / "state.json").read_text("utf-8"))
        assert state["number"] in (told - 1, told) and len(state["pad"]) == 100_000

    run = opened(run_dir=path)  # and the run goes on
    run.gate(gate(id="after"))
    run.finish()
    verify_ledger(path / "gates.jsonl")
    assert is_complete(path, SFT)
    assert not list(path.rglob("artifacts/**/.*.tmp"))


@posix_only
def test_a_kill_between_writing_and_renaming_leaves_the_old_summary_and_frees_the_lock():
    run = opened()
    run.gate(gate(id="old"))
    before = (run.path / "summary.json").read_bytes()
    killed = child("os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\nrun.gate(gate(id='new'))", run.path)
    assert killed.wait(timeout=30) == -signal.SIGKILL
    assert (run.path / "summary.json").read_bytes() == before
    assert [state["id"] for state in gate_states(run.path)] == ["old", "new"]  # the ledger had it already
    run.metric("m", baseline=0, candidate=1, n=1, ci95=None)
    assert [item["id"] for item in summary_of(run)["gates"]] == ["old", "new"]  # and the summary catches up


@posix_only
def test_a_kill_inside_finish_leaves_the_stage_incomplete_and_finish_can_be_repeated():
    run = opened()
    killed = child(
        """
import ftlib.runs
write = ftlib.runs.write_atomic
def stop(path, text):
    if path.name == "COMPLETE":
        os.kill(os.getpid(), signal.SIGKILL)
    return write(path, text)
ftlib.runs.write_atomic = stop
run.write_text("adapter/weights.txt", "0.25")
run.finish()
""",
        run.path,
    )
    assert killed.wait(timeout=30) == -signal.SIGKILL
    assert not is_complete(run.path, SFT)
    again = opened(run_dir=run.path)
    assert (again.stage / "adapter" / "weights.txt").read_text() == "0.25"
    again.finish()
    assert is_complete(run.path, SFT)


def test_a_lock_that_is_held_is_an_error_that_says_so(monkeypatch):
    run = opened()
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.1)
    caught = []

    def other():
        try:
            run.metric("m", baseline=0, candidate=1, n=1, ci95=None)
        except RuntimeError as error:
            caught.append(str(error))

    with files.locked(run.path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "another process has held this folder for 0.1 s; wait for it, or stop it" in caught[0]


# --- lineage, memory ---


def test_lineage_holds_a_start_and_a_complete_event_with_what_was_read_and_made():
    run = finished_sft()
    dpo = opened(DPO, run.run_id)
    dpo.upstream(SFT, "adapter/weights.txt")
    dpo.write_text("kl.txt", "0.1")
    dpo.finish()
    events = [json.loads(line) for line in (run.path / "lineage.jsonl").read_text("utf-8").splitlines()]
    assert [(event["job"]["name"], event["eventType"]) for event in events] == [
        (SFT, "START"),
        (SFT, "COMPLETE"),
        (DPO, "START"),
        (DPO, "COMPLETE"),
    ]
    assert events[2]["run"]["runId"] == events[3]["run"]["runId"] != events[0]["run"]["runId"]
    (read,) = events[3]["inputs"]
    assert read["name"] == f"{run.run_id}/artifacts/sft/adapter/weights.txt"
    assert read["facets"]["version"]["datasetVersion"] == hashlib.sha256(b"0.25").hexdigest()
    made = {item["name"].removeprefix(f"{run.run_id}/artifacts/") for item in events[3]["outputs"]}
    assert made == {"dpo/kl.txt", "dpo/parameters.json"}
    assert all(event["schemaURL"].startswith("https://openlineage.io/spec/") for event in events)


def test_uses_refuses_what_is_not_there():
    with pytest.raises(FileNotFoundError, match=r"gone\.jsonl: expected an input of 02_sft, found nothing"):
        opened().uses(REPOSITORY / "data" / "gone.jsonl")


def test_peak_rss_counts_megabytes_and_remembers_the_peak():
    """In a process of its own: 200 MB written and freed again raise the peak by about 200."""
    code = (
        "from ftlib.machine import peak_rss_mb; before = peak_rss_mb(); x = b'x' * (200 * 2**20); del x; "
        "print(peak_rss_mb() - before)"
    )
    grown = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert 180 < float(grown.stdout) < 220


# --- parameters ---


def notebook(tmp_path, *sources, tag="parameters"):
    cells = [{"cell_type": "code", "metadata": {"tags": [tag]}, "source": source} for source in sources]
    path = tmp_path / "nb.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "markdown", "metadata": {}, "source": "#"}, *cells]}))
    return path


def test_notebook_parameters_reads_literals_without_running(tmp_path):
    source = [
        "# parameters\n",
        'profile: str = "auto"  # which\n',
        "seed: int = 17\n",
        "low = -0.5\n",
        "waive: dict = {}",
    ]
    assert notebook_parameters(notebook(tmp_path, source)) == {"profile": "auto", "seed": 17, "low": -0.5, "waive": {}}


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["a = 1", "b = 2"], "expected one cell tagged 'parameters', got 2"),
        ([], "expected one cell tagged 'parameters', got 0"),
        (
            ["a = 1\nb = a * 2"],
            "expected lines `name: type = literal`, got 'b = a \\* 2'; derive values in a later cell",
        ),
        (["import os"], "expected lines .*, got 'import os'"),
        (["a: int"], "expected lines .*, got 'a: int'"),
        (["a ="], "expected Python, got .* in line 1"),
    ],
)
def test_notebook_parameters_refuses_anything_but_one_cell_of_literals(tmp_path, sources, message):
    with pytest.raises(ValueError, match=message):
        notebook_parameters(notebook(tmp_path, *sources))


def test_notebook_parameters_of_a_missing_notebook(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a notebook, found no file"):
        notebook_parameters(tmp_path / "gone.ipynb")


DEFAULTS = {"seed": 17, "beta": 0.1, "headless": True, "model_id": "", "limit": None}


def test_parameters_that_fit_pass():
    check_parameters(DEFAULTS, {"seed": 3, "beta": 1, "headless": False, "model_id": "x", "limit": [1]})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sed": 1}, r"unknown parameter 'sed' \(did you mean 'seed'\?\)"),
        ({"zzz": 1}, r"unknown parameter 'zzz' \(known: seed, beta, headless, model_id, limit\)"),
        ({"seed": "many"}, "parameter 'seed': expected int, like 17; got str 'many'"),
        ({"seed": True}, "parameter 'seed': expected int, like 17; got bool True"),
        ({"seed": 1.5}, "parameter 'seed': expected int"),
        ({"headless": 1}, "parameter 'headless': expected bool"),
        ({"model_id": 135}, r"got int 135 \(with papermill, pass texts by -r, not -p\)"),
    ],
)
def test_parameters_that_do_not_fit_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        check_parameters(DEFAULTS, given)


def test_what_papermill_injects_is_checked_against_the_notebooks_own_cell():
    own = "# parameters\nseed: int = 17  # of the run\n"
    check_injected(["", "import os", own, "# Parameters\nseed = 3\n"])
    check_injected([own])
    check_injected(["# Parameters\nx = 1\n"])
    with pytest.raises(ValueError, match="unknown parameter 'sede'"):
        check_injected(["", own, '# Parameters\nsede = float("nan")\nsede = 3\n'])


def test_open_run_checks_the_kernels_cells_before_it_makes_a_folder(monkeypatch, runs_folder):
    cells = ["# parameters\nseed: int = 17\n", "# Parameters\nsede = 3\n"]
    monkeypatch.setattr(runs, "kernel_cells", lambda: cells)
    with pytest.raises(ValueError, match="unknown parameter 'sede'"):
        opened()
    assert not runs_folder.exists()


def test_papermill_injects_the_cell_that_is_looked_for(tmp_path):
    """In a real kernel: papermill's own header, and `In` holding both cells."""
    import nbformat
    import papermill

    book = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    own = nbformat.v4.new_code_cell("# parameters\nseed: int = 17\n", metadata={"tags": ["parameters"]})
    check = "from ftlib.parameters import check_injected, kernel_cells\ncheck_injected(kernel_cells())"
    book.cells = [own, nbformat.v4.new_code_cell(f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n{check}")]
    nbformat.write(book, tmp_path / "nb.ipynb")
    paths = str(tmp_path / "nb.ipynb"), str(tmp_path / "out.ipynb")
    papermill.execute_notebook(*paths, parameters={"seed": 3}, progress_bar=False)
    with pytest.raises(papermill.PapermillExecutionError, match="unknown parameter 'sede'"):
        papermill.execute_notebook(*paths, parameters={"sede": 3}, progress_bar=False)


# --- what a notebook was given ---


def test_given_parameters_are_those_of_the_cell_that_ran(monkeypatch):
    """A copy of the notebook with a parameter of its own: the kernel's cell is read, and who signs is left out."""
    own = '# parameters\nseed: int = 17\nbeta: float = 0.1\nmine: int = 1\nsigned_by: str = ""\n'
    monkeypatch.setattr("ftlib.parameters.kernel_cells", lambda: ["import os", own])
    names = {"seed": 17, "beta": 0.3, "mine": 2, "signed_by": "Ann", "other": 4}
    assert given_parameters("04_dpo_qlora", names) == {"beta": 0.3, "mine": 2}
    assert given_parameters("04_dpo_qlora", names, beta=0.5) == {"beta": 0.5, "mine": 2}
    with pytest.raises(ValueError, match=r"'betta' is no parameter of 04_dpo_qlora .*did you mean 'beta'"):
        given_parameters("04_dpo_qlora", names, betta=0.5)
    with pytest.raises(ValueError, match="parameter 'mine' has no value yet; run the cell '# parameters' first"):
        given_parameters("04_dpo_qlora", {"beta": 0.3})


def test_given_parameters_without_a_kernel_are_the_files():
    names = {"known_prompts": 24, "simulations": 400, "p": 1}
    assert given_parameters("05a_trust_the_gates", names) == {"known_prompts": 24, "simulations": 400}
