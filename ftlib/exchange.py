"""A ratings store as files, and back: JSON Lines for programs, CSV for spreadsheets.

A file is read and checked as a whole before the store is touched: every fault names file and line, and after an error
the store is as it was. Importing twice changes nothing; a vote that differs from one that stands is a fault, unless the
file is said to be the one that counts.

Both forms lose withdrawn votes, and who holds which item just now (leases).

A run's `ratings.jsonl` holds less than its store: the votes on its `candidates.jsonl`, of which pairs are made. Votes
on gold, training and hidden, are not there, for gold is no candidate; they stay in the run's store, and `export_store`
writes them with the others.

Pairs in TRL's forms: `trl_forms`; Argilla and Label Studio: `label_tools`. Left out on purpose: backups (the database
has its own), and repair of what a spreadsheet did to a cell. Excel changes an id that looks like a number or date, and
cuts cells at 32,767 characters; cells of more than 131,072 are refused.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from ftlib import schema
from ftlib.files import did_you_mean, write_atomic
from ftlib.intake import numbered_records
from ftlib.records import Candidate, Rating, refuse_faults, row_faults, write_jsonl
from ftlib.sheets import csv_text, unguarded
from ftlib.store import RatingStore

BOM = "\ufeff"  # without it Excel takes UTF-8 for an 8-bit encoding, and saves what it made of that
RowT = TypeVar("RowT", bound=BaseModel)
_LENGTHS = {
    "id": schema.items.c.item_id.type.length,
    "item_id": schema.items.c.item_id.type.length,
    "rater": schema.ratings.c.rater.type.length,
    "created_at": schema.ratings.c.created_at.type.length,
}  # PostgreSQL refuses longer texts, SQLite keeps them
_UNKEEPABLE = re.compile("[\ud800-\udfff\0]")  # halves of a character, and the NUL that PostgreSQL refuses


@dataclass(frozen=True)
class Placed(Generic[RowT]):
    """A row, and where it was read: "ratings.csv line 7"."""

    place: str
    row: RowT


@dataclass(frozen=True)
class Imported:
    """What an import changed: items that were new, votes that were new or took another one's place."""

    items: int
    votes: int


def export_store(store: RatingStore, folder: str | Path, *, form: Literal["jsonl", "csv"] = "jsonl") -> list[Path]:
    """Write `items.<form>`, standing votes as `ratings.<form>`, and as `held_back.<form>` the items that nobody is
    handed (gold, which a calibrated session mixes in); each as a whole or not at all.

    Returns:
        The three files, in the order of `import_store`.

    Raises:
        ValueError: an unknown form, or a text in the store that no file can hold (JSONL) or no import would take.
    """
    if form not in ("jsonl", "csv"):
        raise ValueError(f"expected form 'jsonl' or 'csv', got {form!r}")
    votes = store.ratings()  # first: an item is never removed, so the items that are read later hold all of them
    items, kept = store.items(), store.held_back()
    tables = {
        "items": (Candidate, [item for item in items if item.id not in kept]),
        "ratings": (Rating, votes),
        "held_back": (Candidate, [item for item in items if item.id in kept]),
    }
    faults = [f"item {item.id}: {fault}" for item in items for fault in text_faults(item)]
    faults += [f"{vote.rater} on {vote.item_id}: {fault}" for vote in votes for fault in text_faults(vote)]
    refuse_faults(store.address, faults)
    written = []
    for name, (model, rows) in tables.items():
        path = Path(folder) / f"{name}.{form}"
        if form == "csv":
            columns = tuple(model.model_fields)
            write_atomic(path, BOM + csv_text([row.model_dump() for row in rows], columns=columns))
        else:
            write_jsonl(path, rows)
        written.append(path)
    return written


def import_store(
    store: RatingStore,
    items: str | Path | None,
    ratings: str | Path | None,
    held_back: str | Path | None = None,
    *,
    replace: bool = False,
) -> Imported:
    """Read the files of `export_store`, or a run's `candidates.jsonl` and `ratings.jsonl`, into a store.

    Args:
        items: .jsonl or .csv; None: the votes are on items that the store has.
        ratings: .jsonl or .csv; None: items only.
        held_back: .jsonl or .csv of items that are put on record and never handed out, such as gold.
        replace: the file's votes take the place of others that the same raters have on the same items.

    Raises:
        FileNotFoundError: no such file.
        ValueError: rows at fault, up to five of them named with file and line. The store is unchanged.
    """
    read_items = read_rows(items, Candidate) if items is not None else []
    read_votes = read_rows(ratings, Rating) if ratings is not None else []
    read_held = read_rows(held_back, Candidate) if held_back is not None else []
    return import_rows(store, read_items, read_votes, read_held, replace=replace)


