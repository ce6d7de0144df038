"""Items to Argilla and Label Studio and votes back: sides, blindness, what is lost, what is refused."""

import json

import pytest
from test_exchange import HOSTILE
from test_ratings import item, rating

from ftlib.exchange import Imported, import_rows
from ftlib.label_tools import (
    argilla_records,
    label_studio_tasks,
    read_argilla,
    read_label_studio,
    write_tasks,
)
from ftlib.store import open_store

ITEMS = [item(n, source_a="authored", source_b="sampled") for n in range(20)]
ANN, SIM = "0b7d7b3e-0000-4000-8000-000000000001", "0b7d7b3e-0000-4000-8000-000000000002"
TOOLS = {
    "argilla": (argilla_records, read_argilla, {"ann": ANN, "sim": SIM}),
    "label studio": (label_studio_tasks, read_label_studio, {"ann": 7, "sim": 8}),
}
VOTES = [
    rating("c0", choice="A", helpfulness=1, harmlessness=-1, task_fit=0, reason='a\n"b"'),
    rating("c0", "sim", "B", simulated=True),
    rating("c1", choice="B", helpfulness=-1),
    rating("c2", choice="tie"),
    rating("c3", choice="both_bad"),
    rating("c4", choice="skip"),
]
each_tool = pytest.mark.parametrize("tool", TOOLS)


def verdicts(votes):
    lost = {"seconds", "left", "created_at"}
    return sorted(json.dumps(vote.model_dump(exclude=lost), sort_keys=True) for vote in votes)


@each_tool
def test_votes_come_back_by_answer_and_go_into_a_store(tool, store_url, tmp_path):
    make, read, users = TOOLS[tool]
    path = write_tasks(tmp_path / "tasks.json", make(ITEMS, VOTES, seed=1, users=users))
    placed = read(path, ITEMS, users=users)
    assert verdicts(one.row for one in placed) == verdicts(VOTES)
    assert placed[0].place == "tasks.json line 2, record 1"  # line 1 is the bracket
    store = open_store(store_url)
    store.add_items(ITEMS)
    assert import_rows(store, [], placed) == Imported(0, len(VOTES))
    store.close()


def test_label_studio_keeps_seconds_and_times(tmp_path):
    path = write_tasks(tmp_path / "t.json", label_studio_tasks(ITEMS, VOTES, seed=1, users={"ann": 7, "sim": 8}))
    assert {(one.row.seconds, one.row.created_at) for one in read_label_studio(path, ITEMS)} == {
        (1.5, "2026-01-02T03:04:05.000+00:00")
    }


@each_tool
def test_raters_are_blind_and_sides_are_drawn(tool):
    make, _, _ = TOOLS[tool]
    rows = make(ITEMS, seed=1)
    assert "authored" not in json.dumps(rows) and "sampled" not in json.dumps(rows)
    fields = [row.get("fields", row.get("data")) for row in rows]
    swapped = sum(one["left"] == that.answer_b for one, that in zip(fields, ITEMS, strict=True))
    assert 0 < swapped < len(ITEMS)
    assert make(ITEMS, seed=1) == rows != make(ITEMS, seed=2)


def test_the_forms_by_hand():
    """c0 shows answer A on the left for one of the seeds, so a vote for B is a vote for the right."""
    seed = next(s for s in range(9) if argilla_records(ITEMS[:1], seed=s)[0]["fields"]["left"] == "first 0")
    vote = [rating("c0", choice="B", helpfulness=-1, reason="why")]
    (record,) = argilla_records(ITEMS[:1], vote, seed=seed, users={"ann": ANN})
    assert record == {
        "id": "c0",
        "fields": {"prompt": "prompt 0", "left": "first 0", "right": "second 0"},
        "metadata": {},
        "suggestions": {},
        "responses": {
            "choice": [{"value": "right", "user_id": ANN}],
            "helpfulness": [{"value": "right", "user_id": ANN}],
            "reason": [{"value": "why", "user_id": ANN}],
        },
        "vectors": {},
    }
    (task,) = label_studio_tasks(ITEMS[:1], vote, seed=seed, users={"ann": 7})
    assert task["data"] == {"id": "c0", "prompt": "prompt 0", "left": "first 0", "right": "second 0"}
    (annotation,) = task["annotations"]
    assert annotation["result"][0] == {
        "from_name": "choice", "to_name": "prompt", "type": "choices", "value": {"choices": ["right"]},
    }  # fmt: skip
    assert annotation["result"][-1]["value"] == {"text": ["why"]}
    assert (annotation["completed_by"], annotation["was_cancelled"], annotation["lead_time"]) == (7, False, 1.5)


