"""A run folder: what one pass over the notebooks leaves behind, and the only thing that notebooks share.

    papermill_runs/<run_id>/
        run.json        profile, seed and model: a notebook of another kind is refused
        summary.json    for a machine       gates.jsonl    the ledger, append-only, hash-chained
        lineage.jsonl   OpenLineage events  artifacts/<stage>/…   with manifest.json and a COMPLETE marker

A kill at any moment loses nothing that was complete: files are replaced whole, the ledger and the lineage grow by
one synced line, and a stage counts only once its COMPLETE marker is there, which is written last. A refused call
changes nothing: a stage is first touched when its notebook writes.

Left out on purpose: a tracking server, run comparison, and resuming inside a training (the trainer's checkpoints
do that; they stay in the stage's `checkpoints/`, outside the manifest).
"""

import contextlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ftlib.files import (
    append_line,
    did_you_mean,
    list_files,
    locked,
    mend_tail,
    read_json,
    sha256,
    to_json,
    utc_now,
    write_atomic,
)
from ftlib.ledger import FACTS, FIRST_PREV, append_entry, blocks, gate_states, read_ledger, summary_gates, verify_ledger
from ftlib.lineage import anchor, new_event_id, run_event
from ftlib.machine import check_room, peak_rss_mb
from ftlib.parameters import check_injected, kernel_cells
from ftlib.records import GateResult, write_jsonl

# Other notebooks (the deep ones) get a stage of their own name.
STAGE = {
    "00_start_here": "start",
    "01_decision_scorecard": "decision",
    "02_sft": "sft",
    "03_collect_preferences": "preferences",
    "04_dpo_qlora": "dpo",
    "05_validate": "validation",
    "06_rft": "rft",
    "07_rollout": "rollout",
    "08_govern": "governance",
}
FIRST = "00_start_here"
_REPOSITORY = Path(__file__).resolve().parent.parent
_NOT_IN_MANIFEST = ("COMPLETE", "manifest.json")


