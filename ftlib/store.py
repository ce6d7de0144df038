"""The ratings store: items and votes in one SQL database by URL; without a server, a SQLite file.

A vote counts once its transaction is committed, so a killed kernel loses nothing that was acknowledged. Votes are
never deleted: undo and second thoughts withdraw a row. A team shares a store: `claim` hands out the next item and holds
it for one rater until a stated time, so that an item gets the votes asked for and no more, and what a killed kernel
held comes back. SQLite runs in WAL mode, which needs a local disk; over a network, take PostgreSQL.

Items that are only checked against (gold) are on record without a place in the queue: votes on them are kept as all
votes are, and `claim` never hands them out.

Left out on purpose: accounts (who may write is the database's business), and leases for votes on a list of one's own
(`RatingSession` with items), which count on an item but ask nobody.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import exc

from ftlib import schema
from ftlib.files import utc_now
from ftlib.records import Candidate, Rating
from ftlib.schema import items as _items
from ftlib.schema import leases as _leases
from ftlib.schema import queue as _queue
from ftlib.schema import ratings as _ratings
from ftlib.schema import standing_vote as _standing

BUSY_SECONDS = 30  # how long a writer waits for another one's commit
LEASE_SECONDS = 900  # a quarter of an hour for one item; a killed kernel's item is free again after that
LOOKED_UP = 500  # ids in one query
_RATING_COLUMNS = [_ratings.c[name] for name in Rating.model_fields if name != "left"] + [
    _ratings.c.left_answer.label("left")
]


class SlotTaken(ValueError):
    """A vote came after its lease had run out, and other raters have the item's places now. It is not stored."""


