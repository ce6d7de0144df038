"""The hand brake of a rollout, pressed in the kernel; the router's log has the last word."""

from hostile import HOSTILE

from ftlib.rollout import Guardrail, Plan
from ftlib.rollout_widgets import rollout_widget
from ftlib.serve import LocalBackend, Router

PLAN = Plan(shares=(0.5, 1.0), requests=(10_000, 0), guardrails=(Guardrail("failed"), Guardrail("leak", 0.0)))


def router(tmp_path):
    same = LocalBackend(lambda _chat, _limit: "hello", model="m")
    return Router(PLAN, baseline=same, candidate=same, log=tmp_path / "log.jsonl", checks={"leak": lambda *_: False})


def press(view, button, why=""):
    view.why.value = why
    view.buttons[button].click()


def test_a_hold_is_in_the_log_and_outlives_the_router(tmp_path):
    view = rollout_widget(router(tmp_path))
    assert "running" in view._status.value and "<td" in view._status.value and "the first" in view._status.value
    press(view, "hold", "complaints from two shops")
    assert view.router.canary.state == "held" and view.why.value == ""
    again = rollout_widget(router(tmp_path))
    assert "held by hand" in again._status.value and "complaints from two shops" in again._status.value
    press(again, "go_on", "looked: not ours")
    assert again.router.canary.state == "running"
    press(again, "roll_back", "the shops were right")
    kinds = [(e["do"], e["why"]) for e in again.router.log.read() if e["kind"] == "manual"]
    assert [do for do, _ in kinds] == ["hold", "go_on", "roll_back"]
    assert "candidate: 0% of users" in again._status.value


def test_no_reason_and_a_wrong_moment_change_nothing(tmp_path):
    view = rollout_widget(router(tmp_path))
    press(view, "hold", "  ")
    assert 'role="alert"' in view._message.value and "expected a reason" in view._message.value
    press(view, "go_on", "why not")
    assert "expected a rollout that is held" in view._message.value
    assert view.router.canary.state == "running"
    assert [e for e in view.router.log.read() if e["kind"] == "manual"] == []


def test_reasons_stay_text(tmp_path):
    view = rollout_widget(router(tmp_path))
    for number, text in enumerate(HOSTILE):
        press(view, "hold" if number % 2 == 0 else "go_on", f"because {text}")
        shown = view._status.value + view._message.value
        assert "<script" not in shown and "<img" not in shown and "<svg" not in shown


def test_refresh_shows_what_others_did(tmp_path):
    view = rollout_widget(router(tmp_path))
    view.router.manual("hold", "by telephone")
    assert "by telephone" not in view._status.value
    view.refresh.click()
    assert "by telephone" in view._status.value
