"""A 90-day roadmap from a run: tasks, roles, dates, slack, and what a failed gate does to them.

The plan is a table of tasks with hours of work and what each waits for. Three facts of the run change it: the path of
the scorecard (a method that is not on it has no tasks), the gates (a failed one adds rework and a repeated run, one
that could not be judged adds measuring), and the measured minutes of each notebook. The team's capacity turns hours
into working days: a task has one person, and no more tasks run at once than there are people.

Left out on purpose: an optimal schedule (tasks start in the order of the table, as soon as somebody is free), and
half days. The hours are planning figures to be replaced by a team's own; the minutes are measured.
"""

import dataclasses
import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ftlib import approval
from ftlib.risks import GOVERN
from ftlib.sheets import csv_text

PHASES = {
    1: "weeks 1-3: SFT data and baselines",
    2: "weeks 4-6: DPO and red team",
    3: "weeks 7-9: shadow and canary",
    4: "weeks 10-13: the RFT decision",
}
FIRST_DAY = {1: 0, 2: 15, 3: 30, 4: 45}  # of each phase, in working days
HORIZON_DAYS = 90
COLUMNS = ("id", "title", "phase", "owner", "hours", "machine_minutes", "after", "start", "end", "slack_days",
           "critical", "reason")  # fmt: skip
_NOTEBOOK_PHASE = {"00": 1, "01": 1, "02": 1, "03": 2, "04": 2, "05": 2, "06": 4, "07": 3}


@dataclass(frozen=True)
class Team:
    """Who works on it. `start` is an ISO date; `days_off` are ISO dates on which nobody works.

    Raises:
        ValueError: nobody, no hours, more hours than a week has, or no date.
    """

    people: int = 2
    hours_per_week: float = 20.0
    start: str = ""
    days_off: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.people, int) or isinstance(self.people, bool) or self.people < 1:
            raise ValueError(f"people: expected a whole number of 1 or more, got {self.people!r}; correct it")
        if not 0 < self.hours_per_week <= 60:
            raise ValueError(f"hours_per_week: expected more than 0 and at most 60, got {self.hours_per_week!r}")
        for date in (self.start, *self.days_off):
            try:
                datetime.date.fromisoformat(date)
            except (ValueError, TypeError):
                raise ValueError(f"expected an ISO date such as 2027-01-04, got {date!r}; correct it") from None


@dataclass(frozen=True)
class Task:
    """A piece of work for one person. `notebook` is run for it; `needs` is a method that must be on the path."""

    id: str
    title: str
    phase: int
    owner: str
    hours: float
    after: tuple[str, ...] = ()
    notebook: str = ""
    needs: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Planned:
    """A task with its dates; the end is the last day of work. Slack: working days that it may slip."""

    task: Task
    machine_minutes: float | None
    start_day: int
    days: int
    slack_days: int
    start: datetime.date
    end: datetime.date

    @property
    def critical(self) -> bool:
        """Whether a day lost here is a day lost at the end."""
        return self.slack_days == 0

    def row(self) -> dict:
        """Plain values, as in the CSV and the JSON."""
        plain = dataclasses.asdict(self.task) | {"after": list(self.task.after), "phase": PHASES[self.task.phase]}
        return {key: plain[key] for key in ("id", "title", "phase", "owner", "hours", "after", "reason")} | {
            "machine_minutes": None if self.machine_minutes is None else round(self.machine_minutes, 1),
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
            "slack_days": self.slack_days,
            "critical": self.critical,
        }


# fmt: off
PLAN = (
    Task("scope", "Agree on task, thresholds and who signs", 1, "product owner", 8, notebook="01_decision_scorecard"),
    Task("sft-data", "Write and label SFT rows; audit a sample", 1, "data lead", 40, ("scope",), needs="sft"),
    Task("baseline", "Measure zero-shot and few-shot baselines", 1, "model lead", 6, ("scope",), "00_start_here"),
    Task("holdout", "Set a hidden test set aside", 1, "evaluation lead", 12, ("scope",)),
    Task("sft", "Train SFT, judge its gates", 1, "model lead", 10, ("sft-data", "baseline", "holdout"), "02_sft",
         "sft"),
    Task("preferences", "Calibrate raters, rate pairs", 2, "data lead", 40, ("sft",), "03_collect_preferences", "dpo"),
    Task("red-team", "Write and review red-team prompts", 2, "safety lead", 24, ("holdout",)),
    Task("dpo", "Train DPO with KL control", 2, "model lead", 12, ("preferences",), "04_dpo_qlora", "dpo"),
    Task("validate", "Gate matrix, side-by-side by people", 2, "evaluation lead", 16, ("sft", "dpo", "red-team"),
         "05_validate"),
    Task("sign-off", "Safety sign-off", 2, "safety lead", 4, ("validate",)),
    Task("shadow", "Shadow traffic, disagreement report", 3, "platform lead", 24, ("sign-off",), "07_rollout"),
    Task("canary", "Canary in stages, rollback drill", 3, "platform lead", 24, ("shadow",), "07_rollout"),
    Task("failures", "Sort failures: data, DPO refresh, or RFT", 3, "evaluation lead", 12, ("canary",)),
    Task("rft-decision", "Decide on RFT with counts in hand", 4, "product owner", 4, ("failures",)),
    Task("rft", "Train RFT on the tools, judge its gates", 4, "model lead", 24, ("rft-decision",), "06_rft", "rft"),
    Task("evidence", "Evidence pack, decision record, review", 4, "evaluation lead", 8, ("rft-decision", "rft"),
         "08_govern"),
)
# fmt: on


