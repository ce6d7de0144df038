"""The deep notebooks of 00 to 05, each over a copy of a finished smoke run; those of 06 are in a file of their own."""

import pytest
from notebook_runs import EARLY, LATE, ROOT, check_deep_notebook, deep_notebooks

pytestmark = pytest.mark.deep


@pytest.mark.parametrize("name", deep_notebooks(*EARLY))
def test_it_completes_over_a_finished_run_that_still_verifies(name, chain, tmp_path):
    check_deep_notebook(name, chain, tmp_path)


def test_no_deep_notebook_is_left_out():
    every = {path.stem for path in (ROOT / "notebooks" / "deep").glob("*.ipynb")}
    assert every == {*deep_notebooks(*EARLY), *deep_notebooks(*LATE)}
