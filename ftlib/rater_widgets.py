"""Views for raters and their lead: two answers with the buttons that rate them, and the team's table as it grows.

Core ipywidgets only, and no logic: what a click means is said by the session (`ratings`, `calibration`), what the table
shows by `team`. Keys are an addition: one field takes letters, and every letter does what a button does.

Left out on purpose: custom front-end code, and a timer in the kernel. The table is refreshed by a `Play` control, whose
clock runs in the browser and stops with the page or after a stated time; no thread and no task stays behind.
"""

import html
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets as W
from sqlalchemy.exc import SQLAlchemyError

from ftlib.differences import differences
from ftlib.rubric import RUBRIC, SKIP_REASONS
from ftlib.store import SlotTaken
from ftlib.widgets import reason_of, text_box, visible

if TYPE_CHECKING:
    from ftlib.calibration import CalibratedSession, Lesson
    from ftlib.ratings import RatingSession, Shown
    from ftlib.team import RaterRow, TeamView

KEYS = (
    "a A is better · b B is better · t tie · x both bad · s skip (1-4: with that reason) · h, m, f the next mark of "
    "helpfulness, harmlessness, task fit · d differences · c comment · u undo · n go on"
)
_MARKS = {"h": "helpfulness", "m": "harmlessness", "f": "task_fit"}
_CHOICES = {"left": "A is better", "tie": "Tie", "right": "B is better", "both_bad": "Both bad", "skip": "Skip"}
_KEY_OF = {"a": "left", "b": "right", "t": "tie", "x": "both_bad", "s": "skip"}
_SMALL = "color:#5b6770;line-height:1.3;font-size:0.9em"
_ROW = {"flex_flow": "row wrap", "align_items": "center"}


def rating_widget(
    session: "RatingSession | CalibratedSession", *, double_click_seconds: float = 0.3, show_differences: bool = False
) -> W.VBox:
    """Two answers side by side, and the buttons that rate them. On screen, A is the left answer and B the right one.

    A vote is in the store before the next item shows; after a restart, the same session goes on where it stopped. In a
    training round the explanation shows beside the item, until "Go on".

    Args:
        session: the widget calls its `current`, `submit`, `undo`, `progress`, `lesson`, `nothing_open`,
            `may_begin_again` and `begin_again`.
        double_click_seconds: a click within this time of the one that showed the item, or of one ignored, is taken for
            a double click or a key held down, and ignored.
        show_differences: start with the words underlined that the other answer lacks.
    """
    return _RatingView(session, double_click_seconds, show_differences).box


