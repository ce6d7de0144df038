"""The notebooks, run for real on profile `smoke`: the whole chain once, then each one alone from a copy of that run."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from lineage_schema import schema_faults
from notebook_runs import ROOT, command, environment, papermill, play

from ftlib.evidence import verify_run
from ftlib.files import sha256
from ftlib.lineage import read_events
from ftlib.runs import STAGE

NAMES = [path.stem for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))]
pytestmark = pytest.mark.chain


def kill_when_there(file: Path, name: str, out: Path, runs: Path, *parameters: str, cwd: Path) -> None:
    """Start a notebook, and `kill -9` it with its kernel as soon as it has written `file`."""
    with subprocess.Popen(command(name, out, *parameters), cwd=cwd, env=environment(runs)) as started:
        until = time.monotonic() + 600
        while not file.exists():
            assert started.poll() is None and time.monotonic() < until, f"{name} ended without {file.name}"
            time.sleep(0.2)
        family = [psutil.Process(started.pid), *psutil.Process(started.pid).children(recursive=True)]
        for process in family:
            process.kill()
        psutil.wait_procs(family, timeout=30)


def test_the_chain_completes_and_reports(chain):
    summary = json.loads((chain / "summary.json").read_text(encoding="utf-8"))
    assert summary["profile"] == "smoke" and summary["seed"] == 3
    assert [name for name in NAMES if summary["notebooks"].get(name, {}).get("status") != "complete"] == []
    wanted = {
        "sft.intent_accuracy", "sft.json_valid", "dpo.harmful_refused", "dpo.borderline_refused", "dpo.win_rate",
        "rft.task_success",
    }  # fmt: skip
    assert wanted <= set(summary["metrics"])
    for name, metric in summary["metrics"].items():
        assert {"baseline", "candidate", "n", "ci95", "unit", "higher_is_better"} <= set(metric), name
    assert all(not gate.get("evidence", True) for gate in summary["gates"]), (
        "a smoke gate must be marked as no evidence"
    )
    for stage in ("sft", "dpo", "rft"):
        assert (chain / "artifacts" / stage / "adapter" / "adapter_config.json").is_file()
    assert verify_run(chain) == []
    assert [fault for event in read_events(chain / "lineage.jsonl") for fault in schema_faults(event)] == []
    report = (chain / "report.html").read_text(encoding="utf-8")
    assert "rft.task_success" in report and "smoke" in report


def test_a_second_start_has_nothing_left_to_do(chain):
    before = {name: (chain / f"{name}.ipynb").stat().st_mtime_ns for name in NAMES}
    done = play(chain.parent, "--profile", "smoke", "--run", chain.name, "--seed", "3")
    assert done.returncode == 0, done.stderr[-2000:]
    assert {name: (chain / f"{name}.ipynb").stat().st_mtime_ns for name in NAMES} == before


@pytest.mark.parametrize("name", NAMES)
def test_each_notebook_alone(name, chain, tmp_path):
    """Plain papermill from a foreign working directory, over a copy of the finished run without this one's stage."""
    copy = tmp_path / "runs" / chain.name
    shutil.copytree(chain, copy, ignore=shutil.ignore_patterns("checkpoints", "*.ipynb"))
    shutil.rmtree(copy / "artifacts" / STAGE[name])
    given = ["-p", "profile", "smoke", "-p", "headless", "True", "-p", "seed", "3", "-r", "run_dir", str(copy)]
    stage = copy / "artifacts" / STAGE[name]
    kept = None
    if name == "03_collect_preferences":  # what went wrong in an earlier rollout is asked, unless it is held out
        wrong = {"prompt": "x", "kind": "production", "remedy": "DPO refresh"}
        rows = [{"id": "pp-0332", "split": "train"}, {"id": "pp-0005", "split": "test"}]
        (tmp_path / "refresh.jsonl").write_text("\n".join(json.dumps(wrong | row) for row in rows), encoding="utf-8")
        given += ["-r", "refresh_path", str(tmp_path / "refresh.jsonl")]
    if name == "06_rft":  # killed once, after its warm start and before its GRPO
        kill_when_there(
            stage / "checkpoints" / "warm_done.json", name, tmp_path / "killed.ipynb", copy.parent, *given, cwd=tmp_path
        )
        assert not (stage / "COMPLETE").exists()
        kept = (stage / "warm_adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    done = papermill(name, tmp_path / "out.ipynb", tmp_path / "runs", *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (stage / "COMPLETE").is_file()
    if name == "03_collect_preferences":
        asked = {json.loads(line)["prompt_id"] for line in (stage / "candidates.jsonl").open(encoding="utf-8")}
        assert "pp-0332" in asked and "pp-0005" not in asked
    if kept:
        assert (stage / "warm_adapter" / "adapter_model.safetensors").stat().st_mtime_ns == kept, "it was trained again"


def test_04_trains_on_pairs_of_a_simulated_team_and_of_other_sources(chain, tmp_path):
    copy = tmp_path / "runs" / chain.name
    shutil.copytree(chain, copy, ignore=shutil.ignore_patterns("checkpoints", "*.ipynb"))
    chosen = ["--set", "rated_by=simulated", "--set", "sources=sft at 0.0, base at 0.7, few-shot at 0.7"]
    done = play(copy.parent, "--run", chain.name, "--only", "03", "04", *chosen)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    read = lambda name: [json.loads(line) for line in (copy / "artifacts/preferences" / name).open(encoding="utf-8")]
    items, votes, pairs = read("candidates.jsonl"), read("ratings.jsonl"), read("pairs.jsonl")
    drawn = {item["source_b"] for item in items if item["kind"] == "production"}
    assert drawn >= {"base at 0.7", "few-shot at 0.7"}
    team = {(item["id"], f"sim-{number}") for item in items for number in (1, 2, 3)}  # the recorded items as well
    assert {(vote["item_id"], vote["rater"]) for vote in votes} == team and len(votes) == len(team)
    assert all(vote["simulated"] for vote in votes) and {pair["basis"] for pair in pairs} == {"simulated raters"}
    said = "simulated raters (a team of 3, two of whom agree on 63%)"
    gates = json.loads((copy / "summary.json").read_text(encoding="utf-8"))["gates"]
    assert all(said in gate["note"] for gate in gates if gate["id"] == "preferences.pair_count")
    assert said in (copy / "artifacts/preferences/pairs.md").read_text(encoding="utf-8")
    assert (copy / "artifacts/dpo/COMPLETE").is_file()
    made_of = json.loads((copy / "artifacts/dpo/manifest.json").read_text(encoding="utf-8"))["inputs"]
    assert made_of["preferences/pairs.jsonl"] == sha256(copy / "artifacts/preferences/pairs.jsonl")


REFUSALS = [
    (["-p", "profile", "cpuu"], "expected one of"),
    (["-p", "profil", "smoke"], "profil"),
    (["-p", "profile", "smoke", "-r", "model_id", "./no/such/model"], "no/such/model"),
]


@pytest.mark.parametrize("parameters, message", REFUSALS)
def test_bad_parameters_are_refused_with_one_clear_error(parameters, message, tmp_path):
    done = papermill("00_start_here", tmp_path / "out.ipynb", tmp_path / "runs", *parameters, cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    assert not list((tmp_path / "runs").glob("*/artifacts")), "a refused start must leave no stage behind"


def test_a_notebook_before_its_upstream_names_what_to_run_first(tmp_path):
    given = ["-p", "profile", "smoke", "-p", "headless", "True", "-r", "run_dir", str(tmp_path / "runs" / "new")]
    done = papermill("04_dpo_qlora", tmp_path / "out.ipynb", tmp_path / "runs", *given, cwd=tmp_path)
    assert done.returncode != 0
    assert "02_sft" in done.stderr and "first" in done.stderr


def test_a_broken_row_is_refused_with_file_and_line(chain, tmp_path):
    copy = tmp_path / "runs" / chain.name
    shutil.copytree(chain, copy, ignore=shutil.ignore_patterns("checkpoints", "*.ipynb"))
    rows = (ROOT / "data" / "sft" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:5]
    rows[2] = rows[2].replace('"task"', '"tusk"')
    broken = tmp_path / "mine.jsonl"
    broken.write_text("\n".join(rows), encoding="utf-8")
    summary = (copy / "summary.json").read_bytes()
    given = ["-p", "profile", "smoke", "-p", "headless", "True", "-p", "seed", "3", "-r", "run_dir", str(copy)]
    done = papermill(
        "02_sft", tmp_path / "out.ipynb", tmp_path / "runs", *given, "-r", "train_path", str(broken), cwd=tmp_path
    )
    assert done.returncode != 0
    assert "mine.jsonl line 3" in done.stderr and "task" in done.stderr
    assert (copy / "artifacts" / "sft" / "COMPLETE").is_file() and (copy / "summary.json").read_bytes() == summary
