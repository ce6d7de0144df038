"""Rows of your own: JSON Lines, CSV, JSON or a hub data set, read as a stream of prompt and answer; its form is said.

A row is `messages` whose last one is the assistant's, or a prompt and a completion under the usual column names. What
was taken for what is in `Reading`, to be shown; every fault names file and line. Nothing is guessed that could be
guessed wrong in silence: an 8-bit encoding must be named, because Latin-1 and its kin cannot be told apart.

Left out on purpose: repair, tool calls and pictures in messages, and Parquet (a hub data set may hold it). Whether the
rows are any good is asked by `data_gates`.
"""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftlib.records import SftRow, load_jsonl, loads_strict

PROMPT_NAMES = ("prompt", "instruction", "question", "input", "text", "sentence")
ANSWER_NAMES = ("completion", "response", "answer", "output", "category", "intent", "label")
ROLES = ("system", "user", "assistant")
CHUNK = 1 << 20  # characters of a JSON file read at once
# A shop row has these. One may be missing: then it is misspelt, which is an error, and the row is of no other form.
SHOP_FIELDS = frozenset(name for name, field in SftRow.model_fields.items() if field.is_required())
MAX_ROW = 1 << 26  # characters of one row; more means a bracket that is never closed
HUB = "hub:"

_BOMS = (  # the longer ones first
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


@dataclass(frozen=True)
class Example:
    """One row of your own: what the model reads (`messages`) and what it should write.

    Attributes:
        place: file and line, for errors and logs.
        fields: the row's other columns that hold text, such as a channel.
    """

    id: str
    messages: tuple[dict[str, str], ...]
    completion: str
    place: str
    fields: Mapping[str, str] = field(default_factory=dict)
    task: str = "own"

    @property
    def input(self) -> str:
        """What the user says last."""
        return next((m["content"] for m in reversed(self.messages) if m["role"] == "user"), "")

    def prompt(self) -> list[dict[str, str]]:
        """The chat messages that the model reads."""
        return [dict(message) for message in self.messages]

    def answer(self) -> str:
        """The text that the model should write."""
        return self.completion


@dataclass(frozen=True)
class Reading:
    """How a source is read: show it before you believe the rows.

    Attributes:
        format: "jsonl", "csv", "json" or "hub".
        form: "sft" (the playbook's own rows), "chat" (messages) or "prompt and completion".
        prompt, answer: the columns that were taken.
    """

    source: str
    format: str
    encoding: str
    form: str
    prompt: str
    answer: str


def as_record(row: Any) -> dict:
    """A row as one JSON object that `load_rows` reads again."""
    if isinstance(row, SftRow):
        return row.model_dump(mode="json")
    messages = [*row.prompt(), {"role": "assistant", "content": row.answer()}]
    return {"id": row.id, "messages": messages, **row.fields}


def load_rows(source: str | Path, **options) -> tuple[Reading, list[SftRow] | list[Example]]:
    """All rows of a source at once; the playbook's own rows come as `SftRow`, checked against their schema.

    Args:
        options: as in `stream_rows`.
    """
    reading, rows = stream_rows(source, **options)
    if reading.form == "sft":
        return reading, load_jsonl(source, SftRow, encoding=reading.encoding)
    return reading, list(rows)


def count_rows(source: str | Path, **options) -> int:
    """How many rows a source has; each is read and checked for its form, none is kept.

    Args:
        options: as in `stream_rows`.
    """
    return sum(1 for _ in stream_rows(source, **options)[1])


def stream_rows(
    source: str | Path, *, encoding: str = "", columns: Mapping[str, str] | None = None, split: str = "train"
) -> tuple[Reading, Iterator[Example]]:
    """How a source is read, and its rows one after the other; memory does not grow with the file, but for the ids.

    Args:
        source: a .jsonl, .csv, .tsv or .json file (an array of objects), or "hub:owner/name" for a data set of the hub.
        encoding: empty: UTF-8, or what a byte order mark or the pattern of UTF-16 says.
        columns: {"prompt": …, "completion": …} where the columns have other names than the usual ones.
        split: of a hub data set.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown format, form or encoding, no rows; while it is read, a row at fault or an id used twice.
    """
    text = str(source)
    if text.startswith(HUB):
        name, kind, encoding = f"{text.removeprefix(HUB)}[{split}]", "hub", "-"
        records = _hub_records(text.removeprefix(HUB), split)
    else:
        path = Path(source)
        name, kind = path.name, _format(path)
        records = numbered_records(path, encoding=encoding)
        encoding = encoding or sniff_encoding(path)
    first = next(records, None)
    if first is None:
        raise ValueError(f"{source}: expected rows, found none; write one object a line, or a header and lines (CSV)")
    form, prompt, answer = _form(first[1], f"{name} {_unit(kind)} {first[0]}", columns or {}, kind)
    reading = Reading(text, kind, encoding, form, prompt, answer)
    return reading, _examples(_chain(first, records), reading, name)


def numbered_records(path: str | Path, *, encoding: str = "") -> Iterator[tuple[int, dict]]:
    """(line, record) of a .jsonl, .csv, .tsv or .json file (an array of objects), one after the other.

    Args:
        encoding: empty: UTF-8, or what the first bytes say.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown format or encoding; while it is read, what is wrong with its bytes or form, and where.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file of rows, found none; check the path")
    return _file_records(path, _format(path), encoding or sniff_encoding(path))


def sniff_encoding(path: Path) -> str:
    """The encoding that a file's first bytes speak for: a byte order mark, the zero bytes of UTF-16, else UTF-8."""
    with open(path, "rb") as file:
        head = file.read(4096)
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            return encoding
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if max(even, odd) * 4 > len(head):  # half of the bytes of Western text in UTF-16 are zero
        return "utf-16-le" if odd > even else "utf-16-be"
    return "utf-8"


def _format(path: Path) -> str:
    kinds = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv", ".json": "json"}
    if path.suffix.lower() not in kinds:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(kinds)}, got {path.suffix!r}; rename it")
    return kinds[path.suffix.lower()]


