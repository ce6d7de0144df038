"""Does the preference lab keep its promises? No vote lost, none doubled, overlap exact, the next item at once.

Twenty processes rate 1,000 items at three votes each, on one SQLite file and on PostgreSQL, while some are killed with
`kill -9` and started again under the same name. A vote counts as acknowledged when `submit` has returned and the
process has written it down. The time of the next item is measured alone, with 100,000 items and 300,000 votes in the
store, scattered at random: 20 raters have rated 15,000 items each, and 40 % of the items have a place left. It is
measured twice: for a plain session, and for the one that notebook 03 shows, with a training round behind it and hidden
gold among the items. There it is all that the buttons ask between a stored vote and the next item on the screen.
Without a PostgreSQL server on the machine its half is left out, and says so.

Raters: planted ones are found and honest teams left alone (`cases/raters.py`, simulated), and coefficients, error rates
and the audit of pairs give what was published (`cases/published.py`).
"""

import functools
import multiprocessing
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import sqlalchemy as sa

from benchmarks import check
from benchmarks.cases import postgres, published
from benchmarks.cases import raters as rater_cases
from ftlib import schema
from ftlib.calibration import CalibratedSession
from ftlib.files import whole_lines
from ftlib.ratings import RatingSession, left_answer
from ftlib.records import Candidate, GoldItem, data_path, load_jsonl
from ftlib.store import RatingStore, SlotTaken, open_store

SEED = 17
LEASE_SECONDS = 10
ROUNDS = 3  # how often the whole team is called again while items are open
ROWS_A_STATEMENT = 10_000
Session = RatingSession | CalibratedSession


def measure(
    *,
    raters: int = 20,
    items: int = 1_000,
    overlap: int = 3,
    kills: int = 40,
    stored_items: int = 100_000,
    stored_votes: int = 300_000,
    asked: int = 1_000,
    planted_teams: range = rater_cases.TEAMS,
    honest_teams: range = rater_cases.HONEST_TEAMS,
) -> dict:
    """{"rows", "checks"}; about six minutes on two cores.

    Args:
        raters: processes that rate at the same time.
        items, overlap: what they rate, and votes wanted for each item.
        kills: how many of them are killed on the way.
        stored_items, stored_votes, asked: the size of the store in which so many next items are timed.
        planted_teams, honest_teams: seeds of the simulated teams.
    """
    rows, checks = rater_part(planted_teams, honest_teams)
    with TemporaryDirectory() as folder, ExitStack() as stack:
        for name, url_of in _databases(Path(folder), stack):
            found = team(
                url_of("team"), Path(folder) / f"{name}-said", raters=raters, items=items, overlap=overlap, kills=kills
            )
            rows.append({"what": "team", "store": name} | found.row())
            checks += found.checks(name)
            large = url_of("large")
            with closing(open_store(large)) as store:
                fill(store, raters=raters, items=stored_items, votes=stored_votes)
            for what, make in SESSIONS.items():
                milliseconds, row = next_item(large, make, raters=raters, overlap=overlap, asked=asked)
                rows.append({"what": what, "store": name, "items": stored_items, "votes": stored_votes} | row)
                checks += _latency_checks(f"{name}_{what.replace(', ', '_').replace(' ', '_')}", milliseconds)
            print(f"  {name}: {rows[-3:]}", file=sys.stderr, flush=True)
    return {"rows": rows, "checks": checks}


def rater_part(planted_teams: range, honest_teams: range) -> tuple[list[dict], list[dict]]:
    """Rows and checks of what is asked of raters and pairs; half a minute."""
    parts = {
        "planted raters": rater_cases.planted_teams(planted_teams),
        "planted raters, few votes": rater_cases.small_teams(planted_teams),
        "honest teams": rater_cases.honest_teams(honest_teams),
        "published coefficient": published.coefficients(),
        "published error rates": published.error_rates(),
        "public pairs": published.hh_rlhf(),
    }
    rows = [{"what": what} | row for what, (found, _) in parts.items() for row in found]
    for row in rows:
        if "left out" in row:
            print(f"  {row['what']}: {row['left out']}", file=sys.stderr)
    return rows, [line for _, checks in parts.values() for line in checks]


