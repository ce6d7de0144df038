"""A session with calibration: the training round, the pass mark, hidden gold, the round again; and the lead's view."""

import ipywidgets as W
import pytest
from test_ratings import item, rating
from test_widgets import Screen

from ftlib.calibration import CalibratedSession, join_team
from ftlib.differences import LONGEST, differences
from ftlib.rater_widgets import rating_widget, team_widget
from ftlib.ratings import Vote, replay
from ftlib.records import GoldItem, data_path, load_jsonl
from ftlib.store import open_store
from ftlib.team import STEP, team_view


def gold_item(number: int, round_: str) -> GoldItem:
    """Gold: odd numbers "A", even ones "B"."""
    return GoldItem(
        id=f"{round_}-{number}", prompt=f"gold prompt {number}", kind="production", answer_a=f"one {number}",
        answer_b=f"two {number}", gold="BA"[number % 2], explanation=f"because {number}", round=round_,
    )  # fmt: skip


TRAINING = [gold_item(n, "training") for n in range(4)]
HIDDEN = [gold_item(n, "hidden") for n in range(12)]
GOLD = [*TRAINING, *HIDDEN]
KNOWN = {one.id: one.gold for one in GOLD}
ITEMS = [item(number) for number in range(20)]
GOLD_FILE = load_jsonl(data_path("preferences/gold.jsonl"), GoldItem)


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path / "ratings.db")
    yield opened
    opened.close()


def make(store, rater: str = "ann", items=ITEMS, **options) -> CalibratedSession:
    return CalibratedSession(store, rater, items, 17, gold=GOLD, **{"gold_rate": 0.25} | options)


def vote(session, *, right: bool = True) -> str:
    """One vote: the known verdict of a gold item, or its opposite; "A" on a real one. Returns the item's id."""
    item_id = session.current().item.id
    known = KNOWN.get(item_id, "A")
    session.submit(known if right else {"A": "B", "B": "A"}[known])
    return item_id


def train(session, *, wrong: int = 0) -> None:
    for number in range(len(TRAINING)):
        vote(session, right=number >= wrong)


# --- the training round


def test_no_real_item_is_open_before_the_round_is_passed(store):
    session = make(store)
    with pytest.raises(ValueError, match="item 'c0' is not open: the training round comes first"):
        session.submit("A", item_id="c0")
    assert session.progress().what == "of training round 1"
    assert {vote(session) for _ in TRAINING} == {one.id for one in TRAINING}
    assert session.standing().state == "rating"
    assert session.current().item.id not in {one.id for one in TRAINING}
    assert (session.progress().done, session.progress().what) == (0, "rated")


def test_a_lesson_follows_each_vote_of_the_round_and_no_other(store):
    session = make(store)
    first = session.current().item.id
    vote(session, right=False)
    lesson = session.lesson
    assert (lesson.right, lesson.known, lesson.explanation) == (False, KNOWN[first], f"because {first[-1]}")
    for _ in TRAINING[1:]:
        vote(session)
    assert session.lesson.right
    vote(session)
    assert session.lesson is None


def test_three_of_four_pass_and_two_do_not(store):
    """The mark is 0.75, so 3 of 4 are needed."""
    passed, failed = make(store), make(store, "bob")
    train(passed, wrong=1)
    train(failed, wrong=2)
    assert (passed.standing().state, failed.standing().state) == ("rating", "failed")
    assert failed.current() is None and failed.may_begin_again
    assert "2 of 4 were right, and 3 are needed" in failed.nothing_open()
    assert [why for _, _, _, why in failed.missed()] != []
    with pytest.raises(ValueError, match="3 are needed to go on"):
        failed.submit("A")
    with pytest.raises(ValueError, match="'c0' is not open"):
        failed.submit("A", item_id="c0")


def test_the_round_starts_again_and_a_new_kernel_knows_it(store):
    session = make(store)
    train(session, wrong=4)
    again = make(store)  # another kernel
    assert again.standing().state == "failed"
    assert again.begin_again().number == 2
    assert len(store.ratings(withdrawn=True)) == 4 and store.ratings() == []
    train(again)
    assert make(store).standing().state == "rating"


def test_an_item_of_the_round_is_voted_on_once_and_not_skipped(store):
    session = make(store)
    with pytest.raises(ValueError, match="cannot be skipped"):
        session.submit("skip", reason="hard")
    first = vote(session, right=False)
    with pytest.raises(ValueError, match=f"'{first}' is not open"):
        session.submit("A", item_id=first)
    assert session.undo() is None  # the explanation has been seen
    assert session.standing().n == 1


