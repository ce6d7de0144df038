"""The deep notebooks of 06 and later, over a copy of a finished smoke run: the other half of the time."""

import pytest
from notebook_runs import LATE, check_deep_notebook, deep_notebooks

pytestmark = pytest.mark.deep


@pytest.mark.parametrize("name", deep_notebooks(*LATE))
def test_it_completes_over_a_finished_run_that_still_verifies(name, chain, tmp_path):
    check_deep_notebook(name, chain, tmp_path)
