"""Leases: who gets which item, for how long, and how many votes an item ends with. On SQLite and on PostgreSQL."""

import threading
from collections import Counter

import pytest
import sqlalchemy as sa
from test_ratings import ITEMS, item, rating
from test_widgets import Screen

from ftlib import schema
from ftlib.rater_widgets import rating_widget
from ftlib.ratings import RatingSession, Vote, replay
from ftlib.store import SlotTaken, open_store

ORDER = sorted((one.id for one in ITEMS), key=schema.place)  # in which the store hands them out


@pytest.fixture
def store(store_url):
    opened = open_store(store_url)
    opened.add_items(ITEMS)
    yield opened
    opened.close()


@pytest.fixture
def clock(monkeypatch):
    """The database's clock, to be moved by hand: clock[0] is the time in seconds."""
    now = [1000.0]
    monkeypatch.setattr("ftlib.store._now", lambda _: now[0])
    return now


def queue(store, rater: str = "ann", overlap: int = 1, **options) -> RatingSession:
    return RatingSession(store, rater, None, seed=17, overlap=overlap, lease_seconds=60, **options)


def claimed(store, rater: str, overlap: int, **options) -> str | None:
    found = store.claim(rater, overlap=overlap, **{"lease_seconds": 60} | options)
    return found and found.id


# --- the store ---


def test_two_raters_are_not_given_the_same_place(store):
    assert [claimed(store, rater, 1) for rater in ("ann", "bob", "cid")] == ORDER[:3]


def test_an_item_is_handed_out_as_often_as_asked(store):
    """Six items at overlap 2 are twelve places; the thirteenth rater gets none."""
    given = [claimed(store, f"r{number}", 2) for number in range(13)]
    assert given == [item_id for item_id in ORDER for _ in range(2)] + [None]


def test_standing_votes_take_places_and_withdrawn_ones_give_them_back(store):
    store.submit(rating(ORDER[0], "ann"))
    assert claimed(store, "bob", 1) == ORDER[1]
    store.withdraw_latest("ann")
    assert claimed(store, "cid", 1) == ORDER[0]


def test_a_rater_who_comes_back_gets_their_own_item_and_the_lease_anew(store, clock):
    assert claimed(store, "ann", 1) == ORDER[0]
    clock[0] += 59
    assert claimed(store, "ann", 1) == ORDER[0]
    clock[0] += 59  # 118 s after the first lease of 60 s, and within the second
    assert claimed(store, "bob", 1) == ORDER[1]


def test_a_lease_runs_out_and_the_place_comes_back(store, clock):
    assert claimed(store, "ann", 1) == ORDER[0]
    clock[0] += 60
    assert claimed(store, "bob", 1) == ORDER[0]
    assert claimed(store, "ann", 1) == ORDER[1]


def test_nobody_rates_an_item_twice_and_the_walk_goes_around(store):
    for _ in ORDER:
        store.submit(rating(claimed(store, "ann", 2), "ann"), overlap=2)
    assert claimed(store, "ann", 2) is None
    store.submit(rating(ORDER[3], "bob"))  # past the queue: the item has its two votes
    got = []
    while (item_id := claimed(store, "bob", 2)) is not None:
        got.append(item_id)
        store.submit(rating(item_id, "bob"), overlap=2)
    assert got == [item_id for item_id in ORDER if item_id != ORDER[3]]
    assert store.overlap_counts() == {2: 6}


def test_a_place_left_behind_is_found_again(store, clock):
    """ann holds the first item and is gone; bob walks past it, and around to it when her lease has run out."""
    claimed(store, "ann", 1)
    for item_id in ORDER[1:]:
        assert claimed(store, "bob", 1) == item_id
        store.submit(rating(item_id, "bob"), overlap=1)
    assert claimed(store, "bob", 1) is None
    clock[0] += 60
    assert claimed(store, "bob", 1) == ORDER[0]


def test_a_late_vote_counts_where_there_is_room(store, clock):
    claimed(store, "ann", 1)
    clock[0] += 61
    assert store.submit(rating(ORDER[0], "ann"), overlap=1) is True
    assert store.overlap_counts() == {0: 5, 1: 1}