class _RatingView:
    def __init__(self, session: "RatingSession | CalibratedSession", guard: float, show_differences: bool):
        self._session, self._guard = session, guard
        self._shown: Shown | None = None
        half = W.Layout(width="50%", min_width="0", padding="0 4px")
        self._head, self._prompt, self._message, self._lesson = W.HTML(), W.HTML(), W.HTML(), W.HTML()
        self._left, self._right = W.HTML(layout=half), W.HTML(layout=half)
        self._marked = W.ToggleButton(value=show_differences, description="Show differences")
        self._marked.observe(lambda _: self._show_answers(), names="value")
        self._marks = {name: _mark_buttons(name) for name in RUBRIC}
        self._comment = W.Textarea(placeholder="Why? (may stay empty)", layout=W.Layout(width="98%", height="52px"))
        self._why = W.Dropdown(
            options=[("skip because …", ""), *((f"{n} {why}", why) for n, why in enumerate(SKIP_REASONS, start=1))],
            layout=W.Layout(width="250px"),
        )
        self._choices = {choice: self._button(text, choice) for choice, text in _CHOICES.items()}
        self._undo = _button("Undo", self._take_back, width="90px")
        self._go_on = _button("Go on", lambda: self._show(""), style="primary")
        self._again = _button("Start the round again", self._begin_again, width="200px")
        self._keys = W.Text(description="Keys", placeholder="click here, then type", layout=W.Layout(width="260px"))
        self._keys.observe(self._typed, names="value")
        self.box = self._laid_out()
        self._show("")
        self._asked_at = float("-inf")  # no click showed the first item: the next one is no double click

    def _button(self, text: str, choice: str) -> W.Button:
        style = "primary" if choice in ("left", "right") else ""
        return _button(text, lambda: self._vote(choice), style=style)

    def _laid_out(self) -> W.VBox:
        rubric = [
            W.HBox([W.HTML(_anchors(name), layout=W.Layout(width="470px")), buttons], layout=W.Layout(**_ROW))
            for name, buttons in self._marks.items()
        ]
        row = W.Layout(**_ROW, margin="6px 0")
        return W.VBox(
            [
                self._head,
                self._prompt,
                W.HBox([self._left, self._right], layout=W.Layout(width="100%")),
                self._lesson,
                self._marked,
                *rubric,
                W.HBox(
                    [
                        self._keys,
                        W.HTML(f'<div style="{_SMALL}">{html.escape(KEYS)}</div>', layout=W.Layout(width="560px")),
                    ],
                    layout=row,
                ),
                self._comment,
                W.HBox([*self._choices.values(), self._why], layout=row),
                W.HBox([self._undo, self._go_on, self._again, self._message], layout=row),
            ],
            layout=W.Layout(width="100%", max_width="1240px"),
        )

    def _vote(self, choice: str, why: str = "") -> None:
        shown = self._shown
        if shown is None or self._too_soon():
            return
        picked = (why or self._why.value) if choice == "skip" else ""
        try:
            vote = self._session.submit(
                shown.choice(choice) if choice in ("left", "right") else choice,
                **{name: shown.mark(toggle.value) for name, toggle in self._marks.items()},
                reason=": ".join(filter(None, (picked, self._comment.value.strip()))),
                item_id=shown.item.id,
            )
        except SlotTaken as error:
            self._show(f"Not stored. {reason_of(error)}")
            return
        except (ValueError, OSError, SQLAlchemyError) as error:
            self._say(f"Not stored; the item stays. {reason_of(error)}")
            return
        if self._session.lesson is not None:
            self._teach(self._session.lesson)
            return
        self._show(f"Stored: {_CHOICES[choice]} ({vote.seconds:.0f} s).")

    def _too_soon(self) -> bool:
        before, self._asked_at = self._asked_at, time.monotonic()
        return self._asked_at - before < self._guard

    def _take_back(self) -> None:
        try:
            vote = self._session.undo()
        except (OSError, SQLAlchemyError) as error:
            self._say(f"Not undone. {reason_of(error)}")
            return
        self._show("Nothing to undo." if vote is None else "Undone: this item is open again.")

    def _begin_again(self) -> None:
        try:
            self._session.begin_again()
        except (OSError, SQLAlchemyError) as error:
            self._say(f"Not started. {reason_of(error)}")
            return
        self._show("")

    def _typed(self, change: dict) -> None:
        if not change["new"]:
            return
        key = change["new"][-1].lower()
        self._keys.value = ""
        if key in _KEY_OF:
            self._vote(_KEY_OF[key])
        elif key in _MARKS and self._shown is not None:
            toggle = self._marks[_MARKS[key]]
            values = [value for _, value in toggle.options]
            toggle.value = values[(values.index(toggle.value) + 1) % len(values)]
        elif key.isdecimal() and 1 <= int(key) <= len(SKIP_REASONS):
            self._vote("skip", SKIP_REASONS[int(key) - 1])
        elif key == "d":
            self._marked.value = not self._marked.value
        elif key == "c":
            self._comment.focus()
        elif key == "u" and not self._undo.disabled:
            self._take_back()
        elif key == "n" and not self._go_on.disabled:
            self._show("")

    def _teach(self, lesson: "Lesson") -> None:
        """The explanation beside the item that was voted on; nothing else is open until "Go on"."""
        self._shown = None
        self._enable(False)
        self._head.value = _progress(self._session)
        self._lesson.value = _lesson(lesson)
        self._go_on.disabled = False
        self._go_on.layout.display = None
        self._say("Stored. Read why, then go on.")

    def _show(self, message: str) -> None:
        self._lesson.value = ""
        try:
            self._shown = self._session.current()
            head = _progress(self._session)
            self._undo.disabled = self._session.progress().done == 0
            over = "" if self._shown else self._session.nothing_open()
            failed = self._session.may_begin_again
        except SQLAlchemyError as error:
            self._shown = None
            self._enable(False)
            self._say(f"{message} The next item cannot be fetched; run this cell again. {reason_of(error)}")
            return
        for toggle in self._marks.values():
            toggle.value = None
        self._comment.value = self._why.value = ""
        self._enable(self._shown is not None)
        for button, wanted in ((self._go_on, False), (self._again, failed)):
            button.disabled = not wanted
            button.layout.display = None if wanted else "none"
        if self._shown is None:
            self._prompt.value = f"<b>{html.escape(over)}.{'' if failed else ' Go on with the next cell.'}</b>"
            if failed:
                self._lesson.value = _missed(self._session.missed())
        else:
            self._prompt.value = text_box(self._shown.item.prompt, label="Customer")
        self._show_answers()
        self._head.value = head  # last: the count moves when the item is there
        self._say(message)
        self._asked_at = time.monotonic()

    def _show_answers(self) -> None:
        if self._lesson.value and self._shown is None and not self._go_on.disabled:
            return  # the item of a lesson stays as it is
        if self._shown is None:
            self._left.value = self._right.value = ""
            return
        texts = [self._shown.text(side) for side in ("left", "right")]
        found = differences(*texts) if self._marked.value else None
        for box, text, name, pieces in zip((self._left, self._right), texts, "AB", found or (None, None), strict=True):
            box.value = text_box(text, label=f"Answer {name}", pieces=pieces)
        if self._marked.value and found is None:
            self._say("These answers are too long to be compared word by word.")

    def _enable(self, on: bool) -> None:
        for control in (*self._choices.values(), *self._marks.values(), self._comment, self._why):
            control.disabled = not on

    def _say(self, message: str) -> None:
        self._message.value = f'<span aria-live="polite">{visible(message)}</span>'


