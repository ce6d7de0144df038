"""The status line: what it says, and where it gets it from."""

import io

import nbformat
import pytest
from nbclient import NotebookClient

from ftlib.progress import Screen, bar_text, clock_text, left_text, seconds_left


def stream(text):
    return {"msg_type": "stream", "content": {"name": "stderr", "text": text}}


def value(text):
    return {"msg_type": "comm_msg", "content": {"data": {"state": {"value": text}}}}


def page(html):
    return {"msg_type": "update_display_data", "content": {"data": {"text/html": html}}}


TRAINER = """<div><progress value='7' max='60' style='width:300px;'></progress>
  [ 7/60 00:21 < 02:40, 0.33 it/s, Epoch 0.2/2]
</div><table><tr><td>10</td></tr></table>"""


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (stream("Sampling:   5%| | 5/100\rSampling:  50%|█ | 50/100 [00:10]"), "Sampling: 50%|█ | 50/100 [00:10]"),
        (stream("step 1\nstep 2\n\n"), "step 2"),
        (stream("\x1b[31mred\x1b[0m alert"), "red alert"),
        (stream("\n"), None),
        (stream("/x/args.py:9: FutureWarning: `a` is old\n  warnings.warn(\n"), None),
        (stream("step 1\n/x/args.py:9: UserWarning: b\n  warnings.warn(\n"), "step 1"),
        (value("\u20075/100\u2007[00:01&lt;00:19,\u20075it/s]"), "5/100 [00:01<00:19, 5it/s]"),
        (value(5), None),
        (value("Sampling"), None),
        (value("Sampling:\u2007\u20075%"), "Sampling: 5%"),
        (page(TRAINER), "[ 7/60 00:21 < 02:40, 0.33 it/s, Epoch 0.2/2]"),
        (page("<b>a figure</b>"), None),
        ({"msg_type": "status", "content": {"execution_state": "busy"}}, None),
    ],
)
def test_bar_text(message, text):
    assert bar_text(message) == text


def test_seconds_left_by_hand():
    """A was measured at 100 s and took 200 s here: pace 2. B (50 s) runs for 30 s: 100 - 30 left; C (10 s): 20 s."""
    measured = {"a": 100.0, "b": 50.0, "c": 10.0}
    assert seconds_left(measured, {"a": 200.0}, rest=["b", "c"], elapsed=30, part=0.5) == pytest.approx(90)
    # Nothing taken yet, so pace 1; B is at 100 s of 50: pace 2, none left of it, and 20 s of C.
    assert seconds_left(measured, {}, rest=["b", "c"], elapsed=100, part=0.5) == pytest.approx(20)


def test_seconds_left_without_measures():
    assert seconds_left({"a": None}, {}, rest=["a"], elapsed=10, part=0.25) == pytest.approx(30)
    assert seconds_left({"a": None}, {}, rest=["a"], elapsed=10, part=0) is None
    assert seconds_left({"a": 10.0, "b": None}, {}, rest=["a", "b"], elapsed=1, part=0.5) is None
    assert seconds_left({}, {}, rest=[], elapsed=1, part=1) == 0


def test_texts():
    assert [clock_text(s) for s in (5, 75, 3675)] == ["0:05", "1:15", "1:01:15"]
    assert [left_text(s) for s in (None, 10, 700)] == ["time left not known", "about 1 min left", "about 12 min left"]


def test_log_gets_a_line_now_and_then():
    out, now = io.StringIO(), [0.0]
    screen = Screen(out, clock=lambda: now[0])
    with screen.notebook("[1/2] 01_one", 10, lambda elapsed, part: 60 * (1 - part)):
        screen.cell(1)  # at once
        screen.cell(2)  # too soon
        now[0] = 25.0
        screen.cell(6)
        now[0] = 50.0
        screen.bar("Sampling: 50%")  # the counts come next
        screen.bar("5/10 [00:01]")
        now[0] = 100.0
        screen.cell(7)
        now[0] = 125.0
        screen.bar("step 3")
    assert out.getvalue().splitlines() == [
        "[1/2] 01_one · cell 1 of 10 · 0:00 · about 1 min left",
        "[1/2] 01_one · cell 6 of 10 · 0:25 · about 1 min left",
        "[1/2] 01_one · cell 6 of 10 · 0:50 · about 1 min left · Sampling: 50% 5/10 [00:01]",
        "[1/2] 01_one · cell 7 of 10 · 1:40 · about 1 min left",
        "[1/2] 01_one · cell 7 of 10 · 2:05 · about 1 min left · step 3",
    ]


def test_terminal_line_is_rewritten_and_cut_to_the_width(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "40")
    out = Terminal()
    screen = Screen(out, clock=lambda: 0.0)
    with screen.notebook("[1/2] 01_one", 10, lambda elapsed, part: None):
        screen.cell(3)
    screen.say("done")
    assert (
        out.getvalue() == "\r\x1b[K" + "[1/2] 01_one · cell 3 of 10 · 0:00 · time left"[:39] + "\r\x1b[K" * 2 + "done\n"
    )


def test_a_saved_notebook_shows_how_far_a_bar_came_and_not_the_start():
    code = (
        "from ftlib.progress import bar\n"
        "assert [n for n in bar(range(3), desc='read', unit='row')] == [0, 1, 2]\n"
        "with bar(total=4, desc='half', unit='row') as shown:\n    shown.update(2)\n"
        "with bar(total=4, desc='none', disable=True) as shown:\n    shown.update(2)"
    )
    cells = [nbformat.v4.new_code_cell(code)]
    done = NotebookClient(nbformat.v4.new_notebook(cells=cells), kernel_name="python3", timeout=120).execute()
    texts = [out["data"]["text/plain"] for out in done.cells[0].outputs]
    assert texts == ["read: 3 of 3 rows in 0:00", "half: 2 of 4 rows in 0:00"]
    assert not any("application/vnd.jupyter.widget-view+json" in out["data"] for out in done.cells[0].outputs)
