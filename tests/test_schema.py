"""Stores of an earlier version are brought up to date, in one transaction; of a newer one they are left alone."""

import pytest
import sqlalchemy as sa
from test_ratings import ITEMS, rating

from ftlib import schema
from ftlib.store import open_store

# What version 1 made, as it stood in the database. Not to be changed with the library.
VERSION_1 = """
CREATE TABLE meta ("key" VARCHAR(40) NOT NULL, value TEXT NOT NULL, PRIMARY KEY ("key"));
CREATE TABLE items (item_id VARCHAR(200) NOT NULL, content TEXT NOT NULL, PRIMARY KEY (item_id));
CREATE TABLE ratings (
    number {serial} NOT NULL, item_id VARCHAR(200) NOT NULL, rater VARCHAR(200) NOT NULL, choice VARCHAR(10) NOT NULL,
    helpfulness SMALLINT, harmlessness SMALLINT, task_fit SMALLINT, reason TEXT NOT NULL, seconds FLOAT NOT NULL,
    left_answer VARCHAR(1) NOT NULL, simulated BOOLEAN NOT NULL, created_at VARCHAR(40) NOT NULL,
    withdrawn_at VARCHAR(40), PRIMARY KEY (number),
    CONSTRAINT rater_named CHECK (length(rater) > 0),
    CONSTRAINT seconds_not_negative CHECK (seconds >= 0),
    CONSTRAINT known_choice CHECK (choice IN ('A', 'B', 'tie', 'both_bad', 'skip')),
    CONSTRAINT known_left_answer CHECK (left_answer IN ('A', 'B')),
    CONSTRAINT known_helpfulness CHECK (helpfulness IN (-1, 0, 1)),
    CONSTRAINT known_harmlessness CHECK (harmlessness IN (-1, 0, 1)),
    CONSTRAINT known_task_fit CHECK (task_fit IN (-1, 0, 1)),
    FOREIGN KEY(item_id) REFERENCES items (item_id));
CREATE UNIQUE INDEX one_vote ON ratings (rater, item_id) WHERE withdrawn_at IS NULL;
INSERT INTO meta VALUES ('schema_version', '1')
"""


def engine_of(url: str) -> sa.Engine:
    return sa.create_engine(url if "://" in url else f"sqlite:///{url}", poolclass=sa.NullPool)


@pytest.fixture
def version_1(store_url):
    """A store as version 1 left it: six items; two standing votes on c0 and one on c1, and one that was withdrawn."""
    with engine_of(store_url).begin() as connection:
        serial = "SERIAL" if connection.dialect.name == "postgresql" else "INTEGER"
        for statement in VERSION_1.format(serial=serial).split(";"):
            connection.exec_driver_sql(statement)
        contents = [{"item_id": item.id, "content": item.model_dump_json()} for item in ITEMS]
        connection.execute(schema.items.insert(), contents)
        for vote, withdrawn_at in (
            (rating("c0", "ann"), None),
            (rating("c0", "bob", "B"), None),
            (rating("c1", "ann"), None),
            (rating("c2", "ann"), "2026-01-03T00:00:00.000+00:00"),
        ):
            row = vote.model_dump(exclude={"left"}) | {"left_answer": vote.left, "withdrawn_at": withdrawn_at}
            connection.execute(schema.ratings.insert().values(**row))
    return store_url


def tables(url: str) -> set[str]:
    return set(sa.inspect(engine_of(url)).get_table_names())


def version(url: str) -> str:
    with engine_of(url).connect() as connection:
        return connection.exec_driver_sql("SELECT value FROM meta").scalar()


