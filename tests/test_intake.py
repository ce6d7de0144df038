"""Rows of your own: each format, form and encoding, and each fault with file and line."""

import json
import tracemalloc

import pytest

from ftlib.intake import as_record, count_rows, load_rows, sniff_encoding, stream_rows
from ftlib.records import SftRow, data_path

CHAT = {"messages": [{"role": "user", "content": "Où est ma tente ?"}, {"role": "assistant", "content": "En route."}]}
PAIR = {"prompt": "Where is my tent?", "completion": "On its way."}


def lines(path, *rows, encoding="utf-8", newline="\n"):
    path.write_bytes(newline.join(json.dumps(row, ensure_ascii=False) for row in rows).encode(encoding))
    return path


def test_chat_rows_end_with_the_answer(tmp_path):
    reading, rows = load_rows(lines(tmp_path / "mine.jsonl", CHAT))
    assert (reading.form, reading.format, reading.encoding) == ("chat", "jsonl", "utf-8")
    assert rows[0].prompt() == CHAT["messages"][:1]
    assert (rows[0].input, rows[0].answer()) == ("Où est ma tente ?", "En route.")
    assert (rows[0].id, rows[0].place) == ("mine-1", "mine.jsonl line 1")


def test_the_columns_taken_are_said_and_the_others_kept(tmp_path):
    path = lines(tmp_path / "mine.jsonl", {"id": 7, "text": "Hi", "category": "greeting", "channel": "chat", "n": 3})
    reading, rows = load_rows(path)
    assert (reading.form, reading.prompt, reading.answer) == ("prompt and completion", "text", "category")
    assert rows[0].id == "7" and rows[0].fields == {"channel": "chat"}


def test_columns_by_name(tmp_path):
    path = lines(tmp_path / "mine.jsonl", {"q": "Hi", "a": {"intent": "greeting"}})
    reading, rows = load_rows(path, columns={"prompt": "q", "completion": "a"})
    assert rows[0].answer() == '{"intent":"greeting"}'
    with pytest.raises(
        ValueError, match=r"mine\.jsonl line 1: columns is {'prompt': 'z'}; expected .*out of \['q', 'a'\]"
    ):
        load_rows(path, columns={"prompt": "z"})
    with pytest.raises(ValueError, match=r"expected 'messages', or a prompt .*got \['q', 'a'\]; rename the columns"):
        load_rows(path)


def test_the_playbooks_own_rows_come_checked():
    reading, rows = load_rows(data_path("sft/validation.jsonl"))
    assert reading.form == "sft" and len(rows) == 160 and isinstance(rows[0], SftRow)


def test_what_is_written_is_read_again(tmp_path):
    _, rows = load_rows(lines(tmp_path / "mine.jsonl", CHAT | {"channel": "chat"}, CHAT))
    again = load_rows(lines(tmp_path / "again.jsonl", *map(as_record, rows)))[1]
    told = lambda row: (row.id, row.prompt(), row.answer(), row.fields)
    assert [told(row) for row in again] == [told(row) for row in rows]
    _, shop = load_rows(data_path("sft/validation.jsonl"))
    assert load_rows(lines(tmp_path / "shop.jsonl", *map(as_record, shop)))[1] == shop


def test_a_shop_row_with_a_misspelt_field_stays_a_shop_row(tmp_path):
    row = json.loads(data_path("sft/validation.jsonl").read_text(encoding="utf-8").splitlines()[0])
    row["tusk"] = row.pop("task")
    with pytest.raises(ValueError, match=r"mine\.jsonl line 1: task: Field required"):
        load_rows(lines(tmp_path / "mine.jsonl", row))


def test_rows_with_some_of_a_shop_rows_columns_are_ones_own(tmp_path):
    own = {"id": "t1", "channel": "mail", "context": "spring sale", "input": "Is it open?", "output": "Yes."}
    reading, rows = load_rows(lines(tmp_path / "mine.jsonl", own))
    assert (reading.form, reading.prompt, reading.answer) == ("prompt and completion", "input", "output")
    assert rows[0].fields == {"channel": "mail", "context": "spring sale"}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig", "cp1252"])