# --- hidden gold


def test_one_in_four_is_hidden_gold_and_looks_like_the_others(store):
    """20 real items at a rate of 1/4: blocks of four have one gold item each; progress counts all."""
    session = make(store)
    train(session)
    shown = []
    while (now := session.current()) is not None:
        assert (now.number, now.total) == (len(shown) + 1, session.progress().total)
        shown.append(vote(session))
    checks = [item_id.startswith("hidden") for item_id in shown]
    assert all(sum(checks[start : start + 4]) == 1 for start in range(0, 24, 4))
    assert sorted(shown) == sorted(set(shown)) and sum(not check for check in checks) == 20
    assert session.progress().done == session.progress().total == len(shown)
    assert "All 20 items are rated" in session.nothing_open()


def test_hidden_items_end_and_a_rate_of_zero_has_none(store):
    session = make(store, items=[item(n) for n in range(60)], gold_rate=0.5)
    train(session)
    replay(session, lambda shown: Vote("A"))
    assert len(session.store.ratings(item_ids=[one.id for one in HIDDEN])) == 12
    none = make(store, "bob", gold_rate=0)
    train(none)
    replay(none, lambda shown: Vote("A"))
    assert len(store.ratings(rater="bob")) == 24


def test_gold_is_never_handed_out_and_real_items_are_shared(store):
    """Three raters draw twelve items at overlap 2: each item has two votes, gold items have no place."""
    store.add_items(ITEMS[:12])
    sessions = [make(store, rater, None, overlap=2) for rater in ("ann", "bob", "cid")]
    for session in sessions:
        train(session)
    while any([session.current() and vote(session) for session in sessions]):
        pass
    assert store.overlap_counts() == {2: 12}
    assert all(store.rated_by(rater) & {one.id for one in HIDDEN} for rater in ("ann", "bob", "cid"))
    assert sum(len(store.rated_by(rater, handed_out=True)) for rater in ("ann", "bob", "cid")) == 24
    assert sessions[0].progress().done == len(store.rated_by("ann")) - 4


def test_the_newest_item_is_the_last_vote_that_stands_among_those_meant(store):
    store.add_items(ITEMS[:3])
    for number in (0, 2, 1):
        store.submit(rating(f"c{number}"))
    store.withdraw("ann", ["c1"])
    assert store.newest_item("ann", lambda item_id: True) == "c2"
    assert store.newest_item("ann", lambda item_id: item_id != "c2") == "c0"
    assert store.newest_item("bob", lambda item_id: True) is None


@pytest.mark.parametrize("items", [ITEMS, None])
def test_undo_walks_back_over_real_and_hidden_items_to_the_round(store, items):
    store.add_items(ITEMS)
    session = make(store, items=items, overlap=None if items else 1)
    train(session)
    given = [vote(session) for _ in range(6)]
    assert any(item_id.startswith("hidden") for item_id in given)
    for item_id in reversed(given):
        assert session.undo().item_id == item_id
        assert session.current().item.id == item_id
    assert session.undo() is None
    assert session.standing().state == "rating" and len(store.ratings()) == 4


def test_the_round_comes_again_when_hidden_gold_falls(store):
    """Rule over the last 4: none right has an upper end of 0.49, below 0.75; one right of 4 one of 0.70, below too."""
    session = make(store, items=[item(n) for n in range(60)], recent=4)
    train(session)
    given = []
    while sum(item_id.startswith("hidden") for item_id in given) < 4:
        assert session.standing().state == "rating"
        given.append(vote(session, right=False))
    assert session.standing().due
    assert session.current().item.id.startswith("training")
    assert session.standing().number == 2
    train(session)
    assert not session.standing().due and session.current().item.id[0] in "ch"
    assert set(given) <= store.rated_by("ann")  # nothing that was rated before is lost


def test_sessions_that_make_no_sense_are_refused(store):
    for options, message in (({"gold_rate": 0.6}, "gold_rate from 0 to 0.5"), ({"pass_mark": 0}, "pass_mark above 0")):
        with pytest.raises(ValueError, match=message):
            make(store, **options)
    with pytest.raises(ValueError, match="an adjudicator is not trained on gold"):
        make(store, "adjudicator:ann")
    with pytest.raises(ValueError, match="round 'training', got none"):
        CalibratedSession(store, "ann", ITEMS, 17, gold=HIDDEN)
    with pytest.raises(ValueError, match="replay into a RatingSession"):
        replay(make(store), [rating()])