class Run:
    """One notebook's hold on a run folder; made by `open_run`.

    Attributes:
        path: the run folder.
        run_id: its name.
        notebook: e.g. "02_sft".
        profile: the resolved profile.
        seed, model_id: as given to `open_run`, and the same for the whole run.
    """

    def __init__(self, path: Path, notebook: str, *, profile: Any, seed: int, model_id: str, parameters: dict):
        self.path, self.run_id, self.notebook = path, path.name, notebook
        self.profile, self.seed, self.model_id = profile, seed, model_id
        self._parameters = parameters
        self._stage = stage_path(path, notebook)
        self._inputs: dict[str, str] = {}  # artifacts of this run that were read: "sft/adapter/…" -> sha256
        self._sources: dict[str, str] = {}  # files from outside the run: "data/sft/train.jsonl" -> sha256
        self._lineage_id = ""  # set while the stage is open for writing
        self._started = time.monotonic()
        self._touched = False

    @property
    def stage(self) -> Path:
        """`artifacts/<stage>/` of this notebook. The first look opens it for writing: it is no longer COMPLETE."""
        if not self._touched:
            self._begin()
        return self._stage

    def write_text(self, relpath: str, text: str) -> Path:
        """Write a text file of the stage, atomically."""
        return write_atomic(self._target(relpath), text)

    def write_json(self, relpath: str, obj: object) -> Path:
        """Write a JSON file of the stage, atomically; numpy values, dataclasses and records are fine, NaN is not."""
        return self.write_text(relpath, to_json(obj, relpath, indent=1) + "\n")

    def write_rows(self, relpath: str, rows: Iterable[BaseModel | dict]) -> Path:
        """Write a JSON Lines file of the stage, atomically."""
        return write_jsonl(self._target(relpath), rows)

    def samples(self, title: str, rows: list[dict]) -> None:
        """Keep a table of samples for the report, in `samples.json`: [{"title", "rows"}]; a title is replaced."""
        path = self._target("samples.json")
        tables = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        new = {"title": title, "rows": list(rows)}
        places = [place for place, table in enumerate(tables) if table["title"] == title]
        if places:
            tables[places[0]] = new
        else:
            tables.append(new)
        self.write_json("samples.json", tables)

    def figure(self, name: str, fig: Any, caption: str) -> Any:
        """Keep a plotly figure for the report, in `figures/<name>.json`: {"caption", "order", "figure"}.

        Returns:
            The figure, so that the call can be a cell's last line.
        """
        folder = self._target(f"figures/{_plain_name(name, 'figure name')}.json").parent
        known = {file.stem: json.loads(file.read_text(encoding="utf-8"))["order"] for file in folder.glob("*.json")}
        order = known.get(name, max(known.values(), default=-1) + 1)
        self.write_json(
            f"figures/{name}.json", {"caption": caption, "order": order, "figure": json.loads(fig.to_json())}
        )
        return fig

    def uses(self, path: str | Path) -> Path:
        """Note a file or folder from outside the run (data, a model) as an input, for the manifest and the lineage.

        Raises:
            FileNotFoundError: it is not there.
        """
        path = Path(path).resolve()
        if not path.exists():
            raise FileNotFoundError(f"{path}: expected an input of {self.notebook}, found nothing; check the path")
        base = _REPOSITORY if path.is_relative_to(_REPOSITORY) else path.parent
        files = [path] if path.is_file() else list_files(path)
        self._sources |= {file.relative_to(base).as_posix(): sha256(file) for file in files}
        return path

    def upstream(self, notebook: str, relpath: str) -> Path:
        """The path of a file or folder that another notebook of this run made, checked against its manifest.

        Raises:
            FileNotFoundError: that notebook has not completed, or made no such file.
            ValueError: the file is not the one that it made (sha256), or what it was made of has been made anew since.
        """
        stage = stage_path(self.path, notebook)
        relpath = relpath.strip("/")
        path = stage / relpath
        needs = f"{self.notebook} needs {stage.name}/{relpath}"
        again = self._run_first(notebook)
        if not (stage / "COMPLETE").exists():
            state = "was not completed" if stage.exists() else "has not been run"
            raise FileNotFoundError(f"{needs}, but {notebook} {state} in run {self.run_id}: {again}")
        made = _manifest(stage)["files"]
        wanted = {name: digest for name, digest in made.items() if name == relpath or name.startswith(f"{relpath}/")}
        if not wanted:
            raise FileNotFoundError(f"{needs}, but {notebook} made only {', '.join(made) or 'nothing'}: {again}")
        there = {file.relative_to(stage).as_posix() for file in ([path] if path.is_file() else list_files(path))}
        for name in sorted(wanted.keys() | there):
            if name not in there:
                raise FileNotFoundError(f"{needs}, but {stage.name}/{name} is gone: {again}")
            digest = sha256(stage / name)
            if digest != wanted.get(name):
                raise ValueError(
                    f"{needs}, but {stage.name}/{name} was changed after {notebook} completed (sha256 expected "
                    f"{wanted.get(name, 'none')[:12]}, got {digest[:12]}): restore it, or {again}"
                )
        stale = stale_notebook(self.path, notebook)
        if stale:
            raise ValueError(f"{needs}, but {self._why_stale(notebook, stale)}")
        self._inputs |= {f"{stage.name}/{name}": digest for name, digest in wanted.items()}
        return path

    def upstream_if_made(self, notebook: str, relpath: str) -> Path | None:
        """As `upstream`, for what a notebook may leave out: None where it has completed without making it."""
        stage = stage_path(self.path, notebook)
        wanted = relpath.strip("/")
        if (stage / "COMPLETE").exists():
            made = _manifest(stage)["files"]
            if not any(name == wanted or name.startswith(f"{wanted}/") for name in made):
                return None
        return self.upstream(notebook, relpath)

    def _why_stale(self, notebook: str, stale: str) -> str:
        if not (stage_path(self.path, notebook) / "COMPLETE").exists():
            why = f"{notebook} was not completed"
        elif stale == notebook:
            why = f"what {notebook} was made of has been made anew since, or a file of it is gone"
        else:
            why = f"{stale}, which {notebook} stands on, is not complete, or was made of what is new since"
        return f"{why}: {self._run_first(stale)}"

    def _run_first(self, notebook: str) -> str:
        folder = "notebooks" if notebook in STAGE else "notebooks/deep"
        return (
            f"run {notebook} first (papermill {folder}/{notebook}.ipynb out.ipynb -p run_dir {self.run_id} "
            f"-p profile {self.profile.name}, or make play RUN={self.run_id})"
        )

    def check_gates(
        self, ids: Sequence[str], waive: Mapping[str, str] | None = None, *, own: bool = False
    ) -> list[dict]:
        """Refuse to go on when one of these gates of an upstream notebook failed and nobody waived it.

        Args:
            ids: the gates that this notebook rests on.
            own: they are this notebook's own, just measured: what may not be trained on stops it before training.
            waive: gate id -> reason, for gates that failed or abstained. Each is written to the ledger as this
                notebook's own, also where another one has waived the gate; a new measurement needs a new waiver.

        Returns:
            The ledger's latest line of each gate asked for; "waived" holds the reason, if any. Empty on smoke, where
            gates are no evidence and block nothing.

        Raises:
            ValueError: a gate failed, was never measured, or was measured on what has been made anew since; or a
                waiver names another gate or one that passed, or gives no reason.
        """
        waive = dict(waive or {})
        for gate, reason in waive.items():
            if gate not in ids:
                raise ValueError(f"waive names {gate!r}, which {self.notebook} does not check; it checks {list(ids)}")
            if not isinstance(reason, str) or not reason.strip():
                raise ValueError(f"waive[{gate!r}] needs a reason in words, got {reason!r}")
        if self.profile.is_smoke:
            return []
        latest = [line for line in gate_states(self.path) if (line["notebook"] == self.notebook) == own]
        whose = "it has not" if own else "no upstream notebook has"
        for gate in ids:
            if gate not in {line["id"] for line in latest}:
                known = sorted({line["id"] for line in latest})
                raise ValueError(
                    f"{self.notebook} rests on gate {gate!r}, which {whose} measured in run "
                    f"{self.run_id}{did_you_mean(gate, known)}: run the notebook that measures it first"
                )
        asked = [line for line in latest if line["id"] in ids]
        again = {
            notebook: "" if own else stale_notebook(self.path, notebook) for notebook in {x["notebook"] for x in asked}
        }
        for line in asked:  # a verdict on an earlier candidate says nothing of this one
            stale = again[line["notebook"]]
            if stale:
                raise ValueError(
                    f"{self.notebook} rests on gate {line['id']!r} of {line['notebook']} ({line['verdict']}), but "
                    f"{self._why_stale(line['notebook'], stale)}"
                )
        passed = {line["id"] for line in asked} - {line["id"] for line in asked if line["verdict"] != "PASS"}
        for gate in [] if own else waive:  # what one's own gates will say is not known when the waiver is given
            if gate in passed:
                raise ValueError(f"waive names {gate!r}, which passed in run {self.run_id}; take it out of waive")
        refused = [line for line in asked if blocks(line) and line["id"] not in waive]
        if refused:
            faults = [
                f"gate {line['id']!r} of {line['notebook']} failed: {line['value']:.4g}, needed {line['op']} "
                f"{line['threshold']:.4g} (n = {line['n']}); {line['note'] or 'improve it'} and run "
                f"{line['notebook']} again, or go on knowingly with waive={{{line['id']!r}: 'reason'}}"
                for line in refused
            ]
            reasons = {**waive, **{line["id"]: "reason" for line in refused}}
            command = f'python -m ftlib run --run {self.run_id} --only {self.notebook} --set waive="{reasons}"'
            raise ValueError("\n".join([*faults, f"by command: {command}"]))
        for line in asked:
            known = line.get("waivers", {})
            reason = waive.get(line["id"], "")
            if not reason or line["verdict"] == "PASS" or known.get(self.notebook) == reason:
                continue
            line |= {"waived": reason, "waivers": known | {self.notebook: reason}}
            self._ledger(
                {
                    "kind": "waiver",
                    "id": line["id"],
                    "notebook": line["notebook"],
                    "waived_by": self.notebook,
                    "reason": reason,
                    "value": line["value"],
                    "threshold": line["threshold"],
                }
            )
        return asked

    def metric(
        self,
        name: str,
        *,
        baseline: float,
        candidate: float,
        n: int,
        ci95: Sequence[float] | None,
        unit: str = "fraction",
        higher_is_better: bool = True,
        basis: str = "",
    ) -> None:
        """Write a before/after number to summary.json.

        Args:
            name: "<stage>.<what>", e.g. "sft.intent_accuracy".
            baseline, candidate: the number before and after, in `unit`.
            n: items behind it.
            ci95: interval of candidate - baseline (not of the candidate), paired where the items are the same.
            basis: what it rests on where that is not plain measurement, e.g. "rubric judge" or "simulated raters".

        Raises:
            ValueError: a number is not finite, or the interval is clearly that of something else.
        """
        interval = None if ci95 is None else [float(end) for end in ci95]
        values = {"baseline": float(baseline), "candidate": float(candidate)}
        if not all(math.isfinite(value) for value in [*values.values(), *(interval or [])]):
            raise ValueError(f"metric {name}: expected finite numbers, got {values}, ci95 {interval}")
        if interval is not None:
            difference = values["candidate"] - values["baseline"]
            slack = abs(interval[-1] - interval[0]) + 1e-6
            if len(interval) != 2 or not interval[0] - slack <= difference <= interval[1] + slack:
                raise ValueError(
                    f"metric {name}: expected ci95 of candidate - baseline = {difference:.4g}, got {interval}; "
                    "give (low, high) of the difference"
                )
        entry = {
            **values,
            "n": int(n),
            "ci95": interval,
            "unit": unit,
            "higher_is_better": bool(higher_is_better),
            "notebook": self.notebook,
        } | ({"basis": basis} if basis else {})
        self._update_summary(lambda summary: summary["metrics"].__setitem__(name, entry))

    def gate(self, result: GateResult) -> GateResult:
        """Write a gate to the ledger and to summary.json; on smoke it is marked as no evidence.

        Returns:
            The result as it was written.
        """
        if result.notebook != self.notebook:
            raise ValueError(f"gate {result.id!r} names notebook {result.notebook!r}, this is {self.notebook!r}")
        if self.profile.is_smoke:
            result = result.model_copy(update={"evidence": False})
        self._ledger({"kind": "gate"} | result.model_dump(mode="json"))
        return result

    def fact(self, kind: str, id: str, **values: object) -> None:
        """Write a line to the ledger that is no verdict: a file sealed, a sealed file opened, an approval.

        Raises:
            ValueError: an unknown kind.
        """
        if kind not in FACTS:
            raise ValueError(f"fact {id!r}: kind is {kind!r}; expected one of {', '.join(FACTS)}")
        self._ledger({"kind": kind, "id": id, "notebook": self.notebook, **values})

    def finish(self) -> Path:
        """Close the stage: manifest, lineage, summary, and last of all the COMPLETE marker.

        Returns:
            The stage's folder.
        """
        self._open_for_writing()
        files = {file.relative_to(self._stage).as_posix(): sha256(file) for file in self._manifest_files()}
        manifest = {
            "run_id": self.run_id,
            "notebook": self.notebook,
            "profile": self.profile.name,
            "seed": self.seed,
            "model_id": self.model_id,
            "finished_at": utc_now(),
            "files": files,
            "inputs": self._inputs,
            "sources": self._sources,
        }
        write_atomic(self._stage / "manifest.json", to_json(manifest, "manifest.json", indent=1) + "\n")
        self._lineage("COMPLETE", files)
        entry = {
            "status": "complete",
            "seconds": round(time.monotonic() - self._started, 1),
            "peak_rss_mb": round(peak_rss_mb(), 1),
        }
        self._update_summary(lambda summary: summary["notebooks"].__setitem__(self.notebook, entry))
        write_atomic(self._stage / "COMPLETE", f"{manifest['finished_at']}\n")
        self._lineage_id = ""
        return self._stage

    def _target(self, relpath: str) -> Path:
        path = (self._stage / relpath).resolve()
        if not path.is_relative_to(self._stage.resolve()) or relpath in _NOT_IN_MANIFEST:
            raise ValueError(
                f"{relpath!r}: expected a file inside the stage {self._stage.name}/; use a plain relative path"
            )
        self._open_for_writing()
        return path

    def _open_for_writing(self) -> None:
        if not self._lineage_id:
            self._begin()

    def _begin(self) -> None:
        self._touched = True
        self._lineage_id = new_event_id()
        self._stage.mkdir(parents=True, exist_ok=True)
        (self._stage / "COMPLETE").unlink(missing_ok=True)
        for leftover in self._stage.rglob(".*.tmp"):  # of a write that was killed
            leftover.unlink(missing_ok=True)
        config = {"notebook": self.notebook, "profile": self.profile, "seed": self.seed, "model_id": self.model_id}
        self.write_json("parameters.json", config | {"parameters": self._parameters})
        entry = {"status": "running", "seconds": 0.0, "peak_rss_mb": 0.0}
        self._update_summary(lambda summary: summary["notebooks"].__setitem__(self.notebook, entry))
        self._lineage("START", {})

    def _manifest_files(self) -> list[Path]:
        inside = [(file, file.relative_to(self._stage)) for file in list_files(self._stage)]
        return [
            file for file, rel in inside if rel.parts[0] != "checkpoints" and rel.as_posix() not in _NOT_IN_MANIFEST
        ]

    def _update_summary(self, change: Callable[[dict], None]) -> None:
        with locked(self.path):
            self._rewrite_summary(change)

    def _rewrite_summary(self, change: Callable[[dict], None]) -> None:
        path = self.path / "summary.json"
        summary = {
            "run_id": self.run_id,
            "profile": self.profile.name,
            "model_id": self.model_id,
            "seed": self.seed,
            "wall_seconds": 0,
            "peak_rss_mb": 0,
            "notebooks": {},
            "metrics": {},
            "gates": [],
        }
        if path.exists():
            summary |= read_json(path)
        change(summary)
        entries = summary["notebooks"].values()
        summary["wall_seconds"] = round(sum(entry.get("seconds", 0) for entry in entries), 1)
        summary["peak_rss_mb"] = max((entry.get("peak_rss_mb", 0) for entry in entries), default=0)
        # The gates are always derived from the ledger, so a kill between the two leaves nothing behind.
        lines = read_ledger(self.path / "gates.jsonl")
        summary["gates"] = summary_gates(lines)
        summary["ledger"] = {"lines": len(lines), "head": lines[-1]["hash"] if lines else FIRST_PREV}
        write_atomic(path, to_json(summary, "summary.json", indent=1) + "\n")

    def _ledger(self, record: dict) -> None:
        with locked(self.path):
            append_entry(self.path / "gates.jsonl", record)
            self._rewrite_summary(lambda summary: None)

    def _lineage(self, state: str, outputs: Mapping[str, str]) -> None:
        home = f"{self.run_id}/artifacts"
        line = run_event(
            state,
            job=self.notebook,
            event_id=self._lineage_id,
            inputs=self._sources | {f"{home}/{name}": digest for name, digest in self._inputs.items()},
            outputs={f"{home}/{self._stage.name}/{name}": digest for name, digest in outputs.items()},
        )
        with locked(self.path):
            mend_tail(self.path / "lineage.jsonl")
            append_line(self.path / "lineage.jsonl", line)
            known = anchor(self.path / "lineage.jsonl")
            self._rewrite_summary(lambda summary: summary.__setitem__("lineage", known))


