"""A ratings store to files and back, on SQLite and PostgreSQL; hostile values. No cell is a formula."""

import csv
import io
import json
import re

import pytest
from test_ratings import item, rating

from ftlib.exchange import (
    Imported,
    Placed,
    export_store,
    import_rows,
    import_store,
    read_rows,
)
from ftlib.records import Candidate, Rating, load_jsonl, write_jsonl
from ftlib.sheets import csv_text, unguarded
from ftlib.store import open_store

HOSTILE = [
    "=cmd|' /C calc'!A0", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "'=1", "''=1", "'tis", "'", "",
    "\u00a0=1", "＝1", 'say "hi", twice', "a\nb\r\nc\rd", "\ufeffbom", "semi;colon,comma\ttab", " padded ",
    "ünïcödé 🙂", "\u2028line", "=" * 3, "true", "1e5", "null", "<b>&amp;</b>", "\x0b=1",
]  # fmt: skip
FORMULA = re.compile(r"\s*[=+\-@＝＋－＠\t\r\n]")


def hostile_items() -> list[Candidate]:
    texts = [text for text in HOSTILE if text.strip()]
    return [item(n, id=f"c{n}", prompt=text, answer_a=text, answer_b=HOSTILE[n]) for n, text in enumerate(texts)]


def hostile_votes() -> list[Rating]:
    ids = [one.id for one in hostile_items()]
    choices = ("A", "B", "tie", "both_bad", "skip")
    return [
        rating(
            ids[n % len(ids)], f"r{n}", choices[n % 5], reason=text, helpfulness=(-1, 0, 1, None)[n % 4],
            seconds=n / 3, left="AB"[n % 2], simulated=n % 2 == 0,
        )
        for n, text in enumerate(HOSTILE)
    ]  # fmt: skip


@pytest.fixture
def store(store_url):
    opened = open_store(store_url)
    yield opened
    opened.close()


def everything(store):
    return store.items(), store.ratings(), store.ratings(withdrawn=True)


# --- round trip ---


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_store_comes_back_as_it_was(store, form, tmp_path):
    """All texts, marks, seconds, sides and times; a withdrawn vote is not exported."""
    items, votes = hostile_items(), hostile_votes()
    store.load(items, votes)
    store.submit(rating(items[0].id, "second thoughts", "A"))
    store.withdraw_latest("second thoughts")
    files = export_store(store, tmp_path / "out", form=form)
    assert [path.name for path in files] == [f"items.{form}", f"ratings.{form}", f"held_back.{form}"]
    other = open_store(tmp_path / "other.db")
    assert import_store(other, *files) == Imported(len(items), len(votes))
    assert (other.items(), other.ratings(), other.ratings(withdrawn=True)) == (store.items(), votes, [])
    assert import_store(other, *files) == Imported(0, 0)  # again: nothing changes
    other.close()


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_files_go_into_either_database(store, form, tmp_path):
    source = open_store(tmp_path / "source.db")
    source.load(hostile_items(), hostile_votes())
    files = export_store(source, tmp_path, form=form)
    import_store(store, *files)
    assert everything(store) == everything(source)
    source.close()


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_gold_comes_back_without_a_place_in_the_queue(store, form, tmp_path):
    gold, real = item(1, id="gold-1"), item(2, id="c2")
    store.load([real], [rating("gold-1", "bob", "B"), rating("c2", "bob", "A")], [gold])
    assert (store.held_back(), store.item_count()) == ({"gold-1"}, 1)
    files = export_store(store, tmp_path, form=form)
    other = open_store(tmp_path / "other.db")
    assert import_store(other, *files) == Imported(2, 2)
    assert (other.held_back(), other.item_count(), len(other.items())) == ({"gold-1"}, 1, 2)
    assert other.claim("ann", overlap=5).id == "c2" and other.claim("ann", overlap=5).id == "c2"
    other.close()


def test_an_item_is_either_handed_out_or_held_back(store, tmp_path):
    write_jsonl(tmp_path / "items.jsonl", [item(1)])
    with pytest.raises(ValueError, match="items.jsonl line 1"):
        import_store(store, tmp_path / "items.jsonl", None, tmp_path / "items.jsonl")
    assert store.items() == []


def test_an_empty_store_makes_empty_files(tmp_path):
    source = open_store(tmp_path / "a.db")
    for form in ("jsonl", "csv"):
        assert import_store(source, *export_store(source, tmp_path, form=form)) == Imported(0, 0)
    source.close()


