"""The viewer of rollouts: pick a case, step through it, compare two policies. What is shown is `replays.Replay`'s.

Whatever a customer, a model or a tool wrote is text in a box of its own: escaped, and nothing in it hides.

Left out on purpose: state, and colours that alone carry meaning.
"""

import ipywidgets as W

from ftlib.replays import ONLY, Replay, Side
from ftlib.widgets import text_box, visible

NONE = "(none)"


class ReplayWidget(W.VBox):
    """The viewer; made by `replay_widget`."""

    def __init__(self, replay: Replay):
        self.replay = replay
        wide = W.Layout(width="420px")
        self.only = W.ToggleButtons(options=ONLY, description="cases")
        self.case = W.Dropdown(description="case", layout=wide)
        names = replay.policies
        self.left = W.Dropdown(options=names, value=replay.shown[0], description="left")
        self.right = W.Dropdown(options=[NONE, *names], value=(*replay.shown, NONE)[1], description="right")
        self.buttons = {name: W.Button(description=name) for name in ("Start", "Back", "Next", "End")}
        self._page = W.HTML()
        moves = {
            "Start": lambda now: 0,
            "Back": lambda now: now - 1,
            "Next": lambda now: now + 1,
            "End": lambda _: 10**9,
        }
        for name, button in self.buttons.items():
            button.on_click(lambda _, move=moves[name]: self._do(lambda: replay.go(move(replay.step))))
        self.only.observe(lambda change: self._do(lambda: replay.filter(change["new"])), "value")
        self.case.observe(lambda change: change["new"] is None or self._do(lambda: replay.open(change["new"])), "value")
        for side in (self.left, self.right):
            side.observe(lambda _: self._do(self._show_policies), "value")
        row = W.HBox(list(self.buttons.values()), layout=W.Layout(flex_flow="row wrap"))
        super().__init__([W.HBox([self.left, self.right]), self.only, self.case, row, self._page])
        self._quiet = False
        self._draw()

    def _do(self, change) -> None:
        if not self._quiet:  # `_draw` sets the list of cases, which is no wish of the user's
            change()
            self._draw()

    def _show_policies(self) -> None:
        self.replay.compare(self.left.value, *([self.right.value] if self.right.value != NONE else []))
        self.replay.filter(self.replay.only)

    def _draw(self) -> None:
        screen = self.replay.screen()
        found = self.replay.choices()
        self._quiet = True
        self.case.options = [(f"{i}: {self.replay.cases[i].id}, {self.replay.cases[i].outcome}", i) for i in found]
        self.case.value = screen.number if screen.number in found else None
        self._quiet = False
        self.buttons["Start"].disabled = self.buttons["Back"].disabled = screen.step == 0
        self.buttons["Next"].disabled = self.buttons["End"].disabled = screen.step >= screen.steps
        if not found:
            self._page.value = "<p>No case here: choose others above.</p>"
            return
        case = screen.case
        facts = f"{case.record()} · right: {case.outcome} by {case.rule}"
        sides = "".join(f'<div style="flex:1 1 320px;min-width:0">{_side(side)}</div>' for side in screen.sides)
        self._page.value = (
            f"{text_box(case.message, label='Customer')}{text_box(facts, label='What the desk knows')}"
            f'<p aria-live="polite">line {screen.step} of {screen.steps}</p>'
            f'<div style="display:flex;flex-wrap:wrap;gap:12px">{sides}</div>'
        )


def _side(side: Side) -> str:
    says = {None: "Model", True: "Desk, done", False: "Desk, not done"}
    lines = "".join(text_box(line.text, label=says[line.ok]) for line in side.lines)
    parts = "".join(
        f'<tr><td style="padding-right:14px">{visible(str(name))}</td><td>{value:.2f}</td></tr>'
        for name, value in side.parts.items()
    )
    done = "success" if side.success else "no success yet" if len(side.lines) < side.of else "no success"
    return (
        f"<p><b>{visible(side.policy)}</b>: {done}, {len(side.lines)} of {side.of} lines</p>"
        f"<table>{parts}</table>{lines}"
    )


def replay_widget(replay: Replay) -> ReplayWidget:
    """Step through rollouts, with the reward parts as they stood after each line, and two policies side by side."""
    return ReplayWidget(replay)
