"""records: rows are checked once, at load, and every fault says where it is and what to do."""

import json
import os

import pytest
from pydantic import ValidationError

from ftlib import files, records
from ftlib.records import GateResult, PreferencePair, Rating, SftRow, Target, load_jsonl, parse_target, write_jsonl

CLASSIFY = {
    "id": "c-1",
    "task": "classify",
    "channel": "chat",
    "difficulty": "easy",
    "input": "Where is my tent? TH-48213",
    "output": {"intent": "order_status", "order_id": "TH-48213", "product": "tent", "route": "orders"},
}
REPLY = {
    "id": "r-1",
    "task": "reply",
    "channel": "email",
    "difficulty": "hard",
    "input": "Can I return worn boots?",
    "context": "R1: worn goods are not taken back.",
    "output": "We cannot take worn boots back.",
    "facts": ["worn"],
}


def write_lines(path, *lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines), "utf-8")
    return path


def test_every_intent_has_a_route_and_the_label_lists_are_sets():
    assert set(records.ROUTE_OF_INTENT) == set(records.INTENTS)
    assert set(records.ROUTE_OF_INTENT.values()) <= set(records.ROUTES)
    for labels in (records.INTENTS, records.ROUTES, records.PRODUCTS):
        assert len(set(labels)) == len(labels)


def test_system_prompts_are_short_and_name_the_json_fields():
    # A token of English is about 1.3 words for a small BPE vocabulary, so 22 words keep it under 30 tokens.
    assert all(len(text.split()) <= 22 for text in records.SYSTEM.values())
    assert all(field in records.SYSTEM["classify"] for field in Target.model_fields)
    assert "refuse" not in records.SYSTEM["assistant"].lower()


def test_classify_row_makes_prompt_and_compact_answer_in_field_order():
    row = SftRow(**CLASSIFY)
    assert [message["role"] for message in row.prompt()] == ["system", "user"]
    assert row.prompt()[1]["content"] == "Where is my tent? TH-48213"
    assert row.answer() == '{"intent":"order_status","order_id":"TH-48213","product":"tent","route":"orders"}'
    assert parse_target(row.answer()) == row.output


def test_reply_row_puts_the_policy_before_the_customer():
    row = SftRow(**REPLY)
    assert row.prompt()[1]["content"] == (
        "Policy:\nR1: worn goods are not taken back.\n\nCustomer:\nCan I return worn boots?"
    )
    assert row.answer() == "We cannot take worn boots back."


def test_rows_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        SftRow(**REPLY).input = "other"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[1]",
        "Sure! " + SftRow(**CLASSIFY).answer(),
        SftRow(**CLASSIFY).answer() + " done",
        '{"intent":"billing","order_id":null,"product":null}',  # a field is missing
        '{"intent":"billing","order_id":null,"product":null,"route":"billing","x":1}',  # one too many
        '{"intent":"billing","order_id":48213,"product":null,"route":"billing"}',  # a number, not a text
        '{"intent":"billing","intent":"exchange","order_id":null,"product":null,"route":"billing"}',  # twice
        '{"intent":"billing","order_id":NaN,"product":null,"route":"billing"}',
        "[" * 100_000,
    ],
)
def test_parse_target_is_strict(text):
    assert parse_target(text) is None


def test_parse_target_keeps_an_unknown_label_because_it_is_a_wrong_answer_not_broken_json():
    text = ' {"intent":"tracking","order_id":null,"product":"head torch","route":"orders"}\n'
    assert parse_target(text) == Target(intent="tracking", order_id=None, product="head torch", route="orders")


def test_write_then_load_gives_the_same_rows(tmp_path):
    rows = [SftRow(**CLASSIFY), SftRow(**REPLY | {"input": "über\u2028zwei\x0cdrei 😊"})]
    assert load_jsonl(write_jsonl(tmp_path / "new" / "rows.jsonl", rows), SftRow) == rows


def test_load_tolerates_a_byte_order_mark_crlf_and_blank_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(CLASSIFY).encode() + b"\r\n\r\n  \n" + json.dumps(REPLY).encode())
    assert [row.id for row in load_jsonl(path, SftRow)] == ["c-1", "r-1"]


def test_load_names_file_line_field_and_what_to_do(tmp_path):
    label = json.loads(json.dumps(CLASSIFY))
    label["output"]["intent"] = "order_stats"
    missing = {key: value for key, value in REPLY.items() if key != "channel"} | {"chanel": "chat"}
    path = write_lines(tmp_path / "train.jsonl", CLASSIFY, label, missing, "{broken")
    with pytest.raises(ValueError) as caught:
        load_jsonl(path, SftRow)
    head, *faults = str(caught.value).split("\n")
    assert head == f"{path}: 4 fault(s)"
    assert faults[0] == (
        "train.jsonl line 2: output: intent is 'order_stats', not a known intent (did you mean 'order_status'?)"
    )
    assert faults[1] == "train.jsonl line 3: channel: Field required; add the field"
    assert faults[2].startswith("train.jsonl line 3: chanel: Extra inputs are not permitted; remove the field")
    assert faults[2].endswith("(did you mean 'channel'?)")
    assert faults[3].startswith("train.jsonl line 4: not a JSON object (")
    assert faults[3].endswith("; write one object a line")


