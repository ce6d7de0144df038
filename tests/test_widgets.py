"""The rating widget, driven by `button.click()` in the kernel over a real store; hostile texts stay inert."""

import html.parser
import re

import ipywidgets as W
import pytest
from hostile import HOSTILE
from sqlalchemy.exc import OperationalError
from test_ratings import item

from ftlib.rater_widgets import rating_widget
from ftlib.ratings import RatingSession
from ftlib.rubric import SKIP_REASONS
from ftlib.store import open_store
from ftlib.widgets import text_box, visible


class Tags(html.parser.HTMLParser):
    """Collects the tags, attributes and the text of a page, as a browser would parse them."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = [], set(), ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    tags.close()
    return tags


def walk(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from walk(child)


class Screen:
    """What a rater sees and presses."""

    def __init__(self, box):
        self.widgets = list(walk(box))

    def press(self, description: str):
        self.button(description).click()

    def button(self, description: str):
        return next(w for w in self.widgets if isinstance(w, W.Button) and w.description == description)

    @property
    def toggles(self):
        return [w for w in self.widgets if isinstance(w, W.ToggleButtons)]

    @property
    def reasons(self):
        return next(w for w in self.widgets if isinstance(w, W.Dropdown))

    @property
    def keys(self):
        return next(w for w in self.widgets if isinstance(w, W.Text))

    def type(self, key: str):
        self.keys.value = key

    @property
    def mark_differences(self):
        return next(w for w in self.widgets if isinstance(w, W.ToggleButton))

    @property
    def answers(self):
        return [w.value for w in self.widgets if isinstance(w, W.HTML) and ">Answer " in w.value]

    @property
    def comment(self):
        return next(w for w in self.widgets if isinstance(w, W.Textarea))

    @property
    def page(self) -> str:
        return "".join(w.value for w in self.widgets if isinstance(w, W.HTML))


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path / "ratings.db")
    yield opened
    opened.close()


def make(store, items, **options):
    session = RatingSession(store, "ann", items, seed=17)
    return session, Screen(rating_widget(session, **{"double_click_seconds": 0} | options))


ITEMS = [item(number) for number in range(8)]


def test_nothing_that_a_rater_is_sent_names_a_source(store):
    """Not only what is on show: no widget's state holds it, before a vote and after."""
    hidden = [one.model_copy(update={"source_a": "few-shot at 0.7", "source_b": "sft at 0.25"}) for one in ITEMS]
    session, screen = make(store, hidden)
    for _ in hidden:
        sent = repr([widget.get_state() for widget in screen.widgets])
        assert session.current().item.answer_a in sent
        assert "few-shot" not in sent and "0.25" not in sent
        screen.press("Tie")


def test_a_click_votes_for_the_answer_on_that_side(store):
    session, screen = make(store, ITEMS)
    sides = set()
    while (shown := session.current()) is not None:
        before = parsed(screen.page).text
        assert before.index(shown.text("left")) < before.index(shown.text("right"))
        screen.press("A is better")
        assert store.ratings()[-1].item_id == shown.item.id
        assert store.ratings()[-1].choice == shown.left
        sides.add(shown.left)
    assert sides == {"A", "B"}  # the swap was put to the test
    assert "All 8 items are rated" in screen.page
    assert screen.button("Tie").disabled
    assert not screen.button("Undo").disabled


@pytest.mark.parametrize(("button", "choice"), [("Tie", "tie"), ("Both bad", "both_bad")])
def test_the_other_choices(store, button, choice):
    _, screen = make(store, ITEMS)
    screen.press(button)
    assert [vote.choice for vote in store.ratings()] == [choice]
    assert "1 of 8 rated" in screen.page


def test_a_skip_wants_a_reason(store):
    _, screen = make(store, ITEMS)
    screen.press("Skip")
    assert store.ratings() == [] and "expected a reason for the skip" in screen.page
    screen.reasons.value = SKIP_REASONS[1]
    screen.comment.value = "all signs"
    screen.press("Skip")
    assert [(vote.choice, vote.reason) for vote in store.ratings()] == [("skip", f"{SKIP_REASONS[1]}: all signs")]
    assert screen.reasons.value == ""


def test_every_key_does_what_its_button_does(store):
    session, screen = make(store, ITEMS)
    shown = session.current()
    for key in "hhmA":  # helpfulness: A, then the same; harmlessness: A; the vote by a capital letter
        screen.type(key)
    vote = store.ratings()[-1]
    assert (vote.choice, vote.helpfulness, vote.harmlessness, vote.task_fit) == (
        shown.left,
        0,
        shown.mark("left"),
        None,
    )
    for key in "btx3s?":  # "s" without a reason is refused, "?" is no key
        screen.type(key)
    choices = [vote.choice for vote in store.ratings()]
    assert choices[1:] == [store.ratings()[1].choice, "tie", "both_bad", "skip"] and choices[1] in "AB"
    assert store.ratings()[-1].reason == SKIP_REASONS[2]
    screen.type("u")
    assert len(store.ratings()) == 4
    screen.type("d")
    assert "<u " in screen.page
    assert screen.keys.value == ""