@each_tool
def test_hostile_texts_go_through(tool, tmp_path):
    make, read, users = TOOLS[tool]
    texts = [text for text in HOSTILE if text.strip()]
    items = [item(n, prompt=text, answer_a=text) for n, text in enumerate(texts)]
    votes = [rating(one.id, reason=one.prompt) for one in items]
    path = write_tasks(tmp_path / "t.json", make(items, votes, seed=1, users=users))
    assert verdicts(one.row for one in read(path, items, users=users)) == verdicts(votes)


def test_an_export_with_the_users_details_and_unknown_users(tmp_path):
    (task,) = label_studio_tasks(ITEMS[:1], [rating("c0")], seed=1, users={"ann": 7})
    annotation = task["annotations"][0]
    task["annotations"] = [
        annotation | {"completed_by": {"id": 7, "email": "ann@example.com"}},
        annotation | {"completed_by": {"email": "bob@example.com"}},
        annotation | {"completed_by": 9},
    ]
    placed = read_label_studio(write_tasks(tmp_path / "t.json", [task]), ITEMS, users={"ann": 7})
    assert [one.row.rater for one in placed] == ["ann", "bob@example.com", "9"]


@each_tool
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text.replace('"c1"', '"c99"'), "line 3, record 2: item 'c99' is not among the 20 items"),
        (lambda text: text.replace("prompt 1", "prompt one"), "record 2: item 'c1' has other texts there"),
        (lambda text: text.replace('"c1"', '"c0"'), "record 2: item 'c0' was in t.json line 2, record 1 already"),
        (lambda text: text.replace('"tie"', '"dunno"'), "record 3: ann: choice is 'dunno'; expected one of"),
        (lambda text: text.replace("helpfulness", "tone"), "record 1: question 'tone' is none of choice"),
        (lambda text: text.replace('"same"', '"neither"'), "record 1: ann: task_fit is 'neither'"),
        (lambda text: text.replace('a\\n\\"b\\"', "\\ud800"), r"record 1: reason: character 1 is '\\ud800'"),
        (lambda text: text.replace('"prompt"', '"promt"'), "record 1: not in the form that this tool writes"),
        (
            lambda text: text.replace(ANN, SIM).replace(": 7", ": 8"),
            "record 1: (sim voted on item 'c0' in|user .* answered 'choice' twice)",
        ),
        (lambda text: text[:-4], "the file ends within the array|not JSON"),
    ],
)  # fmt: skip
def test_a_file_at_fault_is_refused_with_its_place(tool, spoil, message, tmp_path):
    make, read, users = TOOLS[tool]
    path = write_tasks(tmp_path / "t.json", make(ITEMS[:5], VOTES, seed=1, users=users))
    spoilt = spoil(path.read_text(encoding="utf-8"))
    assert spoilt != path.read_text(encoding="utf-8")
    path.write_text(spoilt, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read(path, ITEMS, users=users)


@each_tool
def test_votes_without_an_item_or_an_account_are_refused(tool):
    make, _, users = TOOLS[tool]
    with pytest.raises(ValueError, match="ann voted on 'c99', which is not among the 20 items"):
        make(ITEMS, [rating("c99")], seed=1, users=users)
    with pytest.raises(ValueError, match="expected an id in .* for rater 'bob'; give users"):
        make(ITEMS, [rating("c0", "bob")], seed=1, users=users)