class RatingStore:
    """Items and votes in one SQL database; made by `open_store`."""

    def __init__(self, engine: sa.Engine):
        self._engine = engine

    @property
    def address(self) -> str:
        """The database's URL, its password hidden."""
        return self._engine.url.render_as_string(hide_password=True)

    def add_items(self, items: Iterable[Candidate], *, handed_out: bool = True) -> int:
        """Put items on record; those that are there already are left as they are.

        Args:
            handed_out: `claim` may hand them out; False for gold items, which come by another way.

        Returns:
            How many were new.

        Raises:
            ValueError: an item's id is known with other texts. Votes belong to texts: give new texts a new id.
        """
        with self._write() as connection:
            return self._add_items(connection, items, handed_out)

    def _add_items(self, connection: sa.Connection, items: Iterable[Candidate], handed_out: bool = True) -> int:
        given = {item.id: json.dumps(item.model_dump(mode="json"), sort_keys=True) for item in items}
        schema.serialise(connection)
        known = _contents(connection, list(given))
        for item_id, content in known.items():
            if content != given[item_id]:
                raise ValueError(
                    f"item {item_id!r} is in {self.address} with other texts; votes belong to the texts they were "
                    "given on, so give the new texts a new id (candidate_id does) or use another store"
                )
        new = [item_id for item_id in given if item_id not in known]
        if new:
            connection.execute(_items.insert(), [{"item_id": key, "content": given[key]} for key in new])
            if handed_out:
                places = [{"item_id": key, "place": schema.place(key), "standing": 0} for key in new]
                connection.execute(_queue.insert(), places)
        return len(new)

    def items(self) -> list[Candidate]:
        """All items on record, by id."""
        with self._read() as connection:
            contents = connection.scalars(sa.select(_items.c.content).order_by(_items.c.item_id)).all()
        return [_candidate(content) for content in contents]

    def held_back(self) -> set[str]:
        """Ids of the items that are on record and never handed out, such as gold."""
        queued = sa.select(_queue.c.item_id)
        with self._read() as connection:
            return set(connection.scalars(sa.select(_items.c.item_id).where(_items.c.item_id.not_in(queued))))

    def item_count(self) -> int:
        """How many items the store hands out."""
        with self._read() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(_queue))

    def item(self, item_id: str) -> Candidate:
        """One item.

        Raises:
            ValueError: it is not on record.
        """
        with self._read() as connection:
            content = _contents(connection, [item_id]).get(item_id)
        if content is None:
            raise self._unknown(item_id)
        return _candidate(content)

    def claim(self, rater: str, *, overlap: int, lease_seconds: float = LEASE_SECONDS) -> Candidate | None:
        """The next item for this rater, held for them until the lease runs out or their vote is there.

        An item is handed out while its standing votes and the live leases on it are fewer than `overlap`. All raters
        follow one order, each from where they are and then around, so items are completed one after the other. Who
        asks again, from another kernel or after a crash, gets the same item again, and the lease anew.

        Args:
            overlap: votes wanted for an item.
            lease_seconds: how long the item is held.

        Returns:
            The item; None when no item is open to this rater now. One may be later, when another rater's lease runs
            out or a vote is withdrawn.

        Raises:
            ValueError: a blank name, or an overlap or a time that is not positive.
        """
        if not rater.strip() or overlap < 1 or not lease_seconds > 0:
            raise ValueError(
                f"expected a rater's name, an overlap of 1 or more and a positive lease_seconds; got {rater!r}, "
                f"{overlap} and {lease_seconds}"
            )
        while True:
            with self._write() as connection:
                now = _now(connection)
                lease = _hold_rater(connection, rater)
                live = lease.expires_at is not None and lease.expires_at > now
                item_id = lease.item_id if live else _first_open(connection, lease, overlap, now)
                if item_id is None:
                    return None
                standing = _hold_item(connection, item_id)
                if live or _has_room(connection, rater, item_id, standing, overlap, now):
                    _set_lease(connection, rater, item_id, now + lease_seconds)
                    return _candidate(_contents(connection, [item_id])[item_id])
            # PostgreSQL only: another rater took the place between our look and our lock; look again.

    def submit(self, rating: Rating, *, overlap: int | None = None) -> bool:
        """Commit a vote. The same vote again (double click, cell run twice, replay) changes nothing.

        Another vote of the same rater on the same item takes the earlier one's place; that one is withdrawn.

        Args:
            overlap: the item came from `claim` with this overlap, which the vote must not exceed; None: any number of
                raters may vote on the item.

        Returns:
            Whether the store changed.

        Raises:
            SlotTaken: the lease has run out, and the item has its votes, or is held by others, without this one.
            ValueError: the item is not on record.
        """
        with self._write() as connection:
            return self._submit(connection, rating, overlap)

    def submit_all(self, ratings: Iterable[Rating]) -> int:
        """Commit votes as `submit` does, all of them or, after an error, none.

        Returns:
            How many changed the store.
        """
        with self._write() as connection:
            return sum([self._submit(connection, rating, None) for rating in ratings])

    def load(
        self, items: Iterable[Candidate], ratings: Iterable[Rating], held_back: Iterable[Candidate] = ()
    ) -> tuple[int, int]:
        """Put items on record (as `add_items`) and commit votes (as `submit`): all of it or, after an error, nothing.

        Args:
            held_back: items that `claim` never hands out.

        Returns:
            How many items were new, and how many votes changed the store.
        """
        with self._write() as connection:
            new = self._add_items(connection, items) + self._add_items(connection, held_back, handed_out=False)
            return new, sum([self._submit(connection, rating, None) for rating in ratings])

    def _submit(self, connection: sa.Connection, rating: Rating, overlap: int | None) -> bool:
        lease = _hold_rater(connection, rating.rater)
        standing = _hold_item(connection, rating.item_id)
        if standing is None:
            if not _contents(connection, [rating.item_id]):
                raise self._unknown(rating.item_id)
            overlap = None  # not handed out: there are no places on it
        mine = sa.and_(_ratings.c.rater == rating.rater, _ratings.c.item_id == rating.item_id, _standing)
        row = connection.execute(sa.select(*_RATING_COLUMNS).where(mine)).mappings().first()
        if row and _verdict(Rating(**row)) == _verdict(rating):
            return False
        if overlap is not None and row is None:
            now = _now(connection)
            held = lease.item_id == rating.item_id and lease.expires_at is not None and lease.expires_at > now
            if not held and not _has_room(connection, rating.rater, rating.item_id, standing, overlap, now):
                raise SlotTaken(
                    f"item {rating.item_id!r}: the time to rate it has run out, and other raters have its {overlap} "
                    "place(s) now; go on with the next item"
                )
        if row:
            connection.execute(_ratings.update().where(mine).values(withdrawn_at=utc_now()))
        connection.execute(_ratings.insert().values(**rating.model_dump(exclude={"left"}), left_answer=rating.left))
        if lease.item_id == rating.item_id:
            _set_lease(connection, rating.rater, rating.item_id, None)
        return True

    def withdraw_latest(
        self, rater: str, item_ids: Iterable[str] | None = None, *, lease_seconds: float | None = None
    ) -> Rating | None:
        """Withdraw the rater's newest standing vote; None if there is none.

        Args:
            item_ids: look among the votes on these items only; None for all.
            lease_seconds: hold the item for the same rater for so long, in place of what they held before.
        """
        wanted = None if item_ids is None else set(item_ids)
        with self._write() as connection:
            _hold_rater(connection, rater)
            query = sa.select(_ratings.c.number, *_RATING_COLUMNS).where(_ratings.c.rater == rater, _standing)
            rows = connection.execute(query.order_by(_ratings.c.number.desc())).mappings()
            newest = next((dict(row) for row in rows if wanted is None or row["item_id"] in wanted), None)
            rows.close()
            if newest is None:
                return None
            standing = _hold_item(connection, newest["item_id"])
            number = newest.pop("number")
            connection.execute(_ratings.update().where(_ratings.c.number == number).values(withdrawn_at=utc_now()))
            if lease_seconds is not None and standing is not None:
                _set_lease(connection, rater, newest["item_id"], _now(connection) + lease_seconds)
        return Rating(**newest)

    def withdraw(self, rater: str, item_ids: Iterable[str]) -> int:
        """Withdraw the rater's standing votes on these items, all of them or, after an error, none.

        Returns:
            How many there were.
        """
        wanted = sorted(item_ids)
        with self._write() as connection:
            _hold_rater(connection, rater)
            found = 0
            for start in range(0, len(wanted), LOOKED_UP):
                some = _ratings.c.item_id.in_(wanted[start : start + LOOKED_UP])
                mine = _ratings.update().where(_ratings.c.rater == rater, some, _standing)
                found += connection.execute(mine.values(withdrawn_at=utc_now())).rowcount
        return found

    def ratings(
        self, *, item_ids: Iterable[str] | None = None, rater: str | None = None, withdrawn: bool = False
    ) -> list[Rating]:
        """The standing votes (or the withdrawn ones), in the order in which they came.

        Args:
            item_ids: only votes on these items; None for all.
            rater: only this rater's; None for all.
        """
        wanted = None if item_ids is None else set(item_ids)
        query = sa.select(*_RATING_COLUMNS).where(~_standing if withdrawn else _standing)
        if rater is not None:
            query = query.where(_ratings.c.rater == rater)
        if wanted is not None and len(wanted) <= LOOKED_UP:
            query = query.where(_ratings.c.item_id.in_(sorted(wanted)))
        with self._read() as connection:
            rows = connection.execute(query.order_by(_ratings.c.number)).mappings().all()
        return [Rating(**row) for row in rows if wanted is None or row["item_id"] in wanted]

    def rated_by(self, rater: str, *, handed_out: bool = False) -> set[str]:
        """Ids of the items that this rater has a standing vote on; on request only of those that are handed out."""
        query = sa.select(_ratings.c.item_id).where(_ratings.c.rater == rater, _standing)
        if handed_out:
            query = query.join(_queue, _queue.c.item_id == _ratings.c.item_id)
        with self._read() as connection:
            return set(connection.scalars(query))

    def newest_item(self, rater: str, among: Callable[[str], bool]) -> str | None:
        """The item of the rater's newest standing vote, of those items for which `among` holds; None without one."""
        query = sa.select(_ratings.c.item_id).where(_ratings.c.rater == rater, _standing)
        with self._read() as connection:
            newest_first = connection.scalars(query.order_by(_ratings.c.number.desc()))
            found = next((item_id for item_id in newest_first if among(item_id)), None)
            newest_first.close()
        return found

    def overlap_counts(self) -> dict[int, int]:
        """How many items have so many standing votes: {votes: items}."""
        query = sa.select(_queue.c.standing, sa.func.count()).group_by(_queue.c.standing)
        with self._read() as connection:
            return dict(map(tuple, connection.execute(query.order_by(_queue.c.standing))))

    def _unknown(self, item_id: str) -> ValueError:
        return ValueError(f"item {item_id!r} is not in {self.address}; add it with add_items first")

    def close(self) -> None:
        """Give the connections back; a SQLite file then stands alone, without its -wal and -shm files."""
        self._engine.dispose()

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with self._engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with self._engine.connect() as connection:
            yield connection


