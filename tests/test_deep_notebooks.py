"""The deep notebooks, each over a copy of a finished smoke run: `make deep RUN=<run_id> ARGS="--only 02a"`."""

import shutil

import pytest
from notebook_runs import ROOT, play

from ftlib.evidence import verify_run
from ftlib.runs import stage_path

DEEP = [path.stem for path in sorted((ROOT / "notebooks" / "deep").glob("*.ipynb"))]
pytestmark = pytest.mark.deep


@pytest.mark.parametrize("name", DEEP)
def test_it_completes_over_a_finished_run_that_still_verifies(name, chain, tmp_path):
    copy = tmp_path / "runs" / chain.name
    shutil.copytree(chain, copy, ignore=shutil.ignore_patterns("checkpoints"))
    done = play(copy.parent, "--run", chain.name, "--deep", "--only", name.split("_")[0])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (stage_path(copy, name) / "COMPLETE").is_file()
    assert verify_run(copy) == []
