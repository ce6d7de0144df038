"""Views for notebooks, from core ipywidgets, so that they work in JupyterLab and in Colab. No logic of their own:
what a click means is said by the room behind it, and can be had without the widget.

Text of users and models is data: it is escaped, shown with its own line breaks, and characters that cannot be seen
(zero-width, bidirectional, control, tags) are named in its place, so that nothing runs and nothing hides.

Left out on purpose: custom front-end code, colours that carry meaning, and rendering of markdown. The raters' views are
a room of their own, `rater_widgets`.
"""

import datetime
import html
import time
import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import ipywidgets as W
from sqlalchemy.exc import SQLAlchemyError

from ftlib import risks as register
from ftlib import scorecard, sensitivity
from ftlib.criteria import CRITERIA, LABELS, anchor

if TYPE_CHECKING:
    from ftlib.audit import AuditSession, ShownRow

# Wide characters that show as nothing, beyond the categories that `visible` names as a whole.
_BLANKS = frozenset("\u00ad\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\u2028\u2029")
_EMOJI_STYLE = frozenset("\ufe0e\ufe0f")  # how an emoji is drawn; harmless, and frequent

BOX = (
    "white-space:pre-wrap;overflow-wrap:anywhere;overflow:auto;max-height:18em;contain:content;unicode-bidi:isolate;"
    "line-height:1.45;padding:8px 10px;border:1px solid #b5b5b5;border-radius:4px;font-family:sans-serif;"
)
MARKED = "text-decoration:underline 2px;text-underline-offset:3px;background:#e7eef7"


def visible(text: str) -> str:
    """Escape a text for HTML and name the characters in it that cannot be seen.

    Example:
        >>> visible("<b>\\u202egpj")
        '&lt;b&gt;<span style="background:#ffe08a">[U+202E]</span>gpj'
    """
    return "".join(
        f'<span style="background:#ffe08a">[U+{ord(character):04X}]</span>'
        if _is_invisible(character)
        else html.escape(character)
        for character in text.replace("\r\n", "\n")
    )


def text_box(text: str, *, label: str = "", pieces: Sequence[tuple[str, bool]] | None = None) -> str:
    """HTML of a text in a box of its own: as written, wrapped, scrolled when long (by keyboard too), and inert.

    Args:
        pieces: the text cut up by `differences`; what differs is underlined.
    """
    head = f'<div style="font-weight:bold;margin:2px 0">{html.escape(label)}</div>' if label else ""
    marked = [
        f'<u style="{MARKED}">{visible(part)}</u>' if differs else visible(part) for part, differs in pieces or ()
    ]
    body = "".join(marked) or visible(text)
    body = body if text.strip() else body + "<i>(empty)</i>"
    return f'{head}<div dir="auto" tabindex="0" style="{BOX}">{body}</div>'


def audit_widget(session: "AuditSession", *, double_click_seconds: float = 0.3) -> W.VBox:
    """One training row at a time, and the buttons that judge its answer: correct, wrong or unsure, and why.

    The auditor sees neither the row's id nor what another auditor said. A verdict is on disk before the next row shows;
    after a restart, the same session goes on where it stopped.

    Args:
        session: an `AuditSession`; the widget calls its `current`, `submit`, `back` and `progress`.
        double_click_seconds: as in `rating_widget`.
    """
    return _AuditView(session, double_click_seconds).box


def audit_tabs(sessions: "Sequence[AuditSession]", **options) -> W.Tab:
    """A tab for each auditor, with the auditor's name on it; options as in `audit_widget`."""
    return W.Tab(
        [audit_widget(session, **options) for session in sessions], titles=[session.auditor for session in sessions]
    )


