"""Hard gates on training rows: each reads rows, says what it looked at and how, and names the rows at fault.

A gate is a pure function of rows to a `Finding`: method and span in words, a share with its interval, and a hit for
each row at fault, the worst first. `Finding.gate` judges it; `clean` takes the rows out and says which went for what.
All rows are looked at, so a share is exact for this file; its interval says what to expect of the next one from the
same source. Only the spot audit (`audit`) draws a sample, because it needs people.

Left out on purpose: repair (a row is dropped or mended by its author), paraphrases in other words, personal data in
names and addresses, and the look of an answer that is cut off in the middle of well-formed text.
"""

import difflib
import itertools
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scipy import stats

from ftlib import quality, safety
from ftlib.gates import Interval, holm, judge_gate, wilson
from ftlib.records import GateResult, SftRow

NEAR_SHINGLES = 0.7  # Jaccard of 3-shingles from which two texts are near twins
NEAR_WORDS = 0.8  # the same of their sets of words
EDITED_WORDS, EDITED = 0.6, 0.9  # or: sets of words this near, and this share of the letters the same in order
RUN = 8  # words in a row; half of a test row's runs in one training row is a copy inside another text
RUN_SHARE = 0.5
ENOUGH = 100  # rows below which a share says nothing
CALM = 0.05  # share of answers without an end up to which such an answer counts as cut
PII_KINDS = ("EMAIL", "PHONE", "CARD")  # order numbers stay: the task needs them
PLACEHOLDERS = frozenset(("nan", "null", "n/a", "todo", "tbd", "undefined", "lorem ipsum"))
CLOSING_TOKENS = 3  # a chat template may put a line break behind the stop token
RAREST = 0.2  # the rarest label's share of an even one
HOT = 3.0  # times as frequent in a slice as overall
HOT_P = 0.01
OPENING = 4  # words that make an opening
ALIKE = 0.5  # Jaccard of word sets from which two requests are of one kind


@dataclass(frozen=True)
class Item:
    """What the gates read of a row.

    Attributes:
        text: what the user says.
        context: the rest of the prompt: policy, system text, earlier answers.
        label: the class, where the answer is one.
        slices: e.g. {"channel": "chat"}.
    """

    id: str
    text: str
    answer: str
    label: str | None = None
    slices: Mapping[str, str] = field(default_factory=dict)
    context: str = ""


@dataclass(frozen=True)
class Hit:
    """A row at fault. `row` is its index; `other` the index or id of what it clashes with; higher scores are worse."""

    row: int
    reason: str
    excerpt: str
    score: float = 1.0
    other: str = ""


@dataclass(frozen=True)
class Finding:
    """What one gate found.

    Attributes:
        id: the gate's id in the ledger.
        method, span: how it looked, and at what.
        hits: rows at fault, the worst first.
        value, interval, n: the number that is judged, its 95 % interval, and the items behind it; None: not measured.
        threshold, op, need_n: as in `gates.judge_gate`.
        fix: what to do when it fails.
        drops: whether `clean` takes the hits out; a wrong balance is no fault of single rows.
        evidence: false where the number rests on simulated auditors: it is shown, and blocks nothing.
    """

    id: str
    method: str
    span: str
    hits: tuple[Hit, ...]
    value: float | None
    interval: Interval | None
    n: int
    threshold: float
    op: str
    fix: str
    need_n: int = 1
    drops: bool = True
    evidence: bool = True

    def gate(self, notebook: str) -> GateResult:
        """The verdict, for the ledger."""
        note = f"{self.fix} (method: {self.method}; span: {self.span})"
        judged = judge_gate(
            self.id, notebook, value=self.value, threshold=self.threshold, op=self.op, n=self.n,
            interval=self.interval, need_n=self.need_n, note=note,
        )  # fmt: skip
        return judged.model_copy(update={"evidence": self.evidence})

    def line(self) -> dict[str, object]:
        """One line of a table: the number, its interval, what is needed, the verdict, and how it was measured."""
        return {
            "gate": self.id,
            "verdict": self.gate("data").verdict,
            "value": self.value,
            "95 %": "" if self.interval is None else f"{self.interval.low:.4f} to {self.interval.high:.4f}",
            "needed": f"{self.op} {self.threshold:g}",
            "n": self.n,
            "rows at fault": len({hit.row for hit in self.hits}),
            "method": self.method,
            "span": self.span,
        }

    def worst(self, items: Sequence[Item], k: int = 3) -> list[dict[str, object]]:
        """The k worst rows, for a table."""
        return [
            {"gate": self.id, "row": items[hit.row].id, "why": hit.reason, "beside": hit.other, "text": hit.excerpt}
            for hit in self.hits[:k]
        ]