def test_no_cell_of_the_csv_is_a_formula(tmp_path):
    source = open_store(tmp_path / "a.db")
    source.load(hostile_items(), hostile_votes())
    numbers = {"helpfulness", "harmlessness", "task_fit"}
    for path in export_store(source, tmp_path, form="csv")[:2]:  # nothing is held back
        text = path.read_bytes().decode("utf-8")
        assert text[0] == "\ufeff"  # Excel reads it as UTF-8
        rows = list(csv.DictReader(io.StringIO(text[1:], newline="")))
        assert len(rows) > 20
        cells = [cell for row in rows for name, cell in row.items() if name not in numbers]
        assert [cell for cell in cells if FORMULA.match(cell)] == []
        assert {row[name] for row in rows for name in numbers & row.keys()} <= {"", "-1", "0", "1"}
    source.close()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_guarded_cell_gives_its_text_back(text):
    (cell,) = list(csv.reader(io.StringIO(csv_text([{"a": text, "b": ""}], columns=("a", "b")), newline="")))[1][:1]
    assert unguarded(cell) == text and not FORMULA.match(cell)


def test_what_a_spreadsheet_saves_is_read(tmp_path):
    """Semicolons, TRUE and FALSE, no byte order mark, no reason column."""
    path = tmp_path / "ratings.csv"
    path.write_text(
        "item_id;rater;choice;helpfulness;harmlessness;task_fit;seconds;left;simulated;created_at\r\n"
        "c0;ann;A;-1;;1;2;B;TRUE;today\r\n"
    )
    (one,) = read_rows(path, Rating)
    wanted = rating(helpfulness=-1, task_fit=1, seconds=2.0, left="B", simulated=True, created_at="today")
    assert one == Placed("ratings.csv line 2", wanted)


# --- what is refused ---

HEADER = ",".join(Rating.model_fields)
ROW = "c0,ann,A,,,,,1.5,A,False,today"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEADER + ",note", ROW + ",x"], "ratings.csv line 1: 'note' is no column of Rating rows"),
        ([HEADER.replace("rater", "raters"), ROW], "line 1: 'raters' is no column .*did you mean 'rater'"),
        ([HEADER.replace(",choice", ""), ROW.replace(",A,,", ",,", 1)], "line 2: choice: Field required"),
        ([HEADER, ROW, ROW.replace("A,,", "C,,")], "line 3: choice: Input should be 'A', 'B'"),
        ([HEADER, ROW.replace("1.5", "-1.5")], "line 2: seconds: Input should be a valid number"),
        ([HEADER, ROW.replace("1.5", "nan")], "line 2: seconds"),
        ([HEADER, ROW.replace("False", "maybe")], "line 2: simulated: Input should be a valid boolean"),
        ([HEADER, ROW.replace("A,,", "A,2,")], "line 2: helpfulness: Input should be -1, 0 or 1"),
        ([HEADER, ROW.replace("ann", " ")], "line 2: rater: .*it is blank"),
        ([HEADER, ROW.replace("c0", "c" * 201)], "line 2: item_id: expected at most 200 characters, got 201"),
        ([HEADER, ROW.replace("ann", "a\0b")], r"line 2: rater: character 2 is '\\x00', which a database cannot"),
        ([HEADER, ROW, ROW.replace("A,,", "B,,")], "line 3: ann voted on item 'c0' in ratings.csv line 2 already"),
        ([HEADER, '"a\nb",' + ROW[3:], ROW.replace("c0", "c9")], "ratings.csv line 4: a vote on item 'c9', which is"),
        ([HEADER, ROW + ",more"], "line 2: expected 11 cells .*, got 12"),
        ([HEADER, '"' + ROW], "not CSV"),
        ([HEADER + ",rater", ROW + ",x"], "line 1: expected a header of different names"),
    ],
)  # fmt: skip
def test_a_csv_at_fault_is_refused_with_its_line(store, lines, message, tmp_path):
    store.load([item(0), item(1, id="a\nb")], [rating("c0", "bob")])
    before = everything(store)
    path = tmp_path / "ratings.csv"
    path.write_bytes("\r\n".join(lines).encode())
    with pytest.raises(ValueError, match=message):
        import_store(store, None, path)
    assert everything(store) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reason": "\ud800 half"}, r"line 2: reason: character 1 is '\\ud800', which a database cannot keep"),
        ({"reason": "a\0"}, r"line 2: reason: character 2 is '\\x00'"),
        ({"raiter": "ann"}, "line 2: raiter: Extra inputs .*did you mean 'rater'"),
        ({"item_id": "c9"}, "line 2: a vote on item 'c9', which is neither in the store nor in the items' file"),
        ({"rater": "bob"}, "line 2: bob says 'A' on item 'c0', but another vote of theirs .'B'. stands"),
        ({"rater": "cat"}, "line 2: cat voted on item 'c0' in ratings.jsonl line 1 already"),
        ({"simulated": "false"}, "line 2: simulated: Input should be a valid boolean"),
    ],
)
def test_jsonl_at_fault_is_refused_with_its_line_and_the_store_stays(store, change, message, tmp_path):
    store.load([item(0)], [rating("c0", "bob", "B")])
    before = everything(store)
    rows = [rating("c0", "cat").model_dump(), rating().model_dump() | change]
    path = tmp_path / "ratings.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    write_jsonl(tmp_path / "items.jsonl", [item(1)])
    with pytest.raises(ValueError, match=message):
        import_store(store, tmp_path / "items.jsonl", path)
    assert everything(store) == before


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "ratings.csv").write_bytes(
        HEADER.encode() + b"\r\n" + ROW.replace("ann", "J\xfcrgen").encode("latin-1")
    )
    with pytest.raises(ValueError, match="ratings.csv line 2: byte 0xfc .* is not utf-8"):
        read_rows(tmp_path / "ratings.csv", Rating)
    with pytest.raises(FileNotFoundError, match="expected a file of rows"):
        read_rows(tmp_path / "none.csv", Rating)


