"""The view of a rollout for the one who watches it: where it stands, and three buttons with a reason.

Left out on purpose: the state. It is the router's, and the router's is its log; a page that is closed loses nothing.
"""

import ipywidgets as W

from ftlib.serve import Router
from ftlib.widgets import reason_of, visible

DO = {"hold": "Hold", "go_on": "Go on", "roll_back": "Roll back"}
SAID = {"running": "running", "held": "held by hand", "rolled_back": "rolled back", "promoted": "everyone has it"}


class RolloutWidget(W.VBox):
    """Status and hand brake of a router; made by `rollout_widget`."""

    def __init__(self, router: Router):
        self.router = router
        self._status, self._message = W.HTML(), W.HTML()
        self.why = W.Text(description="reason", placeholder="goes into the log", layout=W.Layout(width="640px"))
        self.buttons = {do: W.Button(description=label) for do, label in DO.items()}
        self.buttons["roll_back"].button_style = "danger"
        self.refresh = W.Button(description="Refresh", icon="refresh")
        for do, button in self.buttons.items():
            button.on_click(lambda _, do=do: self._press(do))
        self.refresh.on_click(lambda _: self._draw())
        super().__init__([self._status, self.why, W.HBox([*self.buttons.values(), self.refresh]), self._message])
        self._draw()

    def _press(self, do: str) -> None:
        try:
            self.router.manual(do, self.why.value)
        except (ValueError, OSError) as error:
            self._message.value = f'<p role="alert" style="color:#b5473c">Not done. {visible(reason_of(error))}</p>'
            return
        self.why.value = ""
        self._message.value = f'<span aria-live="polite">Done: {DO[do].lower()}. It is in the log.</span>'
        self._draw()

    def _draw(self) -> None:
        status = self.router.canary.status()
        cell = 'style="text-align:left;padding:2px 14px 2px 0"'
        head = ("guardrail", "users, candidate", "users, baseline", "evidence", "stops at")
        rows = [
            (rail["name"], rail["candidate"], rail["baseline"], f"{rail['evidence']:.2f}", _stops_at(rail["alpha"]))
            for rail in status["guardrails"]
        ]
        table = "".join(
            "<tr>" + "".join(f"<{tag} {cell}>{visible(str(value))}</{tag}>" for value in row) + "</tr>"
            for tag, row in [("th", head), *(("td", row) for row in rows)]
        )
        last = status["decisions"][-1] if status["decisions"] else None
        why = f"<p>Last decision: {visible(last['what'])}, because: {visible(last['why'])}</p>" if last else ""
        self._status.value = (
            f"<p><b>{SAID[status['state']]}</b> · stage {status['stage']} · candidate: {status['share']:.0%} of users"
            f" · {status['requests']} requests, {status['candidate_requests']} of them to the candidate</p>"
            f"<table>{table}</table>{why}"
        )


def rollout_widget(router: Router) -> RolloutWidget:
    """Where a rollout stands, with the buttons hold, go on and roll back; each needs a reason, which the log keeps."""
    return RolloutWidget(router)


def _stops_at(alpha: float) -> str:
    return "the first" if alpha == 0 else f"{1 / alpha:.0f}"
