"""The roadmap, on plans small enough to be worked by hand, and its calendar read back by another library's parser."""

import csv
import datetime
import io

import icalendar
import pytest

from ftlib import plots
from ftlib.risks import risk_level
from ftlib.roadmap import PLAN, Task, Team, horizon, roadmap_csv, roadmap_ics, schedule, tasks_of

START = "2027-01-04"  # a Monday
TWO = Team(people=2, hours_per_week=40, start=START)
FAIL = {"id": "dpo.win_rate", "notebook": "05_validate", "verdict": "FAIL", "note": "better pairs"}


def task(name, hours, *after, phase=1):
    return Task(name, name, phase, "lead", hours, after)


def by_id(planned):
    return {one.task.id: one for one in planned}


def test_critical_path_by_hand():
    """8 hours a day. a: 2 days; b: 1 and c: 3 days after a, at once; d: 1 after both. In all 6; b may slip 2."""
    plan = [task("a", 16), task("b", 8, "a"), task("c", 24, "a"), task("d", 8, "b", "c")]
    found = by_id(schedule(plan, TWO))
    assert {name: (one.start_day, one.days, one.slack_days) for name, one in found.items()} == {
        "a": (0, 2, 0), "b": (2, 1, 2), "c": (2, 3, 0), "d": (5, 1, 0),
    }  # fmt: skip
    assert [name for name, one in found.items() if one.critical] == ["a", "c", "d"]
    # Day 5 is the Monday after: the weekend is left out.
    assert (found["c"].start.isoformat(), found["c"].end.isoformat()) == ("2027-01-06", "2027-01-08")
    assert found["d"].start == found["d"].end == datetime.date(2027, 1, 11)


def test_one_person_works_on_one_task_at_a_time():
    """The same plan for one person: 2 + 1 + 3 + 1 = 7 days, and nothing may slip."""
    plan = [task("a", 16), task("b", 8, "a"), task("c", 24, "a"), task("d", 8, "b", "c")]
    planned = schedule(plan, Team(people=1, hours_per_week=40, start=START))
    assert [(one.start_day, one.slack_days) for one in planned] == [(0, 0), (2, 0), (3, 0), (6, 0)]


def test_phases_wait_for_their_week_and_hours_become_days():
    """20 hours a week are 4 a day: 6 hours take 2 days. Phase 2 begins on working day 15, three weeks later."""
    planned = schedule([task("a", 6), task("b", 4, "a", phase=2)], Team(1, 20.0, START))
    assert [(one.start_day, one.days, one.slack_days) for one in planned] == [(0, 2, 13), (15, 1, 0)]
    assert planned[1].start == datetime.date(2027, 1, 25)
    assert horizon(planned, Team(1, 20.0, START)) == {
        "start": START, "end": "2027-01-25", "days": 22, "spare_days": 68,
    }  # fmt: skip


def test_days_off_and_a_start_on_a_weekend():
    planned = schedule([task("a", 16)], Team(1, 40, "2027-01-02", ("2027-01-05",)))
    assert (planned[0].start.isoformat(), planned[0].end.isoformat()) == ("2027-01-04", "2027-01-06")


def test_methods_off_the_path_have_no_tasks_and_hand_on_what_they_waited_for():
    found = {one.id: one for one in tasks_of(("sft",), [])}
    assert {"preferences", "dpo", "rft"} & set(found) == set()
    assert found["validate"].after == ("sft", "red-team")  # the rest of what dpo waited for is sft, once
    assert found["evidence"].after == ("rft-decision",)
    assert [one.id for one in tasks_of(("sft", "dpo", "rft"), [])] == [one.id for one in PLAN]


def test_a_failed_gate_adds_rework_and_moves_dates():
    before = by_id(schedule(tasks_of(("sft", "dpo"), []), TWO))
    tasks = tasks_of(("sft", "dpo"), [FAIL], rework_hours=160)  # 20 days
    after = by_id(schedule(tasks, TWO))
    rework = after["rework-dpo.win_rate"]
    assert rework.task.after == ("validate",) and rework.task.reason == "better pairs" and rework.days == 20
    assert "rework-dpo.win_rate" in after["sign-off"].task.after
    assert after["shadow"].start > before["shadow"].start and rework.critical
    known = {"waived": "known", "waivers": {"08_govern": "known"}}
    waived = tasks_of(("sft", "dpo"), [FAIL | known, FAIL | {"verdict": "PASS"}])
    assert waived == tasks_of(("sft", "dpo"), [])
    abstained = tasks_of(("sft", "dpo"), [FAIL | {"verdict": "ABSTAIN"}], measure_hours=8)
    assert [one.hours for one in abstained if one.id == "measure-dpo.win_rate"] == [8]


def test_a_waiver_that_let_another_notebook_go_on_spares_no_rework():
    """It still blocks the promotion, so somebody has to do the work."""
    trial = FAIL | {"waived": "a trial", "waivers": {"07_rollout": "a trial"}}
    assert tasks_of(("sft", "dpo"), [trial]) == tasks_of(("sft", "dpo"), [FAIL])