def tasks_of(
    path: Sequence[str],
    gates: Sequence[Mapping],
    *,
    plan: Sequence[Task] = PLAN,
    rework_hours: float = 16,
    measure_hours: float = 8,
) -> list[Task]:
    """The tasks of a run: the plan without methods off the path, with rework for gates that did not pass.

    Args:
        path: methods of the scorecard, e.g. ("sft", "dpo").
        gates: states of the ledger ("id", "notebook", "verdict", "note", "waivers"). Those that are no evidence count
            as well: a smoke run shows the wiring of the plan. Only 08's waiver spares the work: one that let another
            notebook go on leaves the promotion blocked. An approval that nobody signed is the task "sign-off".
        plan: the tasks to start from.
        rework_hours: for a failed gate, before its notebook is run again.
        measure_hours: for one that could not be judged.

    Raises:
        ValueError: a task waits for one that is not in the plan.
    """
    known = {task.id for task in plan}
    for task in plan:
        if not set(task.after) <= known:
            raise ValueError(f"task {task.id!r} waits for {sorted(set(task.after) - known)}, which the plan lacks")
    gone = {task.id: task.after for task in plan if task.needs and task.needs not in path}
    kept = [task for task in plan if task.id not in gone]
    kept = [dataclasses.replace(task, after=_without(task.after, gone)) for task in kept]
    for gate in gates:
        unsigned = gate["id"] == approval.GATE and gate["verdict"] == "ABSTAIN"
        if gate["verdict"] == "PASS" or unsigned or gate.get("waivers", {}).get(GOVERN):
            continue
        failed = gate["verdict"] == "FAIL"
        first = next((task.id for task in kept if task.notebook == gate["notebook"]), None)
        extra = Task(
            f"{'rework' if failed else 'measure'}-{gate['id']}",
            f"{'Rework' if failed else 'More items'}: {gate['id']}",
            next((task.phase for task in kept if task.id == first), _NOTEBOOK_PHASE.get(gate["notebook"][:2], 4)),
            "model lead" if failed else "evaluation lead",
            rework_hours if failed else measure_hours,
            (first,) if first else (),
            gate["notebook"],  # it is run again
            reason=gate.get("note") or f"gate {gate['id']} of {gate['notebook']}: {gate['verdict']}",
        )
        if any(task.id == extra.id for task in kept):
            continue
        # What waited for the notebook now waits for the rework too, but for other rework.
        kept = [
            dataclasses.replace(task, after=(*task.after, extra.id))
            if first in task.after and not task.reason
            else task
            for task in kept
        ]
        place = next((n + 1 for n, task in enumerate(kept) if task.id == first), len(kept))
        kept.insert(place, extra)
    return kept