def test_a_late_vote_without_room_is_refused_and_nothing_is_stored(store, clock):
    claimed(store, "ann", 1)
    clock[0] += 61
    claimed(store, "bob", 1)
    with pytest.raises(SlotTaken, match=f"item '{ORDER[0]}': the time to rate it has run out.*its 1 place"):
        store.submit(rating(ORDER[0], "ann"), overlap=1)
    store.submit(rating(ORDER[0], "bob"), overlap=1)
    with pytest.raises(SlotTaken):
        store.submit(rating(ORDER[0], "ann"), overlap=1)
    assert [vote.rater for vote in store.ratings()] == ["bob"]


def test_the_same_vote_again_and_second_thoughts_need_no_place(store):
    store.submit(rating(claimed(store, "ann", 1), "ann"), overlap=1)
    assert store.submit(rating(ORDER[0], "ann"), overlap=1) is False
    assert store.submit(rating(ORDER[0], "ann", "B"), overlap=1) is True
    assert [vote.choice for vote in store.ratings()] == ["B"]
    assert store.overlap_counts() == {0: 5, 1: 1}


def test_votes_on_a_list_take_places_too(store):
    RatingSession(store, "ann", [item(int(ORDER[0][1:]))], seed=1).submit("A")
    assert claimed(store, "bob", 1) == ORDER[1]


def test_claims_that_make_no_sense_are_refused(store):
    for options in ({"rater": " "}, {"overlap": 0}, {"lease_seconds": 0}, {"lease_seconds": float("nan")}):
        with pytest.raises(ValueError, match="a rater's name, an overlap of 1 or more and a positive lease_seconds"):
            store.claim(**{"rater": "ann", "overlap": 1} | options)
    with pytest.raises(ValueError, match="item 'c99' is not in"):
        store.item("c99")


def test_all_or_none_of_many_votes(store):
    assert store.submit_all([rating("c0"), rating("c1"), rating("c0")]) == 2
    with pytest.raises(ValueError, match="item 'c99' is not in"):
        store.submit_all([rating("c2"), rating("c99")])
    assert [vote.item_id for vote in store.ratings()] == ["c0", "c1"]