def open_store(url: str | Path) -> RatingStore:
    """Open a ratings store: made on the first call, brought up to date if an earlier version of the playbook wrote it.

    Args:
        url: a file's path (SQLite), or an SQLAlchemy URL such as "postgresql+psycopg://team@host/ratings". Leave the
            password out of URLs that end up in notebooks; PostgreSQL reads it from PGPASSWORD or ~/.pgpass.

    Raises:
        FileNotFoundError: the folder of the SQLite file is not there.
        ValueError: not a URL, another database than SQLite and PostgreSQL, a driver that is not installed, a file that
            is no database, or a store of a newer schema version.
        RuntimeError: the database server does not answer, or refuses.
    """
    engine = _engine(url)
    store = RatingStore(engine)
    try:
        with store._write() as connection:
            schema.prepare(connection, store.address)
    except exc.OperationalError as error:
        store.close()
        raise RuntimeError(f"{store.address}: cannot be opened ({error.orig}); check the address") from error
    except exc.DatabaseError as error:
        store.close()
        raise ValueError(f"{store.address}: expected a ratings store ({error.orig}); give another file") from error
    return store


def hide_password(url: str) -> str:
    """A store's address as it may be shown and written down; a path stays as it is."""
    try:
        return sa.make_url(url).render_as_string(hide_password=True) if "://" in url else url
    except exc.ArgumentError:
        return "(not a URL)"


