"""The spot audit: do people call the rows' answers correct, and how sure may we be after n of them?

A sample is drawn by hash, two auditors judge it apart and blind (no id, no label of another, an order of their own),
some rows are given to both, and what is not plainly right is settled by a third look. Each verdict is one synced line
of an append-only log, written before the next row shows. The number that counts is the exact lower bound of the share
correct: 29 of 29, 45 of 46 or 59 of 61 show 90 %.

Left out on purpose: planted wrong rows that test the auditors, strata (the bound is for the whole file), and accounts:
an auditor is the name that is given.
"""

import hashlib
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ftlib.data_gates import Finding, Hit, Item
from ftlib.files import append_line, locked, mend_tail, utc_now, whole_lines
from ftlib.gates import Interval, lower_bound, successes_needed
from ftlib.records import ROUTE_OF_INTENT, AuditVerdict, SftRow, Target

NEEDED = 0.9  # share correct that the lower bound must reach
SETTLER = "settled"
SEEN_FROM = 0.95  # confidence of the bound
Judgement = Literal["correct", "wrong", "unsure"]
JUDGEMENTS = ("correct", "wrong", "unsure")


def digest(item: Item) -> str:
    """16 hex digits of what an auditor sees; another text or answer gives another one."""
    return _hash(item.text, item.context, item.answer)[:16]


def draw_sample(items: Sequence[Item], n: int, *, seed: int) -> list[Item]:
    """n rows at random: the ones whose hash of seed and id is least, in that order.

    A row's chance does not depend on the others, so the sample of a part of the file is in the file's own order.
    """
    return sorted(items, key=lambda item: _hash(seed, item.id))[:n]


def assign(sample: Sequence[Item], auditors: Sequence[str], *, overlap: int) -> dict[str, list[Item]]:
    """The first `overlap` rows to every auditor, the others to one each in turn.

    Raises:
        ValueError: fewer than two auditors, or a name twice; agreement needs two.
    """
    if len(set(auditors)) < max(2, len(auditors)):
        raise ValueError(f"expected two auditors or more with names of their own, got {list(auditors)}")
    given = {auditor: list(sample[:overlap]) for auditor in auditors}
    for place, item in enumerate(sample[overlap:]):
        given[auditors[place % len(auditors)]].append(item)
    return given


class AuditLog:
    """Verdicts in one append-only file of JSON Lines; what is in it counts, also after a killed kernel."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def add(self, verdict: AuditVerdict) -> None:
        """Append a verdict; it is on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.path.parent):
            mend_tail(self.path)
            append_line(self.path, verdict.model_dump_json())

    def verdicts(self) -> list[AuditVerdict]:
        """The standing verdicts: of each auditor and row the newest, in the order in which they came.

        Raises:
            ValueError: a line is no verdict; names file and line.
        """
        standing: dict[tuple, AuditVerdict] = {}
        for number, line in enumerate(whole_lines(self.path)[0], start=1):
            try:
                verdict = AuditVerdict.model_validate_json(line)
            except ValueError as error:
                raise ValueError(
                    f"{self.path.name} line {number}: not a verdict ({str(error).splitlines()[0]}); restore the file"
                ) from None
            key = (verdict.auditor, verdict.settles, verdict.row_id, verdict.digest)
            standing.pop(key, None)
            standing[key] = verdict
        return list(standing.values())


@dataclass(frozen=True)
class ShownRow:
    """A row as an auditor sees it, without its id, and how far along it comes."""

    item: Item
    number: int
    total: int


@dataclass(frozen=True)
class AuditProgress:
    """Rows judged, of all in the session."""

    done: int
    total: int