def test_raters_at_the_same_time(store_url):
    """Eight raters in threads, each with connections of its own, 30 items at overlap 3: 90 votes, three an item."""
    opened = open_store(store_url)
    opened.add_items(item(number) for number in range(30))
    opened.close()

    def work(rater: str) -> None:
        own = open_store(store_url)
        replay(RatingSession(own, rater, None, 1, overlap=3), lambda shown: Vote("A"))
        own.close()

    team = [threading.Thread(target=work, args=(f"r{number}",)) for number in range(8)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    opened = open_store(store_url)
    assert opened.overlap_counts() == {3: 30}
    assert len({(vote.rater, vote.item_id) for vote in opened.ratings()}) == 90
    opened.close()


def test_one_vote_from_two_kernels_at_the_same_time(store_url, store):
    """The same click in eight kernels is one vote, and none of them sees an error."""
    stores = [open_store(store_url) for _ in range(8)]
    changed, start = [], threading.Barrier(8)

    def click(own) -> None:
        start.wait()
        changed.append(own.submit(rating("c0")))

    clicks = [threading.Thread(target=click, args=(own,)) for own in stores]
    for thread in clicks:
        thread.start()
    for thread in clicks:
        thread.join()
    assert sorted(changed) == [False] * 7 + [True]
    assert store.ratings() == [rating("c0")] and store.ratings(withdrawn=True) == []
    for own in stores:
        own.close()


# --- the count of votes, and the constraints, whatever clients do ---


def test_the_count_of_standing_votes_is_the_databases(store):
    """Rows written, changed and deleted past the library: 2 votes on c0, 1 on c1; then 1 and 1; then none on c1."""
    votes = sa.Table("ratings", sa.MetaData(), autoload_with=store._engine)

    def counts() -> dict[str, int]:
        with store._read() as connection:
            query = sa.select(schema.queue.c.item_id, schema.queue.c.standing).where(schema.queue.c.standing > 0)
            return dict(map(tuple, connection.execute(query)))

    with store._write() as connection:
        for one in (rating("c0"), rating("c0", "bob"), rating("c1")):
            connection.execute(votes.insert().values(**one.model_dump(exclude={"left"}), left_answer="A"))
    assert counts() == {"c0": 2, "c1": 1}
    with store._write() as connection:
        connection.execute(votes.update().where(votes.c.rater == "bob").values(withdrawn_at="now"))
    assert counts() == {"c0": 1, "c1": 1}
    with store._write() as connection:
        connection.execute(votes.delete().where(votes.c.item_id == "c1"))
    assert counts() == {"c0": 1}


@pytest.mark.parametrize(("column", "value"), [("rater", ""), ("item_id", "c99"), ("rater", "ann")])
def test_the_database_refuses_leases_that_must_not_be(store, column, value):
    claimed(store, "ann", 1)
    table = sa.Table("leases", sa.MetaData(), autoload_with=store._engine)
    with pytest.raises(sa.exc.IntegrityError, match="(?i)constraint"), store._write() as connection:
        connection.execute(table.insert().values(**{"rater": "bob", "item_id": "c0", column: value}))


# --- a session that draws from the store ---


def test_a_team_draws_from_the_store(store):
    """Three raters take turns at overlap 2: six items, twelve votes, four each."""
    sessions = [queue(store, rater, 2) for rater in ("ann", "bob", "cid")]
    while any([session.current() and session.submit("A") for session in sessions]):
        pass
    assert store.overlap_counts() == {2: 6}
    assert Counter(vote.rater for vote in store.ratings()) == {"ann": 4, "bob": 4, "cid": 4}
    assert (sessions[0].progress().done, sessions[0].progress().total) == (4, 6)
    with pytest.raises(ValueError, match="no item is open to ann now: each has its 2 votes"):
        sessions[0].submit("A")


def test_a_killed_kernel_goes_on_at_its_item(store):
    shown = queue(store).current()
    again = queue(store)
    assert again.current() == shown
    again.submit("A")
    assert again.current().item.id == ORDER[1]
    assert (again.current().number, again.current().total) == (2, 6)


def test_undo_takes_the_place_back(store):
    """ann undoes her vote on the first item: it is held for her again, and what she held is free for bob."""
    session = queue(store)
    session.submit("A")
    assert session.current().item.id == ORDER[1]
    assert session.undo().item_id == ORDER[0]
    assert claimed(store, "bob", 1) == ORDER[1]
    assert session.current().item.id == ORDER[0]
    session.submit("B")
    assert session.current().item.id == ORDER[2]
    assert [vote.choice for vote in store.ratings()] == ["B"]


def test_undo_after_a_restart_fetches_the_item(store):
    queue(store).submit("A")
    again = queue(store)
    assert again.undo().item_id == ORDER[0]
    assert again.current().item.id == ORDER[0]
    assert queue(store, "bob").undo() is None


def test_a_session_goes_on_after_a_lost_place(store, clock):
    session = queue(store)
    session.current()
    clock[0] += 61
    queue(store, "bob").submit("B")
    with pytest.raises(SlotTaken):
        session.submit("A")
    assert session.current().item.id == ORDER[1]
    assert session.submit("A").item_id == ORDER[1]


def test_the_widget_says_what_became_of_a_late_vote_and_shows_the_next_item(store, clock):
    session = queue(store)
    screen = Screen(rating_widget(session, double_click_seconds=0))
    clock[0] += 61
    queue(store, "bob").submit("B")
    screen.press("Tie")
    assert "Not stored." in screen.page and "the time to rate it has run out" in screen.page
    assert session.current().item.prompt in screen.page
    for _ in ORDER[1:]:
        screen.press("Tie")
    assert "Nothing is open to you now" in screen.page
    assert Counter(vote.rater for vote in store.ratings()) == {"ann": 5, "bob": 1}


def test_sessions_without_items_say_what_they_need(store):
    with pytest.raises(ValueError, match="without items, expected an overlap .* got None and 900"):
        RatingSession(store, "ann", None, seed=1)
    with pytest.raises(ValueError, match="recorded votes name their items"):
        replay(queue(store), [rating()])