def test_it_works_on_both_databases(store_url):
    """The steps that touch the store in a new way: gold without a place, withdrawal of a round, undo of a check."""
    opened = open_store(store_url)
    opened.add_items(ITEMS[:4])
    session = make(opened, items=None, overlap=1, gold_rate=0.5)
    train(session, wrong=4)
    session.begin_again()
    train(session)
    given = [vote(session), vote(session)]
    assert sorted(item_id[0] for item_id in given) == ["c", "h"]
    assert session.undo().item_id == given[1] and session.undo().item_id == given[0]
    assert (opened.item_count(), opened.overlap_counts()) == (4, {0: 4})
    assert len(opened.ratings(withdrawn=True)) == 6
    opened.close()


def test_two_kernels_and_a_late_one_share_a_store_by_its_address(tmp_path):
    """Ten items at overlap 1: ann and bob draw in turns, cid joins later; each item ends with one vote."""
    store_url = str(tmp_path / "ratings.db")
    with pytest.raises(ValueError, match="expected items to rate, found none"):
        join_team(store_url, "ann", overlap=1)
    lead = open_store(store_url)
    lead.add_items(ITEMS[:10])
    known = {one.id: one.gold for one in GOLD_FILE}

    def turn(session) -> bool:
        shown = session.current()
        return bool(shown and session.submit(known.get(shown.item.id, "A")))

    team = [join_team(store_url, rater, overlap=1) for rater in ("ann", "bob")]
    for _ in range(19):
        assert all([turn(session) for session in team])
    team.append(join_team(store_url, "cid", overlap=1))
    while any([turn(session) for session in team]):
        pass
    assert lead.overlap_counts() == {1: 10}
    assert {vote.rater for vote in lead.ratings(item_ids=[one.id for one in ITEMS])} >= {"ann", "bob"}
    assert [row.training for row in team_view(lead, overlap=1, gold=GOLD_FILE).raters] == ["passed 16 of 16"] * 3
    for session in team:
        session.store.close()
    lead.close()


# --- the widget


def test_the_widget_teaches_fails_and_starts_again(store):
    session = make(store)
    screen = Screen(rating_widget(session, double_click_seconds=0))
    assert "0 of 4 of training round 1" in screen.page
    for number in range(4):
        shown = session.current()
        wrong = "right" if shown.choice("left") == KNOWN[shown.item.id] else "left"
        screen.press({"left": "A is better", "right": "B is better"}[wrong])
        assert f"because {shown.item.id[-1]}" in screen.page and "You said" in screen.page
        assert shown.item.prompt in screen.page  # the item stays beside its explanation
        screen.press("Tie")  # nothing is open now
        assert len(store.ratings()) == number + 1
        screen.press("Go on")
    assert "0 of 4 were right, and 3 are needed" in screen.page
    assert screen.button("Start the round again").layout.display is None
    screen.press("Start the round again")
    assert "0 of 4 of training round 2" in screen.page
    for _ in range(4):
        shown = session.current()
        assert shown.left == "A"  # the explanations speak of A and B
        right = "a" if shown.choice("left") == KNOWN[shown.item.id] else "b"
        screen.type(right)
        assert "Right: " in screen.page
        screen.type("n")
    assert f"0 of {session.progress().total} rated" in screen.page and session.progress().total > 24
    assert "training" not in screen.page and "gold" not in screen.page.replace("gold prompt", "")


def test_the_store_is_read_once_a_click(store, monkeypatch):
    """Vote of the round, "Go on", vote on a real or hidden item, undo: each asks where the rater stands, once."""
    session, read = make(store), []
    once = CalibratedSession._read_standing
    monkeypatch.setattr(CalibratedSession, "_read_standing", lambda self: read.append(self) or once(self))
    screen = Screen(rating_widget(session, double_click_seconds=0))

    def readings(*buttons: str) -> list[int]:
        found = []
        for button in buttons:
            read.clear()
            screen.press(button)
            found.append(len(read))
        return found

    for _ in range(3):
        right = "A is better" if KNOWN[session.current().item.id] == "A" else "B is better"
        assert readings(right, "Go on") == [1, 1]
    readings("A is better", "Go on")
    assert session.standing().state == "rating"  # three of four are enough
    assert readings("Tie", "Both bad", "Undo", "Undo") == [1, 1, 1, 1]
    assert len(store.ratings()) == 4