class AuditSession:
    """One auditor's way through rows; it goes on where an earlier session over the same log stopped.

    Args:
        log: where verdicts are kept.
        auditor: the auditor's name.
        items: what to judge; the order is drawn from seed, auditor and row.
        simulated: mark the verdicts as given by a program.
        settles: these verdicts are the last word (see `open_questions`).

    Raises:
        ValueError: a blank name.
    """

    def __init__(
        self,
        log: AuditLog,
        auditor: str,
        items: Sequence[Item],
        *,
        seed: int,
        simulated: bool = False,
        settles: bool = False,
    ):
        if not auditor.strip():
            raise ValueError("expected an auditor's name, got a blank one; verdicts are kept under it")
        self.log, self.auditor, self.simulated, self.settles = log, auditor, simulated, settles
        self._items = {item.id: item for item in sorted(items, key=lambda item: _hash(seed, auditor, item.id))}
        self._done = [
            verdict.row_id
            for verdict in log.verdicts()
            if verdict.auditor == auditor and verdict.settles == settles and self._judged_as_it_is(verdict)
        ]
        self._timed: tuple[str, float] = ("", 0.0)  # the row on show, and since when

    def current(self) -> ShownRow | None:
        """The row to judge now; None when all are. Its clock starts when it is first asked for."""
        row_id = next((row_id for row_id in self._items if row_id not in self._done), None)
        if row_id is None:
            return None
        if self._timed[0] != row_id:
            self._timed = (row_id, time.monotonic())
        return ShownRow(self._items[row_id], len(self._done) + 1, len(self._items))

    def submit(
        self, verdict: Judgement, *, reason: str = "", row_id: str = "", recorded: AuditVerdict | None = None
    ) -> AuditVerdict:
        """Store a verdict; it is on disk when this returns.

        Args:
            reason: wanted for "wrong" and "unsure": the author of the row has to learn from it.
            row_id: the row meant; empty for the current one.
            recorded: a verdict given before: its seconds, time and `simulated` are kept.

        Raises:
            ValueError: nothing is left, the row is not in this session, an unknown verdict, or no reason.
        """
        shown = self.current() if not row_id else None
        row_id = row_id or (shown.item.id if shown else "")
        if row_id not in self._items:
            raise ValueError(
                f"row {row_id!r} is not among the {len(self._items)} rows of {self.auditor}'s session"
                if row_id
                else f"{self.auditor} has judged all {len(self._items)} rows; go back, or give a row_id"
            )
        if verdict not in JUDGEMENTS:
            raise ValueError(f"verdict is {verdict!r}; expected one of {', '.join(JUDGEMENTS)}")
        if verdict != "correct" and not reason.strip():
            raise ValueError(f"{verdict!r} wants a reason: what is wrong with the answer, or what is unclear?")
        started = self._timed[1] if self._timed[0] == row_id else time.monotonic()
        given = AuditVerdict(
            row_id=row_id,
            digest=digest(self._items[row_id]),
            auditor=self.auditor,
            verdict=verdict,
            reason=reason.strip(),
            settles=self.settles,
            seconds=recorded.seconds if recorded else round(time.monotonic() - started, 3),
            simulated=recorded.simulated if recorded else self.simulated,
            created_at=recorded.created_at if recorded else utc_now(),
        )
        self.log.add(given)
        if row_id not in self._done:
            self._done.append(row_id)
        return given

    def back(self) -> ShownRow | None:
        """Open the row judged last again; a new verdict takes the place of its old one. None if there is none."""
        if not self._done:
            return None
        row_id = self._done.pop()
        self._items = {row_id: self._items.pop(row_id)} | self._items
        return self.current()

    def progress(self) -> AuditProgress:
        """How far along the auditor is."""
        return AuditProgress(len(self._done), len(self._items))

    def _judged_as_it_is(self, verdict: AuditVerdict) -> bool:
        item = self._items.get(verdict.row_id)
        return item is not None and digest(item) == verdict.digest


Auditor = Callable[[ShownRow], tuple[Judgement, str]]


def replay(session: AuditSession, verdicts: Sequence[AuditVerdict] | Auditor) -> int:
    """Feed verdicts to a session through the `submit` that the buttons call.

    Args:
        verdicts: recorded ones (this auditor's, on rows that are as they were), or an auditor such as
            `simulated_auditor` makes, who is asked until nothing is left.

    Returns:
        How many were given; what the log has already is not given again.
    """
    given = 0
    if callable(verdicts):
        while (shown := session.current()) is not None:
            verdict, reason = verdicts(shown)
            session.submit(verdict, reason=reason, row_id=shown.item.id)
            given += 1
        return given
    for recorded in verdicts:
        mine = recorded.auditor == session.auditor and recorded.settles == session.settles
        if mine and session._judged_as_it_is(recorded) and recorded.row_id not in session._done:
            session.submit(recorded.verdict, reason=recorded.reason, row_id=recorded.row_id, recorded=recorded)
            given += 1
    return given


