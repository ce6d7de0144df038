"""Where a run is: notebook, cell k of n, elapsed, time left, and the bar that the cell itself shows.

On a terminal this is one line that is rewritten; in a log it is a line now and then. The bars of the notebooks (tqdm
as text or as a widget, the table of a `transformers` trainer) are read from the kernel's messages, so that notebooks
need no second way to report.

Left out on purpose: colours, several lines at once, and any reading of what a cell prints beyond its last line.
"""

import contextlib
import html
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

PLAIN_EVERY_SECONDS = 20.0  # in a log; a terminal is rewritten every second
MAX_PACE = 20.0  # a machine this many times slower than the measured one; beyond it something else is wrong
WARNING = re.compile(r"\w*Warning: |^warnings\.warn\(")  # the two lines of a Python warning: no progress


def seconds_left(
    measured: Mapping[str, float | None],
    taken: Mapping[str, float],
    *,
    rest: Sequence[str],
    elapsed: float,
    part: float,
) -> float | None:
    """An estimate of the seconds until the last notebook ends.

    Args:
        measured: notebook -> seconds it took where it was measured, None where nobody knows.
        taken: notebook -> seconds it took here; these tell how much slower or faster this machine is.
        rest: the notebooks to come, the running one first.
        elapsed: seconds of the running one so far.
        part: share of its cells that are done; used only where its seconds are not known.

    Returns:
        Seconds, or None when a notebook to come has never been measured.
    """
    if not rest:
        return 0.0
    known = [name for name in taken if measured.get(name)]
    pace = sum(taken[name] for name in known) / sum(measured[name] for name in known) if known else 1.0
    current = measured.get(rest[0])
    if current:
        pace = max(pace, elapsed / current)  # it takes longer than thought: so will the others
        pace = min(pace, MAX_PACE)
        left = max(current * pace - elapsed, 0.0)
    elif part > 0:
        left = elapsed / part - elapsed
    else:
        return None
    if any(not measured.get(name) for name in rest[1:]):
        return None
    return left + sum(measured[name] * pace for name in rest[1:])


def bar(*args, **options):
    """A tqdm bar; in a notebook its last state stays as a line of text, also in the saved file.

    tqdm's own widget is saved as it looked at the start ("0%"), which reads as a failure.

    Args:
        args, options: tqdm's.
    """
    from tqdm.auto import tqdm
    from tqdm.notebook import tqdm_notebook

    if not issubclass(tqdm, tqdm_notebook) or options.get("disable"):
        return tqdm(*args, **options)
    from IPython.display import display

    class Kept(tqdm):
        def close(self):
            if self.disable:  # closed already
                return
            super().close()
            took = clock_text(self.format_dict["elapsed"])
            line = f"{self.desc.removesuffix(': ')}: {self.n:,} of {self.total or self.n:,} {self.unit}s in {took}"
            self.shown.update({"text/plain": line}, raw=True)

    made = Kept(*args, display=False, **options)
    made.shown = display(made.container, display_id=True)
    made.displayed = True
    return made


def bar_text(message: Mapping[str, Any]) -> str | None:
    """The progress that a kernel message shows, as one line of text; None when it shows none.

    Args:
        message: an IOPub message: `stream`, `display_data`, `update_display_data`, `comm_open` or `comm_msg`. A tqdm
            widget sends its label ("Sampling:  5%") and its counts ("5/100 [00:01<00:19]") one after the other.
    """
    kind, content = message["msg_type"], message["content"]
    if kind == "stream":
        stripped = map(str.strip, re.split(r"[\r\n]", content["text"]))
        lines = [line for line in stripped if line and not WARNING.search(line)]
        return _plain(lines[-1]) if lines else None
    if kind in ("display_data", "update_display_data"):
        page = content.get("data", {}).get("text/html", "")
        label = re.search(r"<progress\b[^>]*>\s*</progress>\s*([^<]*(?:<(?![a-z/])[^<]*)*)", page)
        return _plain(label[1]) or None if label else None
    if kind in ("comm_open", "comm_msg"):
        value = content.get("data", {}).get("state", {}).get("value")
        return _plain(value) if isinstance(value, str) and re.search(r"\d%$|\d+/\d+.*\[", value) else None
    return None


def _plain(text: str) -> str:
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", html.unescape(text))
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def clock_text(seconds: float) -> str:
    """`75` -> `1:15`, `3675` -> `1:01:15`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def left_text(seconds: float | None) -> str:
    """`None` -> `time left not known`, `40` -> `about 1 min left`, `700` -> `about 12 min left`."""
    if seconds is None:
        return "time left not known"
    return f"about {max(1, round(seconds / 60))} min left"


class Screen:
    """Shows where a run is. Made for one stream; every method may be called from any thread."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic):
        self._stream, self._clock = stream, clock
        self._live = stream.isatty()
        self._lock = threading.Lock()
        self._title, self._cells, self._cell, self._bar, self._label = "", 0, 0, "", ""
        self._began = self._shown = 0.0
        self._left: Callable[[float, float], float | None] | None = None

    def say(self, line: str = "") -> None:
        """A line that stays."""
        with self._lock:
            self._write(f"\r\x1b[K{line}\n" if self._live else f"{line}\n")

    @contextlib.contextmanager
    def notebook(self, title: str, cells: int, left: Callable[[float, float], float | None]) -> Iterator[None]:
        """Show a notebook while the block runs.

        Args:
            title: e.g. "[3/7] 02_sft".
            cells: how many cells it has.
            left: (seconds elapsed, share of the cells done) -> seconds left of the run, or None.
        """
        self._title, self._cells, self._cell, self._bar, self._left = title, cells, 0, "", left
        self._began, self._shown = self._clock(), float("-inf")
        stop = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(stop,), daemon=True)
        ticker.start()
        try:
            yield
        finally:
            stop.set()
            ticker.join()
            if self._live:
                self._write("\r\x1b[K")

    def cell(self, number: int) -> None:
        """Cell `number`, counted from 1, starts."""
        self._cell, self._bar, self._label = number, "", ""
        self._show()

    def bar(self, text: str) -> None:
        """The running cell shows this progress; a label ("Sampling: 5%") waits for the counts that follow it."""
        if re.search(r"\d%$", text):
            self._label = text
            return
        self._bar = f"{self._label} {text}".strip() if re.match(r"\d+/\d+ ?\[", text) else text
        self._show()

    def _tick(self, stop: threading.Event) -> None:
        while not stop.wait(1.0):
            self._show()

    def _show(self) -> None:
        with self._lock:
            now = self._clock()
            if now - self._shown < (0.1 if self._live else PLAIN_EVERY_SECONDS):
                return
            self._shown = now
            line = self._line(now - self._began)
            if self._live:
                width = shutil.get_terminal_size().columns - 1
                self._write(f"\r\x1b[K{line[:width]}")
            else:
                self._write(f"{line}\n")

    def _line(self, elapsed: float) -> str:
        place = f"cell {self._cell} of {self._cells}" if self._cell else "starting"
        parts = [self._title, place, clock_text(elapsed)]
        if self._left:
            parts.append(left_text(self._left(elapsed, max(self._cell - 1, 0) / max(self._cells, 1))))
        if self._bar:
            parts.append(self._bar[:100])
        return " · ".join(parts)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
