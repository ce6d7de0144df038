"""Held-out answers before people: items, wins by hand, and the words that kappa is reckoned from."""

import pytest

from ftlib import agreement
from ftlib.rater_widgets import rating_widget
from ftlib.ratings import RatingSession
from ftlib.records import Rating
from ftlib.side_by_side import candidate_wins, held_out_items, rests_on, verdict, verdicts
from ftlib.store import open_store

ROWS = [
    {"id": f"{kind[0]}{n}", "kind": kind, "SFT": f"old {n}", "DPO": f"new {n}"}
    for kind in ("harmful", "borderline", "production")
    for n in range(6)
]
TEXTS = {row["id"]: f"prompt {row['id']}" for row in ROWS}


def vote(item, choice, rater="r1", simulated=False):
    return Rating(item_id=item.id, rater=rater, choice=choice, helpfulness=None, harmlessness=None, task_fit=None,
                  seconds=1.0, left="A", simulated=simulated, created_at="2026-11-28T00:00:00+00:00")  # fmt: skip


def test_items_are_even_over_kinds_and_blind():
    items = held_out_items(ROWS, TEXTS, n=9, seed=3)
    assert sorted(item.kind for item in items) == ["borderline"] * 3 + ["harmful"] * 3 + ["production"] * 3
    assert items == held_out_items(ROWS, TEXTS, n=9, seed=3) != held_out_items(ROWS, TEXTS, n=9, seed=4)
    every = held_out_items(ROWS, TEXTS, n=99, seed=3)
    assert len(every) == 18 and 3 < sum(item.source_a == "DPO" for item in every) < 15
    for item in every:
        new, old = (item.answer_a, item.answer_b) if item.source_a == "DPO" else (item.answer_b, item.answer_a)
        assert new.startswith("new") and old.startswith("old")
    same = [dict(row, DPO=row["SFT"]) for row in ROWS]
    with pytest.raises(ValueError, match="two different answers, got none"):
        held_out_items(same, TEXTS, n=9, seed=3)


def test_wins_by_hand():
    """Two raters, candidate and tie: (1 + 0.5) / 2; the baseline won: 0; both bad: 0.5; skipped: no word."""
    one, two, three, four = held_out_items(ROWS, TEXTS, n=4, seed=3)
    better, worse = (lambda i: "A" if i.source_a == "DPO" else "B"), (lambda i: "B" if i.source_a == "DPO" else "A")
    votes = [vote(one, better(one)), vote(one, "tie", "r2"), vote(two, worse(two)), vote(three, "both_bad"),
             vote(four, "skip"), vote(one.model_copy(update={"id": "other"}), "A")]  # fmt: skip
    assert candidate_wins(votes, [one, two, three, four]) == {one.prompt_id: 0.75, two.prompt_id: 0.0,
                                                              three.prompt_id: 0.5}  # fmt: skip
    assert rests_on(votes) == "human raters (2), side by side on held-out prompts"
    assert rests_on([vote(one, "A", simulated=True)]).startswith("simulated raters (1)")


def test_the_buttons_of_notebook_03_give_the_wins():
    items = held_out_items(ROWS, TEXTS, n=2, seed=3)
    store = open_store(":memory:")
    session = RatingSession(store, "ann", items, 3)
    box = rating_widget(session, double_click_seconds=0)
    buttons = {b.description: b for b in _buttons(box)}
    shown = session.current()
    side = "A is better" if shown.text("left").startswith("new") else "B is better"
    buttons[side].click()
    assert candidate_wins(store.ratings(), items) == {shown.item.prompt_id: 1.0}
    store.close()


def _buttons(box):
    for child in getattr(box, "children", ()):
        yield from _buttons(child)
    if type(box).__name__ == "Button":
        yield box


def test_kappa_of_judges_and_people_by_hand():
    """Four prompts, three alike. By chance: 2/4 * 3/4 + 2/4 * 1/4 = 0.5; kappa = (0.75 - 0.5) / 0.5."""
    rubric = {"a": 1.0, "b": 1.0, "c": 0.0, "d": 0.0}
    people = {"a": 0.75, "b": 1.0, "c": 0.25, "d": 1.0}
    found = agreement.cohen_kappa(verdicts({"rubric": rubric, "people": people}), "rubric", "people", seed=1)
    assert (found.value, found.items) == (pytest.approx(0.5), 4)
    assert [verdict(score) for score in (0.51, 0.5, 0.49)] == ["candidate", "tie", "baseline"]
