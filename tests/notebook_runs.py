"""Runs of notebooks for tests: the commands that users type."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


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