def _button(text: str, act: Callable[[], None], *, style: str = "", width: str = "110px") -> W.Button:
    made = W.Button(description=text, button_style=style, layout=W.Layout(width=width))
    made.on_click(lambda _: act())
    return made


def _mark_buttons(name: str) -> W.ToggleButtons:
    better, same = RUBRIC[name].better, RUBRIC[name].same
    return W.ToggleButtons(
        options=[("A", "left"), ("same", "same"), ("B", "right"), ("no mark", None)],
        value=None,
        tooltips=[f"A {better}", same, f"B {better}", "not rated"],
        style={"button_width": "84px"},
    )


def _anchors(name: str) -> str:
    criterion = RUBRIC[name]
    return (
        f"{html.escape(criterion.question)}"
        f'<div style="{_SMALL}">A or B: {html.escape(criterion.better)}. same: {html.escape(criterion.same)}.</div>'
    )


def _progress(session: "RatingSession | CalibratedSession") -> str:
    progress = session.progress()
    return (
        f"<b>{progress.done} of {progress.total} {html.escape(progress.what)}</b> "
        f'<progress value="{progress.done}" max="{progress.total}"></progress> rater {visible(session.rater)}'
    )


def _lesson(lesson: "Lesson") -> str:
    said, known = (choice.replace("_", " ") for choice in (lesson.said, lesson.known))  # A is left in a training round
    verdict = f"Right: {known}." if lesson.right else f"You said {said}; the verdict is {known}."
    return (
        f'<div role="status" style="border-left:4px solid #2f6f9f;padding:4px 10px;margin:6px 0;line-height:1.4">'
        f"<b>{html.escape(verdict)}</b> {visible(lesson.explanation)}</div>"
    )


