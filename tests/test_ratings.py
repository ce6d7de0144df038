"""The ratings store, a rater's session, replay, simulated raters, agreement. Stores are real: SQLite and PostgreSQL."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from ftlib.agreement import agreement, basis
from ftlib.ratings import (
    RatingSession,
    Vote,
    adjudication_session,
    assign_items,
    candidate_id,
    replay,
    simulated_rater,
    voted_anew,
)
from ftlib.records import Candidate, Rating
from ftlib.store import hide_password, open_store

ROOT = Path(__file__).resolve().parent.parent


def item(number: int, **changes) -> Candidate:
    fields = {
        "id": f"c{number}",
        "prompt_id": f"p{number}",
        "prompt": f"prompt {number}",
        "kind": "production",
        "answer_a": f"first {number}",
        "source_a": "greedy",
        "answer_b": f"second {number}",
        "source_b": "sampled",
        "cluster": f"k{number}",
    }
    return Candidate(**fields | changes)


def rating(item_id: str = "c0", rater: str = "ann", choice: str = "A", **changes) -> Rating:
    fields = {
        "helpfulness": None,
        "harmlessness": None,
        "task_fit": None,
        "seconds": 1.5,
        "left": "A",
        "simulated": False,
        "created_at": "2026-01-02T03:04:05.000+00:00",
    }
    return Rating(item_id=item_id, rater=rater, choice=choice, **fields | changes)


ITEMS = [item(number) for number in range(6)]


@pytest.fixture
def store(store_url):
    opened = open_store(store_url)
    opened.add_items(ITEMS)
    yield opened
    opened.close()


# --- store ---


def test_a_vote_comes_back_as_it_was_given(store):
    vote = rating(choice="both_bad", helpfulness=-1, harmlessness=0, task_fit=1, reason="'; DROP TABLE ratings; --")
    assert store.submit(vote) is True
    assert store.ratings() == [vote]
    assert store.items() == ITEMS


def test_the_file_outlives_the_store(tmp_path):
    first = open_store(tmp_path / "r.db")
    first.add_items(ITEMS)
    first.submit(rating())
    first.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.db"]  # no -wal left behind
    second = open_store(f"sqlite:///{tmp_path / 'r.db'}")
    assert second.ratings() == [rating()]
    second.close()


def test_wal_and_full_sync_are_on(tmp_path):
    opened = open_store(tmp_path / "ratings.db")
    assert sqlite3.connect(tmp_path / "ratings.db").execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with opened._read() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    opened.close()


def test_the_same_vote_twice_counts_once(store):
    assert store.submit(rating()) is True
    assert store.submit(rating(seconds=9.0, created_at="later", left="B")) is False
    assert store.ratings() == [rating()]
    assert store.ratings(withdrawn=True) == []


def test_a_second_thought_takes_the_place_of_the_first(store):
    store.submit(rating(choice="A"))
    assert store.submit(rating(choice="tie")) is True
    assert [vote.choice for vote in store.ratings()] == ["tie"]
    assert [vote.choice for vote in store.ratings(withdrawn=True)] == ["A"]


def test_withdrawing_takes_the_newest_of_the_raters_own(store):
    for vote in (rating("c0"), rating("c1"), rating("c2", "bob")):
        store.submit(vote)
    assert store.withdraw_latest("ann", ["c0", "c1"]).item_id == "c1"
    assert store.withdraw_latest("ann", ["c5"]) is None
    assert [(vote.rater, vote.item_id) for vote in store.ratings()] == [("ann", "c0"), ("bob", "c2")]
    assert store.rated_by("ann") == {"c0"}


def test_an_unknown_item_is_refused(store):
    with pytest.raises(ValueError, match="item 'c99' is not in (sqlite|postgresql).*; add it with add_items first"):
        store.submit(rating("c99"))
    assert store.ratings() == []


def test_an_item_keeps_its_texts(store):
    assert store.add_items(ITEMS) == 0
    with pytest.raises(ValueError, match="item 'c0' is in .* with other texts"):
        store.add_items([item(7), item(0, answer_a="changed")])
    assert len(store.items()) == len(ITEMS)  # nothing of the refused call


@pytest.mark.parametrize(
    ("column", "value"),
    [("choice", "C"), ("left_answer", "L"), ("helpfulness", 2), ("seconds", -1), ("rater", ""), ("item_id", "c99")],
)
def test_the_database_itself_refuses_what_must_not_be(store, column, value):
    row = rating().model_dump(exclude={"left"}) | {"left_answer": "A"} | {column: value}
    table = sa.Table("ratings", sa.MetaData(), autoload_with=store._engine)
    with pytest.raises(sa.exc.IntegrityError, match="constraint"), store._write() as connection:
        connection.execute(table.insert().values(**row))


def test_the_database_refuses_a_second_standing_vote(store):
    store.submit(rating())
    table = sa.Table("ratings", sa.MetaData(), autoload_with=store._engine)
    row = rating(choice="B").model_dump(exclude={"left"}) | {"left_answer": "A"}
    with pytest.raises(sa.exc.IntegrityError, match="(?i)unique"), store._write() as connection:
        connection.execute(table.insert().values(**row))


def test_another_schema_version_is_refused(tmp_path):
    opened = open_store(tmp_path / "r.db")
    with opened._write() as connection:
        connection.exec_driver_sql("UPDATE meta SET value = '99'")
    opened.close()
    with pytest.raises(ValueError, match="expected a ratings store of schema version 3 or earlier, got 99"):
        open_store(tmp_path / "r.db")


def test_addresses_that_cannot_be_opened(tmp_path):
    (tmp_path / "text.db").write_text("no database at all, only some text\n" * 40, encoding="utf-8")
    with pytest.raises(ValueError, match="expected a ratings store .*not a database"):
        open_store(tmp_path / "text.db")
    with pytest.raises(FileNotFoundError, match="nowhere: expected a folder"):
        open_store(tmp_path / "nowhere" / "r.db")
    with pytest.raises(ValueError, match="got an empty text"):
        open_store(" ")
    with pytest.raises(ValueError, match="driver installed; got NoSuchModuleError") as refused:
        open_store("nosuchbase://me:secret@host/x")
    assert "secret" not in str(refused.value)


def test_a_password_is_never_shown(tmp_path):
    assert hide_password("postgresql+psycopg://me:secret@host/r") == "postgresql+psycopg://me:***@host/r"
    assert hide_password(str(tmp_path / "r.db")) == str(tmp_path / "r.db")
    assert "secret" not in hide_password("me:secret://")


def _rate_all(path: str, rater: str, items: list[Candidate]) -> None:
    own = open_store(path)
    replay(RatingSession(own, rater, items, seed=1), lambda shown: Vote("A"))


def test_four_processes_on_one_store_that_is_not_there_yet(store_url):
    items = [item(number) for number in range(25)]
    context = multiprocessing.get_context("spawn")
    team = [context.Process(target=_rate_all, args=(store_url, f"r{n}", items)) for n in range(4)]
    for process in team:
        process.start()
    for process in team:
        process.join(60)
    assert [process.exitcode for process in team] == [0, 0, 0, 0]
    team_store = open_store(store_url)
    assert Counter(vote.rater for vote in team_store.ratings()) == {f"r{n}": 25 for n in range(4)}
    team_store.close()


def test_kill_9_loses_no_vote_that_was_acknowledged(store_url):
    script = """
        import sys
        from ftlib.ratings import RatingSession
        from ftlib.records import Candidate
        from ftlib.store import hide_password, open_store
        items = [Candidate(id=f"c{n}", prompt_id="p", prompt="p", kind="production", answer_a="a", source_a="s",
                           answer_b="b", source_b="s", cluster="k") for n in range(5000)]
        session = RatingSession(open_store(sys.argv[1]), "ann", items, 1)
        while session.current():
            print(session.submit("A").item_id, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), store_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        said = [process.stdout.readline().strip() for _ in range(40)]
        os.kill(process.pid, signal.SIGKILL)
        said += process.stdout.read().split("\n")[:-1]  # whole lines only
    opened = open_store(store_url)
    stored = [vote.item_id for vote in opened.ratings()]
    opened.close()
    assert len(said) >= 40
    assert stored[: len(said)] == said
    assert len(stored) <= len(said) + 1  # one may have been committed but not said