class _AuditView:
    def __init__(self, session: "AuditSession", double_click_seconds: float):
        self._session, self._guard = session, double_click_seconds
        self._shown: ShownRow | None = None
        self._head, self._message = W.HTML(), W.HTML()
        self._texts = {"text": W.HTML(), "context": W.HTML(), "answer": W.HTML()}
        self._reason = W.Textarea(
            placeholder="Why? (wanted for wrong and unsure)", layout=W.Layout(width="98%", height="52px")
        )
        self._buttons = {
            "correct": W.Button(description="Correct", button_style="primary"),
            "wrong": W.Button(description="Wrong", button_style="primary"),
            "unsure": W.Button(description="Unsure"),
        }
        for verdict, button in self._buttons.items():
            button.on_click(lambda _, verdict=verdict: self._judge(verdict))
        self._back = W.Button(description="Back", layout=W.Layout(width="90px"))
        self._back.on_click(lambda _: self._go_back())
        row = W.HBox([*self._buttons.values(), self._back], layout=W.Layout(flex_flow="row wrap", margin="6px 0"))
        self.box = W.VBox(
            [self._head, *self._texts.values(), self._reason, row, self._message],
            layout=W.Layout(width="100%", max_width="1000px"),
        )
        self._show("")
        self._shown_at = float("-inf")  # no click showed the first row: the next one is no double click

    def _judge(self, verdict: str) -> None:
        shown = self._shown
        if shown is None or time.monotonic() - self._shown_at < self._guard:
            return
        try:
            self._session.submit(verdict, reason=self._reason.value.strip(), row_id=shown.item.id)
        except (ValueError, OSError, RuntimeError) as error:
            self._say(f"Not stored; the row stays. {reason_of(error)}")
            return
        self._show(f"Stored: {verdict}.")

    def _go_back(self) -> None:
        opened = self._session.back()
        self._show(
            "Nothing to go back to." if opened is None else "Open again: a new verdict takes the old one's place."
        )

    def _show(self, message: str) -> None:
        try:
            self._shown = self._session.current()
        except SQLAlchemyError as error:
            self._shown = None
            self._say(f"{message} The next item cannot be fetched; run this cell again. {reason_of(error)}")
            return
        progress = self._session.progress()
        self._head.value = (
            f"<b>{progress.done} of {progress.total} judged</b> "
            f'<progress value="{progress.done}" max="{progress.total}"></progress> '
            f"auditor {visible(self._session.auditor)}"
        )
        self._reason.value = ""
        for control in (*self._buttons.values(), self._reason):
            control.disabled = self._shown is None
        self._back.disabled = progress.done == 0
        for name, label in (("text", "Customer"), ("context", "Policy"), ("answer", "Answer to judge")):
            text = "" if self._shown is None else getattr(self._shown.item, name)
            shown = self._shown is not None and (bool(text) or name != "context")
            self._texts[name].value = text_box(text, label=label) if shown else ""
        if self._shown is None:
            self._texts["text"].value = f"<b>All {progress.total} rows are judged. Go on with the next cell.</b>"
        self._say(message)
        self._shown_at = time.monotonic()

    def _say(self, message: str) -> None:
        self._message.value = f'<span aria-live="polite">{visible(message)}</span>'


def _is_invisible(character: str) -> bool:
    if character in "\n\t" or character in _EMOJI_STYLE:
        return False
    # Cc control, Cf format (zero-width, bidi, tags), Cs lone surrogates, Co private use, Cn unassigned
    return (
        character in _BLANKS
        or unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn")
        or (
            0xFE00 <= ord(character) <= 0xFE0D or 0xE0100 <= ord(character) <= 0xE01EF  # variation selectors
        )
    )