def items_of(rows: Sequence[Any]) -> list[Item]:
    """Rows as the gates read them: `SftRow`, or anything with id, input, answer() and fields (`intake.Example`).

    Answers of other rows count as class labels when they are short and each comes five times on average; an answer
    that says nothing (`empty`) is nobody's label.
    """
    answers = [row.answer() for row in rows]
    repeated = len(set(answers)) * 5 <= len(answers) and max(map(len, answers), default=0) <= 60
    found = []
    for row, answer in zip(rows, answers, strict=True):
        if isinstance(row, SftRow):
            label = None if isinstance(row.output, str) else row.output.intent
            slices = {"channel": row.channel, "difficulty": row.difficulty}
            found.append(Item(row.id, row.input, answer, label, slices, row.context))
        else:
            text, rest = (
                "\n".join(m["content"] for m in row.prompt() if (m["role"] == "user") == user) for user in (True, False)
            )
            label = answer if repeated and not _says_nothing(answer) else None
            found.append(Item(row.id, text, answer, label, dict(row.fields), rest))
    return found


# --- told twice ------------------------------------------------------------------------------------------------------


def duplicates(items: Sequence[Item]) -> Finding:
    """Rows with an earlier twin: exact, the same after folding and without punctuation, or near."""
    texts = [item.text for item in items]
    plain = [quality.plain(text) for text in texts]
    best: dict[int, Hit] = {}
    for row, other, reason, score in _twins(texts, plain, texts, plain, within=True):
        if items[row].answer != items[other].answer:
            reason += ", with another answer"
        hit = Hit(row, reason, _excerpt(texts[row]), score, items[other].id)
        if row not in best or hit.score > best[row].score:
            best[row] = hit
    return _share(
        "dup_rate", best.values(), len(items), 0.02,
        method=f"exact, normalised (case, accents, look-alike letters, punctuation), near ({_near()}); all pairs",
        span=f"user texts of {len(items)} training rows; rows with an earlier twin count",
        fix="drop the twins", need_n=ENOUGH,
    )  # fmt: skip


def leakage(train: Sequence[Item], test: Sequence[Item]) -> Finding:
    """Test rows that are in train: exact, normalised, near, or as a run of words inside a longer text."""
    texts, held = [item.text for item in train], [item.text for item in test]
    plain, held_plain = [quality.plain(text) for text in texts], [quality.plain(text) for text in held]
    best: dict[tuple[int, int], Hit] = {}
    found = itertools.chain(_twins(held, held_plain, texts, plain, within=False), _runs(held_plain, plain))
    for test_row, row, reason, score in found:
        hit = Hit(row, reason, _excerpt(texts[row]), score, test[test_row].id)
        if (test_row, row) not in best or score > best[test_row, row].score:
            best[test_row, row] = hit
    leaked = len({test_row for test_row, _ in best})
    return Finding(
        "leakage",
        f"exact, normalised, near ({_near()}), and {RUN_SHARE:.0%} or more of a test row's runs of {RUN} words in one "
        "training row; all pairs",
        f"user texts of {len(test)} held-out rows against {len(train)} training rows; held-out rows with a twin count",
        _worst_first(best.values()),
        leaked / len(test) if test else None,
        wilson(leaked, len(test)) if test else None,
        len(test),
        0.0,
        "<=",
        "move the leaked rows out of train",
        need_n=ENOUGH,
    )


