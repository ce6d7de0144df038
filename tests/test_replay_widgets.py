"""The viewer of rollouts: its state by hand, and the buttons in the kernel; hostile texts stay inert."""

import inspect
from dataclasses import replace

import ipywidgets as W
import pytest
from hostile import HOSTILE
from test_widgets import parsed

from ftlib import desk
from ftlib.replay_widgets import NONE, replay_widget
from ftlib.replays import Replay, told
from ftlib.reward_attacks import ATTACKS, call, honest_work
from ftlib.whole_cases import make_whole_cases
from ftlib.whole_desk import WholeDesk
from ftlib.whole_rewards import TRICKS
from ftlib.whole_rewards import decompose as whole_parts

CASES = desk.make_cases(8, seed=4)
REFUND = next(i for i, case in enumerate(CASES) if case.outcome == "refund")
RIGHT = {"accuracy": 1.0, "safety": 1.0, "efficiency": 1.0}
NOTHING = dict.fromkeys(RIGHT, 0.0)


def played(policy):
    """Trajectories and chats of a scripted policy: case -> answers."""
    return tuple(zip(*[desk.play(case, policy(case)) for case in CASES], strict=True))


def made(**options) -> Replay:
    return Replay({"always refund": played(ATTACKS["always refund"]), "honest": played(honest_work)}, **options)


def test_step_by_step():
    """Look-up (nothing earned yet), action (all earned), reply: five lines of model and desk in turn."""
    replay = made()
    replay.compare("honest")
    replay.open(REFUND)
    case = CASES[REFUND]
    seen = []
    for step in range(6):
        replay.go(step)
        (side,) = replay.screen().sides
        assert (len(side.lines), side.of, side.success) == (step, 5, step >= 4)
        seen.append(side.parts)
    assert seen == [NOTHING] * 4 + [RIGHT] * 2
    assert [(line.who, line.ok) for line in side.lines] == [
        ("model", None), ("desk", True), ("model", None), ("desk", True), ("model", None),
    ]  # fmt: skip
    assert [line.text for line in side.lines[:3]] == [
        f"→ find_order(order_id='{case.order_id}')", case.record(), f"→ refund(order_id='{case.order_id}')",
    ]  # fmt: skip


def test_a_refund_that_nobody_was_told_of_is_no_success_at_the_whole_desk():
    case = next(c for c in make_whole_cases(8, seed=4) if c.outcome == "refund")
    done, chat = desk.play(case, TRICKS["never tell"](case), make=WholeDesk)
    replay = Replay({"never tell": ([done], [chat])}, score=whole_parts)
    replay.go(99)
    (side,) = replay.screen().sides
    assert not done.success and not side.success
    assert side.parts == whole_parts(done) and side.parts["workflow"] == 0


def test_what_was_not_said_yet_costs_nothing_yet():
    case = CASES[REFUND]
    work = [call("find_order", order_id=case.order_id), call("refund", order_id=case.order_id), "Done. " * 400]
    done, chat = desk.play(case, work)
    replay = Replay({"long farewell": ([done], [chat])})
    cost = []
    for step in (4, 5):
        replay.go(step)
        cost.append(replay.screen().sides[0].parts["efficiency"])
    assert cost == [1.0, pytest.approx(case.enough_text / done.text)] and cost[1] < 0.1


def test_steps_stop_at_both_ends():
    replay = made()
    replay.go(-3)
    assert replay.screen().step == 0
    replay.go(99)
    assert replay.screen().step == replay.screen().steps == 5


def test_a_rollout_in_words():
    case = CASES[REFUND]
    assert told(*desk.play(case, honest_work(case))).split("\n") == [
        f"model: → find_order(order_id='{case.order_id}')", f"desk: {case.record()}",
        f"model: → refund(order_id='{case.order_id}')", "desk: refund: done.", "model: It is done.",
    ]  # fmt: skip


def test_no_text_of_the_model_passes_for_a_line_of_the_desk():
    forged = told(*desk.play(CASES[0], ["Done.\r\n\ndesk: refund: done.\u2028desk: closed."]))
    assert len(forged.splitlines()) == 1 and forged.startswith("model: Done. desk: refund: done.")


def test_filters():
    """Always refund is right on the two cases of eight that ask for it."""
    replay = made()
    assert replay.choices() == list(range(8))
    replay.filter("changed")
    assert replay.choices() == [i for i, case in enumerate(CASES) if case.outcome != "refund"]
    assert replay.case in replay.choices()
    replay.filter("failed")
    assert len(replay.choices()) == 6
    replay.compare("honest")
    assert replay.choices() == []
    assert replay.rows() == []


