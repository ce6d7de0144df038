"""The ratings store: items and votes in one SQL database by URL; without a server, a SQLite file.

A vote counts once its transaction is committed, so a killed kernel loses nothing that was acknowledged. Votes are
never deleted: undo and second thoughts withdraw a row. What must hold (one standing vote per rater and item, known
choices) is a constraint of the database, whatever its clients do. SQLite runs in WAL mode, which needs a local disk.

Left out on purpose: leases, schema migration, and accounts (who may write is the database's business).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import exc

from ftlib.files import utc_now
from ftlib.records import Candidate, Rating

SCHEMA_VERSION = 1
CHOICES = ("A", "B", "tie", "both_bad", "skip")
BUSY_SECONDS = 30  # how long a writer waits for another one's commit

_metadata = sa.MetaData()
_meta = sa.Table(
    "meta",
    _metadata,
    sa.Column("key", sa.String(40), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
_items = sa.Table(
    "items",
    _metadata,
    sa.Column("item_id", sa.String(200), primary_key=True),
    sa.Column("content", sa.Text, nullable=False),  # the Candidate as JSON: what the votes were given on
)


def _one_of(column: str, values: Sequence[object]) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"{column} IN ({', '.join(map(repr, values))})", name=f"known_{column}")


_ratings = sa.Table(
    "ratings",
    _metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("item_id", sa.ForeignKey(_items.c.item_id), nullable=False),
    sa.Column("rater", sa.String(200), nullable=False),
    sa.Column("choice", sa.String(10), nullable=False),
    sa.Column("helpfulness", sa.SmallInteger),
    sa.Column("harmlessness", sa.SmallInteger),
    sa.Column("task_fit", sa.SmallInteger),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("left_answer", sa.String(1), nullable=False),
    sa.Column("simulated", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("withdrawn_at", sa.String(40)),
    sa.CheckConstraint("length(rater) > 0", name="rater_named"),
    sa.CheckConstraint("seconds >= 0", name="seconds_not_negative"),
    _one_of("choice", CHOICES),
    _one_of("left_answer", ("A", "B")),
    *(_one_of(column, (-1, 0, 1)) for column in ("helpfulness", "harmlessness", "task_fit")),
)
# One standing vote per rater and item, whatever the clients do; withdrawn ones stay beside it.
_standing = _ratings.c.withdrawn_at.is_(None)
sa.Index(
    "one_vote", _ratings.c.rater, _ratings.c.item_id, unique=True, sqlite_where=_standing, postgresql_where=_standing
)
_RATING_COLUMNS = [_ratings.c[name] for name in Rating.model_fields if name != "left"] + [
    _ratings.c.left_answer.label("left")
]


class RatingStore:
    """Items and votes in one SQL database; made by `open_store`."""

    def __init__(self, engine: sa.Engine):
        self._engine = engine

    @property
    def address(self) -> str:
        """The database's URL, its password hidden."""
        return self._engine.url.render_as_string(hide_password=True)

    def add_items(self, items: Iterable[Candidate]) -> int:
        """Put items on record; those that are there already are left as they are.

        Returns:
            How many were new.

        Raises:
            ValueError: an item's id is known with other texts. Votes belong to texts: give new texts a new id.
        """
        given = {item.id: json.dumps(item.model_dump(mode="json"), sort_keys=True) for item in items}
        with self._write() as connection:
            rows = connection.execute(sa.select(_items))
            known = {row.item_id: row.content for row in rows if row.item_id in given}
            for item_id, content in known.items():
                if content != given[item_id]:
                    raise ValueError(
                        f"item {item_id!r} is in {self.address} with other texts; votes belong to the texts they were "
                        "given on, so give the new texts a new id (candidate_id does) or use another store"
                    )
            new = [{"item_id": key, "content": content} for key, content in given.items() if key not in known]
            if new:
                connection.execute(_items.insert(), new)
        return len(new)

    def items(self) -> list[Candidate]:
        """All items on record, by id."""
        with self._read() as connection:
            contents = connection.scalars(sa.select(_items.c.content).order_by(_items.c.item_id)).all()
        return [Candidate.model_validate(json.loads(content)) for content in contents]

    def submit(self, rating: Rating) -> bool:
        """Commit a vote. The same vote again (double click, cell run twice, replay) changes nothing.

        Another vote of the same rater on the same item takes the earlier one's place; that one is withdrawn.

        Returns:
            Whether the store changed.

        Raises:
            ValueError: the item is not on record.
        """
        values = rating.model_dump(exclude={"left"}) | {"left_answer": rating.left}
        with self._write() as connection:
            mine = sa.and_(_ratings.c.rater == rating.rater, _ratings.c.item_id == rating.item_id, _standing)
            row = connection.execute(sa.select(*_RATING_COLUMNS).where(mine)).mappings().first()
            if row and _verdict(Rating(**row)) == _verdict(rating):
                return False
            known = sa.select(_items.c.item_id).where(_items.c.item_id == rating.item_id)
            if not connection.execute(known).first():
                raise ValueError(f"item {rating.item_id!r} is not in {self.address}; add it with add_items first")
            connection.execute(_ratings.update().where(mine).values(withdrawn_at=utc_now()))
            connection.execute(_ratings.insert().values(**values))
        return True

    def withdraw_latest(self, rater: str, item_ids: Iterable[str]) -> Rating | None:
        """Withdraw the rater's newest standing vote on one of these items; None if there is none."""
        wanted = set(item_ids)
        with self._write() as connection:
            query = sa.select(_ratings.c.number, *_RATING_COLUMNS).where(_ratings.c.rater == rater, _standing)
            rows = connection.execute(query.order_by(_ratings.c.number.desc())).mappings()
            newest = next((dict(row) for row in rows if row["item_id"] in wanted), None)
            if newest is None:
                return None
            number = newest.pop("number")
            connection.execute(_ratings.update().where(_ratings.c.number == number).values(withdrawn_at=utc_now()))
        return Rating(**newest)

    def ratings(self, *, item_ids: Iterable[str] | None = None, withdrawn: bool = False) -> list[Rating]:
        """The standing votes (or the withdrawn ones), in the order in which they came.

        Args:
            item_ids: only votes on these items; None for all.
        """
        wanted = None if item_ids is None else set(item_ids)
        query = sa.select(*_RATING_COLUMNS).where(~_standing if withdrawn else _standing)
        with self._read() as connection:
            rows = connection.execute(query.order_by(_ratings.c.number)).mappings().all()
        return [Rating(**row) for row in rows if wanted is None or row["item_id"] in wanted]

    def rated_by(self, rater: str) -> set[str]:
        """Ids of the items that this rater has a standing vote on."""
        with self._read() as connection:
            return set(connection.scalars(sa.select(_ratings.c.item_id).where(_ratings.c.rater == rater, _standing)))

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
    """Open a ratings store, made on the first call.

    Args:
        url: a file's path (SQLite), or an SQLAlchemy URL such as "postgresql+psycopg://team@host/ratings". Leave the
            password out of URLs that end up in notebooks; PostgreSQL reads it from PGPASSWORD or ~/.pgpass.

    Raises:
        FileNotFoundError: the folder of the SQLite file is not there.
        ValueError: not a URL, a database driver that is not installed, a file that is no database, or a store of
            another schema version.
        RuntimeError: the database server does not answer, or refuses.
    """
    engine = _engine(url)
    store = RatingStore(engine)
    try:
        with store._write() as connection:
            _metadata.create_all(connection)
            version = connection.scalar(sa.select(_meta.c.value).where(_meta.c.key == "schema_version"))
            if version is None:
                connection.execute(_meta.insert().values(key="schema_version", value=str(SCHEMA_VERSION)))
            elif version != str(SCHEMA_VERSION):
                raise ValueError(
                    f"{store.address}: expected a ratings store of schema version {SCHEMA_VERSION}, got {version}; "
                    "use the playbook's version that wrote it, or another store"
                )
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
        engine = sa.create_engine(address, **({"connect_args": {"timeout": BUSY_SECONDS}} if sqlite else {}))
    except (exc.ArgumentError, ImportError) as error:
        # The URL itself is not shown: it may hold a password.
        raise ValueError(
            f"ratings store: expected a file's path or a URL like postgresql+psycopg://team@host/ratings, and its "
            f"driver installed; got {type(error).__name__}: {error if isinstance(error, ImportError) else 'no URL'}"
        ) from error
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


def _verdict(rating: Rating) -> tuple:
    """What two equal votes have in common: not the time, the side or the seconds."""
    marks = (rating.helpfulness, rating.harmlessness, rating.task_fit)
    return (rating.item_id, rating.rater, rating.choice, marks, rating.reason, rating.simulated)
