"""Runs of notebooks for tests: the commands that users type."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ftlib.evidence import verify_run
from ftlib.runs import stage_path

ROOT = Path(__file__).resolve().parent.parent
EARLY, LATE = ("00", "01", "02", "03", "04", "05"), ("06", "07", "08")  # halves of the deep notebooks, by time


def environment(runs: Path) -> dict:
    return {**os.environ, "FTLIB_RUNS": str(runs), "TOKENIZERS_PARALLELISM": "false"}


def play(runs: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`python -m ftlib run` with its runs in this folder."""
    line = [sys.executable, "-m", "ftlib", "run", *arguments]
    return subprocess.run(line, cwd=runs, env=environment(runs), capture_output=True, text=True, check=False)


def command(name: str, out: Path, *parameters: str) -> list[str]:
    notebook = str(ROOT / "notebooks" / f"{name}.ipynb")
    return [sys.executable, "-m", "papermill", notebook, str(out), "--no-progress-bar", *parameters]


def papermill(name: str, out: Path, runs: Path, *parameters: str, cwd: Path) -> subprocess.CompletedProcess:
    given = {"cwd": cwd, "env": environment(runs), "capture_output": True, "text": True}
    return subprocess.run(command(name, out, *parameters), **given, check=False)


def deep_notebooks(*stages: str) -> list[str]:
    """The deep notebooks that deepen these numbered ones ("04")."""
    found = sorted((ROOT / "notebooks" / "deep").glob("*.ipynb"))
    return [path.stem for path in found if path.stem[:2] in stages]


def check_deep_notebook(name: str, chain: Path, folder: Path) -> None:
    """It completes over a copy of a finished run, by `make deep`, and the run verifies."""
    copy = folder / "runs" / chain.name
    shutil.copytree(chain, copy, ignore=shutil.ignore_patterns("checkpoints"))
    done = play(copy.parent, "--run", chain.name, "--deep", "--only", name.split("_")[0])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (stage_path(copy, name) / "COMPLETE").is_file()
    assert verify_run(copy) == []