def open_run(
    notebook: str, run_dir: str | Path, *, profile: Any, seed: int, model_id: str, parameters: dict | None = None
) -> Run:
    """Open a run for a notebook: a new one, or one that goes on. A refused call changes nothing.

    Inside a kernel it also checks the values that papermill injected, because papermill itself only warns.

    Args:
        notebook: the notebook's name without ".ipynb".
        run_dir: a run's id or path (see `find_run`). Empty: the first notebook makes a new run folder, the others go
            on with the newest run of the same profile, seed and model, if there is one. On smoke a run that starts
            in the middle borrows the first two stages from `tests/fixtures`.
        profile: has `name`, `is_smoke`, `need_ram_mb`, `need_disk_mb`.
        seed: of the whole run.
        model_id: of the whole run.
        parameters: the notebook's resolved parameters; kept in the stage's parameters.json.

    Raises:
        ValueError: a parameter is unknown or of the wrong type, or the folder is another run's.
        RuntimeError: too little free disk or memory.
    """
    _plain_name(notebook, "notebook name")
    check_injected(kernel_cells())
    parameters = dict(parameters or {})
    to_json(parameters, "parameters")
    identity = {"profile": profile.name, "seed": seed, "model_id": str(model_id)}
    newest = None if str(run_dir) or notebook == FIRST else _newest_run(identity)
    run_dir = run_dir or newest or ""
    if str(run_dir):
        path = find_run(run_dir)
        _check_identity(path, identity)
    else:
        path = runs_root() / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{profile.name}-s{seed}"
    check_room(path, need_disk_mb=profile.need_disk_mb, need_ram_mb=profile.need_ram_mb, profile=profile.name)
    if str(run_dir):
        path.mkdir(parents=True, exist_ok=True)
    else:
        path = _new_folder(path)
        if profile.is_smoke and notebook != FIRST:
            _borrow_stages(path)
    with locked(path):
        if not (path / "run.json").exists():
            text = to_json({"run_id": path.name} | identity | {"created_at": utc_now()}, "run.json", indent=1)
            write_atomic(path / "run.json", text + "\n")
    return Run(path, notebook, profile=profile, seed=seed, model_id=str(model_id), parameters=parameters)