# --- session ---


def test_each_vote_is_committed_before_the_next_item_shows(store, store_url):
    session = RatingSession(store, "ann", ITEMS, seed=17)
    other = open_store(store_url)
    for done in range(1, len(ITEMS) + 1):
        shown = session.current()
        assert (shown.number, shown.total) == (done, 6)
        session.submit("A")
        assert len(other.ratings()) == done
        assert other.ratings()[-1].item_id == shown.item.id
    other.close()
    assert session.current() is None
    assert (session.progress().done, session.progress().total) == (6, 6)
    with pytest.raises(ValueError, match="ann has rated all 6 items; undo, or give an item_id"):
        session.submit("A")


def test_sides_translate_to_answers(store):
    """Left shows answer B: choosing left is "B", and left is better is a mark of -1."""
    session = RatingSession(store, "ann", ITEMS, seed=17)
    swapped = next(shown for shown in map(session._shown, session._items) if shown.left == "B")
    number = swapped.item.id[1:]
    assert (swapped.text("left"), swapped.text("right")) == (f"second {number}", f"first {number}")
    assert (swapped.choice("left"), swapped.choice("right")) == ("B", "A")
    assert [swapped.mark(side) for side in ("left", "same", "right", None)] == [-1, 0, 1, None]


def test_order_and_sides_are_seeded_per_rater(tmp_path):
    items = [item(number) for number in range(400)]
    opened = open_store(tmp_path / "r.db")

    def way(rater: str, seed: int) -> list[tuple[str, str]]:
        session = RatingSession(opened, rater, items, seed)
        return [(item_id, session._shown(item_id).left) for item_id in session._items]

    assert way("ann", 1) == way("ann", 1)
    for other in (way("bob", 1), way("ann", 2)):
        assert [one for one, _ in other] != [one for one, _ in way("ann", 1)]
        agreeing = sum(dict(other)[one] == left for one, left in way("ann", 1))
        assert 150 < agreeing < 250  # independent sides: 200 expected, standard deviation 10
    assert 150 < sum(left == "A" for _, left in way("ann", 1)) < 250
    opened.close()