def schedule(tasks: Sequence[Task], team: Team, *, minutes: Mapping[str, float] | None = None) -> list[Planned]:
    """Dates and slack of every task.

    A task begins when its phase has, what it waits for is done, and one of the people is free. Slack is taken over
    both kinds of waiting, for tasks and for people; the critical path is the tasks without slack.

    Args:
        tasks: each after those that it waits for.
        team: capacity and start.
        minutes: notebook -> measured minutes. Up to a working day of them is waited for, beside the hours of work;
            more runs through the night.

    Raises:
        ValueError: there are no tasks, an id is there twice, or a task stands before one that it waits for.
    """
    if not tasks:
        raise ValueError("expected one or more tasks, got none; the plan is empty")
    minutes = minutes or {}
    per_day = team.hours_per_week / 5
    begin: dict[str, int] = {}
    end: dict[str, int] = {}
    next_ones: dict[str, list[str]] = {task.id: [] for task in tasks}
    free: list[tuple[int, str]] = [(0, "")] * team.people  # day from which a person is free, and after which task
    for task in tasks:
        missing = [other for other in task.after if other not in end]
        if missing or task.id in end:
            raise ValueError(
                f"task {task.id!r} is there twice"
                if task.id in end
                else f"task {task.id!r} stands before {missing}, which it waits for; put those first, without a circle"
            )
        earliest = max([FIRST_DAY[task.phase], *(end[other] for other in task.after)])
        # Who has been free for the shortest time takes it, so that the others stay free for what starts earlier.
        able = [n for n, (day, _) in enumerate(free) if day <= earliest]
        who = max(able, key=lambda n: free[n][0]) if able else min(range(len(free)), key=lambda n: free[n][0])
        begin[task.id] = max(earliest, free[who][0])
        machine = minutes.get(task.notebook, 0) / 60  # hours
        waiting = machine / per_day if machine <= per_day else math.ceil(machine / 24)
        end[task.id] = begin[task.id] + max(1, math.ceil(task.hours / per_day + waiting - 1e-9))
        for other in {*task.after, free[who][1]} - {""}:
            next_ones[other].append(task.id)
        free[who] = (end[task.id], task.id)
    latest: dict[str, int] = {}  # the last day on which each may begin
    last = max(end.values())
    for task in reversed(tasks):
        days = end[task.id] - begin[task.id]
        latest[task.id] = min([last, *(latest[other] for other in next_ones[task.id])]) - days
    return [
        Planned(
            task,
            minutes.get(task.notebook),
            begin[task.id],
            end[task.id] - begin[task.id],
            latest[task.id] - begin[task.id],
            _date(team, begin[task.id]),
            _date(team, end[task.id] - 1),
        )
        for task in tasks
    ]


def horizon(planned: Sequence[Planned], team: Team) -> dict:
    """Whether the plan fits into 90 days from its start: {"start", "end", "days", "spare_days"} in calendar days."""
    first, last = datetime.date.fromisoformat(team.start), max(one.end for one in planned)
    days = (last - first).days + 1
    return {"start": first.isoformat(), "end": last.isoformat(), "days": days, "spare_days": HORIZON_DAYS - days}


def roadmap_csv(planned: Sequence[Planned]) -> str:
    """The plan as CSV that no spreadsheet takes for formulas."""
    return csv_text([one.row() for one in planned], columns=COLUMNS)


def roadmap_ics(planned: Sequence[Planned], *, run_id: str, stamp: datetime.datetime) -> bytes:
    """The plan as an iCalendar file (RFC 5545, by `icalendar`): one all-day event a task.

    Args:
        planned: from `schedule`.
        run_id: part of each event's id, so that a second import moves events instead of doubling them.
        stamp: when the plan was made, UTC.
    """
    import icalendar

    calendar = icalendar.Calendar()
    calendar.add("prodid", "-//finetuning-playbook//roadmap//EN")
    calendar.add("version", "2.0")
    for one in planned:
        event = icalendar.Event()
        event.add("uid", f"{one.task.id}@{run_id}.finetuning-playbook")
        event.add("dtstamp", stamp)
        event.add("summary", one.task.title)
        event.add("dtstart", one.start)
        event.add("dtend", one.end + datetime.timedelta(days=1))  # the end of an all-day event is the day after
        slack = "on the critical path" if one.critical else f"{one.slack_days} working days of slack"
        lines = [f"Owner: {one.task.owner}", PHASES[one.task.phase], f"{one.task.hours:g} hours, {slack}"]
        lines += [f"After: {', '.join(one.task.after)}"] if one.task.after else []
        event.add("description", "\n".join([*lines, *([one.task.reason] if one.task.reason else [])]))
        event.add("transp", "TRANSPARENT")
        calendar.add_component(event)
    return calendar.to_ical()


def _without(after: Sequence[str], gone: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """What is waited for, where tasks that are gone hand on what they waited for themselves."""
    found: dict[str, None] = {}
    for one in after:
        found |= dict.fromkeys(_without(gone[one], gone) if one in gone else (one,))
    return tuple(found)


def _date(team: Team, day: int) -> datetime.date:
    """The calendar date of a working day, counted from the team's first."""
    return np.busday_offset(
        np.datetime64(team.start), day, roll="forward", holidays=np.array(team.days_off, dtype="datetime64[D]")
    ).astype(datetime.date)