def test_version_1_is_brought_up_to_date(version_1):
    assert tables(version_1) == {"meta", "items", "ratings"} and version(version_1) == "1"
    opened = open_store(version_1)
    assert version(version_1) == "3"
    assert opened.items() == ITEMS
    assert opened.ratings() == [rating("c0", "ann"), rating("c0", "bob", "B"), rating("c1", "ann")]
    assert opened.ratings(withdrawn=True) == [rating("c2", "ann")]
    assert opened.overlap_counts() == {0: 4, 1: 1, 2: 1}
    opened.submit(rating("c1", "bob"))  # the triggers count on from there
    assert opened.overlap_counts() == {0: 4, 2: 2}
    opened.close()
    again = open_store(version_1)  # nothing is done a second time
    assert again.overlap_counts() == {0: 4, 2: 2}
    again.close()


def indexes(url: str) -> set[str]:
    return {index["name"] for index in sa.inspect(engine_of(url)).get_indexes("ratings")}


def test_each_earlier_version_gets_the_index_of_withdrawn_votes(version_1):
    assert indexes(version_1) == {"one_vote"}
    open_store(version_1).close()
    assert indexes(version_1) == {"one_vote", "withdrawn_votes"}
    with engine_of(version_1).begin() as connection:  # as version 2 left it
        schema.withdrawn_votes.drop(connection)
        connection.execute(schema.meta.update().values(value="2"))
    open_store(version_1).close()
    assert indexes(version_1) == {"one_vote", "withdrawn_votes"} and version(version_1) == "3"


def test_withdrawn_votes_are_looked_up_and_not_searched_for(tmp_path):
    """SQLite's own plan of the query by which `CalibratedSession.standing` counts the rounds."""
    opened, plans = open_store(tmp_path / "ratings.db"), []
    opened.add_items(ITEMS)

    @sa.event.listens_for(opened._engine, "before_cursor_execute")
    def explain(connection, cursor, statement, parameters, *_):
        if statement.startswith("SELECT"):
            plans.extend(row[3] for row in cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall())

    opened.ratings(rater="ann", item_ids=["c0", "c1"], withdrawn=True)
    opened.close()
    assert any("USING INDEX withdrawn_votes" in plan for plan in plans), plans
    assert not any(plan.startswith("SCAN") for plan in plans), plans


def test_the_places_are_those_of_a_new_store(version_1):
    opened = open_store(version_1)
    order = sorted((item.id for item in ITEMS), key=schema.place)
    assert opened.claim("cid", overlap=1).id == next(one for one in order if one not in ("c0", "c1"))
    opened.close()


def test_a_migration_that_fails_leaves_version_1(version_1, monkeypatch):
    def fail(_connection):
        raise KeyboardInterrupt

    monkeypatch.setitem(schema._MIGRATIONS, 1, fail)
    with pytest.raises(KeyboardInterrupt):
        open_store(version_1)
    assert tables(version_1) == {"meta", "items", "ratings"} and version(version_1) == "1"
    monkeypatch.undo()
    opened = open_store(version_1)
    assert opened.overlap_counts() == {0: 4, 1: 1, 2: 1}
    opened.close()


@pytest.mark.parametrize("found", ["4", "99", "two"])
def test_a_newer_version_is_refused_and_left_as_it_is(version_1, found):
    with engine_of(version_1).begin() as connection:
        connection.execute(schema.meta.update().values(value=found))
    with pytest.raises(ValueError, match=f"schema version 3 or earlier, got {found}; update to the playbook's version"):
        open_store(version_1)
    assert tables(version_1) == {"meta", "items", "ratings"} and version(version_1) == found


def test_a_store_that_was_brought_up_to_date_has_the_constraints_of_a_new_one(version_1):
    opened = open_store(version_1)
    with pytest.raises(sa.exc.IntegrityError, match="(?i)constraint"), opened._write() as connection:
        connection.execute(schema.queue.update().values(standing=-1))
    with pytest.raises(sa.exc.IntegrityError, match="(?i)unique"), opened._write() as connection:
        row = rating("c0", "ann", "tie").model_dump(exclude={"left"}) | {"left_answer": "A"}
        connection.execute(schema.ratings.insert().values(**row))
    opened.close()