def runs_root() -> Path:
    """Where runs live: `$FTLIB_RUNS`, else `papermill_runs/` of the repository."""
    return Path(os.environ.get("FTLIB_RUNS") or _REPOSITORY / "papermill_runs").expanduser().resolve()


def find_run(run_dir: str | Path) -> Path:
    """The folder that a run id or a path means, there or not, whatever the working directory of the kernel is.

    A relative path is looked for in the working directory, then beside `papermill_runs/`, then inside it.
    """
    given = Path(run_dir).expanduser()
    root = runs_root()
    for base in (Path.cwd(), root.parent, root):
        if (base / given / "run.json").is_file():
            return (base / given).resolve()
    if len(given.parts) == 1:
        return (root / given).resolve()
    return ((root.parent if given.parts[0] == root.name else Path.cwd()) / given).resolve()


def stage_path(run_path: str | Path, notebook: str) -> Path:
    """`artifacts/<stage>/` of a notebook."""
    return Path(run_path) / "artifacts" / STAGE.get(notebook, notebook)


def stage_folders(run_path: str | Path) -> list[Path]:
    """The stage folders of a run that are there, in the order of the notebooks, others after."""
    order = list(STAGE.values())
    folders = [folder for folder in sorted((Path(run_path) / "artifacts").glob("*")) if folder.is_dir()]
    return sorted(folders, key=lambda folder: order.index(folder.name) if folder.name in order else len(order))


