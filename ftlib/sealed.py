"""A sealed holdout: its sha256 is in the ledger before anything is trained, and each opening leaves a line there.

A score on rows that somebody looked at flatters: thresholds, data and checkpoints were chosen with them in view. So one
file is put aside whole: `seal` writes its hash, `open_sealed` refuses a file that was not sealed or is another one, and
notes which candidate was measured on it. Then the score on the public rows is compared with the score on the sealed
ones: a candidate that knows the public rows by heart is good on those only.

What a seal shows: the rows are the ones that were put aside, and how often this code opened them, for which candidates.
What it cannot show: that nobody read the file beside this code. Keep a file that matters where the trainers cannot
reach it, and give its path when it is to be opened.

Left out on purpose: encryption (whoever runs the notebook would hold the key), and a limit on openings: a notebook may
be run again, but a second candidate makes the gate abstain.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ftlib import gates
from ftlib.files import list_files, sha256
from ftlib.holdouts import difference_of_two
from ftlib.ledger import read_ledger
from ftlib.lineage import read_events, versions
from ftlib.records import GateResult, write_jsonl

if TYPE_CHECKING:
    from ftlib.runs import Run

SEAL = "holdout"  # the id of the lines in the ledger, where no other is given
MARGIN = 0.05  # how far the public score may lie above the sealed one, as shown by the interval's low end
NEED_N = 80  # sealed rows: with 80 against 170, 0.98 against 0.78 is shown in 96 of 100 simulated draws


@dataclass(frozen=True)
class Opening:
    """A sealed file, opened: where it is, its hash, and what was known about it.

    Attributes:
        sealed_by: the notebook that wrote the hash.
        candidates: models measured on it so far in this run, this one included.
        openings: lines of the ledger that say "opened", this one included.
        seen_by: other notebooks of this run that have read the same file, by the lineage.
    """

    path: Path
    sha256: str
    sealed_by: str
    candidates: int
    openings: int
    seen_by: tuple[str, ...] = ()

    def sentence(self) -> str:
        """What the ledger says, in words."""
        return (
            f"{self.path.name} ({self.sha256[:12]}…), sealed by {self.sealed_by}, opened {self.openings} time"
            f"{'s' if self.openings > 1 else ''} in this run for {self.candidates} candidate"
            f"{'s' if self.candidates > 1 else ''}; read before by "
            f"{', '.join(self.seen_by) or 'no other notebook'}"
        )


def seal(run: "Run", path: str | Path, *, id: str = SEAL) -> str:
    """Write a file's sha256 to the ledger, before anything is trained; once is enough, so a repeat writes nothing.

    Args:
        id: names the holdout, where a run has several.

    Returns:
        The sha256.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the run has sealed another file, or this one has changed since.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file to seal, found none; check the path")
    digest, known = sha256(path), _lines(run, "seal", id)
    if known and known[-1]["sha256"] != digest:
        raise ValueError(
            f"{path}: this run has sealed {known[-1]['file']} ({known[-1]['sha256'][:12]}), and this file is "
            f"{digest[:12]}; restore the file that was sealed, or start a new run"
        )
    if not known:
        run.fact("seal", id, file=path.name, sha256=digest, bytes=path.stat().st_size)
    return digest


def put_aside(run: "Run", relpath: str, rows: Sequence[dict], *, id: str = SEAL) -> Path:
    """Write rows that were made here as a file of the stage, and seal it.

    Made anew with other parameters they would be other rows: that is refused before the sealed file is touched.

    Args:
        id: names the holdout, where a run has several.

    Returns:
        The file.

    Raises:
        ValueError: this run has sealed other rows under that id; nothing was written.
    """
    known = _lines(run, "seal", id)
    if known:
        with TemporaryDirectory() as folder:
            digest = sha256(write_jsonl(Path(folder) / "rows.jsonl", rows))
        if digest != known[-1]["sha256"]:
            raise ValueError(
                f"{relpath}: this run has sealed {known[-1]['file']} ({known[-1]['sha256'][:12]}), and the {len(rows)} "
                f"rows made now are others ({digest[:12]}); go back to the parameters of the sealed ones, or start a "
                "new run"
            )
    path = run.write_rows(relpath, rows)
    seal(run, path, id=id)
    return path


