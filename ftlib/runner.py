"""Run the notebooks by papermill, one after the other, in a run folder that can be gone on with.

What papermill leaves open is closed here: a parameter that no notebook has is an error before anything runs, the
executed notebook appears whole or not at all, the kernel is that of the running interpreter, and a notebook has
succeeded when its manifest says so (`sys.exit(0)` in a cell is a success to papermill).

Left out on purpose: parallel notebooks, retries, and a scheduler. The notebooks of a run stand on one another.
"""

import ast
import contextlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlib.files import did_you_mean, read_json
from ftlib.parameters import check_parameters, notebook_parameters
from ftlib.progress import Screen, bar_text
from ftlib.runs import is_complete, stage_path

REPOSITORY = Path(__file__).resolve().parent.parent
FIXED = ("profile", "run_dir", "seed", "headless")  # what every notebook takes, and the runner gives
ENGINE = "ftlib"
START_SECONDS = 180  # a busy machine may take a while to start a kernel


class NotebookFailed(RuntimeError):
    """A notebook stopped with an error, or did not finish its stage; the text says which cell and why."""


@dataclass(frozen=True)
class Step:
    """One notebook to run.

    Attributes:
        parameters: what it is given; the rest keep their defaults.
        model_id: given or default; empty where it has no such parameter.
        cells: with the one that papermill adds.
        measured_seconds: from its metadata (`ftlib.minutes.<profile>`), None where that was not measured.
    """

    name: str
    path: Path
    parameters: dict[str, Any]
    model_id: str
    cells: int
    measured_seconds: float | None


def find_notebooks(folder: Path, only: Sequence[str] = ()) -> list[Path]:
    """The numbered notebooks of a folder in order (02_sft; deep ones 01a_costs_and_cases), or the ones named.

    Args:
        only: names with or without ".ipynb", or just the number: "02_sft", "02".

    Raises:
        FileNotFoundError: no numbered notebook is there.
        ValueError: a name fits no notebook.
    """
    found = {path.stem: path for path in sorted(Path(folder).glob("[0-9][0-9]*_*.ipynb"))}
    if not found:
        raise FileNotFoundError(f"{folder}: expected notebooks named NN_*.ipynb, found none; check the folder")
    chosen = set()
    for name in only:
        stem = name.removesuffix(".ipynb")
        fits = [known for known in found if known == stem or known.split("_")[0] == stem]
        if not fits:
            raise ValueError(f"--only {name}: no such notebook{did_you_mean(stem, found)}")
        chosen.update(fits)
    return [path for stem, path in found.items() if stem in chosen or not only]


def plan(
    paths: Sequence[Path], fixed: Mapping[str, Any], *, settings: Mapping[str, str], model_id: str = ""
) -> list[Step]:
    """Give each notebook its parameters, and refuse what does not fit, before anything runs.

    Args:
        fixed: a value for each of `FIXED`.
        settings: name -> value as text; given to the notebooks that have the name. Read as a Python or JSON value,
            or kept as text where the notebook's default is one.
        model_id: the model of a run that goes on; given to the notebooks that have that parameter.

    Raises:
        ValueError: no notebook has a name, a value is of the wrong type, or a notebook lacks one of `FIXED`.
    """
    defaults = {path: notebook_parameters(path) for path in paths}
    known = sorted({name for found in defaults.values() for name in found})
    faults = [
        f"unknown parameter {name!r}{did_you_mean(name, known)}: none of the {len(paths)} notebooks has it"
        for name in settings
        if name not in known
    ]
    faults += [
        f"parameter {name!r} is set by the command itself; use its option instead of --set"
        for name in settings
        if name in FIXED
    ]
    steps = []
    for path, own in defaults.items():
        given = {name: _value(text, own[name]) for name, text in settings.items() if name in own}
        given |= fixed | ({"model_id": model_id} if model_id and "model_id" in own else {})
        try:
            check_parameters(own, given)
        except ValueError as error:
            faults += [f"{path.name}: {line}" for line in str(error).splitlines()]
        steps.append(_step(path, given, own.get("model_id", "")))
    if faults:
        raise ValueError("\n".join(faults))
    return steps


def _step(path: Path, parameters: dict[str, Any], default_model: str) -> Step:
    notebook = read_json(path)
    minutes = notebook.get("metadata", {}).get("ftlib", {}).get("minutes", {}).get(parameters["profile"])
    return Step(
        path.stem, path, parameters, model_id=parameters.get("model_id", default_model),
        cells=len(notebook["cells"]) + 1, measured_seconds=60.0 * minutes if minutes else None,
    )  # fmt: skip