def _missed(missed: list[tuple[str, str, str, str]]) -> str:
    rows = "".join(f"<li>{visible(prompt)}<br><i>{visible(why)}</i></li>" for prompt, _, _, why in missed)
    return f'<ol style="line-height:1.4">{rows}</ol>'


def team_widget(read: "Callable[[], TeamView]", *, every_seconds: float = 10, minutes: float = 30) -> W.VBox:
    """The team's table, a button that refreshes it, and a timed refresh to be started by hand.

    The clock of the timed refresh runs in the browser: it stops with the page, and in any case after `minutes`.

    Args:
        read: makes the view anew, e.g. `lambda: team_view(store, overlap=3, gold=gold)`.
        every_seconds: between two refreshes.
        minutes: how long they go on.

    Raises:
        ValueError: a time that is not positive.
    """
    if not (every_seconds > 0 and minutes > 0):
        raise ValueError(f"expected every_seconds and minutes above 0, got {every_seconds} and {minutes}")
    table, message = W.HTML(), W.HTML()

    def refresh(_: object = None) -> None:
        try:
            table.value = _team_table(read())
        except (ValueError, OSError, SQLAlchemyError) as error:
            message.value = f'<span role="alert">Not refreshed. {visible(reason_of(error))}</span>'
            return
        message.value = ""

    button = W.Button(description="Refresh", button_style="primary", layout=W.Layout(width="110px"))
    button.on_click(refresh)
    ticks = math.ceil(60 * minutes / every_seconds)
    clock = W.Play(min=0, max=ticks, interval=round(1000 * every_seconds), show_repeat=False)
    clock.observe(refresh, names="value")
    refresh()
    said = W.HTML(f"or every {every_seconds:g} s, for {minutes:g} minutes:")
    return W.VBox([table, W.HBox([button, said, clock, message], layout=W.Layout(**_ROW))])


def _team_table(view: "TeamView") -> str:
    at = view.at[:19].replace("T", " ")
    found = view.agreement
    alpha = "not known yet" if found.alpha is None else f"{found.alpha:.2f}"
    if found.alpha is not None and found.alpha_interval:
        alpha += f" ({found.alpha_interval[0]:.2f} to {found.alpha_interval[1]:.2f})"
    shares = "" if found.percent is None else f", {found.percent:.0%} the same"
    columns = (
        "rater",
        "pairs",
        "skipped",
        "seconds a pair",
        "as the others",
        "training",
        "hidden gold",
        "drift",
        "last",
    )
    cell = "text-align:left;padding:2px 12px 2px 0;vertical-align:top;overflow-wrap:anywhere"
    head = "".join(f'<th style="{cell}">{name}</th>' for name in columns)
    body = "".join(
        "<tr>" + "".join(f'<td style="{cell}">{visible(text)}</td>' for text in _team_cells(row)) + "</tr>"
        for row in view.raters
    )
    return (
        f'<div aria-live="polite" style="line-height:1.4"><b>{view.complete} of {view.items} items have '
        f"{view.overlap} votes</b> "
        f'<progress value="{view.complete}" max="{max(view.items, 1)}"></progress> {view.votes} votes · '
        f"alpha {alpha}{shares} · {html.escape(view.basis)} · {at} UTC"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _team_cells(row: "RaterRow") -> tuple[str, ...]:
    agreeing, judged = row.agreed
    gold = "too few"
    if row.gold is not None:
        gold = f"{row.gold[0]} of {row.gold[1]} ({row.interval.low:.0%} to {row.interval.high:.0%})"
    return (
        row.rater,
        str(row.pairs),
        str(row.skipped),
        "" if row.seconds is None else f"{row.seconds:.0f}",
        f"{agreeing} of {judged}" if judged else "",
        row.training,
        gold + (": below the mark" if row.below else ""),
        row.drift,
        row.last[11:19],
    )