def _engine(url: str | Path) -> sa.Engine:
    text = str(url)
    if not text.strip():
        raise ValueError("expected the path of a SQLite file or a database URL, got an empty text")
    try:
        address = sa.make_url(text) if "://" in text else sa.URL.create("sqlite", database=text)
        sqlite = address.get_backend_name() == "sqlite"
        # A notebook stays open for hours: a connection that the server has dropped meanwhile is made anew.
        options = {"connect_args": {"timeout": BUSY_SECONDS}} if sqlite else {"pool_pre_ping": True}
        engine = sa.create_engine(address, **options)
    except (exc.ArgumentError, ImportError) as error:
        # The URL itself is not shown: it may hold a password.
        raise ValueError(
            f"ratings store: expected a file's path or a URL like postgresql+psycopg://team@host/ratings, and its "
            f"driver installed; got {type(error).__name__}: {error if isinstance(error, ImportError) else 'no URL'}"
        ) from error
    if address.get_backend_name() not in ("sqlite", "postgresql"):
        raise ValueError(
            f"ratings store: expected SQLite or PostgreSQL, got {address.get_backend_name()}; the store's constraints "
            "are written for these two"
        )
    if sqlite:
        folder = Path(address.database or "").expanduser().resolve().parent
        if address.database and address.database != ":memory:" and not folder.is_dir():
            raise FileNotFoundError(f"{folder}: expected a folder for the ratings store, found none; make it first")
        sa.event.listen(engine, "connect", _sqlite_connected)
        sa.event.listen(engine, "begin", _sqlite_begin)
    return engine