def _value(text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    for read in (ast.literal_eval, json.loads):
        with contextlib.suppress(ValueError, SyntaxError):
            return read(text)
    return text


def kernel_environment(*, model_id: str) -> dict[str, str]:
    """The environment of the kernels: figures that show offline, quiet tokenizers, this repository's `ftlib`.

    The embedded model needs no hub, so nothing asks for one; threads are left to torch.
    """
    paths = [str(REPOSITORY), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    env = dict(os.environ) | {
        "PLOTLY_RENDERER": "plotly_mimetype+notebook",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
    }
    if model_id == "embedded":
        env["HF_HUB_OFFLINE"] = "1"
    return env


@contextlib.contextmanager
def hold(run_path: Path) -> Iterator[None]:
    """Keep a second runner out of a run folder.

    Raises:
        RuntimeError: one is at work there.
    """
    import filelock

    try:
        with filelock.FileLock(run_path / ".runner.lock", timeout=0):
            yield
    except filelock.Timeout:
        raise RuntimeError(f"{run_path}: another `ftlib run` is at work in this run; wait for it, or stop it") from None


def execute(step: Step, run_path: Path, *, screen: Screen, env: Mapping[str, str]) -> float:
    """Run one notebook; its executed copy goes to `<run>/<name>.ipynb`.

    Returns:
        Seconds taken.

    Raises:
        NotebookFailed: the copy is then `<name>.failed.ipynb`.
        KeyboardInterrupt: the copy is then `<name>.interrupted.ipynb`.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    _register_engine()
    working = run_path / f".{step.name}.running.ipynb"
    before, began = _marker(run_path, step.name), time.monotonic()
    with tempfile.TemporaryFile() as log:  # what the kernel says outside of cells
        try:
            papermill.execute_notebook(
                _no_braces(step.path), _no_braces(working), parameters=step.parameters, engine_name=ENGINE,
                kernel_name="python3", language="python", progress_bar=False, screen=screen, env=dict(env), log=log,
            )  # fmt: skip
        except PapermillExecutionError as error:
            raise _failed(run_path, step.name, f", {_error_text(error)}") from None
        except RuntimeError as error:  # nbclient: the kernel died, or never came up
            log.seek(0)
            said = log.read().decode(errors="replace").splitlines()[-3:]
            text = ": the kernel died; most often the memory ran out: close other programs, or take a smaller profile"
            raise _failed(run_path, step.name, "\n    ".join([text, str(error), *said])) from None
        except KeyboardInterrupt:
            _keep(run_path, step.name, "interrupted")
            raise
    if not is_complete(run_path, step.name) or _marker(run_path, step.name) == before:
        stage = stage_path(run_path, step.name).name
        text = (
            f": every cell ended, but the notebook did not finish its stage {stage}/ (no new COMPLETE marker); "
            "does a cell leave early, or is its last cell without run.finish()?"
        )
        raise _failed(run_path, step.name, text)
    publish(run_path, step.name)
    return time.monotonic() - began


def publish(run_path: Path, name: str) -> None:
    """Give the executed copy of a complete notebook its name, also when a kill came just before that."""
    working = run_path / f".{name}.running.ipynb"
    if working.exists():
        try:
            json.loads(working.read_text(encoding="utf-8"))  # papermill does not write whole files at once
            os.replace(working, run_path / f"{name}.ipynb")
        except ValueError:
            working.unlink()
    for state in ("failed", "interrupted"):
        (run_path / f"{name}.{state}.ipynb").unlink(missing_ok=True)


def _keep(run_path: Path, name: str, state: str) -> Path:
    working, kept = run_path / f".{name}.running.ipynb", run_path / f"{name}.{state}.ipynb"
    if working.exists():
        os.replace(working, kept)
    return kept


def _failed(run_path: Path, name: str, text: str) -> NotebookFailed:
    return NotebookFailed(f"{name}{text}\nexecuted so far: {_keep(run_path, name, 'failed')}")


def _marker(run_path: Path, name: str) -> tuple[str, int] | None:
    marker = stage_path(run_path, name) / "COMPLETE"
    return (marker.read_text(encoding="utf-8"), marker.stat().st_mtime_ns) if marker.exists() else None


def _no_braces(path: Path) -> str:
    return str(path).replace("{", "{{").replace("}", "}}")  # papermill fills {name} in paths


def _error_text(error: Any) -> str:
    trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    lines = re.findall(r"^-+> *\d+ ?(.*)$", trace, flags=re.M)  # IPython marks the line of each frame
    message = [line for line in error.evalue.splitlines() if line.strip()][:8]
    text = f"cell {error.cell_index + 1}: {error.ename}: " + "\n    ".join(line[:500] for line in message)
    return text + (f"\n    at: {lines[0].strip()}" if lines else "")


def _register_engine() -> None:
    """papermill's own engine, with our kernel, its environment, and an eye on its messages."""
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines

    class Client(PapermillNotebookClient):
        def __init__(self, nb_man: Any, screen: Screen):
            # A machine at its limit answers late; that alone is no failure.
            super().__init__(nb_man, timeout=None, startup_timeout=START_SECONDS, iopub_timeout=START_SECONDS)
            self.screen = screen

        def create_kernel_manager(self) -> AsyncKernelManager:
            # Without kernel folders "python3" is the running interpreter, whatever the user has installed elsewhere.
            specs = KernelSpecManager(kernel_dirs=[])
            self.km = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs, transport_encryption="auto")
            return self.km

        def execute_cell(self, cell: Any, cell_index: int, *args: Any, **kwargs: Any) -> Any:
            self.screen.cell(cell_index + 1)
            return super().execute_cell(cell, cell_index, *args, **kwargs)

        def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
            text = bar_text(msg)
            if text:
                self.screen.bar(text)
            return super().process_message(msg, cell, cell_index)

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, *, screen: Screen, env: dict, log: Any, **_):
            return Client(nb_man, screen).execute(env=env, stdout=log, stderr=log)

    papermill_engines.register(ENGINE, Engine)
