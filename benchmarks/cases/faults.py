"""Faults for the data gates to find, planted by code that knows nothing of how they look for them.

Each planter takes a clean set and a random generator, and gives the set back with the fault in it and the ids of the
rows that carry it. How often: copies in 3 to 6 % of the rows (the gate allows 2 %), wrong labels in 15 %, the others
in one to three rows of a thousand.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ftlib.records import INTENTS, ROUTE_OF_INTENT, SftRow, Target

MAX_LENGTH = 512


@dataclass(frozen=True)
class DataSet:
    """Training rows, held-out rows, and how the trainer sees the former (`tokens` of a row by id, where it differs)."""

    train: list[SftRow]
    test: list[SftRow]
    tokens: dict[str, dict] = field(default_factory=dict)
    planted: frozenset[str] = frozenset()

    def with_rows(self, train: list[SftRow], planted: set[str], tokens: dict | None = None) -> "DataSet":
        return dataclasses.replace(self, train=train, planted=frozenset(planted), tokens=tokens or {})


Encode = Callable[[SftRow], dict]
Planter = Callable[[DataSet, np.random.Generator, Encode], DataSet]


def _changed(row: SftRow, **values) -> SftRow:
    return row.model_copy(update=values)  # unchecked: a fault may break the schema


def _insert(data: DataSet, copies: list[SftRow], rng: np.random.Generator) -> DataSet:
    train = list(data.train)
    for copy in copies:
        train.insert(int(rng.integers(len(train) + 1)), copy)
    return data.with_rows(train, {copy.id for copy in copies})


def _pick(rows: list[SftRow], k: int, rng: np.random.Generator, *, least_words: int = 0) -> list[SftRow]:
    able = [row for row in rows if len(row.input.split()) >= least_words]
    return [able[place] for place in rng.permutation(len(able))[:k]]


def _alter(data: DataSet, change: Callable[[SftRow], SftRow], rows: list[SftRow]) -> DataSet:
    new = {row.id: change(row) for row in rows}
    return data.with_rows([new.get(row.id, row) for row in data.train], set(new))


# --- copies


def exact_duplicate(data: DataSet, rng: np.random.Generator, _: Encode) -> DataSet:
    chosen = _pick(data.train, int(rng.integers(30, 61)), rng)
    return _insert(data, [_changed(row, id=f"copy-{n}") for n, row in enumerate(chosen)], rng)


def near_duplicate(data: DataSet, rng: np.random.Generator, _: Encode) -> DataSet:
    chosen = _pick(data.train, int(rng.integers(30, 61)), rng, least_words=6)
    copies = [_changed(row, id=f"twin-{n}", input=one_edit(row.input, rng)) for n, row in enumerate(chosen)]
    return _insert(data, copies, rng)


def one_edit(text: str, rng: np.random.Generator) -> str:
    """A word dropped, added, replaced, moved or misspelt."""
    tokens = text.split()
    place = int(rng.integers(len(tokens) - 1))
    edit = ("drop", "add", "replace", "swap", "misspell")[rng.integers(5)]
    if edit == "drop":
        del tokens[place]
    elif edit == "add":
        tokens.insert(place, ("please", "really", "again", "kindly")[rng.integers(4)])
    elif edit == "replace":
        tokens[place] = ("thing", "stuff", "item", "one")[rng.integers(4)]
    elif edit == "swap":
        tokens[place], tokens[place + 1] = tokens[place + 1], tokens[place]
    else:
        longest = max(range(len(tokens)), key=lambda k: len(tokens[k]))
        word = tokens[longest]
        cut = int(rng.integers(max(1, len(word) - 1)))
        tokens[longest] = word[:cut] + word[cut : cut + 2][::-1] + word[cut + 2 :]
    return " ".join(tokens)


_CYRILLIC = {"a": "\u0430", "e": "\u0435", "o": "\u043e", "p": "\u0440", "c": "\u0441", "x": "\u0445", "i": "\u0456"}


def leak(data: DataSet, rng: np.random.Generator, _: Encode) -> DataSet:
    """Held-out rows put into train: as they are, or under one of six tricks."""
    copies = []
    for n, row in enumerate(_pick(data.test, int(rng.integers(1, 4)), rng, least_words=10)):
        trick = int(rng.integers(7))
        text = row.input
        if trick == 1:
            text = text.swapcase()
        elif trick == 2:
            text = "".join(_CYRILLIC.get(letter, letter) if rng.random() < 0.5 else letter for letter in text)
        elif trick == 3:
            text = "".join(letter + ("\u200b" if rng.random() < 0.2 else "") for letter in text)
        elif trick == 4:
            text = text.replace(",", " ").replace(".", " !").replace("'", "\u2019") + " ??"
        elif trick == 5:
            text = one_edit(text, rng)
        elif trick == 6:
            before, after = (_pick(data.train, 1, rng)[0].input for _ in range(2))
            text = f"{before} {text} {after}"
        copies.append(_changed(row, id=f"leak-{n}", input=text))
    return _insert(data, copies, rng)


# --- what a row holds


def wrong_label(data: DataSet, rng: np.random.Generator, _: Encode) -> DataSet:
    """15 % of all rows get another intent, with the route that belongs to it."""

    def other(row: SftRow) -> SftRow:
        intent = str(rng.choice([name for name in INTENTS if name != row.output.intent]))
        output = row.output.model_copy(update={"intent": intent, "route": ROUTE_OF_INTENT[intent]})
        return _changed(row, output=output)

    labelled = [row for row in data.train if isinstance(row.output, Target)]
    return _alter(data, other, _pick(labelled, round(0.15 * len(data.train)), rng))


def empty(data: DataSet, rng: np.random.Generator, _: Encode) -> DataSet:
    def blank(row: SftRow) -> SftRow:
        text = ("", "   ", "\n\n\t", "\u200b", "...", "nan", "null")[rng.integers(7)]
        return _changed(row, **{("input", "output")[rng.integers(2)]: text})

    return _alter(data, blank, _pick(data.train, int(rng.integers(1, 4)), rng))


def truncated(data: DataSet, rng: np.random.Generator, encode: Encode) -> DataSet:
    """A prompt that is too long for the trainer, which cuts the row; or an answer that was cut in its middle."""

    def cut(row: SftRow) -> SftRow:
        answer = row.answer()
        if rng.random() < 0.5:
            return _changed(row, output=answer[: int(len(answer) * rng.uniform(0.3, 0.8))].rstrip(" .!?,;:"))
        longer = row
        while len(encode(longer)["input_ids"]) <= MAX_LENGTH:
            more = " ".join(other.input for other in _pick(data.train, 10, rng))
            longer = _changed(longer, input=f"{longer.input} {more}")
        return longer

    return _alter(data, cut, _pick(data.train, int(rng.integers(1, 4)), rng))


def personal_data(data: DataSet, rng: np.random.Generator, _: Encode) -> DataSet:
    def add(row: SftRow) -> SftRow:
        datum = (_email, _phone, _card)[rng.integers(3)](rng)
        said = ("You can reach me at {}", "it is {} by the way", "({})", "write or call: {}.")[rng.integers(4)]
        if isinstance(row.output, str) and rng.random() < 0.5:
            return _changed(row, output=f"{row.output} {said.format(datum)}")
        return _changed(row, input=f"{row.input} {said.format(datum)}")

    return _alter(data, add, _pick(data.train, int(rng.integers(1, 4)), rng))


def _letters(rng: np.random.Generator, n: int) -> str:
    return "".join(chr(97 + letter) for letter in rng.integers(0, 26, n))


def _email(rng: np.random.Generator) -> str:
    ends = ("com", "net", "org", "co.uk", "de")
    name = _letters(rng, 5) + (".", "_", "", "+")[rng.integers(4)] + _letters(rng, 4)
    return f"{name}@{_letters(rng, 14)}.{ends[rng.integers(5)]}"


def _phone(rng: np.random.Generator) -> str:
    """A number that the numbering plans of the US or Britain hold to be valid, made of random digits."""
    import phonenumbers

    while True:
        if rng.random() < 0.5:
            area, mid, last = rng.integers(201, 990), rng.integers(200, 999), rng.integers(0, 10_000)
            text = (f"+1 {area} {mid} {last:04d}", f"({area}) {mid}-{last:04d}")[rng.integers(2)]
            region = "US"
        else:
            text, region = f"07{rng.integers(400, 990)} {rng.integers(0, 1_000_000):06d}", "GB"
        if "555-01" not in text and phonenumbers.is_valid_number(phonenumbers.parse(text, region)):
            return text


def _card(rng: np.random.Generator) -> str:
    digits = [4, *map(int, rng.integers(0, 10, 14))]
    total = sum(sum(divmod(2 * digit, 10)) if place % 2 == 0 else digit for place, digit in enumerate(digits))
    text = "".join(map(str, [*digits, -total % 10]))
    separator = (" ", "-", "")[rng.integers(3)]
    return separator.join(text[start : start + 4] for start in range(0, 16, 4))


def encoding(data: DataSet, rng: np.random.Generator, _: Encode) -> DataSet:
    def spoil(row: SftRow) -> SftRow:
        special = ("caf\u00e9", "it\u2019s", "\u00a330", "na\u00efve", "\u20ac12", "so \u2013 well")[rng.integers(6)]
        text, way = f"{row.input} {special}", int(rng.integers(5))
        if way == 0:
            text = text.encode("utf-8").decode("cp1252", "replace")
        elif way == 1:
            text = text.encode("utf-8").decode("latin-1")
        elif way == 2:
            text = text.encode("cp1252", "replace").decode("utf-8", "replace")
        elif way == 3:
            text = row.input.encode("utf-16-le").decode("latin-1")
        else:
            place = int(rng.integers(len(text)))
            text = text[:place] + chr(int(rng.integers(1, 9))) + text[place:]
        return _changed(row, input=text)

    return _alter(data, spoil, _pick(data.train, int(rng.integers(1, 4)), rng))


# --- what the trainer sees


def mask(data: DataSet, rng: np.random.Generator, encode: Encode) -> DataSet:
    chosen = _pick(data.train, int(rng.integers(1, 4)), rng)
    tokens = {}
    for row in chosen:
        ids = encode(row)["input_ids"]
        tokens[row.id] = {"input_ids": ids, "labels": [-100] * len(ids) if rng.random() < 0.5 else list(ids)}
    return data.with_rows(data.train, set(tokens), tokens)


def stop(data: DataSet, rng: np.random.Generator, encode: Encode) -> DataSet:
    """The answer's end without loss, or not there: the last two tokens are the stop token and a line break."""
    tokens = {}
    for row in _pick(data.train, int(rng.integers(1, 4)), rng):
        ids, labels = (list(encode(row)[name]) for name in ("input_ids", "labels"))
        if rng.random() < 0.5:
            tokens[row.id] = {"input_ids": ids, "labels": labels[:-2] + [-100, -100]}
        else:
            tokens[row.id] = {"input_ids": ids[:-2], "labels": labels[:-2]}
    return data.with_rows(data.train, set(tokens), tokens)


KINDS: dict[str, tuple[Planter, str]] = {  # kind -> (planter, the gate that has to fail)
    "exact duplicate": (exact_duplicate, "dup_rate"),
    "near duplicate": (near_duplicate, "dup_rate"),
    "leak": (leak, "leakage"),
    "wrong label": (wrong_label, "audit_correct"),
    "empty": (empty, "empty_text"),
    "truncated": (truncated, "truncated"),
    "personal data": (personal_data, "pii"),
    "mask": (mask, "loss_mask"),
    "stop token": (stop, "stop_supervised"),
    "encoding": (encoding, "encoding"),
}