def reason_of(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


class ScorecardWidget(W.VBox):
    """The scorecard by hand; made by `scorecard_widget`. Read `card` and `decision` from it."""

    def __init__(
        self,
        card: scorecard.Card,
        *,
        few_shot_low: float | None,
        limits: scorecard.Limits | None,
        on_change: Callable[[scorecard.Card], object] | None,
    ):
        self._rest = {"few_shot_low": few_shot_low, "limits": limits}
        self._on_change, self._clearing = on_change, False
        self.controls = {name: _answer_control(name, getattr(card.answers, name)) for name in CRITERIA}
        self.sliders = {
            name: W.FloatSlider(
                value=card.weights[name],
                min=0,
                max=max(5.0, *card.weights.values()),
                step=0.5,
                description="weight",
                continuous_update=False,
                layout=W.Layout(width="260px"),
                style={"description_width": "52px"},
            )
            for name in CRITERIA
        }
        self.anchors = {name: W.HTML() for name in CRITERIA}
        day = datetime.date.fromisoformat(card.sign_off.date) if card.sign_off.date else None
        self.sign = {
            "name": W.Text(value=card.sign_off.name, description="name", continuous_update=False),
            "role": W.Text(value=card.sign_off.role, description="role", continuous_update=False),
            "date": W.DatePicker(value=day, description="date"),
        }
        self.result = W.HTML()
        rows = []
        for name, criterion in CRITERIA.items():
            question = W.HTML(f"<b>{visible(criterion.question)}</b>")
            rows += [question, W.HBox([self.controls[name], self.sliders[name]]), self.anchors[name]]
        head = W.HTML("<b>Who signs it?</b> May stay empty. A change above takes the date away: sign again.")
        signing = W.HBox(list(self.sign.values()), layout=W.Layout(flex_flow="row wrap"))
        super().__init__([*rows, self.result, head, signing], layout=W.Layout(max_width="980px"))
        self._show("")
        for control in (*self.controls.values(), *self.sliders.values()):
            control.observe(self._answered, names="value")
        for control in self.sign.values():
            control.observe(self._changed, names="value")

    @property
    def card(self) -> scorecard.Card:
        """Answers, weights and signature as they stand."""
        day = self.sign["date"].value
        return scorecard.Card(
            scorecard.Answers(**{name: control.value for name, control in self.controls.items()}),
            {name: slider.value for name, slider in self.sliders.items()},
            scorecard.SignOff(self.sign["name"].value, self.sign["role"].value, day.isoformat() if day else ""),
        )

    @property
    def decision(self) -> scorecard.Decision:
        """The verdict as it stands.

        Raises:
            ValueError: the weights leave a method without any.
        """
        card = self.card
        return scorecard.recommend(card.answers, weights=card.weights, **self._rest)

    def _answered(self, change: object) -> None:
        """A signature stands under the answers that it was given for."""
        self._clearing = True
        self.sign["date"].value = None
        self._clearing = False
        self._changed(change)

    def _changed(self, _change: object) -> None:
        if self._clearing:
            return
        fault = ""
        if self._on_change is not None:
            try:
                self._on_change(self.card)
            except (ValueError, OSError) as error:
                fault = f"Not kept. {reason_of(error)}"
        self._show(fault)

    def _show(self, fault: str) -> None:
        card = self.card
        for name, control in self.controls.items():
            level = anchor(name, control.value)
            self.anchors[
                name
            ].value = f'<div style="color:#5b6770;line-height:1.35;margin:-4px 0 10px">{visible(level.anchor)}</div>'
        alarm = f'<p role="alert" style="color:#b5473c">{visible(fault)}</p>' if fault else ""
        try:
            decision = self.decision
        except ValueError as error:
            self.result.value = f'{alarm}<p role="alert" style="color:#b5473c">{visible(str(error))}</p>'
            return
        nearest = sensitivity.flips(card.answers, weights=card.weights, **self._rest)
        self.result.value = alarm + _decision_html(decision, nearest, card.sign_off)


def scorecard_widget(
    card: scorecard.Card,
    *,
    few_shot_low: float | None = None,
    limits: scorecard.Limits | None = None,
    on_change: Callable[[scorecard.Card], object] | None = None,
) -> ScorecardWidget:
    """Answer the scorecard by hand, with the anchor text of each answer, the weights, and the verdict as it moves.

    Args:
        card: to start from.
        few_shot_low, limits: as in `scorecard.recommend`.
        on_change: called with the card after each change, e.g. to keep it in the run; where it fails, the form says so.
    """
    return ScorecardWidget(card, few_shot_low=few_shot_low, limits=limits, on_change=on_change)


def _answer_control(name: str, value: int | float | str) -> W.Widget:
    common = {"description": name.replace("_", " "), "layout": W.Layout(width="360px")}
    style = {"description_width": "140px"}
    kind = CRITERIA[name].kind
    if kind == "choice":
        options = [str(level.at) for level in CRITERIA[name].levels]
        return W.Dropdown(options=options, value=value, style=style, **common)
    if kind == "count":
        return W.BoundedIntText(value=value, min=0, max=10_000_000, style=style, **common)
    return W.BoundedFloatText(value=value, min=0.0, max=100_000.0, step=0.25, style=style, **common)


def _decision_html(
    decision: scorecard.Decision, nearest: Sequence[sensitivity.Flip], sign_off: scorecard.SignOff
) -> str:
    chosen = {LABELS[method] for method in decision.path} | {decision.recommendation}
    scores = {LABELS[method]: score for method, score in decision.scores.items()} | decision.sequences
    bars = "".join(
        f'<tr><td style="padding-right:12px">{label.replace("->", "→")}</td><td style="width:360px">'
        f'<div style="background:{"#2f6f9f" if label in chosen else "#a9b4bc"};height:14px;'
        f'width:{score:.0f}%"></div></td><td style="padding-left:8px;text-align:right">{score:.0f}</td></tr>'
        for label, score in scores.items()
    )
    rules = "".join(
        f"<li><b>{rule.name}</b> ({', '.join(LABELS[method] for method in rule.methods)}: {rule.effect}): "
        f"{visible(rule.reason)}. What to do: {visible(rule.remedy)}.</li>"
        for rule in decision.rules
    )
    changes = "".join(f"<li>{visible(flip.sentence())}</li>" for flip in nearest)
    return (
        f'<div aria-live="polite" style="border-top:1px solid #c9d1d6;padding-top:8px;line-height:1.4">'
        f'<p style="font-size:1.2em"><b>{decision.recommendation.replace("->", "→")}</b></p>'
        f"<p>{visible(sign_off.sentence())}</p><table>{bars}</table>"
        f"<p>{'Hard rules' if rules else 'No hard rule applies.'}</p><ul>{rules}</ul>"
        f"<p>{'What would change it' if changes else 'No single answer would change it.'}</p><ul>{changes}</ul></div>"
    )


class RiskWidget(W.VBox):
    """The register as a table to edit; made by `risk_widget`. Read `risks` from it."""

    def __init__(self, risks: Sequence[register.Risk], *, on_change: Callable[[list[register.Risk]], object] | None):
        self.risks = list(risks)
        self._on_change = on_change
        self.choose = W.Dropdown(options=[risk.id for risk in risks], description="row", layout=W.Layout(width="420px"))
        self.fields = {
            "owner": W.Text(description="owner"),
            "mitigation": W.Textarea(description="mitigation", layout=W.Layout(width="640px", height="64px")),
            "expires": W.Text(description="expires", placeholder="2027-01-31"),
            "severity": W.Dropdown(options=list(register.GRADES), description="severity"),
            "likelihood": W.Dropdown(options=list(register.GRADES), description="likelihood"),
            "status": W.Dropdown(options=["open", "accepted", "closed"], description="status"),
            "reason": W.Text(description="reason", layout=W.Layout(width="640px")),
        }
        self.save = W.Button(description="Keep this row", button_style="primary")
        self.save.on_click(lambda _: self._keep())
        self._table, self._message = W.HTML(), W.HTML()
        super().__init__(
            [self._table, self.choose, *self.fields.values(), self.save, self._message],
            layout=W.Layout(max_width="1100px"),
        )
        self.choose.observe(lambda _: self._load(), names="value")
        self._load()
        self._draw()

    def _row(self) -> register.Risk | None:
        return next((risk for risk in self.risks if risk.id == self.choose.value), None)

    def _load(self) -> None:
        risk = self._row()
        for name, control in self.fields.items():
            control.disabled = risk is None or name not in register.editable(risk)
            if risk is not None:
                control.value = getattr(risk, name)
        self.save.disabled = risk is None
        self._message.value = ""

    def _keep(self) -> None:
        risk = self._row()
        if risk is None:
            return
        changes = {name: self.fields[name].value for name in register.editable(risk)}
        try:
            changed = register.edit_risk(self.risks, risk.id, **changes)
            if self._on_change is not None:
                self._on_change(changed)
        except (ValueError, OSError) as error:
            self._message.value = f'<p role="alert" style="color:#b5473c">Not kept. {visible(str(error))}</p>'
            return
        self.risks = changed
        self._message.value = f'<span aria-live="polite">Kept: {visible(risk.id)}.</span>'
        self._draw()

    def _draw(self) -> None:
        columns = ("id", "kind", "title", "level", "owner", "status", "reason", "expires", "mitigation")
        cell = "text-align:left;vertical-align:top;padding:2px 10px 2px 0;overflow-wrap:anywhere"
        head = "".join(f'<th style="{cell}">{name}</th>' for name in columns)
        rows = "".join(
            "<tr>"
            + "".join(f'<td style="{cell}">{visible(str(getattr(risk, name)))}</td>' for name in columns)
            + "</tr>"
            for risk in self.risks
        )
        self._table.value = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def risk_widget(
    risks: Sequence[register.Risk], *, on_change: Callable[[list[register.Risk]], object] | None = None
) -> RiskWidget:
    """Edit the register by hand, one row at a time; what may be edited is `risks.edit_risk`'s word.

    Args:
        risks: to start from.
        on_change: called with the new register before a change counts, e.g. to keep it in the run.
    """
    return RiskWidget(risks, on_change=on_change)