def _near() -> str:
    return (
        f"Jaccard of 3-shingles >= {NEAR_SHINGLES:g}, of word sets >= {NEAR_WORDS:g}, or of word sets >= "
        f"{EDITED_WORDS:g} with {EDITED:.0%} of the letters the same"
    )


def _twins(
    rows: Sequence[str], plain: Sequence[str], others: Sequence[str], others_plain: Sequence[str], *, within: bool
) -> Iterable[tuple[int, int, str, float]]:
    """(row, other, reason, score). Blank texts are nobody's twins: they are a fault of their own."""
    known: dict[str, int] = {}
    for other, text in enumerate(others_plain):
        known.setdefault(text, other)
    for row, text in enumerate(plain):
        other = known.get(text, row)
        if text and text in known and (other < row or not within):
            exact = rows[row] == others[other]
            yield row, other, "exact" if exact else "normalised", 3.0 if exact else 2.0
    for n, threshold in ((quality.SHINGLE, NEAR_SHINGLES), (1, EDITED_WORDS)):
        for twin in quality.all_leaks(others_plain, plain, threshold, n=n):
            row, other, near = twin.test, twin.train, twin.similarity
            if within:  # each pair came once, the earlier text first
                row, other = other, row
            if not plain[row]:
                continue
            if n > 1 or near >= NEAR_WORDS or _same_letters(plain[row], others_plain[other]) >= EDITED:
                yield row, other, f"near ({near:.2f} of {'3-shingles' if n > 1 else 'words'})", near


def _same_letters(one: str, two: str) -> float:
    matcher = difflib.SequenceMatcher(None, one, two, autojunk=False)
    return matcher.ratio() if matcher.quick_ratio() >= EDITED else 0.0


def _runs(rows: Sequence[str], others: Sequence[str]) -> Iterable[tuple[int, int, str, float]]:
    """Rows of which half or more of the runs of words are in one other text."""
    mine = [_runs_of(text) for text in rows]
    holders: dict[tuple[str, ...], list[int]] = {run: [] for runs in mine for run in runs}
    for other, text in enumerate(others):
        for run in _runs_of(text) & holders.keys():
            holders[run].append(other)
    for row, runs in enumerate(mine):
        for other, shared in Counter(other for run in runs for other in holders[run]).items():
            if shared >= RUN_SHARE * len(runs):
                yield row, other, f"runs of {RUN} words ({shared} of {len(runs)})", shared / len(runs)


def _runs_of(text: str) -> set[tuple[str, ...]]:
    tokens = text.split()
    return {tuple(tokens[start : start + RUN]) for start in range(len(tokens) - RUN + 1)}


# --- what a row holds ------------------------------------------------------------------------------------------------


def empty(items: Sequence[Item]) -> Finding:
    """Rows whose text or answer has no letter, digit or symbol, or is a placeholder such as "nan"."""
    hits = []
    for row, item in enumerate(items):
        for what, text in (("text", item.text), ("answer", item.answer)):
            if text.strip().lower() in PLACEHOLDERS:
                hits.append(Hit(row, f"{what} is a placeholder: {text.strip()}", _excerpt(item.text)))
            elif _says_nothing(text):
                hits.append(Hit(row, f"empty {what}", _excerpt(item.text) or "(empty)"))
    return _share(
        "empty_text", hits, len(items), 0.0,
        method="no letter, digit or symbol, or a placeholder (nan, null, todo, …)",
        span=f"texts and answers of {len(items)} training rows", fix="fill them in, or drop them",
    )  # fmt: skip


def _says_nothing(text: str) -> bool:
    """No letter, digit or symbol, or a placeholder."""
    return text.strip().lower() in PLACEHOLDERS or not any(unicodedata.category(one)[0] in "LNS" for one in text)


_ODD_FORMAT = frozenset(
    "\ufeff\u200b\u2060\u00ad\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{2,5}|#x[0-9a-fA-F]{2,4});")