def _databases(folder: Path, stack: ExitStack) -> Iterator[tuple[str, object]]:
    """Name, and a function from a database's name to its URL."""
    yield "sqlite", lambda database: str(folder / f"{database}.db")
    if postgres.programs() is None:
        print("  postgresql: left out, no server is installed here", file=sys.stderr)
        return
    url = stack.enter_context(postgres.server(durable=True))

    def created(database: str) -> str:
        engine = sa.create_engine(url.format(database="postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {database}")
        engine.dispose()
        return url.format(database=database)

    yield "postgresql", created


# --- a team, and kill -9 ---


@dataclass
class Team:
    """What a team left behind: what its processes wrote down, and what the store holds."""

    items: int
    overlap: int
    kills: int = 0
    failed: int = 0  # processes that ended with an error
    seconds: float = 0.0
    said: list[tuple[str, str, str, float, float]] = field(default_factory=list)  # rater, item, choice, two times in ms
    standing: list[tuple[str, str, str]] = field(default_factory=list)
    withdrawn: list[tuple[str, str, str]] = field(default_factory=list)

    def lost(self) -> int:
        """Votes that were acknowledged and do not stand."""
        return len({line[:3] for line in self.said} - set(self.standing))

    def doubled(self) -> int:
        """Votes too many: a second one of the same rater on the same item, standing or withdrawn."""
        votes = Counter(vote[:2] for vote in self.standing + self.withdrawn)
        return sum(votes.values()) - len(votes)

    def inexact(self) -> int:
        """Items with more or fewer standing votes than wanted."""
        votes = Counter(item_id for _, item_id, _ in self.standing)
        return self.items - sum(count == self.overlap for count in votes.values())

    def row(self) -> dict:
        """The line of the table."""
        claims, submits = ([line[place] for line in self.said] for place in (3, 4))
        return {
            "items": self.items, "overlap": self.overlap, "votes": len(self.standing), "acknowledged": len(self.said),
            "kills": self.kills, "seconds": round(self.seconds, 1),
            "claim_ms_median_p99": np.percentile(claims, [50, 99]).round(1).tolist(),
            "submit_ms_median_p99": np.percentile(submits, [50, 99]).round(1).tolist(),
        }  # fmt: skip

    def checks(self, name: str) -> list[dict]:
        """The promises, each a count that must be zero."""
        counts = {
            "acknowledged_votes_lost": (self.lost(), len(self.said)),
            "votes_doubled": (self.doubled(), len(self.standing)),
            "items_off_overlap": (self.inexact(), self.items),
            "processes_failed": (self.failed, self.kills),
        }
        return [check(f"{name}_{id}", value, "==", 0, n=n, spread=[value, value]) for id, (value, n) in counts.items()]


def team(url: str, folder: Path, *, raters: int, items: int, overlap: int, kills: int) -> Team:
    """Let processes rate until every item has its votes; kill some on the way, and start them again."""
    folder.mkdir()
    store = open_store(url)
    store.add_items(_candidates(items))
    found = Team(items, overlap)
    rng = np.random.default_rng(SEED)
    due = sorted(rng.integers(1, max(2, int(0.9 * items * overlap)), kills).tolist())  # after so many votes
    started = time.perf_counter()
    for _ in range(ROUNDS):
        found.failed += _round(url, folder, raters=raters, overlap=overlap, due=due, rng=rng, found=found)
        if store.overlap_counts() == {overlap: items}:
            break
        time.sleep(LEASE_SECONDS)
    found.seconds = time.perf_counter() - started
    found.said = list(_said(folder))
    found.standing = [(vote.rater, vote.item_id, vote.choice) for vote in store.ratings()]
    found.withdrawn = [(vote.rater, vote.item_id, vote.choice) for vote in store.ratings(withdrawn=True)]
    store.close()
    return found


def _round(url: str, folder: Path, *, raters: int, overlap: int, due: list[int], rng, found: Team) -> int:
    """Everyone rates until nothing is open to them; how many ended with an error."""
    context = multiprocessing.get_context("forkserver")  # a restart need not import everything again
    context.set_forkserver_preload(["ftlib.ratings"])

    def start(rater: str) -> tuple[multiprocessing.Process, Path]:
        log = folder / f"{rater}.{len(list(folder.iterdir()))}"
        log.touch()
        process = context.Process(target=_rate, args=(url, rater, overlap, log))
        process.start()
        return process, log

    working = {f"r{number}": start(f"r{number}") for number in range(raters)}
    while alive := {rater: log for rater, (process, log) in working.items() if process.is_alive()}:
        at_work = [rater for rater, log in alive.items() if log.stat().st_size]
        if due and at_work and sum(1 for _ in _said(folder)) >= due[0]:
            victim = str(rng.choice(at_work))
            process = working[victim][0]
            process.kill()
            process.join()
            if process.exitcode == -signal.SIGKILL:  # else it had just come to its end
                found.kills += 1
                del due[0]
            working[victim] = start(victim)
        time.sleep(0.05)
    return sum(process.exitcode != 0 for process, _ in working.values())


def _rate(url: str, rater: str, overlap: int, log: Path) -> None:
    """A rater's process: rate until nothing is open, and write down each vote once it was acknowledged."""
    store = open_store(url)
    session = RatingSession(store, rater, None, SEED, overlap=overlap, lease_seconds=LEASE_SECONDS)
    with open(log, "ab", buffering=0) as said:
        while True:
            asked = time.perf_counter()
            shown = session.current()
            if shown is None:
                break
            answered = time.perf_counter()
            try:
                vote = session.submit(left_answer(SEED, rater, shown.item.id))
            except SlotTaken:
                continue
            times = f"{1e3 * (answered - asked):.3f} {1e3 * (time.perf_counter() - answered):.3f}"
            said.write(f"{vote.item_id} {vote.choice} {times}\n".encode())
    store.close()


def _said(folder: Path) -> Iterator[tuple[str, str, str, float, float]]:
    for log in sorted(folder.iterdir()):
        for line in whole_lines(log)[0]:
            item_id, choice, claim, submit = line.decode().split()
            yield log.name.split(".")[0], item_id, choice, float(claim), float(submit)


# --- the next item in a large store ---


def plain_session(store: RatingStore, rater: str, overlap: int) -> RatingSession:
    """A rater who draws from the store."""
    return RatingSession(store, rater, None, SEED, overlap=overlap)


def calibrated_session(store: RatingStore, rater: str, overlap: int) -> CalibratedSession:
    """A rater as notebook 03 has them: one in ten of what is shown is hidden gold."""
    return CalibratedSession(store, rater, None, SEED, gold=_gold(), overlap=overlap, simulated=True)


SESSIONS = {"next item": plain_session, "next item, calibrated": calibrated_session}


def next_item(
    url: str, make: Callable[[RatingStore, str, int], Session], *, raters: int, overlap: int, asked: int
) -> tuple[np.ndarray, dict]:
    """Milliseconds of each next item, shape (asked,), in a store that is full already; and a row of the table.

    Timed is what the buttons ask for an item: the item itself, how far along, and whether a round may begin again.

    Args:
        make: store, rater's name and overlap -> session; a training round is passed before the clock runs.
    """
    verdicts = {item.id: item.gold for item in _gold()}
    store = open_store(url)
    opened = time.perf_counter()
    sessions = [make(store, f"r{number}", overlap) for number in range(raters)]
    opening = 1e3 * (time.perf_counter() - opened) / raters
    for session in sessions:
        while isinstance(session, CalibratedSession) and session.standing().state == "training":
            session.submit(verdicts[session.current().item.id])
    milliseconds, submits, checks = [], [], 0
    for number in range(asked):
        session = sessions[number % raters]
        started = time.perf_counter()
        shown = session.current()
        asked_besides = (session.progress(), session.progress(), session.may_begin_again)
        milliseconds.append(1e3 * (time.perf_counter() - started))
        assert not asked_besides[-1], "a round has failed: the clock ran on a session that shows nothing"
        started = time.perf_counter()
        session.submit(verdicts.get(shown.item.id, "A"), item_id=shown.item.id)
        submits.append(1e3 * (time.perf_counter() - started))
        checks += shown.item.id in verdicts
    counts = store.overlap_counts()
    store.close()
    row = {
        "asked": asked, "hidden_gold": checks, "ms_median": float(np.median(milliseconds)),
        "ms_p99": float(np.percentile(milliseconds, 99)), "ms_max": max(milliseconds),
        "submit_ms_median": float(np.median(submits)), "submit_ms_p99": float(np.percentile(submits, 99)),
        "session_opens_ms": opening,
        "items_with_a_place_left": sum(count for standing, count in counts.items() if standing < overlap),
    }  # fmt: skip
    return np.array(milliseconds), row


@functools.cache
def _gold() -> list[GoldItem]:
    return load_jsonl(data_path("preferences/gold.jsonl"), GoldItem)


def fill(store: RatingStore, *, raters: int, items: int, votes: int) -> None:
    """Put items and votes into an empty store past `submit`: each rater has rated a random share of the items.

    Raises:
        ValueError: more votes than raters times items.
    """
    if votes > raters * items:
        raise ValueError(f"expected at most {raters} x {items} votes, got {votes}; ask for fewer")
    store.add_items(_candidates(items))
    rng = np.random.default_rng(SEED)
    with store._write() as connection:
        for number in range(raters):
            share = votes // raters + (number < votes % raters)
            drawn = rng.permutation(items)[:share]
            for start in range(0, share, ROWS_A_STATEMENT):
                connection.execute(
                    schema.ratings.insert(), list(_votes(f"r{number}", drawn[start:][:ROWS_A_STATEMENT]))
                )
    if store._engine.dialect.name == "postgresql":  # as its autovacuum does in a store that has grown
        with store._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")


def _candidates(count: int) -> Iterator[Candidate]:
    for number in range(count):
        yield Candidate(
            id=f"c{number}", prompt_id=f"p{number}", prompt=f"prompt {number}", kind="production",
            answer_a=f"first answer {number}", source_a="one", answer_b=f"second answer {number}", source_b="two",
            cluster=f"k{number}",
        )  # fmt: skip


def _votes(rater: str, numbers: Iterable[int]) -> Iterator[dict]:
    for number in numbers:
        yield {
            "item_id": f"c{number}", "rater": rater, "choice": "A", "reason": "", "seconds": 1.0, "left_answer": "A",
            "simulated": True, "created_at": "2026-01-01T00:00:00.000+00:00",
        }  # fmt: skip


def _latency_checks(name: str, milliseconds: np.ndarray) -> list[dict]:
    low, median, high, p99, most = np.percentile(milliseconds, [2.5, 50, 97.5, 99, 100]).tolist()
    n = len(milliseconds)
    return [
        check(f"{name}_median_ms", median, "<=", 20, n=n, spread=[low, high]),
        check(f"{name}_p99_ms", p99, "<=", 100, n=n, spread=[median, most]),
    ]