def test_items_with_an_id_twice_or_other_texts_are_refused(store, tmp_path):
    store.add_items([item(0)])
    path = write_jsonl(tmp_path / "items.jsonl", [item(1), item(1, prompt="another")])
    with pytest.raises(ValueError, match="items.jsonl line 2: id 'c1' was used in items.jsonl line 1 already"):
        import_store(store, path, None)
    path = write_jsonl(tmp_path / "items.jsonl", [item(1), item(0, prompt="another")])
    with pytest.raises(ValueError, match="items.jsonl line 2: the store has item 'c0' with other texts"):
        import_store(store, path, None)
    assert store.items() == [item(0)]


def test_a_file_that_counts_takes_the_place_of_other_votes(store, tmp_path):
    store.load([item(0)], [rating(choice="B")])
    path = write_jsonl(tmp_path / "ratings.jsonl", [rating(choice="A")])
    assert import_store(store, None, path, replace=True) == Imported(0, 1)
    assert [vote.choice for vote in store.ratings()] == ["A"]
    assert [vote.choice for vote in store.ratings(withdrawn=True)] == ["B"]


def test_an_error_within_the_transaction_leaves_nothing(store):
    """The check reads before it writes; should another program come between, the store itself refuses."""
    with pytest.raises(ValueError, match="item 'c9' is not in"):
        store.load([item(0)], [rating("c0"), rating("c9")])
    assert everything(store) == ([], [], [])


def test_a_text_that_no_file_can_hold_is_named_on_the_way_out(tmp_path):
    source = open_store(tmp_path / "a.db")
    source.add_items([item(0, answer_a="\ud83d")])
    with pytest.raises(ValueError, match=r"item c0: answer_a: character 1 is '\\ud83d'"):
        export_store(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="form 'jsonl' or 'csv', got 'xlsx'"):
        export_store(source, tmp_path, form="xlsx")
    source.close()


def test_a_runs_own_files_can_be_imported(store):
    """The recorded items and votes of the playbook, as notebook 03 reads them."""
    from ftlib.records import data_path

    files = [data_path(f"preferences/{name}.jsonl") for name in ("candidates", "votes")]
    wanted = [load_jsonl(path, model) for path, model in zip(files, (Candidate, Rating), strict=True)]
    assert import_store(store, *files) == Imported(len(wanted[0]), len(wanted[1]))
    assert store.ratings() == wanted[1]


def test_rows_read_elsewhere_are_checked_as_well(store):
    with pytest.raises(ValueError, match="somewhere: a vote on item 'c9'"):
        import_rows(store, [], [Placed("somewhere", rating("c9"))])