# What the bytes 0x80-0xff of UTF-8 look like when they are read as Windows-1252 (or Latin-1, where that has a gap).
_BYTES = {bytes([byte]).decode("cp1252", "ignore") or chr(byte): byte for byte in range(0x80, 0x100)}
_BYTES |= {chr(byte): byte for byte in range(0x80, 0x100)}
_MOJIBAKE = re.compile(f"[{''.join(map(re.escape, _BYTES))}]{{2,}}")


# What may follow a word's last letter: quotes, an ellipsis, a dash, a no-break space. Read as bytes, a letter and one
# or two of these may be a character of UTF-8 by chance: the sharp s and a closing quote (DF 93) are a letter of N'Ko.
_BEHIND_A_WORD = frozenset("\u201c\u201d\u2018\u2019\u201e\u201a\u00ab\u00bb\u2039\u203a\u2026\u2013\u2014\u2022\u00a0")
# One letter in quotes, such as the name of a key, is that letter.
_OPENING, _CLOSING = ("\u201e", "\u201a", "\u00ab", "\u00bb"), "\u201c\u2018\u00bb\u00ab"
# What such a pair really was where a text is broken: Latin-1 and letters of Europe's scripts, of Hebrew and of Arabic.
_LIKELY = ((0x80, 0x17F), (0x386, 0x3CE), (0x401, 0x45F), (0x5D0, 0x5EA), (0x621, 0x63A), (0x641, 0x64A))


def encoding(items: Sequence[Item]) -> Finding:
    """Rows with U+FFFD, control or hidden characters, HTML entities, or UTF-8 that was read as Latin-1 (mojibake)."""
    hits = [
        Hit(row, fault, _excerpt(text))
        for row, item in enumerate(items)
        for text in (item.text, item.context, item.answer)
        for fault in encoding_faults(text)
    ]
    return _share(
        "encoding", hits, len(items), 0.0,
        method="U+FFFD, control and hidden characters, HTML entities, UTF-8 read as Latin-1 or Windows-1252",
        span=f"texts and answers of {len(items)} training rows",
        fix="read the source again with its right encoding",
    )  # fmt: skip


