"""The deep notebooks of 00 to 05, each over a copy of a finished smoke run; those of 06 are in a file of their own."""

import json

import pytest
from notebook_runs import EARLY, LATE, ROOT, check_deep_notebook, deep_notebooks, papermill

from ftlib.records import SftRow, data_path, load_jsonl

pytestmark = pytest.mark.deep


@pytest.mark.parametrize("name", deep_notebooks(*EARLY))
def test_it_completes_over_a_finished_run_that_still_verifies(name, chain, tmp_path):
    check_deep_notebook(name, chain, tmp_path)


def test_no_deep_notebook_is_left_out():
    every = {path.stem for path in (ROOT / "notebooks" / "deep").glob("*.ipynb")}
    assert every == {*deep_notebooks(*EARLY), *deep_notebooks(*LATE)}


def test_your_own_rows_may_be_texts_in_two_files(tmp_path):
    """Chats whose answers are texts, of which none comes twice: no label is seen, and words are counted."""
    rows = [row for row in load_jsonl(data_path("sft/train.jsonl"), SftRow) if row.task == "reply"]
    for name, part in (("train", rows[:40]), ("held_out", rows[40:60])):
        chats = [{"messages": [*row.prompt(), {"role": "assistant", "content": row.answer()}]} for row in part]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats), encoding="utf-8")
    files = ("-r", "train_path", str(tmp_path / "train.jsonl"), "-r", "eval_path", str(tmp_path / "held_out.jsonl"))
    given = ("-p", "profile", "smoke", "-p", "headless", "True", *files)
    runs = tmp_path / "runs"
    done = papermill("deep/02b_your_own_rows", tmp_path / "out.ipynb", runs, *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    (made,) = runs.glob("*/artifacts/02b_your_own_rows/own_rows.json")
    found = json.loads(made.read_text(encoding="utf-8"))
    assert (found["read"]["form"], found["labels"], found["score"]) == ("chat", [], "token_f1")
    assert (found["rows"], found["held_out"], found["twins_left_out"]) == (24, 8, 0)
    assert set(found["scores"]) == {"commonest answer", "zero-shot", "few-shot", "SFT"}