def is_complete(run_path: str | Path, notebook: str) -> bool:
    """Whether a notebook's work is there and still stands on what its upstream notebooks made.

    False when the marker or a file is missing, or when an upstream stage was made anew since, with other content.
    """
    stage = stage_path(run_path, notebook)
    if not (stage / "COMPLETE").exists():
        return False
    manifest = _manifest(stage)
    if not all((stage / name).is_file() for name in manifest["files"]):
        return False
    made: dict[str, str] = {}
    for upstream in {name.split("/")[0] for name in manifest["inputs"]}:
        folder = stage.parent / upstream
        if not (folder / "COMPLETE").exists():
            return False
        made |= {f"{upstream}/{name}": digest for name, digest in _manifest(folder)["files"].items()}
    return all(made.get(name) == digest for name, digest in manifest["inputs"].items())


def stale_notebook(run_path: str | Path, notebook: str) -> str:
    """The first notebook to run again before this one's work and verdicts count, all that it stands on included.

    Returns:
        Its name; empty where everything from the first notebook to this one is complete and fits together.
    """
    stage = stage_path(run_path, notebook)
    if not (stage / "COMPLETE").exists():
        return notebook
    made_by = {folder: name for name, folder in STAGE.items()}
    for folder in sorted({name.split("/")[0] for name in _manifest(stage)["inputs"]}):
        earlier = stale_notebook(run_path, made_by.get(folder, folder))
        if earlier:
            return earlier
    return "" if is_complete(run_path, notebook) else notebook