def encoding_faults(text: str) -> list[str]:
    """What is wrong with a text's characters, each kind once.

    Example:
        >>> encoding_faults("Caf\u00c3\u00a9")
        ['mojibake: \u00c3\u00a9 for \u00e9']
    """
    faults = []
    odd = {c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn") and c not in "\n\t\r"}
    odd |= _ODD_FORMAT.intersection(text)
    if "\ufffd" in text:
        faults.append("U+FFFD: a byte that could not be read")
    if odd:
        faults.append(f"control or hidden character {', '.join(f'U+{ord(c):04X}' for c in sorted(odd))}")
    if entity := _ENTITY.search(text):
        faults.append(f"HTML entity {entity.group()}")
    for run in _MOJIBAKE.finditer(text):
        meant = _meant(run.group())
        if meant is not None:
            faults.append(f"mojibake: {run.group()} for {meant}")
            break
    return faults


def _meant(run: str) -> str | None:
    """The first character that a run was, if its bytes are UTF-8; other bytes of the run are left off."""
    data = bytes(_BYTES[character] for character in run)
    for start in range(len(data)):
        for end in range(start + 2, min(start + 4, len(data)) + 1):
            try:
                meant = data[start:end].decode("utf-8")
            except UnicodeDecodeError:
                continue
            quoted = run[max(0, start - 1) : start] in _OPENING and run[end - 1] in _CLOSING and end - start == 2
            if not quoted and not _reads_well(run[start:end], meant):
                return meant
    return None


def _reads_well(written: str, meant: str) -> bool:
    """Whether a letter and what may follow a word is the text, and the character that its bytes make is none."""
    word_end = written[0].isalpha() and _BEHIND_A_WORD.issuperset(written[1:])
    return word_end and not any(low <= ord(meant) <= high for low, high in _LIKELY)


def pii(items: Sequence[Item], *, kinds: Sequence[str] = PII_KINDS) -> Finding:
    """Rows with personal data: a model can say them again to anybody. Data reserved for examples belongs to nobody."""
    hits = []
    for row, item in enumerate(items):
        for text in (item.text, item.context, item.answer):
            found = [p for p in safety.find_pii(text) if p.kind in kinds and not safety.is_reserved(p)]
            if found:  # a table of findings must not spread what it found
                named = ", ".join(sorted({p.kind for p in found}))
                hits.append(Hit(row, named, _excerpt(safety.mask_pii(text)), len(found)))
    return _share(
        "pii", hits, len(items), 0.0,
        method=f"presidio's patterns for {', '.join(kinds)}; ranges reserved for examples do not count",
        span=f"prompts and answers of {len(items)} training rows", fix="mask them (safety.mask_pii) or drop the rows",
    )  # fmt: skip


def truncated(items: Sequence[Item], *, lengths: Sequence[int] | None = None, max_length: int = 0) -> Finding:
    """Rows that the trainer would cut (more tokens than `max_length`), and answers that were cut before.

    An answer counts as cut when it opens as JSON and is none, or ends without punctuation although 95 % of the set's
    answers in sentences end with it.

    Args:
        lengths: tokens of prompt and answer, one number a row; None leaves that part out.
        max_length: the trainer's.
    """
    hits = []
    sentences = [row for row, item in enumerate(items) if item.label is None and len(item.answer.split()) > 3]
    unended = [row for row in sentences if items[row].answer.rstrip()[-1].isalnum() and not _is_json(items[row])]
    for row, item in enumerate(items):
        if lengths is not None and lengths[row] > max_length:
            hits.append(Hit(row, f"{lengths[row]} tokens, {max_length} fit", _excerpt(item.text), lengths[row]))
        if item.answer.lstrip().startswith(("{", "[")) and not _is_json(item):
            hits.append(Hit(row, "answer is JSON that does not end", _excerpt(item.answer[-60:])))
    if len(unended) <= CALM * len(sentences):
        hits += [Hit(row, "answer ends in mid-sentence", _excerpt(items[row].answer[-60:])) for row in unended]
    counted = "" if lengths is None else f"more than {max_length} tokens; "
    return _share(
        "truncated", hits, len(items), 0.0,
        method=f"{counted}JSON that does not end; a sentence without its end where 95 % have one",
        span=f"prompts and answers of {len(items)} training rows", fix="raise max_length, or split or drop the rows",
    )  # fmt: skip


def _is_json(item: Item) -> bool:
    try:
        json.loads(item.answer)
    except (ValueError, RecursionError):
        return False
    return True


# --- what the trainer sees -------------------------------------------------------------------------------------------


def loss_mask(items: Sequence[Item], tokenised: Iterable[Mapping]) -> Finding:
    """Rows that carry loss on no token, or on all of them (the prompt too).

    Args:
        tokenised: the trainer's own rows, in the order of the items: `input_ids` and `labels`, -100 without loss.
    """
    hits = []
    for row, (item, tokens) in enumerate(zip(items, tokenised, strict=True)):
        carried = sum(label != -100 for label in tokens["labels"])
        if carried in (0, len(tokens["labels"])):
            hits.append(Hit(row, f"loss on {carried} of {len(tokens['labels'])} tokens", _excerpt(item.text)))
    return _share(
        "loss_mask", hits, len(items), 0.0, method="loss on no token, or on every token",
        span=f"the trainer's labels of {len(items)} rows", fix="give prompt and completion apart",
    )  # fmt: skip


def stop_token(items: Sequence[Item], tokenised: Iterable[Mapping], eos_token_id: int) -> Finding:
    """Rows whose stop token carries no loss at the end of the answer: from them the model does not learn to stop."""
    hits = []
    for row, (item, tokens) in enumerate(zip(items, tokenised, strict=True)):
        carried = [label for label in tokens["labels"] if label != -100]
        if eos_token_id not in carried[-CLOSING_TOKENS:]:
            where = (
                "there, without loss" if eos_token_id in list(tokens["input_ids"])[-CLOSING_TOKENS:] else "not there"
            )
            hits.append(Hit(row, f"stop token {where}", _excerpt(item.answer[-60:])))
    return _share(
        "stop_supervised", hits, len(items), 0.0,
        method=f"stop token among the last {CLOSING_TOKENS} tokens with loss",
        span=f"the trainer's labels of {len(items)} rows", fix="end each answer with the stop token",
    )  # fmt: skip


# --- what the set holds ----------------------------------------------------------------------------------------------


def label_balance(items: Sequence[Item], *, expected: Iterable[str] = ()) -> Finding:
    """The rarest label's share, times the number of labels: 1 is even, 0 a label without a row.

    Args:
        expected: labels that must be there, e.g. those of the held-out rows.
    """
    labelled = [item.label for item in items if item.label is not None]
    counts = Counter(dict.fromkeys(expected, 0))
    counts.update(labelled)
    n, k = len(labelled), len(counts)
    rarest = min(counts, key=lambda label: (counts[label], label), default="")
    value, interval = None, None
    if n:
        low, high = wilson(counts[rarest], n)
        # One label for all rows teaches nothing but to say it.
        value, interval = (0.0, None) if k < 2 else (counts[rarest] * k / n, Interval(low * k, high * k))
    hits = [
        Hit(row, f"label {item.label!r} has {counts[item.label]} of {n} rows", _excerpt(item.text))
        for row, item in enumerate(items)
        if item.label is not None and (k < 2 or counts[item.label] * k < RAREST * n)
    ]
    named = f"rarest: {rarest!r}, {counts[rarest]} of {n} rows, {k} labels" if n else "no class labels"
    return Finding(
        "label_balance", "share of the rarest label times the number of labels (1: even)", named, tuple(hits), value,
        interval, n, RAREST, ">=", "add rows of the rare labels", need_n=10 * max(2, k), drops=False,
    )  # fmt: skip


def label_hotspots(items: Sequence[Item]) -> Finding:
    """Slices in which a label is three times as frequent as overall: a model may learn the slice, not the matter.

    Binomial test of each cell against the label's overall share, Holm's correction over all cells.
    """
    labelled = [(row, item) for row, item in enumerate(items) if item.label is not None]
    overall = Counter(item.label for _, item in labelled)
    cells: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    sizes: Counter[tuple[str, str]] = Counter()
    for row, item in labelled:
        for name, value in item.slices.items():
            cells[name, value, item.label].append(row)
            sizes[name, value] += 1
    tested = [(cell, rows) for cell, rows in cells.items() if sizes[cell[:2]] < len(labelled)]
    p_values = [
        stats.binomtest(len(rows), sizes[cell[:2]], overall[cell[2]] / len(labelled), alternative="greater").pvalue
        for cell, rows in tested
    ]
    hits = []
    for (cell, rows), p in zip(tested, holm(p_values) if p_values else [], strict=True):
        lift = len(rows) / (sizes[cell[:2]] * overall[cell[2]] / len(labelled))
        if lift >= HOT and p < HOT_P:
            name, value, label = cell
            reason = f"{label!r} is {lift:.1f} times as frequent where {name} is {value!r} ({len(rows)} rows)"
            hits += [Hit(row, reason, _excerpt(items[row].text), lift) for row in rows]
    return _share(
        "label_hotspots", hits, len(labelled), 0.02, drops=False, need_n=ENOUGH,
        method=f"label {HOT:g} times as frequent in a slice, binomial p < {HOT_P:g} by Holm, {len(tested)} cells",
        span=f"{len(labelled)} labelled rows by {', '.join(sorted({name for name, _ in sizes})) or 'no slice'}",
        fix="add rows of the other labels to that slice",
    )  # fmt: skip


def coverage(items: Sequence[Item], by: Sequence[str], *, least: int = 5) -> tuple[list[dict], list[str]]:
    """Rows by label and slices, and the cells with fewer than `least` rows, named.

    Args:
        by: names of slices, e.g. ("channel", "difficulty"); labels are the table's rows.
    """
    labelled = [item for item in items if item.label is not None and all(name in item.slices for name in by)]
    counts = Counter((item.label, *(item.slices[name] for name in by)) for item in labelled)
    axes = [sorted({item.slices[name] for item in labelled}) for name in by]
    cells = list(itertools.product(*axes))
    labels = sorted({item.label for item in labelled})
    table = [{"label": label} | {" / ".join(cell): counts[label, *cell] for cell in cells} for label in labels]
    gaps = [
        f"{label} / {' / '.join(cell)}: {counts[label, *cell]}"
        for label in labels
        for cell in cells
        if counts[label, *cell] < least
    ]
    return table, gaps


def refusal_style(rows: Sequence[Any]) -> list[dict[str, object]]:
    """How often answers decline (`safety.is_refusal`), and how evenly: what can be learned of refusing from these rows.

    Args:
        rows: `SftRow`, or anything that `items_of` takes and that has a task.

    Returns:
        For each task a line: "rows", "decline", "openings" and "wordings" (different first OPENING words and different
        texts among the declining answers), and "also served": declining rows beside which another row that asks in half
        of the same words or more (Jaccard of word sets) is answered. The style is consistent with one opening, and
        none served.
    """
    items = items_of(rows)
    by_task: dict[str, list[Item]] = {}
    for row, item in zip(rows, items, strict=True):
        by_task.setdefault(row.task, []).append(item)
    lines = []
    for task, mine in by_task.items():
        parts: dict[bool, list[Item]] = {True: [], False: []}
        for item in mine:
            parts[safety.is_refusal(item.answer)].append(item)
        said = [quality.plain(item.answer) for item in parts[True]]
        served, declined = ([quality.plain(item.text) for item in parts[refused]] for refused in (False, True))
        twins = quality.all_leaks(served, declined, ALIKE, n=1) if said else []
        lines.append(
            {
                "task": task,
                "rows": len(mine),
                "decline": len(said),
                "openings": len({" ".join(text.split()[:OPENING]) for text in said}),
                "wordings": len(set(said)),
                "also served": len({twin.test for twin in twins}),
            }
        )
    return lines


# --- cleaning --------------------------------------------------------------------------------------------------------


def clean(rows: Sequence[Any], findings: Iterable[Finding]) -> tuple[list[Any], list[dict[str, str]]]:
    """The rows that no gate names, and a log of the others: which row went, for which gate, why.

    Returns:
        (kept rows, log lines). A row that several gates name has a line for each; rows of one's own have their place,
        file and line.
    """
    log = [
        {"id": rows[hit.row].id, "gate": finding.id, "reason": hit.reason, "beside": hit.other, "text": hit.excerpt}
        | ({"place": rows[hit.row].place} if hasattr(rows[hit.row], "place") else {})
        for finding in findings
        if finding.drops
        for hit in finding.hits
    ]
    gone = {line["id"] for line in log}
    return [row for row in rows if row.id not in gone], log


def _share(
    id: str, hits: Iterable[Hit], n: int, threshold: float, *, method: str, span: str, fix: str, need_n: int = 1,
    drops: bool = True,
) -> Finding:  # fmt: skip
    """A finding whose number is the share of rows at fault."""
    hits = _worst_first(hits)
    at_fault = len({hit.row for hit in hits})
    value, interval = (at_fault / n, wilson(at_fault, n)) if n else (None, None)
    return Finding(id, method, span, hits, value, interval, n, threshold, "<=", fix, need_n, drops)


def _worst_first(hits: Iterable[Hit]) -> tuple[Hit, ...]:
    return tuple(sorted(hits, key=lambda hit: (-hit.score, hit.row)))


def _excerpt(text: str, width: int = 160) -> str:
    short = " ".join(text.split())
    return short if len(short) <= width else short[: width - 1] + "…"