def test_undo_opens_the_same_item_again(store):
    session = RatingSession(store, "ann", ITEMS, seed=17)
    first = session.current().item.id
    session.submit("A")
    second = session.current().item.id
    session.submit("tie")
    assert session.undo().item_id == second
    assert session.current().item.id == second
    assert session.progress().done == 1
    assert session.undo().item_id == first
    assert session.current().item.id == first
    assert session.undo() is None
    assert store.ratings() == []


def test_a_new_session_goes_on_where_the_last_one_stopped(store):
    session = RatingSession(store, "ann", ITEMS, seed=17)
    session.submit("A")
    session.submit("skip", reason="not my field")
    expected = session.current()
    again = RatingSession(store, "ann", ITEMS, seed=17)
    assert again.current() == expected
    assert again.progress().done == 2
    assert RatingSession(store, "bob", ITEMS, seed=17).progress().done == 0


def test_undo_works_after_a_restart(store):
    first = RatingSession(store, "ann", ITEMS, seed=17)
    vote = first.submit("B")
    again = RatingSession(store, "ann", ITEMS, seed=17)
    assert again.undo() == vote
    assert again.current().item.id == vote.item_id


def test_seconds_run_from_showing_to_voting(store, monkeypatch):
    clock = iter([100.0, 107.25])
    monkeypatch.setattr("ftlib.ratings.time.monotonic", lambda: next(clock))
    session = RatingSession(store, "ann", ITEMS, seed=17)
    session.current()
    session.current()  # asking again does not start the clock anew
    assert session.submit("A").seconds == 7.25


def test_sessions_that_make_no_sense_are_refused(store):
    with pytest.raises(ValueError, match="rater's name, got a blank one"):
        RatingSession(store, "  ", ITEMS, seed=1)
    with pytest.raises(ValueError, match="got no items; sample or load"):
        RatingSession(store, "ann", [], seed=1)
    with pytest.raises(ValueError, match="got 'c1' twice"):
        RatingSession(store, "ann", [*ITEMS, ITEMS[1]], seed=1)
    session = RatingSession(store, "ann", ITEMS, seed=1)
    with pytest.raises(ValueError, match="choice is 'left'; expected one of A, B, tie, both_bad, skip"):
        session.submit("left")
    with pytest.raises(ValueError, match="item 'x' is not among the 6 items"):
        session.submit("A", item_id="x")
    assert store.ratings() == []