def test_another_kernel_is_seen_at_the_next_item(store):
    """What is kept between two looks goes no further than the item that is shown."""
    session = make(store)
    train(session, wrong=4)
    assert session.current() is None
    make(store).begin_again()  # in another kernel
    assert session.current() is not None and session.progress().what == "of training round 2"


# --- the lead's view


def test_the_view_sums_up_and_reports_gold_in_steps(store):
    """ann: five checks right and a sixth wrong; the view shows five until ten are there."""
    session = make(store, items=[item(n) for n in range(60)], gold_rate=0.5)
    train(session)
    checks = 0
    while checks < 6:
        checks += vote(session, right=checks < 5).startswith("hidden")
    view = team_view(store, overlap=1, gold=GOLD)
    (row,) = view.raters
    assert row.gold == (5, STEP) and row.interval.high == pytest.approx(1.0)
    assert (view.items, view.complete, view.votes) == (60, row.pairs, row.pairs)
    assert (row.training, row.skipped, row.agreed, row.drift) == ("passed 4 of 4", 0, (0, 0), "")
    assert view.basis == "human raters"


def test_the_view_says_who_agrees_and_who_is_at_the_round_again(store):
    """Three raters on two items: on c0 all say A, on c1 cid stands alone. Agreed: ann 1 + 1 (bob, cid differ) ..."""
    store.add_items(ITEMS[:2])
    for name, choices in {"ann": "AA", "bob": "AA", "cid": "AB"}.items():
        for number, choice in enumerate(choices):
            store.submit(rating(f"c{number}", name, choice, seconds=10.0 * (number + 1)))
    session = make(store, "dan")
    train(session, wrong=4)
    session.begin_again()
    store.submit(rating("c1", "adjudicator:ann", "B"))  # no rater of the team
    view = team_view(store, overlap=3, gold=GOLD)
    rows = {row.rater: row for row in view.raters}
    assert {name: rows[name].agreed for name in ("ann", "bob", "cid")} == {"ann": (1, 1), "bob": (1, 1), "cid": (1, 2)}
    assert rows["ann"].seconds == 15.0 and rows["ann"].training == "none" and rows["ann"].gold is None
    assert rows["dan"].training == "open 0 of 4, round 2"
    assert set(rows) == {"ann", "bob", "cid", "dan"} and view.votes == 6
    assert view.complete == 2 and view.agreement.percent == pytest.approx((1 + 1 / 3) / 2)


def test_the_table_is_refreshed_by_a_button_and_by_the_browsers_clock(store):
    store.add_items(ITEMS[:2])
    box = team_widget(lambda: team_view(store, overlap=1, gold=GOLD), every_seconds=10, minutes=1)
    screen = Screen(box)
    clock = next(w for w in screen.widgets if isinstance(w, W.Play))
    assert (clock.interval, clock.max, clock.playing) == (10_000, 6, False)
    assert "0 of 2 items have 1 votes" in screen.page
    store.submit(rating("c0", "<b>ann</b>"))
    screen.press("Refresh")
    assert "1 of 2 items" in screen.page and "&lt;b&gt;ann" in screen.page and "<b>ann" not in screen.page
    store.submit(rating("c1"))
    clock.value = 1  # what the browser sends when its clock ticks
    assert "2 of 2 items" in screen.page
    with pytest.raises(ValueError, match="above 0, got 0"):
        team_widget(lambda: None, every_seconds=0)


def test_a_table_that_cannot_be_read_says_so_and_keeps_the_last_one(store):
    answers = [team_view(store, overlap=1)]
    screen = Screen(team_widget(lambda: answers.pop() if answers else (_ for _ in ()).throw(OSError("<gone>"))))
    screen.press("Refresh")
    assert "Not refreshed. OSError: &lt;gone&gt;" in screen.page and "0 of 0 items" in screen.page


# --- differences


def test_pieces_put_together_are_the_texts():
    one, two = "Send it back,  please.\nBye", "Send it back in 30 days. Bye"
    first, second = differences(one, two)
    assert "".join(text for text, _ in first) == one and "".join(text for text, _ in second) == two
    assert [text for text, differs in second if differs] == [" in 30 days", " "]
    assert differences("same", "same") == ([("same", False)], [("same", False)])
    assert differences("", "a") == ([], [("a", True)])
    assert differences("a " * LONGEST, "a") is None