def open_questions(items: Sequence[Item], verdicts: Sequence[AuditVerdict]) -> list[Item]:
    """Rows that need a last word: auditors differ, one was unsure, or only one looked and called it wrong."""
    by_row = _by_row(items, verdicts)
    return [item for item in items if _outcome(by_row[item.id]) == "open"]


@dataclass(frozen=True)
class AuditResult:
    """What the audit says so far.

    Attributes:
        n: rows with a verdict. `correct` of them are; the others are wrong, or open, which counts as wrong.
        wrong, open: ids of rows.
        missing: rows of the sample that nobody has judged; they are not in `n`.
        agreed, shared: rows on which all auditors said the same, of those that two or more judged.
        basis: "people", "simulated auditors", "people and simulated auditors" or "nobody".
    """

    n: int
    correct: int
    wrong: tuple[str, ...]
    open: tuple[str, ...]
    missing: int
    agreed: int
    shared: int
    basis: str

    @property
    def lower(self) -> float | None:
        """The least share correct that the count allows (Clopper-Pearson, one-sided, 95 %)."""
        return lower_bound(self.correct, self.n, confidence=SEEN_FROM) if self.n else None


def result(sample: Sequence[Item], verdicts: Sequence[AuditVerdict]) -> AuditResult:
    """Count the verdicts on the rows of the sample; those on another text of a row do not count."""
    by_row = _by_row(sample, verdicts)
    outcome = {row_id: _outcome(given) for row_id, given in by_row.items() if given}
    first = [{v.auditor: v.verdict for v in given if not v.settles} for given in by_row.values()]
    shared = [set(given.values()) for given in first if len(given) > 1]
    kinds = {"simulated auditors" if v.simulated else "people" for given in by_row.values() for v in given}
    named = {kind: tuple(row for row, found in outcome.items() if found == kind) for kind in ("wrong", "open")}
    return AuditResult(
        n=len(outcome),
        correct=sum(found == "correct" for found in outcome.values()),
        wrong=named["wrong"],
        open=named["open"],
        missing=len(sample) - len(outcome),
        agreed=sum(len(said) == 1 for said in shared),
        shared=len(shared),
        basis=" and ".join(sorted(kinds)) or "nobody",
    )


def audit_finding(items: Sequence[Item], sample: Sequence[Item], verdicts: Sequence[AuditVerdict]) -> Finding:
    """The audit as a gate: the lower bound of the share correct; wrong and open rows are its hits.

    Args:
        items: all rows, so that a hit points into them as those of the other gates do.
    """
    found = result(sample, verdicts)
    place = {item.id: row for row, item in enumerate(items)}
    reasons = {v.row_id: v.reason for v in sorted(verdicts, key=lambda v: v.settles) if v.reason}
    hits = [
        Hit(place[row_id], f"{kind}: {reasons.get(row_id, 'no reason given')}", items[place[row_id]].text[:160], score)
        for kind, ids, score in (("wrong", found.wrong, 2.0), ("open", found.open, 1.0))
        for row_id in ids
    ]
    interval = None
    if found.n:
        failed = found.n - found.correct
        interval = Interval(
            lower_bound(found.correct, found.n, confidence=0.975), 1 - lower_bound(failed, found.n, confidence=0.975)
        )
    return Finding(
        "audit_correct",
        f"Clopper-Pearson lower bound (one-sided, {SEEN_FROM:.0%}) of the share correct; basis: {found.basis}",
        f"{found.correct} of {found.n} rows correct, {len(found.open)} open, {found.missing} of the sample not judged; "
        f"auditors agree on {found.agreed} of {found.shared} shared rows",
        tuple(hits),
        found.lower,
        interval,
        found.n,
        NEEDED,
        ">=",
        "judge the open rows; correct the wrong ones and their like, then draw a new sample",
        need_n=successes_needed(NEEDED),
        evidence="simulated" not in found.basis,
    )


