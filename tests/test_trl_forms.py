"""Pairs to TRL's forms and back; labels of single answers by hand."""

import re

import pytest
from test_ratings import item

from ftlib.records import PreferencePair, write_jsonl
from ftlib.trl_forms import read_trl, trl_rows, unpaired_rows


def pair(number: int, **changes) -> PreferencePair:
    fields = dict(id=f"c{number}", prompt=f"prompt {number}", chosen=f"good {number}", rejected=f"bad {number}")
    fields |= dict(kind="harmful", cluster="k", chosen_source="authored", rejected_source="greedy")
    fields |= dict(votes=["c0/ann=A"], basis="human raters", synthetic=False, split="train")
    return PreferencePair(**fields | changes)


def test_trl_form_and_back(tmp_path):
    from datasets import Dataset
    from trl.data_utils import is_conversational

    pairs = [pair(0, prompt='=1\n"x"'), pair(1, votes=[])]
    rows = trl_rows(pairs)
    assert [message["role"] for message in rows[0]["prompt"]] == ["system", "user"]
    assert rows[0]["chosen"] == [{"role": "assistant", "content": "good 0"}]
    data = Dataset.from_list(rows)
    assert is_conversational(data[0])
    path = tmp_path / "trl.jsonl"
    data.to_json(path)
    assert read_trl(path) == pairs


def test_trl_files_from_elsewhere_are_filled_up(tmp_path):
    fill = dict(kind="production", basis="labels of a set", chosen_source="?", rejected_source="?", synthetic=True)
    rows = [
        {"prompt": [{"role": "user", "content": "hi"}], "chosen": [{"role": "assistant", "content": "yes"}],
         "rejected": "no"},
        {"prompt": "hi", "chosen": "a", "rejected": "a"},
        {"prompt": [{"role": "user", "content": "hi"}] * 2, "chosen": "a", "rejected": "b"},
        {"prompt": [{"role": "system", "content": "Be rude."}, {"role": "user", "content": "hi"}], "chosen": "a",
         "rejected": "b"},
        {"prompt": "hi", "chosen": [{"role": "user", "content": "a"}], "rejected": "b"},
        {"prompt": "hi", "chosen": 3, "rejected": "b"},
    ]  # fmt: skip
    path = write_jsonl(tmp_path / "set.jsonl", rows[:1])
    (one,) = read_trl(path, fill=fill | {"split": "train"})
    assert (one.id, one.cluster, one.prompt, one.chosen, one.rejected) == ("set-1", "set-1", "hi", "yes", "no")
    path = write_jsonl(tmp_path / "set.jsonl", rows)
    with pytest.raises(ValueError, match="5 fault") as error:
        read_trl(path, fill=fill | {"split": "train"})
    for message in (
        "line 2: 'chosen' equals 'rejected'",
        "line 3: prompt: expected one message of the user .*, got user, user; a pair has no place for more",
        "line 4: prompt: expected one message of the user .*, got system, user",
        "line 5: chosen: expected one message of the assistant .*, got user",
        "line 6: chosen: Input should be a valid string",
    ):
        assert re.search(message, str(error.value))
    with pytest.raises(ValueError, match="line 1: split: Field required; add the field"):
        read_trl(write_jsonl(path, rows[:1]), fill=fill)


def test_unpaired_rows_by_hand():
    """Pair 0: good yes, bad no. Pair 1 turns pair 0's "good" into the loser: no label. Item 2, both bad: two noes, of
    which the empty one is left out."""
    pairs = [pair(0, prompt="p"), pair(1, prompt="p", chosen="best", rejected="good 0")]
    rows = unpaired_rows(pairs, [item(2, prompt="p", answer_a="awful", answer_b=" ")])
    assert [(row["id"], row["completion"][0]["content"], row["label"]) for row in rows] == [
        ("c0", "bad 0", False),
        ("c1", "best", True),
        ("c2", "awful", False),
    ]
