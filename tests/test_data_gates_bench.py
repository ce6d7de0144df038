"""The benchmark of the data gates at small: every kind of fault once, a clean set once, and its arithmetic."""

import numpy as np
import pytest

from benchmarks import data_gates as bench
from benchmarks.cases.faults import KINDS, DataSet, one_edit
from ftlib.records import SftRow, data_path, load_jsonl

SEED = 100  # none of the benchmark's


@pytest.fixture(scope="module")
def encoder():
    return bench._encoder()


@pytest.fixture(scope="module")
def clean() -> DataSet:
    train, test = (load_jsonl(data_path(f"sft/{name}.jsonl"), SftRow) for name in ("train", "test"))
    return DataSet(bench._draw(train, SEED), test)


def failed(findings) -> set[str]:
    return {finding.id for finding in findings if bench._verdict(finding) == "FAIL"}


def test_a_clean_set_passes_every_gate(clean, encoder):
    assert failed([*bench.judge(clean, *encoder), bench._audited(clean, clean, SEED)]) == set()


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_fault_fails_its_gate(kind, clean, encoder):
    planter, gate = KINDS[kind]
    spoilt = planter(clean, np.random.default_rng(SEED), encoder[0])
    assert spoilt.planted and len({row.id for row in spoilt.train}) == len(spoilt.train)
    audited = [bench._audited(spoilt, clean, SEED)] if gate == "audit_correct" else []
    assert gate in failed([*bench.judge(spoilt, *encoder), *audited])


def test_rows_are_tokenised_as_the_trainer_does(clean, encoder):
    """The prompt carries no loss, the answer does, and it ends with the stop token and a line break."""
    encode, eos = encoder
    tokens = encode(clean.train[0])
    carried = [label for label in tokens["labels"] if label != -100]
    assert tokens["labels"][0] == -100 and carried[-2] == eos
    assert tokens["input_ids"][-len(carried) :] == carried


def test_one_edit_changes_at_most_two_words():
    text = "the tent came with a hole in its side"
    for seed in range(20):
        edited = one_edit(text, np.random.default_rng(seed))
        assert len(set(edited.split()) ^ set(text.split())) <= 2


def test_counts_come_with_their_interval():
    """0 of 20: Wilson's interval ends at 0.161, so at 3.2 sets."""
    line = bench._count("missed", 0, 20)
    assert line["holds"] and line["spread"] == pytest.approx([0, 3.22], abs=0.01)
    assert not bench._count("missed", 1, 20)["holds"]


def test_a_streamed_file_is_counted_in_a_process_of_its_own():
    """2 MB of rows of about 1 kB: each is there again, and the process stays far below the target of the 1 GB file."""
    (row,), (lost, peak) = bench.streamed(2_000_000)
    assert 2_000_000 <= row["bytes"] < 2_002_000 and row["rows"] == row["rows_written"] > 1_900
    assert lost["value"] == 0 and lost["holds"] and row["seconds"] > 0
    assert 0 < peak["value"] == row["peak_mb"] and peak["holds"]