def _sqlite_connected(connection, _record) -> None:
    connection.isolation_level = None  # sqlite3 leaves BEGIN to us
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: sa.Connection) -> None:
    # IMMEDIATE: a writer that began by reading would fail, not wait, when another one committed in between.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _candidate(content: str) -> Candidate:
    return Candidate.model_validate(json.loads(content))


def _contents(connection: sa.Connection, item_ids: list[str]) -> dict[str, str]:
    """Id -> content of those that are on record."""
    found: dict[str, str] = {}
    for start in range(0, len(item_ids), LOOKED_UP):
        query = sa.select(_items).where(_items.c.item_id.in_(item_ids[start : start + LOOKED_UP]))
        found.update(map(tuple, connection.execute(query)))
    return found


def _now(connection: sa.Connection) -> float:
    """Seconds since 1970, by one clock for all who share the store."""
    if connection.dialect.name == "postgresql":
        return float(connection.scalar(sa.select(sa.func.extract("epoch", sa.func.clock_timestamp()))))
    return time.time()


# Every writer locks the rater's row, then the item's: in PostgreSQL others wait there, in SQLite they wait at BEGIN.


def _hold_rater(connection: sa.Connection, rater: str) -> sa.Row:
    """The rater's lease (rater, item_id, expires_at), made if there is none, and locked."""
    connection.execute(sa.text("INSERT INTO leases (rater) VALUES (:rater) ON CONFLICT DO NOTHING"), {"rater": rater})
    return connection.execute(sa.select(_leases).where(_leases.c.rater == rater).with_for_update()).one()


def _hold_item(connection: sa.Connection, item_id: str) -> int | None:
    """How many votes stand on the item, its row locked; None for an item that is not on record."""
    return connection.scalar(sa.select(_queue.c.standing).where(_queue.c.item_id == item_id).with_for_update())


def _held_by_others(rater: str, item_id, now: float) -> sa.ScalarSelect:
    live = sa.and_(_leases.c.item_id == item_id, _leases.c.expires_at > now, _leases.c.rater != rater)
    return sa.select(sa.func.count()).select_from(_leases).where(live).scalar_subquery()


def _has_room(connection: sa.Connection, rater: str, item_id: str, standing: int, overlap: int, now: float) -> bool:
    return standing + connection.scalar(sa.select(_held_by_others(rater, item_id, now))) < overlap


def _set_lease(connection: sa.Connection, rater: str, item_id: str, expires_at: float | None) -> None:
    lease = _leases.update().where(_leases.c.rater == rater)
    connection.execute(lease.values(item_id=item_id, expires_at=expires_at))


def _first_open(connection: sa.Connection, lease: sa.Row, overlap: int, now: float) -> str | None:
    """The next item in the common order that has room for this rater, from the one that was leased last on.

    One look for each count of votes: a walk along the index (standing, place), of which the first rows will do.
    """
    last = sa.select(_queue.c.place).where(_queue.c.item_id == lease.item_id)
    after = connection.scalar(last) or ""
    mine = sa.exists().where(_ratings.c.item_id == _queue.c.item_id, _ratings.c.rater == lease.rater, _standing)
    room = _held_by_others(lease.rater, _queue.c.item_id, now) < overlap - _queue.c.standing
    for part in (_queue.c.place > after, _queue.c.place <= after):
        firsts = []
        for standing in range(overlap):
            query = sa.select(_queue.c.place, _queue.c.item_id).where(_queue.c.standing == standing, part, ~mine, room)
            firsts += map(tuple, connection.execute(query.order_by(_queue.c.place).limit(1)))
        if firsts:
            return min(firsts)[1]
    return None


def _verdict(rating: Rating) -> tuple:
    """What two equal votes have in common: not the time, the side or the seconds."""
    marks = (rating.helpfulness, rating.harmlessness, rating.task_fit)
    return (rating.item_id, rating.rater, rating.choice, marks, rating.reason, rating.simulated)