def open_sealed(run: "Run", path: str | Path, *, candidate: str, why: str, id: str = SEAL) -> Opening:
    """Open a sealed file for one candidate: it is checked against its seal, and the ledger gets a line first.

    Args:
        candidate: what is measured on it, so that a second candidate shows: the sha256 of its adapter.
        why: for the ledger.
        id: as it was sealed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it was never sealed in this run, or it is not the file that was sealed.
    """
    path = Path(path)
    known = _lines(run, "seal", id)
    if not known:
        first = "run 01_decision_scorecard first, which seals it, or " if id == SEAL else ""
        raise ValueError(
            f"{path}: expected its sha256 in the ledger of run {run.run_id} before it is opened, found none under "
            f"{id!r}; {first}seal it now with sealed.seal"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected the file sealed as {known[-1]['sha256'][:12]}, found none")
    digest = sha256(path)
    if digest != known[-1]["sha256"]:
        raise ValueError(
            f"{path}: expected the file that was sealed ({known[-1]['sha256'][:12]}), got {digest[:12]}; it was "
            "changed after the seal: restore it"
        )
    run.fact("opened", id, file=path.name, sha256=digest, candidate=candidate, why=why)
    opened = _lines(run, "opened", id)
    candidates = len({line["candidate"] for line in opened})
    readers = {
        event["job"]["name"]
        for event in read_events(run.path / "lineage.jsonl")
        if digest in versions(event["inputs"]).values()
    }
    seen_by = tuple(sorted(readers - {run.notebook}))
    return Opening(path, digest, known[-1]["notebook"], candidates, len(opened), seen_by)


def digest_of(folder: str | Path) -> str:
    """A sha256 of the files of a folder, such as an adapter: the same weights give the same candidate."""
    files = list_files(Path(folder))
    text = "\n".join(f"{path.relative_to(folder).as_posix()} {sha256(path)}" for path in files)
    return hashlib.sha256(text.encode()).hexdigest()


def gap(public: ArrayLike, hidden: ArrayLike) -> tuple[float, tuple[float, float]]:
    """Share right on public rows minus share right on sealed ones: two samples of different rows, so nothing is paired.

    Newcombe's interval (square and add) of two Wilson intervals.

    Args:
        public, hidden: 0 or 1 per row, shapes (n,) and (m,).

    Raises:
        ValueError: no row, or a value other than 0 and 1.

    Example:
        >>> value, (low, high) = gap([1] * 9 + [0], [1] * 6 + [0] * 4)
        >>> round(value, 3), round(low, 3), round(high, 3)
        (0.3, -0.082, 0.599)
    """
    ends = []
    for name, results in (("public", public), ("hidden", hidden)):
        right = np.asarray(results, dtype=float)
        if right.ndim != 1 or right.size == 0 or not np.isin(right, (0, 1)).all():
            raise ValueError(f"{name}: expected one 0 or 1 per row, and a row at least; got shape {right.shape}")
        ends.append((float(right.mean()), *gates.wilson(int(right.sum()), right.size)))
    return difference_of_two(*ends)


def judge_gap(
    id: str, notebook: str, public: Sequence[float], hidden: Sequence[float], *, opening: Opening | None = None
) -> GateResult:
    """The gate: FAIL where the public score is *shown* to lie more than MARGIN above the sealed one.

    The number that is judged is the low end of the gap's interval, because two samples of different rows differ by
    chance: by eight points in one of twenty cases at these sizes. ABSTAIN where the rows are too few, where a second
    candidate of this run has been measured on them, or where another notebook has read them: then they are sealed no
    more.
    """
    value, (low, high) = gap(public, hidden)
    note = f"gap {value:+.3f} ({low:+.3f} to {high:+.3f}), {len(public)} public and {len(hidden)} sealed rows"
    found = gates.judge_gate(
        id, notebook, value=low, threshold=MARGIN, op="<=", n=len(hidden), need_n=NEED_N, note=note
    )
    if found.verdict == "PASS" and opening is not None and (opening.candidates > 1 or opening.seen_by):
        used = f"candidate number {opening.candidates} on the same sealed rows"
        if opening.seen_by:
            used = f"{', '.join(opening.seen_by)} has read the sealed rows"
        found = found.model_copy(update={"verdict": "ABSTAIN", "note": f"{used}: put new ones aside; {note}"})
    return found


def _lines(run: "Run", kind: str, id: str) -> list[dict]:
    return [line for line in read_ledger(run.path / "gates.jsonl") if (line["kind"], line["id"]) == (kind, id)]