def test_shop_rows_come_in_other_encodings_too(tmp_path, encoding):
    row = json.loads(data_path("sft/validation.jsonl").read_text(encoding="utf-8").splitlines()[0])
    row["input"] = "O\u00f9 est ma tente ?"
    path = lines(tmp_path / "mine.jsonl", row, encoding=encoding)
    named = {"encoding": encoding} if encoding == "cp1252" else {}
    (found,) = load_rows(path, **named)[1]
    assert isinstance(found, SftRow) and found.input == row["input"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_unicode_encodings_are_told_apart(tmp_path, encoding, newline):
    _, rows = load_rows(lines(tmp_path / "mine.jsonl", CHAT, PAIR | CHAT, encoding=encoding, newline=newline))
    assert [row.input for row in rows] == ["Où est ma tente ?"] * 2


def test_an_8_bit_encoding_must_be_named(tmp_path):
    """Line 2 holds Latin-1's ù, 0xf9: no text in UTF-8."""
    path = lines(tmp_path / "mine.jsonl", PAIR, {"prompt": "Où ?", "completion": "x"}, encoding="latin-1")
    with pytest.raises(ValueError, match=r"mine\.jsonl line 2: byte 0xf9 at 13 is not utf-8; .*encoding='cp1252'"):
        load_rows(path)
    assert load_rows(path, encoding="latin-1")[1][1].input == "Où ?"
    with pytest.raises(ValueError, match="an encoding that Python knows, got 'latin-99'"):
        load_rows(path, encoding="latin-99")


def test_csv_with_quotes_line_breaks_and_a_semicolon(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes('text;category\r\n"one; two\r\nthree";a\r\n\r\nfour;b\r\n'.encode("utf-8-sig"))
    reading, rows = load_rows(path)
    assert [(row.input, row.answer(), row.place) for row in rows] == [
        ("one; two\r\nthree", "a", "mine.csv line 2"),
        ("four", "b", "mine.csv line 5"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,category\na,b\nc,d,e\n", r"line 3: expected 2 cells \(text, category\), got 3; put texts"),
        ("text,text\na,b\n", r"line 1: expected a header of different names"),
        ('text,category\n"a,b\n', r"not CSV .*is a quote left open"),
        ("text,category\n", r"expected rows, found none"),
        ("", r"expected rows, found none"),
    ],
)
def test_faults_of_csv(tmp_path, text, message):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_rows(path)


def test_json_arrays_are_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("ftlib.intake.CHUNK", 7)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([PAIR, PAIR | {"id": "z"}], indent=1))
    assert [(row.id, row.place) for row in load_rows(path)[1]] == [
        ("mine-1", "mine.json line 2"),
        ("z", "mine.json line 6"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected rows, found none"),
        ('{"data": []}', r"line 1: expected '\[', got '{'"),
        ('[{"prompt": "a", "completion": "b"}\n{}]', r"line 2: expected ',', got '{'"),
        ('[{"prompt": "a", "completion": "b"},\n{"prompt": }]', r"line 2: not JSON"),
        ('[{"prompt": "a", "completion": "b"}', r"line 1: the file ends within the array"),
        ('[{"prompt": "a", "prompt": "b"}]', r"line 1: not JSON \(a key is there twice\)"),
        ("[3]", r"line 1: expected an object, got int"),
        (
            '[{"prompt": "a", "completion": "b"}]\n[{"prompt": "c", "completion": "d"}]',
            r"line 1: expected the end of the file behind '\]', got '\[\{\"prompt\": .*join the arrays to one",
        ),
    ],
)
def test_faults_of_json(tmp_path, text, message):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_rows(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1], "expected an object, got list"),
        ({"prompt": "a", "completion": 3}, r"line 2: completion: expected a text, got 3; write the label's name"),
        ({"prompt": None, "completion": "b"}, "prompt: expected a text, got nothing"),
        (PAIR | {"id": "first"}, r"line 2: id 'first' was used in line 1; give each row its own id"),
        ({"prompt": [{"role": "robot", "content": "x"}], "completion": "b"}, "message 1 has role 'robot'"),
    ],
)
def test_faults_of_rows(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        load_rows(lines(tmp_path / "mine.jsonl", PAIR | {"id": "first"}, row))


def test_faults_of_chats(tmp_path):
    open_end = {"messages": CHAT["messages"][:1]}
    with pytest.raises(ValueError, match=r"line 2: expected messages that end with the assistant's.*got \['user'\]"):
        load_rows(lines(tmp_path / "mine.jsonl", CHAT, open_end))


def test_faults_of_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a file of rows, found none"):
        load_rows(tmp_path / "none.jsonl")
    (tmp_path / "mine.xlsx").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"expected a name that ends in \.jsonl, .*got '\.xlsx'"):
        load_rows(tmp_path / "mine.xlsx")
    (tmp_path / "broken.jsonl").write_text("{not json}\n")
    with pytest.raises(ValueError, match=r"broken\.jsonl line 1: not JSON .*write one object a line"):
        load_rows(tmp_path / "broken.jsonl")


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_a_long_file_is_streamed(tmp_path, suffix):
    """20,000 rows of 1,000 characters are 20 MB; read as a stream they take less than a quarter of that."""
    path, n = tmp_path / f"long.{suffix}", 20_000
    row = json.dumps({"prompt": "x" * 1000, "completion": "y"})
    if suffix == "csv":
        path.write_text("prompt,completion\n" + f"{'x' * 1000},y\n" * n)
    else:
        path.write_text(f"[{','.join([row] * n)}]" if suffix == "json" else f"{row}\n" * n)
    tracemalloc.start()
    assert sum(1 for _ in stream_rows(path)[1]) == n
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


def test_a_hub_data_set_by_its_id(tmp_path):
    """A folder stands in for the hub here: `datasets` reads both by the same call."""
    lines(tmp_path / "train.jsonl", PAIR, PAIR)
    reading, rows = load_rows(f"hub:{tmp_path}")
    assert reading.format == "hub" and len(rows) == 2
    assert rows[1].place.endswith("[train] row 2")


def test_an_empty_file_counts_as_utf_8(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"")
    assert sniff_encoding(tmp_path / "x.txt") == "utf-8"


def test_rows_are_counted_in_any_form(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\none,a\n\ntwo,b\nthree,a\n", encoding="utf-8")
    assert count_rows(path) == 3