# --- the folder ---


def _check_identity(path: Path, identity: dict) -> None:
    if path.exists() and not path.is_dir():
        raise ValueError(f"run_dir {path}: expected a folder, got a file; give a run folder, or '' for a new run")
    record = path / "run.json"
    if not record.exists():
        # papermill puts the executed notebook into a new run's folder before its first cell runs.
        strangers = [
            entry.name
            for entry in (path.iterdir() if path.exists() else [])
            if not entry.name.startswith(".") and entry.suffix not in (".ipynb", ".log")
        ]
        if strangers:
            raise ValueError(
                f"run_dir {path}: expected a run folder or an empty one, got a folder without run.json that holds "
                f"{strangers[0]!r}; give another folder, or '' for a new run"
            )
        return
    known = read_json(record)
    for field, value in identity.items():
        if known.get(field) != value:
            raise ValueError(
                f"run_dir {path}: this run was made with {field} {known.get(field)!r}, asked for {value!r}; "
                f"open it with {field}={known.get(field)!r}, or give run_dir='' for a new run"
            )
    summary = read_json(path / "summary.json") if (path / "summary.json").exists() else {}
    if (path / "gates.jsonl").exists() or summary.get("ledger", {}).get("lines"):
        verify_ledger(path / "gates.jsonl", allow_cut_tail=True)


def _newest_run(identity: dict) -> Path | None:
    fitting = []
    for record in runs_root().glob("*/run.json"):
        known = read_json(record)
        if all(known.get(field) == value for field, value in identity.items()):
            fitting.append((str(known.get("created_at", "")), record.parent))
    return max(fitting)[1] if fitting else None


def _borrow_stages(path: Path) -> None:
    """Put the kept small stages of a smoke run into a new one, so that a notebook in the middle can be tried alone."""
    for stage in (_REPOSITORY / "tests" / "fixtures" / "smoke_run").glob("*/COMPLETE"):
        shutil.copytree(stage.parent, path / "artifacts" / stage.parent.name)


def _new_folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, 100):  # two runs may begin in the same second
        folder = path if attempt == 1 else path.with_name(f"{path.name}-{attempt}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise RuntimeError(f"{path}: no free name for a new run; clean up {path.parent}")


def _manifest(stage: Path) -> dict:
    return {"inputs": {}} | read_json(stage / "manifest.json")


def _plain_name(name: str, what: str) -> str:
    if not re.fullmatch(r"\w[\w.\-]*", name):
        raise ValueError(f"{what} {name!r}: expected letters, digits, '_', '-' and '.' only; rename it")
    return name
