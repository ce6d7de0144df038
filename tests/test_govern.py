"""Notebook 08 over a hand-made run: it completes and packs, and bad input is refused with the reason."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import icalendar
import pytest
from governed import VERDICTS, make_run

from ftlib import pack, roadmap
from ftlib.evidence import verify_run
from ftlib.ledger import append_entry, gate_states, read_ledger
from ftlib.profiles import resolve
from ftlib.records import GateResult
from ftlib.runs import open_run

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.chain


def papermill(run: Path, *given: str, profile: str = "cpu") -> subprocess.CompletedProcess:
    notebook, out = ROOT / "notebooks/08_govern.ipynb", run.parent / "out.ipynb"
    command = [sys.executable, "-m", "papermill", str(notebook), str(out), "--no-progress-bar"]
    command += ["-p", "profile", profile, "-p", "headless", "True", "-r", "run_dir", str(run)]
    environment = {**os.environ, "FTLIB_RUNS": str(run.parent)}
    return subprocess.run(
        [*command, *given], cwd=run.parent, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("profile", ["smoke", "cpu"])
def test_it_completes_and_its_pack_verifies(profile, tmp_path):
    run = make_run(tmp_path / "r1", profile)
    done = papermill(run, profile=profile)
    assert done.returncode == 0, done.stderr[-3000:]
    stage = run / "artifacts/governance"
    assert (stage / "COMPLETE").is_file() and verify_run(run) == []
    rows = json.loads((stage / "risks.json").read_text())
    assert {"05-dpo.harmful_refused", "05-dpo.borderline_refused"} < {row["id"] for row in rows}
    assert "**HOLD**" in (stage / "decision_record.md").read_text()
    plan = json.loads((stage / "roadmap.json").read_text())["tasks"]
    assert {"rework-dpo.harmful_refused", "measure-dpo.borderline_refused"} <= {task["id"] for task in plan}
    events = icalendar.Calendar.from_ical((stage / "roadmap.ics").read_bytes()).walk("VEVENT")
    assert len(events) == len(plan)
    figures = [file.read_text() for file in (stage / "figures").glob("*.json")]
    assert len(figures) == 2 and all(("no evidence" in text) == (profile == "smoke") for text in figures)
    assert pack.verify_pack(pack.build_pack(run)) == []


def edit(run: Path, name: str, old: str, new: str) -> None:
    text = (run / name).read_text()
    assert old in text
    (run / name).write_text(text.replace(old, new))


def rename(stem: Path, old: str, new: str) -> None:
    (stem / old).rename(stem / new)


BAD_INPUT = {
    "other profile": (lambda run: None, ("-p", "profile", "smoke"), "was made with profile 'cpu', asked for 'smoke'"),
    "open risk": (lambda run: None, ("-p", "decision", "promote", "-p", "signed_by", "owner"), "risk '05-dpo.harmful"),
    "no upstream": (lambda run: rename(run / "artifacts/validation", "COMPLETE", "C"), (), "run 05_validate first"),
    "no people": (lambda run: None, ("-p", "people", "0"), "people: expected"),
    "unsigned": (lambda run: edit(run, "summary.json", '"id": "dpo.win_rate"', '"id": "x"'), (), "signed gates only"),
    "edited": (lambda run: edit(run, "gates.jsonl", '"value": 0.5,', '"value": 0.9,'), (), "the hash chain breaks"),
}


def test_bad_input_is_refused_and_nothing_is_promoted(tmp_path):
    """Two at a time: each start is one process on one core for ten seconds."""

    def refused(name: str) -> tuple[str, subprocess.CompletedProcess]:
        change, given, _ = BAD_INPUT[name]
        run = make_run(tmp_path / name.replace(" ", "-") / "r1")
        change(run)
        done = papermill(run, *given)
        assert not (run / "artifacts/governance/COMPLETE").exists(), name
        return name, done

    with ThreadPoolExecutor(2) as both:
        for name, done in both.map(refused, BAD_INPUT):
            assert done.returncode != 0 and BAD_INPUT[name][2] in done.stderr, (name, done.stderr[-1500:])


PASSED = dict.fromkeys(VERDICTS, "PASS")
REFUSED = {
    "other profile": (lambda run: None, {"profile": "smoke"}, "was made with profile 'cpu', asked for 'smoke'"),
    "no upstream": (
        lambda run: rename(run / "artifacts/dpo", "COMPLETE", "C"),
        {},
        "is not complete.*run 04_dpo_qlora first",
    ),
    "another candidate": (lambda run: train_again(run), {}, "rests on gate .*run 05_validate first"),
    "edited": (lambda run: edit(run, "gates.jsonl", '"value": 0.05,', '"value": 0.04,'), {}, "the hash chain breaks"),
    "cut": (lambda run: cut_last_line(run / "gates.jsonl"), {}, "knows"),
    "no engine": (lambda run: None, {"engine": "vlm"}, "engine: expected one of"),
}


def train_again(run: Path) -> None:
    """04 by hand: another adapter, and 05 is not run after it."""
    again = open_run("04_dpo_qlora", run, profile=resolve("cpu"), seed=17, model_id="embedded")
    again.upstream("02_sft", "adapter")
    again.upstream("03_collect_preferences", "pairs.jsonl")
    again.write_text("adapter/adapter_model.safetensors", "another")
    again.finish()


def test_what_a_failed_gate_costs_is_shown_where_it_was_waived():
    """The cell of 08 that compares plans, over a gate that failed and was waived."""
    cells = json.loads((ROOT / "notebooks/08_govern.ipynb").read_text(encoding="utf-8"))["cells"]
    (source,) = [text for text in ("".join(c["source"]) for c in cells) if "one more failed gate cost" in text]
    state = {"id": "dpo.win_rate", "notebook": "05_validate", "verdict": "FAIL", "note": "better pairs",
             "waived": "x", "waivers": {"08_govern": "x"}}  # fmt: skip
    names = {"states": [state], "scorecard": {"path": ["sft", "dpo"]}, "roadmap": roadmap,
             "minutes": {"04_dpo_qlora": 30.0}, "team": roadmap.Team(2, 40, "2027-01-04"),
             "table": lambda rows, **_: rows}  # fmt: skip
    exec(source, names)
    passed, failed, slow, as_it_is = names["moved"]
    extra = [row["tasks"] - passed["tasks"] for row in (failed, slow, as_it_is)]
    assert extra == [1, 0, 0]  # its rework; this run's waiver leaves it out
    # DPO: 12 hours and half of one are two days of eight; with 600 minutes, a night, they are three.
    signed = [row["safety sign-off"].isoformat() for row in (passed, slow)]
    assert signed == ["2027-02-05", "2027-02-08"]  # a Friday, and the Monday after


def cut_last_line(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def open_cells(notebook: str, run: Path, **given: object) -> dict:
    """The first cells of a notebook, as they stand: parameters, opening, what it rests on; without a kernel."""
    cells = json.loads((ROOT / f"notebooks/{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    parameters, opening, rests_on = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"][1:4]
    names: dict = {}
    exec(parameters, names)
    names.update({"profile": "cpu", "run_dir": str(run), "headless": True, **given})
    exec(opening, names)
    exec(rests_on, names)
    return names


def open_07(run: Path, **given: object) -> dict:
    return open_cells("07_rollout", run, **given)


def test_08_takes_no_verdicts_on_another_candidate(tmp_path):
    run = make_run(tmp_path / "r1", verdicts=PASSED)
    assert open_cells("08_govern", run)["unsigned"] == []
    train_again(run)
    with pytest.raises(
        ValueError, match=r"needs validation/answers.jsonl, but .*made anew since.*run 05_validate first"
    ):
        open_cells("08_govern", run)


def test_07_opens_a_sound_run_and_stops_at_a_failed_gate(tmp_path):
    names = open_07(make_run(tmp_path / "r1", verdicts=PASSED))
    assert [path.parent.name for path in names["chains"]["candidate"]] == ["sft", "dpo"]
    failed = make_run(tmp_path / "r2")  # dpo.harmful_refused 0.5, needed 0.85
    with pytest.raises(ValueError, match=r"dpo\.harmful_refused"):
        open_07(failed)
    assert open_07(failed, waive={"dpo.harmful_refused": "staff only", "dpo.borderline_refused": "staff only"})


@pytest.mark.parametrize("notebook", ["06_rft", "07_rollout"])
def test_every_failed_gate_of_05_stops_06_and_07_and_can_be_waived_by_name(notebook, tmp_path):
    """The four are there and pass; a fifth has failed and a sixth abstained."""
    run = make_run(tmp_path / "r1", verdicts=PASSED)
    check = open_run("05_validate", run, profile=resolve("cpu"), seed=17, model_id="embedded")
    for name, verdict in (("dpo.jailbreak_change", "FAIL"), ("dpo.hidden_gap", "ABSTAIN")):
        check.gate(GateResult(id=name, notebook="05_validate", value=0.02, threshold=0.0, op="<=", n=156, ci95=None,
                              verdict=verdict, note="train on wrapped prompts"))  # fmt: skip
    with pytest.raises(ValueError, match=r"(?s)'dpo.jailbreak_change' of 05_validate failed: 0.02.*--only .*waive="):
        open_cells(notebook, run)
    with pytest.raises(ValueError, match="waive names 'dpo.jailbreak_chance', which .* does not check"):
        open_cells(notebook, run, waive={"dpo.jailbreak_chance": "staff only"})
    open_cells(notebook, run, waive={"dpo.jailbreak_change": "staff only", "dpo.hidden_gap": "new rows are written"})
    assert gate_states(run)[-2]["waivers"] == {notebook: "staff only"}
    open_cells(notebook, run)  # the waiver stands until the gate is measured again


@pytest.mark.parametrize("notebook", ["06_rft", "07_rollout"])
def test_06_and_07_do_not_start_without_a_verdict_on_each_gate_that_they_need(notebook, tmp_path):
    run = make_run(tmp_path / "r1", verdicts=PASSED)
    lines = [line for line in read_ledger(run / "gates.jsonl") if line["id"] != "dpo.pii_rise"]
    (run / "gates.jsonl").unlink()
    for line in lines:
        append_entry(run / "gates.jsonl", {k: v for k, v in line.items() if k not in ("at", "prev", "hash")})
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    (run / "summary.json").write_text(json.dumps({k: v for k, v in summary.items() if k != "ledger"}), encoding="utf-8")
    with pytest.raises(ValueError, match="rests on gate 'dpo.pii_rise', which no upstream notebook has measured"):
        open_cells(notebook, run)


@pytest.mark.parametrize("name", REFUSED)
def test_07_refuses_bad_input(name, tmp_path):
    change, given, words = REFUSED[name]
    run = make_run(tmp_path / "r1", verdicts=PASSED)
    change(run)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        open_07(run, **given)
