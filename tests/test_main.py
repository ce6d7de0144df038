"""The command line, on tiny notebooks with real kernels: one behaviour of a run each."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from ftlib import runner
from ftlib.__main__ import main
from ftlib.progress import Screen

OPEN = """
from dataclasses import make_dataclass
from pathlib import Path
import os, sys
from ftlib.records import GateResult
from ftlib.runs import open_run
Profile = make_dataclass("Profile", ["name", "is_smoke", ("need_ram_mb", int, 1), ("need_disk_mb", int, 1)])
run = open_run(NAME, run_dir, profile=Profile(profile, profile == "smoke"), seed=seed, model_id="none")
"""
GATE = """
run.gate(GateResult(id="dup_rate", notebook=NAME, value=0.5, threshold=0.02, op="<=", n=100, ci95=None,
                    verdict="FAIL", note="drop the duplicates"))
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder for notebooks; runs go beside it, and the working directory is elsewhere."""
    monkeypatch.setenv("FTLIB_RUNS", str(tmp_path / "runs"))
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "notebooks"


def make_notebook(
    folder: Path, name: str, *cells: str, more: str = "", finish: bool = True, minutes: float = 0
) -> Path:
    parameters = (
        f'# parameters\nprofile: str = "auto"\nrun_dir: str = ""\nseed: int = 1\nheadless: bool = False\n{more}'
    )
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    sources = [f"NAME = {name!r}\n{OPEN}", *cells, *(["run.finish()"] if finish else [])]
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in sources]
    # A kernel that is not there: the runner must take its own interpreter all the same.
    notebook.metadata = {
        "kernelspec": {"name": "no-such-kernel", "display_name": "x", "language": "python"},
        "ftlib": {"minutes": {"smoke": minutes}},
    }
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def play(place: Path, *options: str, profile: str = "smoke") -> int:
    return main(["run", "--profile", profile, *options], notebooks=place)


def only_run(place: Path) -> Path:
    (run,) = (place.parent / "runs").iterdir()
    return run


# --- refused before anything runs ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--set", "betta=0.2"],
            r"unknown parameter 'betta' \(did you mean 'beta'\?\): none of the 2 notebooks has it",
        ),
        (["--set", "beta=high"], r"02_two\.ipynb: parameter 'beta': expected float, like 0\.1; got str 'high'"),
        (["--set", "beta"], r"--set beta: expected NAME=VALUE"),
        (["--set", "seed=3"], r"parameter 'seed' is set by the command itself; use its option"),
        (["--only", "02_tow"], r"--only 02_tow: no such notebook \(did you mean '02_two'\?\)"),
        (["--profile", "huge"], r"profile='huge': expected one of smoke, cpu"),
        (["--run", "gone"], r"run gone: expected a run folder with run\.json at .*; the newest runs are: none yet"),
    ],
)
def test_wrong_use_is_one_error_and_leaves_nothing(place, capsys, options, message):
    make_notebook(place, "01_one")
    make_notebook(place, "02_two", more="beta: float = 0.1")
    assert play(place, *options) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (place.parent / "runs").exists()


def test_missing_model_is_an_error_before_anything_runs(place, capsys):
    make_notebook(place, "01_one", more='model_id: str = "embedded"')
    assert play(place, "--set", "model_id=./no/such/model") == 2
    assert "no such folder is there" in capsys.readouterr().err
    assert not (place.parent / "runs").exists()


def test_a_notebook_without_the_fixed_parameters_is_refused(place, capsys):
    path = make_notebook(place, "01_one")
    path.write_text(path.read_text().replace("headless: bool = False", ""))
    assert play(place) == 2
    assert "01_one.ipynb: unknown parameter 'headless'" in capsys.readouterr().err


def test_no_notebooks(place, capsys):
    assert play(place) == 2
    assert "expected notebooks named NN_*.ipynb, found none" in capsys.readouterr().err


# --- a run ---


def test_run_from_any_folder_gives_parameters_kernel_and_report(place, capsys, monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", str(place))  # whatever kernels the user has, they are not taken
    seen = 'run.write_json("seen.json", {k: globals()[k] for k in ("seed", "headless", "profile", "run_dir")} | MORE)'
    env = '{k: os.environ.get(k) for k in ("PLOTLY_RENDERER", "TOKENIZERS_PARALLELISM", "HF_HUB_OFFLINE")}'
    more = f'MORE = {{"python": sys.executable}} | {env}'
    number = 'run.metric("sft.accuracy", baseline=0.5, candidate=0.75, n=80, ci95=(0.1, 0.4))'
    make_notebook(place, "01_one", more, seen, number)
    make_notebook(place, "02_two", 'run.write_json("beta.json", {"beta": beta})', more="beta: float = 0.1")
    assert play(place, "--seed", "5", "--set", "beta=0.25") == 0
    run = only_run(place)
    assert re.fullmatch(r"\d{8}-\d{6}-smoke-s5", run.name)
    assert json.loads((run / "artifacts/01_one/seen.json").read_text()) == {
        "seed": 5,
        "headless": True,
        "profile": "smoke",
        "run_dir": str(run),
        "python": sys.executable,
        "PLOTLY_RENDERER": "plotly_mimetype+notebook",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": None,
    }
    assert json.loads((run / "artifacts/02_two/beta.json").read_text()) == {"beta": 0.25}
    assert sorted(file.name for file in run.glob("*.ipynb")) == ["01_one.ipynb", "02_two.ipynb"]
    out = capsys.readouterr().out
    assert "[1/2] 01_one · complete in 0:0" in out
    assert re.search(r"sft\.accuracy +50\.0 % +75\.0 % +\+25\.0 \[\+10\.0, \+40\.0\] points +80 +no evidence", out)
    assert f"report: {run / 'report.html'}" in out and (run / "report.html").exists()
    assert main(["verify", run.name]) == 0


def test_deep_notebooks_run_over_a_finished_run(place, capsys):
    """They have a folder and letters of their own, are left out of a plain run, and need to be told which run."""
    make_notebook(place, "01_one", 'run.write_json("n.json", {"n": 3})')
    (place / "deep").mkdir()
    read = 'import json; n = json.loads(run.upstream("01_one", "n.json").read_text())["n"]'
    make_notebook(place / "deep", "01a_deeper", read, 'run.write_json("twice.json", {"n": 2 * n})')
    assert play(place) == 0
    run = only_run(place)
    assert not (run / "artifacts/01a_deeper").exists()
    assert main(["run", "--deep"], notebooks=place) == 2
    assert "--deep reads a run that is finished: say which with --run" in capsys.readouterr().err
    assert main(["run", "--run", run.name, "--deep"], notebooks=place) == 0
    assert json.loads((run / "artifacts/01a_deeper/twice.json").read_text()) == {"n": 6}
    assert "[1/1] 01a_deeper · complete in" in capsys.readouterr().out
    assert main(["run", "--run", run.name, "--deep", "--only", "01a"], notebooks=place) == 0
    assert main(["verify", run.name]) == 0


def test_a_sweep_makes_one_run_for_each_value(place, capsys):
    number = 'run.metric("sft.accuracy", baseline=0.5, candidate=0.5 + seed / 100, n=80, ci95=(0.1, 0.4))'
    make_notebook(place, "01_one", number, 'run.write_json("beta.json", {"beta": beta})', more="beta: float = 0.1")
    assert play(place, "--sweep", "seed=1,3") == 0
    runs = sorted((place.parent / "runs").iterdir(), key=lambda run: run.name[-1])
    assert [run.name.rsplit("-", 1)[1] for run in runs] == ["s1", "s3"]
    out = capsys.readouterr().out
    assert "sweep 2/2: seed=3" in out
    assert re.search(r"sft\.accuracy +0\.510 +0\.530 +0\.520 +0\.014", out)  # sd 0.02 / sqrt(2)
    assert all("Over seeds" in (run / "report.html").read_text() for run in runs)

    assert play(place, "--sweep", "beta=0.2,0.4", "--seed", "7") == 0
    made = sorted(set((place.parent / "runs").iterdir()) - set(runs))
    assert [json.loads((run / "artifacts/01_one/beta.json").read_text())["beta"] for run in made] == [0.2, 0.4]
    assert re.search(r"metric +beta=0\.2 +beta=0\.4\nsft\.accuracy +57\.0 % +57\.0 %", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sweep", "seed=1"], "expected NAME=V1,V2 with two or more values"),
        (["--sweep", "seed=1,1"], "expected NAME=V1,V2 with two or more values"),
        (["--sweep", "seed=1,b"], "expected whole numbers as seeds, got 'b'"),
        (["--sweep", "seed=1,2", "--seed", "3"], "leave out --run, --deep, and --seed"),
        (["--sweep", "betta=1,2"], "unknown parameter 'betta'"),
    ],
)
def test_a_sweep_that_does_not_fit_begins_nothing(place, capsys, options, message):
    make_notebook(place, "01_one", more="beta: float = 0.1")
    assert play(place, *options) == 2
    assert message in capsys.readouterr().err
    assert not (place.parent / "runs").exists()


def test_failing_cell_then_fixed_goes_on_and_skips_what_is_complete(place, capsys, tmp_path):
    count = f'with open({str(tmp_path / "count")!r}, "a") as f: f.write("x")'
    make_notebook(place, "01_one", count)
    make_notebook(place, "02_two", "def share(n):\n    return 1 / n\nshare(0)")
    assert play(place) == 1
    run = only_run(place)
    out = capsys.readouterr().out
    assert "02_two, cell 4: ZeroDivisionError: division by zero" in out
    assert "at: share(0)" in out
    assert f"make play RUN={run.name}" in out
    assert sorted(file.name for file in run.glob("*.ipynb")) == ["01_one.ipynb", "02_two.failed.ipynb"]
    assert json.loads((run / "summary.json").read_text())["notebooks"].keys() == {"01_one"}

    make_notebook(place, "02_two", "run.stage")
    assert main(["run", "--run", run.name], notebooks=place) == 0
    out = capsys.readouterr().out
    assert "[1/2] 01_one · complete before, skipped" in out and "[2/2] 02_two · complete in" in out
    assert (tmp_path / "count").read_text() == "x"
    assert sorted(file.name for file in run.glob("*.ipynb")) == ["01_one.ipynb", "02_two.ipynb"]

    assert main(["run", "--run", run.name, "--only", "01"], notebooks=place) == 0  # named: once more
    assert (tmp_path / "count").read_text() == "xx"

    assert main(["run", "--run", run.name, "--seed", "9"], notebooks=place) == 2
    assert f"run {run.name} was made with seed 17, asked for 9" in capsys.readouterr().err


def test_kernel_that_does_not_come_up_says_what_it_said(place, capsys, monkeypatch, tmp_path):
    (tmp_path / "ipykernel_launcher.py").write_text("raise SystemExit('no kernel today')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    make_notebook(place, "01_one")
    assert play(place) == 1
    assert "no kernel today" in capsys.readouterr().out


def test_leaving_early_is_no_success(place, capsys):
    """To papermill `sys.exit(0)` is a success; the manifest says otherwise."""
    make_notebook(place, "01_one", "sys.exit(0)")
    make_notebook(place, "02_two")
    assert play(place) == 1
    out = capsys.readouterr().out
    assert "01_one: every cell ended, but the notebook did not finish its stage" in out
    assert "02_two ·" not in out
    assert (only_run(place) / "01_one.failed.ipynb").exists()


def test_leaving_early_in_a_second_run_is_no_success_either(place, capsys):
    make_notebook(place, "01_one", "run.stage")
    assert play(place) == 0
    make_notebook(place, "01_one", "sys.exit(0)")
    assert main(["run", "--run", only_run(place).name, "--only", "01_one"], notebooks=place) == 1
    assert "did not finish its stage" in capsys.readouterr().out


def test_failed_gate_decides_the_exit_code_but_not_on_smoke(place, capsys):
    make_notebook(place, "01_one", GATE)
    assert play(place) == 0
    assert "FAIL (no evidence)" in capsys.readouterr().out
    assert play(place, profile="cpu") == 3
    out = capsys.readouterr().out
    assert "gate 'dup_rate' of 01_one FAILED: 0.5, needed <= 0.02; drop the duplicates" in out


def test_dead_kernel_is_told_apart(place, capsys):
    make_notebook(place, "01_one", "os.kill(os.getpid(), 9)")
    assert play(place) == 1
    assert "01_one: the kernel died; most often the memory ran out" in capsys.readouterr().out
    assert (only_run(place) / "01_one.failed.ipynb").exists()


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_kernel_and_says_how_to_go_on(place, tmp_path, sent):
    pid_file = tmp_path / "pid"
    wait = f"import time; Path({str(pid_file)!r}).write_text(str(os.getpid())); run.stage; time.sleep(600)"
    make_notebook(place, "01_one", "run.stage")
    make_notebook(place, "02_two", wait)
    code = (
        "import sys, pathlib; from ftlib.__main__ import main; "
        f"sys.exit(main(['run', '--profile', 'smoke'], notebooks=pathlib.Path({str(place)!r})))"
    )
    env = os.environ | {"PYTHONPATH": str(runner.REPOSITORY)}
    started = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)
    try:
        deadline = time.monotonic() + 120
        while not (pid_file.exists() and pid_file.read_text()):
            assert started.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(0.5)
        started.send_signal(sent)
        out, _ = started.communicate(timeout=60)
    finally:
        started.kill()
    assert started.returncode == 130
    run = only_run(place)
    assert "[2/2] 02_two · stopped; what was complete is kept" in out and f"make play RUN={run.name}" in out
    assert (run / "02_two.interrupted.ipynb").exists()
    assert (run / "artifacts/01_one/COMPLETE").exists() and not (run / "artifacts/02_two/COMPLETE").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_a_run_has_one_runner_at_a_time(place, capsys):
    make_notebook(place, "01_one", "run.stage")
    assert play(place) == 0
    run = only_run(place)
    with runner.hold(run):
        assert main(["run", "--run", run.name], notebooks=place) == 2
    assert "another `ftlib run` is at work in this run" in capsys.readouterr().err


def test_copy_of_a_notebook_that_was_killed_after_its_end_gets_its_name(tmp_path):
    working = tmp_path / ".01_one.running.ipynb"
    working.write_text('{"cells": []}')
    (tmp_path / "01_one.failed.ipynb").write_text("{}")
    runner.publish(tmp_path, "01_one")
    assert [file.name for file in tmp_path.iterdir()] == ["01_one.ipynb"]
    working.write_text('{"cells": [')  # cut off in the middle of a write
    runner.publish(tmp_path, "01_one")
    assert [file.name for file in tmp_path.iterdir()] == ["01_one.ipynb"]
    assert (tmp_path / "01_one.ipynb").read_text() == '{"cells": []}'


def test_plan_reads_values_by_the_type_of_the_default(place):
    more = (
        'rate: float = 0.1\npath: str = ""\nsizes: list = []\nwaive: dict = {}\nfast: bool = False\nmodel_id: str = "a"'
    )
    paths = [make_notebook(place, "01_one", more=more, minutes=1.5), make_notebook(place, "02_two")]
    settings = {"rate": "1e-3", "path": "017", "sizes": "[1, 2]", "waive": '{"g": "known"}', "fast": "true"}
    fixed = {"profile": "smoke", "run_dir": "r", "seed": 1, "headless": True}
    one, two = runner.plan(paths, fixed, settings=settings, model_id="b")
    assert one.parameters == fixed | {
        "rate": 1e-3, "path": "017", "sizes": [1, 2], "waive": {"g": "known"}, "fast": True, "model_id": "b",
    }  # fmt: skip
    assert (one.measured_seconds, one.model_id, one.cells) == (90.0, "b", 4)
    assert two.parameters == fixed and (two.measured_seconds, two.model_id) == (None, "")


def test_only_the_embedded_model_turns_the_hub_off(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert runner.kernel_environment(model_id="embedded")["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in runner.kernel_environment(model_id="owner/name")


def test_bars_of_the_kernel_reach_the_screen(place, tmp_path):
    """tqdm draws a widget in a kernel; its text arrives as messages, and so does plain output."""
    bar = "from tqdm.auto import tqdm\nfor _ in tqdm(range(3), desc='Sampling', mininterval=0): pass"
    path = make_notebook(place, "01_one", "run.stage", bar, "print('loss 0.5')")
    seen = []

    class Watched(Screen):
        def bar(self, text):
            seen.append(text)

    (step,) = runner.plan(
        [path], {"profile": "smoke", "run_dir": str(tmp_path / "r"), "seed": 1, "headless": True}, settings={}
    )
    (tmp_path / "r").mkdir()
    runner.execute(step, tmp_path / "r", screen=Watched(sys.stdout), env=runner.kernel_environment(model_id=""))
    assert any(re.match(r"3/3 \[", text) for text in seen)
    assert seen[-1] == "loss 0.5"


def test_verify_finds_a_changed_file(place, capsys):
    make_notebook(place, "01_one", 'run.write_json("a.json", {"x": 1})')
    assert play(place) == 0
    run = only_run(place)
    (run / "artifacts/01_one/a.json").write_text("{}")
    assert main(["verify", str(run)]) == 1
    assert "a.json: changed since 01_one completed" in capsys.readouterr().out
