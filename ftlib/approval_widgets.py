"""The safety reviewer's view: one failure at a time, worst first, then sign or refuse with reasons.

Core ipywidgets, and no logic: what may be signed is said by `approval`.

Left out on purpose: filters and search. The report has the same failures as a table.
"""

from typing import TYPE_CHECKING

import ipywidgets as W

from ftlib.approval import Approval
from ftlib.widgets import reason_of, text_box, visible

if TYPE_CHECKING:
    from ftlib.approval import ApprovalSession


class ApprovalWidget(W.VBox):
    """Made by `approval_widget`; `buttons`, `reviewer` and `reasons` are there for tests."""

    def __init__(self, session: "ApprovalSession"):
        self.session = session
        self._head, self._shown, self._message = W.HTML(), W.HTML(), W.HTML()
        self.reviewer = W.Text(description="Reviewer", placeholder="your name", layout=W.Layout(width="320px"))
        self.reasons = W.Textarea(
            placeholder="What did you read, and why do you sign or refuse?", layout=W.Layout(width="98%", height="70px")
        )
        self.buttons = {
            "next": W.Button(description="Next failure", button_style="primary"),
            "sign": W.Button(description="Sign"),
            "refuse": W.Button(description="Refuse"),
        }
        self.buttons["next"].on_click(lambda _: self._next())
        for decision in ("sign", "refuse"):
            self.buttons[decision].on_click(lambda _, decision=decision: self._decide(decision))
        row = W.HBox([self.buttons["next"], self.reviewer], layout=W.Layout(flex_flow="row wrap", margin="6px 0"))
        last = W.HBox([self.buttons["sign"], self.buttons["refuse"], self._message], layout=W.Layout(margin="6px 0"))
        super().__init__([self._head, self._shown, row, self.reasons, last], layout=W.Layout(max_width="1000px"))
        self._count()
        found = session.decided()
        if found:
            self._say(f"Decided before: {found['decision']}, {found['reviewer']}: {found['reasons']}")

    def _next(self) -> None:
        failure = self.session.show_next()
        if failure is None:
            self._shown.value = "<b>All failures were shown.</b>"
        else:
            self._shown.value = (
                f"<b>{visible(failure.kind)}</b>"
                + text_box(failure.prompt, label="Asked")
                + text_box(failure.answer, label="Answered (personal data masked)")
            )
        self._count()

    def _decide(self, decision: str) -> None:
        try:
            gate = self.session.decide(Approval(decision, self.reviewer.value, self.reasons.value))
        except (ValueError, OSError) as error:
            self._say(f"Not written. {reason_of(error)}")
            return
        self._say(f"In the ledger: {gate.note}")

    def _count(self) -> None:
        session = self.session
        self._head.value = (
            f"<b>{session.read} of {len(session.failures)} failures read</b>, {session.must_read} before a signature "
            f'<progress value="{session.read}" max="{max(1, len(session.failures))}"></progress>'
        )
        self.buttons["next"].disabled = session.read == len(session.failures)

    def _say(self, message: str) -> None:
        self._message.value = f'<span aria-live="polite">{visible(message)}</span>'


def approval_widget(session: "ApprovalSession") -> ApprovalWidget:
    """One failure after the other, and the buttons that sign or refuse; the decision goes to the ledger at once."""
    return ApprovalWidget(session)
