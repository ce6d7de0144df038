"""`python -m ftlib`: run the notebooks, report, pack and verify a run, fetch the embedded model.

Exit codes: 0 every notebook asked for is complete and no gate failed unwaived; 1 a notebook failed, or `verify` found
a fault; 2 wrong use (nothing was run); 3 a gate failed and nobody waived it; 130 stopped by Ctrl-C, go on with --run.

Left out on purpose: everything that the notebooks do. This file reads arguments, and shows what the other rooms say.
"""

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from ftlib import evidence, pack, runner, seeds
from ftlib.files import read_json, sha256
from ftlib.ledger import unwaived_failures
from ftlib.progress import Screen, clock_text, seconds_left
from ftlib.runs import find_run, is_complete, runs_root
from ftlib.summary import (
    SMOKE_NOTE,
    compared_rows,
    gate_rows,
    is_smoke,
    load_summary,
    metric_rows,
    notebook_rows,
    text_table,
)

DEFAULT_SEED = 17
RUN_HELP = "its id or path"
DONE, FAILED, WRONG_USE, GATE_FAILED, STOPPED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None, *, notebooks: Path = runner.REPOSITORY / "notebooks") -> int:
    """The command line.

    Args:
        argv: arguments; None takes those of the process.
        notebooks: the folder of the notebooks.

    Returns:
        The exit code (see the top of this file).
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console that lacks a character shows "?" and goes on
    args = _parser().parse_args(argv)
    screen = Screen(sys.stdout)
    try:
        if args.command == "run":
            return _run(args, notebooks, screen)
        if args.command == "report":
            screen.say(str(evidence.build_report(_existing_run(args.run))))
            return DONE
        if args.command == "verify":
            return _verify(args, screen)
        if args.command == "pack":
            made = pack.build_pack(_existing_run(args.run), weights=args.weights)
            screen.say(f"{made}\nsha256 {sha256(made)}  (keep it elsewhere; verify --sha256 compares)")
            return DONE
        from ftlib.models import embedded_model

        screen.say(str(embedded_model(progress=screen.say)))
        return DONE
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return STOPPED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ftlib", description="The fine-tuning playbook, without a browser.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the notebooks in order; skip those that are complete")
    run.add_argument("--profile", help="smoke, cpu, t4, gpu24, gpu80 or auto (default: auto, or that of --run)")
    run.add_argument("--seed", type=int, help=f"default: {DEFAULT_SEED}, or that of --run")
    run.add_argument("--run", metavar="RUN", help="go on with this run (its id or path)")
    run.add_argument("--only", nargs="+", default=[], metavar="NAME", help="just these notebooks, even when complete")
    run.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="settings",
        help="a parameter for the notebooks that have it",
    )  # fmt: skip
    run.add_argument("--sweep", metavar="NAME=V1,V2", help="a new run for each value: seed=1,2,3, or a parameter")
    run.add_argument("--deep", action="store_true", help="the notebooks of notebooks/deep, over the finished run --run")
    commands.add_parser("report", help="write report.html of a run").add_argument("run", metavar="RUN", help=RUN_HELP)
    packing = commands.add_parser("pack", help="write the evidence pack of a run, one zip with hashes")
    packing.add_argument("run", metavar="RUN", help=RUN_HELP)
    packing.add_argument("--weights", action="store_true", help="put the adapters' weights in too")
    verify = commands.add_parser("verify", help="check ledger, lineage, cards and files of a run or an evidence pack")
    verify.add_argument("run", metavar="RUN_OR_PACK", help="a run's id or path, or the zip that pack wrote")
    verify.add_argument("--sha256", default="", help="of the pack, as pack printed it")
    commands.add_parser("model", help="fetch the embedded model into the cache")
    return parser


def _run(args: argparse.Namespace, notebooks: Path, screen: Screen) -> int:
    if args.sweep:
        return _sweep(args, notebooks, screen)
    steps, run_path = _prepare(args, notebooks)
    return _start(steps, run_path, screen, again=bool(args.only))


def _prepare(args: argparse.Namespace, notebooks: Path) -> tuple[list[runner.Step], Path]:
    """The steps and the run folder; whatever does not fit is refused here, and nothing is made yet."""
    settings = _settings(args.settings)
    if args.deep and not args.run:
        raise ValueError("--deep reads a run that is finished: say which with --run, or make deep RUN=<run_id>")
    paths = runner.find_notebooks(notebooks / "deep" if args.deep else notebooks, args.only)
    if args.run:
        run_path = _existing_run(args.run)
        known = _identity(run_path, profile=args.profile, seed=args.seed, model_id=settings.pop("model_id", None))
    else:
        from ftlib import profiles

        known = {"profile": profiles.resolve(args.profile or "auto").name}
        known |= {"seed": DEFAULT_SEED if args.seed is None else args.seed, "model_id": ""}
        run_path = _free_folder(f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{known['profile']}-s{known['seed']}")
    fixed = {"profile": known["profile"], "run_dir": str(run_path), "seed": known["seed"], "headless": True}
    return runner.plan(paths, fixed, settings=settings, model_id=known["model_id"]), run_path


def _start(steps: Sequence[runner.Step], run_path: Path, screen: Screen, *, again: bool) -> int:
    model_id = next((step.model_id for step in steps if step.model_id), "")
    if model_id:
        from ftlib import models

        models.resolve(model_id, progress=screen.say)  # before anything runs: is it there?
    run_path.mkdir(parents=True, exist_ok=True)
    with runner.hold(run_path), _sigterm_as_interrupt():
        return _execute(steps, run_path, screen, env=runner.kernel_environment(model_id=model_id), again=again)


def _sweep(args: argparse.Namespace, notebooks: Path, screen: Screen) -> int:
    """One new run after the other; a failed one does not stop the rest, Ctrl-C does."""
    each = _sweep_arguments(args)
    for one in each.values():
        _prepare(one, notebooks)  # all of them fit, or none is begun
    codes, made = {}, {}
    for label, one in each.items():
        screen.say(f"sweep {len(codes) + 1}/{len(each)}: {label}")
        steps, made[label] = _prepare(one, notebooks)
        codes[label] = _start(steps, made[label], screen, again=bool(args.only))
        if codes[label] == STOPPED:
            return STOPPED
    begun = [path for path in made.values() if (path / "run.json").exists()]
    for path in begun:
        evidence.build_report(path)  # again: each shows the others' numbers too
    by_seed = args.sweep.startswith("seed=") and len(begun) > 1
    rows = seeds.spread_rows(seeds.spread(begun)) if by_seed else compared_rows(made)
    for line in ["", f"Over {args.sweep}", *text_table(rows)] if rows else []:
        screen.say(line)
    return next((code for code in (FAILED, GATE_FAILED) if code in codes.values()), DONE)


def _sweep_arguments(args: argparse.Namespace) -> dict[str, argparse.Namespace]:
    name, equals, text = args.sweep.partition("=")
    values = [value.strip() for value in text.split(",")]
    if (
        not equals
        or not name.isidentifier()
        or len(set(values)) < 2
        or len(set(values)) < len(values)
        or not all(values)
    ):
        raise ValueError(f"--sweep {args.sweep}: expected NAME=V1,V2 with two or more values, e.g. --sweep seed=1,2,3")
    if args.run or args.deep or (name == "seed" and args.seed is not None):
        raise ValueError("--sweep makes a new run for each value; leave out --run, --deep, and --seed beside seed=")
    each = {}
    for value in values:
        own = {"sweep": None, "settings": [*args.settings, f"{name}={value}"]}
        if name == "seed":
            if not value.isdecimal():
                raise ValueError(f"--sweep {args.sweep}: expected whole numbers as seeds, got {value!r}")
            own = {"sweep": None, "seed": int(value)}
        each[f"{name}={value}"] = argparse.Namespace(**vars(args) | own)
    return each


def _execute(steps: Sequence[runner.Step], run_path: Path, screen: Screen, *, env: dict, again: bool) -> int:
    measured = {step.name: step.measured_seconds for step in steps}
    complete = [] if again else [step.name for step in steps if is_complete(run_path, step.name)]
    taken = {name: entry["seconds"] for name, entry in load_summary(run_path)["notebooks"].items()}
    taken = {name: seconds for name, seconds in taken.items() if name in complete}
    screen.say(f"run {run_path.name} in {run_path}")
    code = DONE
    for number, step in enumerate(steps, start=1):
        title = f"[{number}/{len(steps)}] {step.name}"
        # Asked anew each time: a notebook that ran again makes those stale that stand on what it made.
        if not again and is_complete(run_path, step.name):
            runner.publish(run_path, step.name)
            screen.say(f"{title} · complete before, skipped")
            continue
        rest = [later.name for later in steps[number - 1 :] if later is step or later.name not in complete]

        def left(elapsed: float, part: float, rest: list[str] = rest) -> float | None:
            return seconds_left(measured, taken, rest=rest, elapsed=elapsed, part=part)

        try:
            with screen.notebook(title, step.cells, left):
                taken[step.name] = runner.execute(step, run_path, screen=screen, env=env)
        except runner.NotebookFailed as error:
            screen.say(f"{title} · failed")
            screen.say(f"\n{error}\n{_go_on(run_path)}")
            code = FAILED
            break
        except KeyboardInterrupt:
            screen.say(f"{title} · stopped; what was complete is kept. {_go_on(run_path)}")
            return STOPPED
        screen.say(f"{title} · complete in {clock_text(taken[step.name])}")
    return _conclude(run_path, screen, code)


def _conclude(run_path: Path, screen: Screen, code: int) -> int:
    """Report and tables; the exit code."""
    if not (run_path / "run.json").exists():
        return code
    summary = load_summary(run_path)
    tables = {"Before and after": metric_rows, "Gates": gate_rows, "Notebooks": notebook_rows}
    for title, rows_of in tables.items():
        rows = rows_of(summary)
        for line in ["", title, *text_table(rows)] if rows else []:
            screen.say(line)
    if is_smoke(summary):
        screen.say(f"\n{SMOKE_NOTE}")
    screen.say(f"\nreport: {evidence.build_report(run_path)}")
    failed = unwaived_failures(run_path)
    for row in gate_rows({"gates": failed}):
        screen.say(
            f"gate {row['gate']!r} of {row['notebook']} FAILED: {row['value']}, needed {row['needed']}; "
            f"{row['note'] or 'see the report'}"
        )
    return code or (GATE_FAILED if failed else DONE)


def _settings(pairs: Sequence[str]) -> dict[str, str]:
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"--set {pair}: expected NAME=VALUE, e.g. --set beta=0.2")
        settings[name] = value
    return settings


def _existing_run(run: str) -> Path:
    path = find_run(run)
    if not (path / "run.json").is_file():
        ids = sorted((file.parent.name for file in runs_root().glob("*/run.json")), reverse=True)
        raise FileNotFoundError(
            f"run {run}: expected a run folder with run.json at {path}, found none; "
            f"the newest runs are: {', '.join(ids[:5]) or 'none yet'}"
        )
    return path


def _identity(run_path: Path, **asked: object) -> dict:
    """Profile, seed and model of a run; what was asked for must agree with them ("auto" takes the run's)."""
    known = read_json(run_path / "run.json")
    for field, value in asked.items():
        if value not in (None, known[field]) and (field, value) != ("profile", "auto"):
            raise ValueError(
                f"run {run_path.name} was made with {field} {known[field]!r}, asked for {value!r}; "
                f"leave it out to go on, or leave out --run to start a new run"
            )
    return {field: known[field] for field in ("profile", "seed", "model_id")}


def _free_folder(name: str) -> Path:
    names = [name, *(f"{name}-{count}" for count in range(2, 100))]
    return next(runs_root() / free for free in names if not (runs_root() / free).exists())


def _go_on(run_path: Path) -> str:
    if not (run_path / "run.json").exists():
        return "Nothing was begun: start again with the same command."
    run = run_path.name if run_path.parent == runs_root() else run_path
    return f"Go on with: make play RUN={run}   (or: python -m ftlib run --run {run})"


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Let a polite kill end the kernel and keep the notebook, as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _verify(args: argparse.Namespace, screen: Screen) -> int:
    zipped = Path(args.run).expanduser()
    if zipped.is_file() or zipped.suffix == ".zip":
        path, faults = zipped, pack.verify_pack(zipped, expected=args.sha256)
    elif args.sha256:
        raise ValueError(f"--sha256 is of an evidence pack, got the run {args.run}; give the zip, or leave it out")
    else:
        path = _existing_run(args.run)
        faults = evidence.verify_run(path)
    for fault in faults:
        screen.say(f"fault: {fault}")
    screen.say(f"{path}: {len(faults)} faults" if faults else f"{path}: ledger and artifacts are as they were made")
    return FAILED if faults else DONE


if __name__ == "__main__":
    sys.exit(main())