def test_a_key_held_down_is_one_vote(store, monkeypatch):
    """The clock moves by 0.2 s a key: each is within 0.3 s of the one before. After a second's rest a vote counts."""
    now = [100.0]
    monkeypatch.setattr("ftlib.rater_widgets.time.monotonic", lambda: now[0])
    _, screen = make(store, ITEMS, double_click_seconds=0.3)
    now[0] += 1
    for _ in range(10):
        screen.type("t")
        now[0] += 0.2
    assert len(store.ratings()) == 1
    now[0] += 1
    screen.type("t")
    assert len(store.ratings()) == 2


def test_differences_show_on_request_and_only_there(store):
    one = item(1, answer_a="It is on its way.", answer_b="It is <b>not</b> on its way.")
    _, screen = make(store, [one])
    assert "<u " not in screen.page
    screen.mark_differences.value = True
    underlined = re.findall(r"<u [^>]*>(.*?)</u>", screen.page)
    assert underlined == [" &lt;b&gt;not&lt;/b&gt;"]
    assert {parsed(box).text[len("Answer A") :] for box in screen.answers} == {one.answer_a, one.answer_b}


def test_long_answers_are_not_compared(store):
    _, screen = make(store, [item(1, answer_a="word " * 3000)])
    screen.mark_differences.value = True
    assert "too long to be compared" in screen.page and "<u " not in screen.page


def test_rubric_and_comment_are_stored_in_the_answers_terms_and_cleared(store):
    session, screen = make(store, ITEMS)
    while session.current().left == "A":
        screen.press("Tie")
    helpfulness, harmlessness, task_fit = screen.toggles
    helpfulness.value, harmlessness.value = "left", "same"
    screen.comment.value = "  clearer  "
    screen.press("B is better")  # the right one, which is answer A
    vote = store.ratings()[-1]
    assert (vote.choice, vote.left) == ("A", "B")
    assert (vote.helpfulness, vote.harmlessness, vote.task_fit) == (-1, 0, None)
    assert vote.reason == "clearer"
    assert [toggle.value for toggle in screen.toggles] == [None, None, None]
    assert screen.comment.value == ""


def test_undo_brings_the_item_back(store):
    session, screen = make(store, ITEMS)
    assert screen.button("Undo").disabled
    first = session.current().item
    screen.press("A is better")
    screen.press("Undo")
    assert session.current().item == first
    assert first.prompt in screen.page
    assert "0 of 8 rated" in screen.page
    assert store.ratings() == []


def test_a_double_click_is_one_vote(store):
    session, screen = make(store, ITEMS, double_click_seconds=60)
    screen.press("Tie")  # at once: no click before it, so it counts
    screen.press("Tie")  # within a minute of the click that showed the item
    assert len(store.ratings()) == 1
    _, screen = make(store, ITEMS, double_click_seconds=0)
    screen.press("Tie")
    assert len(store.ratings()) == 2


def test_a_new_widget_goes_on(store):
    _, screen = make(store, ITEMS)
    screen.press("Tie")
    session, screen = make(store, ITEMS)
    assert "1 of 8 rated" in screen.page
    screen.press("Tie")
    assert len({vote.item_id for vote in store.ratings()}) == 2


def test_a_vote_that_cannot_be_stored_is_said_and_the_item_stays(store, monkeypatch):
    session, screen = make(store, ITEMS)
    shown = session.current()

    def fail(*_, **__):
        raise OperationalError("INSERT", {}, Exception("disk <full>"))

    monkeypatch.setattr(store, "submit", fail)
    screen.press("Tie")
    assert "Not stored; the item stays." in screen.page
    assert "disk &lt;full&gt;" in screen.page
    assert session.current() == shown
    assert "0 of 8 rated" in screen.page


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_stay_inert(store, text):
    """Whatever the three texts hold, the page has the tags and attributes of harmless texts, and no more."""
    harmless = parsed(make(store, [item(1)])[1].page)
    hostile = item(2, prompt=text, answer_a=text, answer_b=text + ".")
    _, screen = make(store, [hostile])
    page = parsed(screen.page)
    assert set(page.tags) - {"i"} <= set(harmless.tags) | {"span"}
    assert page.attributes == harmless.attributes
    assert page.tags.count("div") == harmless.tags.count("div")
    screen.press("Tie")
    assert [vote.choice for vote in store.ratings()] == ["tie"]


def test_what_cannot_be_seen_is_named():
    for character in "\u200b\u200d\u2060\ufeff\u202e\u2066\u00ad\x1b\x00\x85\u2028\u3164\u034f\U000e0041\ufe01\ud800":
        shown = visible(f"a{character}b")
        assert f"[U+{ord(character):04X}]" in shown
        assert character not in shown


def test_what_can_be_seen_stays_as_it_is():
    text = "Grüße, 3 × 4 = 12\n\tשלום مرحبا 你好 ❤️ 🏔 – “quoted”"
    assert parsed(visible(text)).text == text
    assert visible("a\r\nb") == "a\nb"


def test_boxes_keep_breaks_and_say_when_there_is_nothing():
    assert "white-space:pre-wrap" in text_box("a\nb")
    assert ">a\nb</div>" in text_box("a\nb")
    assert "(empty)" in text_box(" ")
    assert parsed(text_box("x", label="<b>")).text == "<b>x"