def _unit(kind: str) -> str:
    return "row" if kind == "hub" else "line"


def _chain(first: tuple[int, dict], rest: Iterator[tuple[int, dict]]) -> Iterator[tuple[int, dict]]:
    yield first
    yield from rest


def _file_records(path: Path, kind: str, encoding: str) -> Iterator[tuple[int, dict]]:
    """(line, record) of a file; what is wrong with its bytes or its form is said with file and line."""
    read = {"jsonl": _jsonl, "csv": _csv, "json": _json_array}[kind]
    try:
        with open(path, encoding=encoding, newline="" if kind == "csv" else "\n") as file:
            yield from read(file, path.name)
    except LookupError:
        raise ValueError(f"{path}: expected an encoding that Python knows, got {encoding!r}; e.g. cp1252") from None
    except UnicodeError:
        raise ValueError(_undecodable(path, encoding)) from None


def _undecodable(path: Path, encoding: str) -> str:
    where = ""
    if encoding in ("utf-8", "utf-8-sig"):
        with open(path, "rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    where = f" line {number}: byte {raw[error.start]:#04x} at {error.start}"
                    break
    return (
        f"{path.name}{where or ':'} is not {encoding}; save the file as UTF-8, or say what it is, "
        "e.g. encoding='cp1252' (Windows) or 'latin-1'"
    )


def _jsonl(file, name: str) -> Iterator[tuple[int, dict]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            record = loads_strict(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name} line {number}: not JSON ({error}); write one object a line") from None
        yield number, _object(record, f"{name} line {number}")


def _object(record: object, where: str) -> dict:
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected an object, got {type(record).__name__}; write {{…}} with named fields")
    return record


def _csv(file, name: str) -> Iterator[tuple[int, dict]]:
    header = file.readline()
    delimiter = max(",;\t", key=header.count)
    file.seek(0)
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    columns: list[str] = []
    started = 1
    try:
        for cells in reader:
            place, started = started, reader.line_num + 1
            if not cells:
                continue
            if not columns:
                columns = [cell.strip() for cell in cells]
                if len(set(columns)) < len(columns) or not all(columns):
                    raise ValueError(f"{name} line {place}: expected a header of different names, got {columns}")
                continue
            if len(cells) != len(columns):
                raise ValueError(
                    f"{name} line {place}: expected {len(columns)} cells ({', '.join(columns)}), got {len(cells)}; "
                    'put texts that hold the delimiter in "quotes"'
                )
            yield place, dict(zip(columns, cells, strict=True))
    except csv.Error as error:
        raise ValueError(f"{name} line {reader.line_num}: not CSV ({error}); is a quote left open?") from None


def _json_array(file, name: str) -> Iterator[tuple[int, dict]]:
    """The objects of a JSON array, one at a time: only the rows of one chunk are in memory."""
    decoder, buffer, line = json.JSONDecoder(), "", 1
    expected = "["
    while True:
        stripped = buffer.lstrip()
        line += buffer[: len(buffer) - len(stripped)].count("\n")
        buffer = stripped
        if not buffer:
            more = file.read(CHUNK)
            if not more:
                raise ValueError(f"{name} line {line}: the file ends within the array; expected ']'")
            buffer += more
            continue
        if expected == "object" and buffer[0] != "]":
            try:
                record, end = decoder.raw_decode(buffer)
            except ValueError as error:
                more = file.read(max(CHUNK, len(buffer)))  # doubled, so that a long row costs no more than twice
                if not more or len(buffer) > MAX_ROW:
                    raise ValueError(f"{name} line {line}: not JSON ({error.args[0]}); mend the row") from None
                buffer += more
                continue
            where = f"{name} line {line}"
            try:
                loads_strict(buffer[:end])  # a key twice, NaN
            except ValueError as error:
                raise ValueError(f"{where}: not JSON ({error}); mend the row") from None
            yield line, _object(record, where)
            line += buffer[:end].count("\n")
            buffer, expected = buffer[end:], ","
        elif buffer[0] == "]" and expected != "[":
            _nothing_more(buffer[1:], file, f"{name} line {line}")
            return
        elif buffer[0] == expected:
            buffer, expected = buffer[1:], "object"
        else:
            raise ValueError(f"{name} line {line}: expected {expected!r}, got {buffer[0]!r}; write [{{…}}, {{…}}]")


def _nothing_more(rest: str, file, where: str) -> None:
    """Only white space may follow the array: what else stands there would be dropped without a word."""
    while not rest.strip():
        rest = file.read(CHUNK)
        if not rest:
            return
    raise ValueError(
        f"{where}: expected the end of the file behind ']', got {rest.strip()[:20]!r}; join the arrays to one, or "
        "write one object a line as .jsonl"
    )


def _hub_records(name: str, split: str) -> Iterator[tuple[int, dict]]:
    from datasets import ClassLabel, load_dataset

    data = load_dataset(name, split=split, streaming=True)
    classes = {key: kind for key, kind in (data.features or {}).items() if isinstance(kind, ClassLabel)}
    for number, record in enumerate(data, start=1):
        yield number, record | {key: kind.int2str(record[key]) for key, kind in classes.items()}


def _form(record: dict, where: str, columns: Mapping[str, str], kind: str) -> tuple[str, str, str]:
    """(form, prompt column, answer column), told by the first record."""
    unknown = [name for name in columns.values() if name not in record]
    if unknown or set(columns) - {"prompt", "completion"}:
        raise ValueError(
            f"{where}: columns is {dict(columns)}; expected {{'prompt': …, 'completion': …}} with names out of "
            f"{list(record)}"
        )
    if not columns and kind == "jsonl" and len(SHOP_FIELDS - record.keys()) <= 1:
        return "sft", "input", "output"
    if not columns and "messages" in record:
        return "chat", "messages", "messages"
    prompt = columns.get("prompt") or next((name for name in PROMPT_NAMES if name in record), None)
    answer = columns.get("completion") or next((name for name in ANSWER_NAMES if name in record), None)
    if prompt is None or answer is None:
        raise ValueError(
            f"{where}: expected 'messages', or a prompt ({', '.join(PROMPT_NAMES)}) and a completion "
            f"({', '.join(ANSWER_NAMES)}); got {list(record)}; rename the columns, or say which: "
            "columns={'prompt': …, 'completion': …}"
        )
    return "prompt and completion", prompt, answer


def _examples(records: Iterable[tuple[int, dict]], reading: Reading, name: str) -> Iterator[Example]:
    seen: dict[str, int] = {}
    for count, (number, record) in enumerate(records, start=1):
        where = f"{name} {_unit(reading.format)} {number}"
        given = record.get("id")
        row_id = f"{Path(name).stem}-{count}" if given in (None, "") else str(given)
        if row_id in seen:
            raise ValueError(
                f"{where}: id {row_id!r} was used in {_unit(reading.format)} {seen[row_id]}; give each row its own id"
            )
        seen[row_id] = number
        if reading.form == "chat":
            messages, answer = _split_chat(record.get("messages"), where)
        else:
            messages = _prompt(record.get(reading.prompt), f"{where}: {reading.prompt}")
            answer = _answer(record.get(reading.answer), f"{where}: {reading.answer}")
        used = {"id", reading.prompt, reading.answer}
        fields = {key: value for key, value in record.items() if key not in used and isinstance(value, str)}
        yield Example(row_id, tuple(messages), answer, where, fields)


def _messages(value: object, where: str) -> list[dict[str, str]]:
    """Checked messages; of each, role and content are kept."""
    if isinstance(value, str):  # a cell of a CSV file
        try:
            value = loads_strict(value)
        except ValueError as error:
            raise ValueError(f"{where}: expected a list of messages, got a text that is not JSON ({error})") from None
    if not isinstance(value, list) or not value:
        raise ValueError(
            f"{where}: expected a list of messages, got {value!r:.40}; write [{{'role': …, 'content': …}}]"
        )
    for place, message in enumerate(value, start=1):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in ROLES or not isinstance(content, str):
            raise ValueError(
                f"{where}: message {place} has role {role!r} and content {content!r:.40}; expected a role of "
                f"{', '.join(ROLES)} and a text"
            )
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _split_chat(value: object, where: str) -> tuple[list[dict[str, str]], str]:
    *messages, last = _messages(value, f"{where}: messages")
    if last["role"] != "assistant" or not messages:
        raise ValueError(
            f"{where}: expected messages that end with the assistant's after at least one other, got "
            f"{[*(m['role'] for m in messages), last['role']]}; add the answer or drop the row"
        )
    return messages, last["content"]


def _prompt(value: object, where: str) -> list[dict[str, str]]:
    if isinstance(value, list):
        return _messages(value, where)
    return [{"role": "user", "content": _text(value, where)}]


def _answer(value: object, where: str) -> str:
    if isinstance(value, list):
        message, *more = _messages(value, where)
        if more or message["role"] != "assistant":
            raise ValueError(f"{where}: expected one message of the assistant, got {len(more) + 1}; split the row")
        return message["content"]
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _text(value, where)


def _text(value: object, where: str) -> str:
    if isinstance(value, str):
        return value
    what = "nothing" if value is None or (isinstance(value, float) and math.isnan(value)) else repr(value)[:40]
    raise ValueError(f"{where}: expected a text, got {what}; write the label's name or the answer itself")