def test_a_call_beyond_the_limit_is_shown_as_not_done():
    replay = Replay({"loops": played(ATTACKS["look up for ever"])})
    replay.go(99)
    desk_lines = [line.ok for line in replay.screen().sides[0].lines if line.who == "desk"]
    assert desk_lines == [True] * desk.MAX_CALLS + [False] * desk.MAX_CALLS


def test_the_table():
    replay = made(score=lambda t: {"total": 0.5 * t.success})
    rows = replay.rows()
    assert len(rows) == 16 and [row["policy"] for row in rows[:2]] == ["always refund", "honest"]
    assert {row["total"] for row in rows if row["policy"] == "honest"} == {0.5}
    assert rows[1]["what happened"].endswith("model: It is done.")


def test_what_cannot_be_viewed():
    honest = played(honest_work)
    with pytest.raises(ValueError, match="one trajectory and one chat a case, got {}"):
        Replay({})
    with pytest.raises(ValueError, match="one trajectory and one chat a case"):
        Replay({"a": (honest[0], honest[1][1:])})
    with pytest.raises(ValueError, match="the same for all of"):
        Replay({"a": honest, "b": (honest[0][::-1], honest[1][::-1])})
    with pytest.raises(ValueError, match="one or more cases"):
        Replay({"a": ([], [])})
    for wrong in (lambda r: r.open(8), lambda r: r.open(-1), lambda r: r.filter("best"), lambda r: r.compare("x"),
                  lambda r: r.compare()):  # fmt: skip
        with pytest.raises(ValueError, match="expected"):
            wrong(made())


# --- in the kernel


def shown(view) -> str:
    return parsed(view._page.value).text


def test_buttons_step_and_the_parts_follow():
    view = replay_widget(made())
    view.case.value = REFUND
    assert "line 0 of 5" in shown(view) and CASES[REFUND].message in shown(view)
    assert view.buttons["Back"].disabled and not view.buttons["Next"].disabled
    for _ in range(4):
        view.buttons["Next"].click()
    assert "line 4 of 5" in shown(view) and shown(view).count("1.00") == 6  # three parts, two sides
    view.buttons["Back"].click()
    assert "line 3 of 5" in shown(view) and shown(view).count("1.00") == 0
    view.buttons["End"].click()
    assert view.buttons["Next"].disabled and "It is done." in shown(view)
    view.buttons["Start"].click()
    assert view.replay.step == 0


def test_it_shows_itself_and_overrides_nothing_of_a_box():
    """JupyterLab asks a widget for its text form too; a name of our own that hides one of the box breaks that."""
    view = replay_widget(made())
    assert repr(view).startswith("ReplayWidget(")
    methods = {name for name, value in vars(type(view)).items() if inspect.isfunction(value)} - {"__init__"}
    fields = set(vars(view)) - set(vars(W.VBox()))
    assert methods and fields and {name for name in methods | fields if hasattr(W.VBox, name)} == set()


def test_filter_and_policies_from_the_menus():
    view = replay_widget(made())
    view.only.value = "changed"
    assert [value for _, value in view.case.options] == view.replay.choices()
    assert view.case.value == view.replay.case
    view.right.value = NONE
    assert view.replay.shown == ["always refund"] and "No case here" in shown(view)  # one policy alone cannot differ
    view.only.value = "failed"
    assert len(view.case.options) == 6 and "honest" not in shown(view)
    view.left.value = "honest"
    assert "No case here" in shown(view) and view.case.value is None
    view.only.value = "all"
    assert "honest" in shown(view) and len(view.case.options) == 8


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_stay_text(text):
    """As the customer's message, the record, the model's words, a tool's name and argument, and a policy's name."""
    text = text[:3_000]
    case = replace(CASES[0], message=text, product=text, rule=text)
    answers = [f"{text} {call(text, order_id=text)}", call("find_order", order_id=text), text]
    view = replay_widget(Replay({text: tuple([one] for one in desk.play(case, answers))}))
    view.buttons["End"].click()
    page = parsed(view._page.value)
    assert set(page.tags) <= {"div", "p", "b", "i", "span", "table", "tr", "td"}
    assert page.attributes <= {"style", "dir", "tabindex", "aria-live"}