def test_an_adjudicator_settles_a_list_in_its_order_beside_their_own_vote(store):
    store.add_items(ITEMS)
    store.submit(rating("c0", "ann", "A"))
    session = adjudication_session(store, "ann", [ITEMS[4], ITEMS[0], ITEMS[2]], seed=17)
    shown = []
    while (now := session.current()) is not None:
        shown.append(now.item.id)
        session.submit("B")
    assert shown == ["c4", "c0", "c2"]
    mine = {(vote.rater, vote.choice, vote.by_adjudicator) for vote in store.ratings(item_ids=["c0"])}
    assert mine == {("ann", "A", False), ("adjudicator:ann", "B", True)}
    assert adjudication_session(store, "ann", ITEMS[:3], seed=17).current().item.id == "c1"  # goes on where it stopped
    assert session.undo().item_id == "c2"


def test_an_adjudicator_takes_no_raters_place(store):
    store.add_items(ITEMS)
    with pytest.raises(ValueError, match="takes no rater's place; give the items"):
        RatingSession(store, "adjudicator:ann", None, seed=1, overlap=2)
    with pytest.raises(ValueError, match="expected the adjudicator's name, got a blank one"):
        adjudication_session(store, " ", ITEMS, seed=1)


# --- replay, simulated raters, overlap ---


def test_recorded_votes_keep_what_was_recorded(store):
    recorded = [
        rating("c1", "ann", "B", simulated=True, seconds=4.0, left="B", task_fit=-1),
        rating("c2", "bob", "A"),
        rating("elsewhere", "ann", "A"),
    ]
    session = RatingSession(store, "ann", ITEMS, seed=17)
    assert replay(session, recorded) == 1  # bob's vote and the other set's are not this session's
    assert store.ratings() == [recorded[0]]
    assert replay(session, recorded) == 1  # a cell run twice
    assert store.ratings() == [recorded[0]]
    assert store.ratings(withdrawn=True) == []


def test_who_votes_anew_takes_the_earlier_vote_back():
    earlier = [rating("c1", "me", "A"), rating("c1", "ann", "A"), rating("c2", "me", "tie")]
    now = [rating("c1", "me", "B"), rating("c3", "me", "A")]
    assert voted_anew(earlier, now) == [*now, *earlier[1:]]
    assert voted_anew(earlier, []) == earlier and voted_anew([], now) == now


def test_a_simulated_rater_without_slips_follows_the_judge(store):
    verdicts = {"c0": 1.0, "c1": 0.0, "c2": 0.5, "c3": None, "c4": 1.0, "c5": 0.0}
    session = RatingSession(store, "sim", ITEMS, seed=17, simulated=True)
    rater = simulated_rater(lambda shown: verdicts[shown.id], seed=3, noise=0, left_bias=0)
    assert replay(session, rater) == 6
    votes = {vote.item_id: vote.choice for vote in store.ratings()}
    assert votes == {"c0": "A", "c1": "B", "c2": "tie", "c3": "both_bad", "c4": "A", "c5": "B"}
    assert all(vote.simulated for vote in store.ratings())


def test_bias_and_noise_are_as_stated(tmp_path):
    """The judge always says A. With noise 0.3 a third of the slips say A again: A on 0.7 + 0.1 = 0.8 of 600 items."""
    items = [item(number) for number in range(600)]
    opened = open_store(tmp_path / "r.db")
    sessions = {name: RatingSession(opened, name, items, seed=5, simulated=True) for name in ("lefty", "noisy")}
    replay(sessions["lefty"], simulated_rater(lambda _: None, seed=1, noise=0, left_bias=0.25))
    replay(sessions["noisy"], simulated_rater(lambda _: 1.0, seed=2, noise=0.3, left_bias=0))
    votes = opened.ratings()
    opened.close()
    left = [vote for vote in votes if vote.rater == "lefty" and vote.choice == vote.left]
    assert len(left) / 600 == pytest.approx(0.25, abs=0.06)
    noisy = Counter(vote.choice for vote in votes if vote.rater == "noisy")
    assert noisy["A"] / 600 == pytest.approx(0.8, abs=0.06)
    assert noisy["B"] / 600 == pytest.approx(0.1, abs=0.05)


def test_an_interrupted_simulation_ends_as_it_would_have(tmp_path):
    ends = []
    for stop_after in (0, 3):
        opened = open_store(tmp_path / f"{stop_after}.db")
        rater = simulated_rater(lambda _: 1.0, seed=1, noise=0.9, left_bias=0.1)
        session = RatingSession(opened, "sim", ITEMS, seed=17, simulated=True)
        for _ in range(stop_after):
            shown = session.current()
            session.submit(rater(shown).choice)
        replay(RatingSession(opened, "sim", ITEMS, seed=17, simulated=True), rater)
        ends.append({vote.item_id: vote.choice for vote in opened.ratings()})
        opened.close()
    assert ends[0] == ends[1]
    assert len(set(ends[0].values())) > 1


