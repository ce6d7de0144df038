"""The tables of the ratings store, what the database itself enforces, and migration from earlier versions.

Known choices, one standing vote per rater and item, one lease per rater: constraints, whatever the clients do. How many
votes stand on each item is kept by triggers, so that the next open item is found through an index, however many votes
there are. Opening an older store brings it up to date in one transaction; a newer one is refused and left as it is.

Left out on purpose: a migration framework (a step is a function here), and databases other than SQLite and PostgreSQL.
"""

import hashlib
from collections.abc import Sequence

import sqlalchemy as sa

SCHEMA_VERSION = 3
CHOICES = ("A", "B", "tie", "both_bad", "skip")
LOCK = 0x46544C42  # of PostgreSQL's advisory locks: who makes tables or adds items waits for the other one

metadata = sa.MetaData()
meta = sa.Table(
    "meta",
    metadata,
    sa.Column("key", sa.String(40), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
items = sa.Table(
    "items",
    metadata,
    sa.Column("item_id", sa.String(200), primary_key=True),
    sa.Column("content", sa.Text, nullable=False),  # the Candidate as JSON: what the votes were given on
)


def _one_of(column: str, values: Sequence[object]) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"{column} IN ({', '.join(map(repr, values))})", name=f"known_{column}")


ratings = sa.Table(
    "ratings",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("item_id", sa.ForeignKey(items.c.item_id), nullable=False),
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
standing_vote = ratings.c.withdrawn_at.is_(None)
sa.Index(
    "one_vote",
    ratings.c.rater,
    ratings.c.item_id,
    unique=True,
    sqlite_where=standing_vote,
    postgresql_where=standing_vote,
)
# Since version 3: the withdrawn ones of a rater, which a training round counts at each click.
withdrawn_votes = sa.Index(
    "withdrawn_votes",
    ratings.c.rater,
    ratings.c.item_id,
    sqlite_where=~standing_vote,
    postgresql_where=~standing_vote,
)

# Since version 2: in which order items are handed out, and to whom.
queue = sa.Table(
    "queue",
    metadata,
    sa.Column("item_id", sa.ForeignKey(items.c.item_id), primary_key=True),
    sa.Column("place", sa.String(16), nullable=False),
    sa.Column("standing", sa.Integer, nullable=False),  # votes that stand on the item; the triggers below count
    sa.CheckConstraint("standing >= 0", name="standing_not_negative"),
    sa.Index("queue_order", "standing", "place"),
)
queue.add_is_dependent_on(ratings)  # its triggers are on that table
leases = sa.Table(
    "leases",
    metadata,
    sa.Column("rater", sa.String(200), primary_key=True),  # one row a rater: the item handed out last
    sa.Column("item_id", sa.ForeignKey(items.c.item_id), index=True),
    sa.Column("expires_at", sa.Float),  # seconds since 1970 by the database's clock; none once the vote has come
    sa.CheckConstraint("length(rater) > 0", name="lease_rater_named"),
)


def _count(sign: str, row: str) -> str:
    return (
        f"UPDATE queue SET standing = standing {sign} 1 WHERE item_id = {row}.item_id AND {row}.withdrawn_at IS NULL;"
    )


_TRIGGERS = {
    "sqlite": [
        f"CREATE TRIGGER count_{event.lower()} AFTER {event} ON ratings BEGIN {' '.join(steps)} END"
        for event, steps in (
            ("INSERT", [_count("+", "new")]),
            ("UPDATE", [_count("-", "old"), _count("+", "new")]),
            ("DELETE", [_count("-", "old")]),
        )
    ],
    "postgresql": [
        f"""CREATE FUNCTION count_standing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF TG_OP <> 'INSERT' THEN {_count("-", "old")} END IF;
            IF TG_OP <> 'DELETE' THEN {_count("+", "new")} END IF;
            RETURN NULL; END $$""",
        """CREATE TRIGGER count_standing AFTER INSERT OR UPDATE OR DELETE ON ratings
            FOR EACH ROW EXECUTE FUNCTION count_standing()""",
    ],
}
for _dialect, _statements in _TRIGGERS.items():
    for _statement in _statements:
        sa.event.listen(queue, "after_create", sa.DDL(_statement).execute_if(dialect=_dialect))


def place(item_id: str) -> str:
    """Where an item stands in the order in which items are handed out: drawn from its id, the same for every rater."""
    return hashlib.sha256(item_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def serialise(connection: sa.Connection) -> None:
    """Until the end of this transaction, nobody else makes tables or adds items (SQLite: nobody else writes at all)."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))


def prepare(connection: sa.Connection, address: str) -> None:
    """Make the tables, or bring those of an earlier version up to date, in the transaction of this connection.

    Args:
        address: names the store in the error.

    Raises:
        ValueError: the store is of a newer version, or of none that is known.
    """
    serialise(connection)
    found = _version(connection)
    if found is not None and not (found.isdecimal() and 1 <= int(found) <= SCHEMA_VERSION):
        raise ValueError(
            f"{address}: expected a ratings store of schema version {SCHEMA_VERSION} or earlier, got {found}; "
            "update to the playbook's version that wrote it, or use another store"
        )
    metadata.create_all(connection)
    if found is None:
        connection.execute(meta.insert().values(key="schema_version", value=str(SCHEMA_VERSION)))
        return
    for version in range(int(found), SCHEMA_VERSION):
        _MIGRATIONS[version](connection)
    if found != str(SCHEMA_VERSION):
        stamped = meta.update().where(meta.c.key == "schema_version")
        connection.execute(stamped.values(value=str(SCHEMA_VERSION)))


def _version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(meta.name):
        return None
    return connection.scalar(sa.select(meta.c.value).where(meta.c.key == "schema_version"))


def _fill_queue(connection: sa.Connection) -> None:
    """From 1 to 2: every item gets its place, and the count of votes that stand on it."""
    votes = sa.select(ratings.c.item_id, sa.func.count()).where(standing_vote).group_by(ratings.c.item_id)
    standing = dict(map(tuple, connection.execute(votes)))
    rows = [
        {"item_id": item_id, "place": place(item_id), "standing": standing.get(item_id, 0)}
        for item_id in connection.scalars(sa.select(items.c.item_id))
    ]
    if rows:
        connection.execute(queue.insert(), rows)


def _index_withdrawn(connection: sa.Connection) -> None:
    """From 2 to 3: a table that is there already gets no new index by itself."""
    withdrawn_votes.create(connection)


# From this version to the next; new tables are there already.
_MIGRATIONS = {1: _fill_queue, 2: _index_withdrawn}