def simulated_auditor(check: Callable[[Item], str], *, seed: int, slip: float = 0.02, unsure: float = 0.03) -> Auditor:
    """A program in an auditor's place: follows a check, with slips. Its verdicts say nothing about people.

    Args:
        check: item -> what is wrong with it, "" for nothing.
        slip: share of rows on which it says the opposite.
        unsure: share of rows on which it says "unsure".
    """

    def judge(shown: ShownRow) -> tuple[Judgement, str]:
        rng = np.random.default_rng(int(_hash(seed, "slips", shown.item.id)[:15], 16))
        if rng.random() < unsure:
            return "unsure", "simulated doubt"
        fault = check(shown.item)
        if rng.random() < slip:
            return ("correct", "") if fault else ("wrong", "simulated slip")
        return ("wrong", fault) if fault else ("correct", "")

    return judge


def rule_check(rows: Sequence[SftRow]) -> Callable[[Item], str]:
    """What can be checked of the shop's rows without reading: order number, route, facts. An intent cannot."""
    known = {row.id: row for row in rows}

    def check(item: Item) -> str:
        row = known[item.id]
        if not isinstance(row.output, Target):
            lost = [fact for fact in row.facts if fact.lower() not in row.answer().lower()]
            return f"the answer lacks {lost[0]!r}" if lost else ""
        numbers = re.findall(r"\bth[- ]?(\d{5})\b", row.input.lower())
        order = row.output.order_id
        if order is not None and order[-5:] not in numbers:
            return f"order number {order} is not in the text"
        if order is None and numbers:
            return "the order number in the text is not in the answer"
        if row.output.route not in (ROUTE_OF_INTENT[row.output.intent], "safety", "lead"):
            return f"route {row.output.route} does not belong to {row.output.intent}"
        return ""

    return check


def simulate(rows: Sequence[SftRow], items: Sequence[Item], log: AuditLog, *, n: int, overlap: int, seed: int) -> None:
    """A whole audit by two simulated auditors and a simulated settler, as `data/sft/audit.jsonl` holds it."""
    check, sample = rule_check(rows), draw_sample(items, n, seed=seed)
    for number, (auditor, given) in enumerate(assign(sample, ("sim-a", "sim-b"), overlap=overlap).items()):
        session = AuditSession(log, auditor, given, seed=seed, simulated=True)
        replay(session, simulated_auditor(check, seed=seed + number))
    questions = open_questions(sample, log.verdicts())
    settler = AuditSession(log, SETTLER, questions, seed=seed, simulated=True, settles=True)
    replay(settler, simulated_auditor(check, seed=seed, slip=0.0, unsure=0.0))


def _by_row(items: Sequence[Item], verdicts: Sequence[AuditVerdict]) -> Mapping[str, list[AuditVerdict]]:
    digests = {item.id: digest(item) for item in items}
    found: dict[str, list[AuditVerdict]] = defaultdict(list)
    found.update((row_id, []) for row_id in digests)
    for verdict in verdicts:
        if digests.get(verdict.row_id) == verdict.digest:
            found[verdict.row_id].append(verdict)
    return found


def _outcome(given: Sequence[AuditVerdict]) -> Literal["correct", "wrong", "open", "missing"]:
    """The newest settling verdict decides ("unsure" is then wrong); else all must agree, on "wrong" two at least."""
    settled = [verdict.verdict for verdict in given if verdict.settles]
    if settled:
        return "correct" if settled[-1] == "correct" else "wrong"
    said = {verdict.auditor: verdict.verdict for verdict in given}
    if not said:
        return "missing"
    if set(said.values()) == {"correct"}:
        return "correct"
    return "wrong" if set(said.values()) == {"wrong"} and len(said) > 1 else "open"


def _hash(*parts: object) -> str:
    text = "\x1f".join(map(str, parts))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