def test_a_share_out_of_range_is_refused():
    with pytest.raises(ValueError, match="within 0..1, got 1.2 and 0.05"):
        simulated_rater(lambda _: 1.0, seed=1, noise=1.2)


def test_items_are_shared_out_evenly():
    items = [item(number) for number in range(10)]
    shared = assign_items(items, ["a", "b", "c", "d"], overlap=2, seed=17)
    assert {rater: len(given) for rater, given in shared.items()} == {"a": 5, "b": 5, "c": 5, "d": 5}
    assert set(Counter(one.id for given in shared.values() for one in given).values()) == {2}
    assert shared == assign_items(items, ["a", "b", "c", "d"], overlap=2, seed=17)
    with pytest.raises(ValueError, match="got overlap 3 and raters"):
        assign_items(items, ["a", "b"], overlap=3, seed=1)


def test_new_texts_get_a_new_id():
    assert candidate_id("p1", "x", "y") == candidate_id("p1", "x", "y")
    assert len({candidate_id("p1", "x", "y"), candidate_id("p1", "y", "x"), candidate_id("p1", "xy", "")}) == 3
    assert candidate_id("p1", "x", "y").startswith("p1-")


# --- agreement ---

# K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), example C: four observers, twelve units,
# missing data; nominal alpha = 0.743. Units 1-11 have two ratings or more; unit 12 has one and is left out.
NAMES = {1: "A", 2: "B", 3: "tie", 4: "both_bad"}
OBSERVERS = ["1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 ."]


def krippendorff_example() -> list[Rating]:
    """The example with its five values; the fifth is written as a choice past the store, which alpha does not mind."""
    rows = []
    for observer, line in enumerate(OBSERVERS):
        for unit, value in enumerate(line.split()):
            if value != ".":
                made = rating(f"u{unit}", f"o{observer}")
                rows.append(made.model_copy(update={"choice": NAMES.get(int(value), "fifth")}))
    return rows


def test_alpha_is_the_published_one():
    found = agreement(krippendorff_example(), seed=1)
    assert found.alpha == pytest.approx(0.743, abs=5e-4)
    assert found.alpha_interval[0] < 0.743 < found.alpha_interval[1]
    assert (found.items, found.raters, found.ratings) == (11, 4, 40)


def test_percent_agreement_by_hand():
    """c0: A A B -> 1 of 3 pairs agrees; c1: tie tie -> 1; c2: one vote and a skip say nothing. Mean 2/3."""
    votes = [
        rating("c0", "ann", "A"),
        rating("c0", "bob", "A"),
        rating("c0", "cid", "B"),
        rating("c1", "ann", "tie"),
        rating("c1", "bob", "tie"),
        rating("c2", "ann", "A"),
        rating("c2", "bob", "skip"),
    ]
    found = agreement(votes, seed=1)
    assert found.percent == pytest.approx(2 / 3)
    assert (found.items, found.raters, found.ratings, found.basis) == (2, 3, 5, "human raters")


def test_agreement_where_there_is_nothing_to_say():
    alone = agreement([rating("c0"), rating("c1", "bob")], seed=1)
    assert (alone.percent, alone.alpha, alone.alpha_interval, alone.items) == (None, None, None, 0)
    same = agreement([rating("c0", "ann"), rating("c0", "bob")], seed=1)
    assert (same.percent, same.alpha) == (1.0, None)


def test_raters_who_guess_agree_as_by_chance():
    rng = np.random.default_rng(17)
    votes = [rating(f"c{n}", r, str(rng.choice(["A", "B"]))) for n in range(300) for r in ("ann", "bob", "cid")]
    found = agreement(votes, seed=1)
    assert found.alpha == pytest.approx(0, abs=0.1)
    assert found.percent == pytest.approx(0.5, abs=0.06)


def test_what_numbers_rest_on():
    assert basis([]) == "no raters"
    assert basis([rating(simulated=True)]) == "simulated raters"
    assert basis([rating(), rating("c1", simulated=True)]) == "human and simulated raters"