def import_rows(
    store: RatingStore,
    items: Sequence[Placed[Candidate]],
    votes: Sequence[Placed[Rating]],
    held_back: Sequence[Placed[Candidate]] = (),
    *,
    replace: bool = False,
) -> Imported:
    """Put rows that were read into a store, all or none; see `import_store`."""
    known, every = {item.id: item for item in store.items()}, [*items, *held_back]
    faults = [
        f"{one.place}: the store has item {one.row.id!r} with other texts; give new texts a new id"
        for one in every
        if known.get(one.row.id, one.row) != one.row
    ]
    faults += repeats(every)
    known |= {one.row.id: one.row for one in every}
    standing = {(vote.rater, vote.item_id): vote for vote in store.ratings()}
    for one in votes:
        vote = one.row
        other = standing.get((vote.rater, vote.item_id))
        if vote.item_id not in known:
            faults.append(
                f"{one.place}: a vote on item {vote.item_id!r}, which is neither in the store nor in the items' file; "
                "import its item too, or drop the vote"
            )
        elif other is not None and not replace and _verdict(other) != _verdict(vote):
            faults.append(
                f"{one.place}: {vote.rater} says {vote.choice!r} on item {vote.item_id!r}, but another vote of theirs "
                f"({other.choice!r}) stands in the store; drop the row, or say replace=True if the file is right"
            )
    refuse_faults(store.address, faults)
    rows = [[one.row for one in placed] for placed in (items, votes, held_back)]
    return Imported(*store.load(*rows))


def read_rows(path: str | Path, model: type[RowT]) -> list[Placed[RowT]]:
    """Read and check a .jsonl or .csv file of items (`Candidate`) or votes (`Rating`); it may hold none.

    A byte order mark, semicolons or tabs between the cells and guards before formulas are taken as they come.

    Raises:
        FileNotFoundError: no such file.
        ValueError: rows at fault: not of the model, an id used twice, a rater twice on an item, or a text that cannot
            be kept. Up to five faults are named with file and line.
    """
    path = Path(path)
    rows: list[Placed[RowT]] = []
    faults: list[str] = []
    for line, record in numbered_records(path):
        place = f"{path.name} line {line}"
        if path.suffix.lower() in (".csv", ".tsv"):
            unknown = [name for name in record if name not in model.model_fields]
            if unknown:
                close = did_you_mean(unknown[0], model.model_fields)
                raise ValueError(f"{path.name} line 1: {unknown[0]!r} is no column of {model.__name__} rows{close}")
            record = {name: _value(model, name, unguarded(cell)) for name, cell in record.items()}
        found = checked(record, model, place)
        if isinstance(found, list):
            faults += found
        else:
            rows.append(Placed(place, found))
    refuse_faults(path, faults + repeats(rows))
    return rows


def repeats(rows: Iterable[Placed]) -> list[str]:
    """A fault for each row whose id, or whose rater and item, an earlier one had."""
    first: dict[tuple, str] = {}
    faults = []
    for one in rows:
        vote = isinstance(one.row, Rating)
        key = (one.row.rater, one.row.item_id) if vote else (one.row.id,)
        if key in first:
            what = f"{key[0]} voted on item {key[1]!r}" if vote else f"id {key[0]!r} was used"
            faults.append(f"{one.place}: {what} in {first[key]} already; keep one of the two")
        first.setdefault(key, one.place)
    return faults


def checked(record: Mapping, model: type[RowT], place: str) -> RowT | list[str]:
    """The row of a record, or its faults, each with its place."""
    try:
        row = model.model_validate(record)
    except ValidationError as error:
        return [f"{place}: {fault}" for fault in row_faults(error, model)]
    faults = text_faults(row)
    return [f"{place}: {fault}" for fault in faults] or row


def text_faults(row: BaseModel) -> list[str]:
    """Texts of a row that not every database keeps: half a character, a NUL, an id that is too long."""
    faults = []
    for name, value in row:
        if isinstance(value, str) and (bad := _UNKEEPABLE.search(value)):
            faults.append(
                f"{name}: character {bad.start() + 1} is {bad.group()!r}, which a database cannot keep; mend the text"
            )
        if isinstance(value, str) and len(value) > _LENGTHS.get(name, len(value)):
            faults.append(f"{name}: expected at most {_LENGTHS[name]} characters, got {len(value)}; shorten it")
    return faults


def _value(model: type[BaseModel], name: str, cell: str) -> object:
    """A cell's text as the value that its column holds; what cannot be read stays a text, and the check says so."""
    if model is not Rating or name in ("item_id", "rater", "reason"):
        return cell
    if name == "simulated":
        return {"true": True, "false": False}.get(cell.lower(), cell)
    if name == "seconds" and re.fullmatch(r"\d+(\.\d+)?([eE]-?\d+)?", cell):
        return float(cell)
    if name in ("helpfulness", "harmlessness", "task_fit"):
        return {"": None, "-1": -1, "0": 0, "1": 1}.get(cell, cell)
    return cell


def _verdict(vote: Rating) -> dict:
    """What two votes must share for the store to take them for the same one."""
    return vote.model_dump(exclude={"seconds", "left", "created_at"})