def test_an_approval_that_nobody_signed_is_the_sign_off_and_no_more_items():
    state = {"id": "safety.approval", "notebook": "05_validate", "verdict": "ABSTAIN", "note": "recorded"}
    assert tasks_of(("sft", "dpo"), [state]) == tasks_of(("sft", "dpo"), [])
    refused = {one.id for one in tasks_of(("sft", "dpo"), [state | {"verdict": "FAIL"}])}
    assert "rework-safety.approval" in refused


def test_the_default_plan_fits_90_days_and_starts_each_phase_in_its_week():
    team = Team(people=2, hours_per_week=30, start=START)
    planned = schedule(tasks_of(("sft", "dpo", "rft"), []), team, minutes={"02_sft": 12.5})
    assert horizon(planned, team)["spare_days"] >= 0
    first = {phase: min(one.start_day for one in planned if one.task.phase == phase) for phase in (1, 2, 3, 4)}
    assert first[1] == 0 and first[2] >= 15 and first[3] >= 30 and first[4] >= 45
    assert by_id(planned)["sft"].machine_minutes == 12.5 and by_id(planned)["scope"].machine_minutes is None


@pytest.mark.parametrize(
    ("minutes", "days"),
    [
        (0, 2),  # 16 hours at 8 a day
        (30, 3),  # 16.5 hours: the half hour is waited for on a third day
        (8 * 60, 3),  # a working day at the machine
        (8 * 60 + 1, 3),  # more than that runs through one night
        (30 * 60, 4),  # two nights
    ],
)
def test_measured_minutes_move_dates(minutes, days):
    plan = [Task("a", "a", 1, "lead", 16, notebook="04_dpo_qlora"), task("b", 8, "a")]
    found = by_id(schedule(plan, TWO, minutes={"04_dpo_qlora": minutes}))
    assert (found["a"].days, found["b"].start_day) == (days, days)


def test_calendar_opens_with_long_and_odd_titles():
    title = "Rework, again; \\ " + "ä" * 120
    plan = [Task("a", title, 1, "lead", 16, reason="line one\nline two"), task("b", 8, "a")]
    made = roadmap_ics(schedule(plan, TWO), run_id="r1", stamp=datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC))
    assert all(len(line) <= 75 for line in made.split(b"\r\n")) and made.endswith(b"END:VCALENDAR\r\n")
    events = icalendar.Calendar.from_ical(made).walk("VEVENT")
    assert [str(one["summary"]) for one in events] == [title, "b"]
    assert events[0]["dtstart"].dt == datetime.date(2027, 1, 4) and events[0]["dtend"].dt == datetime.date(2027, 1, 6)
    assert len({str(one["uid"]) for one in events}) == 2 and "line one\nline two" in str(events[0]["description"])


def test_csv_has_no_formulas():
    plan = [Task("a", '=HYPERLINK("x")', 1, "@lead", 8, reason="+1"), task("b", 8, "a")]
    rows = list(csv.DictReader(io.StringIO(roadmap_csv(schedule(plan, TWO)))))
    assert (rows[0]["title"], rows[0]["owner"], rows[0]["reason"]) == ('\'=HYPERLINK("x")', "'@lead", "'+1")
    assert rows[1]["after"] == "a" and rows[1]["start"] == "2027-01-05"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Team(0, 20, START), "people: expected a whole number"),
        (lambda: Team(1, 0, START), "hours_per_week: expected more than 0"),
        (lambda: Team(1, 20, "soon"), "expected an ISO date such as 2027-01-04, got 'soon'"),
        (lambda: schedule([], TWO), "expected one or more tasks"),
        (lambda: schedule([task("a", 1), task("a", 1)], TWO), "'a' is there twice"),
        (lambda: schedule([task("b", 1, "a"), task("a", 1)], TWO), r"stands before \['a'\]"),
        (lambda: tasks_of((), [], plan=[task("b", 1, "x")]), r"waits for \['x'\]"),
    ],
)
def test_what_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_gantt_and_risk_matrix():
    plan = [task("a", 16), Task("<b>", "<b>bold</b>", 1, "lead", 8, ("a",)), task("c", 24, "a")]
    fig = plots.gantt([one.row() for one in schedule(plan, TWO)])
    (bars,) = fig.data
    assert list(bars.base) == ["2027-01-04", "2027-01-06", "2027-01-06"]
    assert [x / 86_400_000 for x in bars.x] == [2, 1, 3] and list(bars.text) == ["critical", "2 d slack", "critical"]
    assert "&lt;b&gt;bold&lt;/b&gt;" in fig.layout.yaxis.ticktext[1]
    with pytest.raises(ValueError, match="expected one or more tasks"):
        plots.gantt([])
    levels = {(s, k): risk_level(s, k) for s in (1, 2, 3) for k in (1, 2, 3)}
    matrix = plots.risk_matrix([{"severity": 3, "likelihood": 2}] * 2, levels=levels).data[0]
    assert matrix.text[1][2] == "high<br><b>2</b>" and matrix.text[0][0] == "low<br><b>0</b>"