def test_load_lists_five_faults_and_counts_the_rest(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", *["nonsense"] * 8)
    with pytest.raises(ValueError, match=r"8 fault\(s\)") as caught:
        load_jsonl(path, SftRow)
    assert str(caught.value).count("x.jsonl line") == 5
    assert str(caught.value).endswith("… and 3 more")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": " \n"}, "line 1: input: .*; fill it in; it is blank"),
        ({"difficulty": "eas"}, "line 1: difficulty: Input should be 'easy', 'medium' or 'hard'"),
        ({"output": "hello"}, "line 1: task is 'classify', so 'output' must be an object"),
        ({"output": {"intent": "billing"}}, "line 1: output.order_id: Field required"),
        ({"task": "reply"}, "line 1: task is 'reply', so 'output' must be a text"),
        ({"id": 7}, "line 1: id: .*put the value in quotes"),
    ],
)
def test_load_names_each_kind_of_schema_break(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_jsonl(write_lines(tmp_path / "x.jsonl", CLASSIFY | change), SftRow)


def test_load_names_both_lines_of_a_duplicate_id(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", CLASSIFY, "", REPLY | {"id": "c-1"})
    with pytest.raises(ValueError, match="line 3: id: 'c-1' was used in line 1; give each row its own id"):
        load_jsonl(path, SftRow)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_load_refuses_a_file_without_rows(tmp_path, content):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected SftRow rows, found none"):
        load_jsonl(path, SftRow)


def test_load_refuses_other_encodings_and_lists(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(json.dumps(REPLY | {"input": "f\u00fcr"}, ensure_ascii=False).encode("latin-1") + b"\n[1]\n")
    with pytest.raises(ValueError, match=r"line 1: not UTF-8 at byte \d+(.|\n)*line 2: not a JSON object; write one"):
        load_jsonl(path, SftRow)


def test_load_of_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"gone\.jsonl: expected a JSON Lines file of SftRow rows.*check the path"
    ):
        load_jsonl(tmp_path / "gone.jsonl", SftRow)


def test_ratings_have_no_id_and_may_repeat_an_item(tmp_path):
    rating = {
        "item_id": "i",
        "rater": "r1",
        "choice": "A",
        "helpfulness": 1,
        "harmlessness": 0,
        "task_fit": None,
        "seconds": 4,
        "left": "B",
        "simulated": True,
        "created_at": "2026-01-01T00:00:00Z",
    }
    path = write_lines(tmp_path / "votes.jsonl", rating, rating | {"rater": "r2"})
    assert [row.rater for row in load_jsonl(path, Rating)] == ["r1", "r2"]
    with pytest.raises(ValueError, match="line 1: helpfulness: Input should be -1, 0 or 1; use one of the values"):
        load_jsonl(write_lines(path, rating | {"helpfulness": 2}), Rating)


def test_a_pair_whose_answers_are_equal_is_refused():
    pair = dict.fromkeys(("id", "prompt", "cluster", "chosen_source", "rejected_source", "basis"), "x")
    pair |= {"kind": "harmful", "synthetic": False, "split": "train"}
    with pytest.raises(ValidationError, match="'chosen' equals 'rejected'; drop the row or rate it again"):
        PreferencePair(chosen="No.", rejected="No. ", **pair)


def test_a_gate_takes_no_nan_and_no_verdict_without_a_value():
    gate = {"id": "g", "notebook": "02_sft", "threshold": 1, "op": ">=", "n": 3, "ci95": (0, 1)}
    assert GateResult(value=2, verdict="PASS", **gate).ci95 == [0.0, 1.0]
    with pytest.raises(ValidationError, match="finite number"):
        GateResult(value=float("nan"), verdict="PASS", **gate)
    with pytest.raises(ValidationError, match="verdict is PASS without a value"):
        GateResult(value=None, verdict="PASS", **gate)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "x.jsonl", [{"a": 1}])

    def full_disk(source, target):
        raise OSError("no space left on device")

    monkeypatch.setattr(files.os, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_jsonl(path, [{"a": 2}])
    assert path.read_text("utf-8") == '{"a": 1}\n'
    assert os.listdir(tmp_path) == ["x.jsonl"]


def test_data_path_does_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert records.data_path("policy.md").is_file()
