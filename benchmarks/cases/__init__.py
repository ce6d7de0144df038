"""One timed piece of work each, stock or ours, in a process of its own: `python -m benchmarks.cases NAME '{…}'`.

A case is `run(variant, **options) -> dict`; a process of its own gives it a heap and a peak of memory of its own.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VARIANTS = ("stock", "ours")


def in_process(name: str, variant: str, **options) -> dict:
    """Run a case in a new process.

    Raises:
        RuntimeError: it failed; the end of what it wrote to stderr is in the message.
    """
    command = [sys.executable, "-m", "benchmarks.cases", name, json.dumps({"variant": variant} | options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"benchmark case {name}, {variant}, {options} failed: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def side_by_side(name: str, *, repeats: int = 2, **options) -> dict[str, list[dict]]:
    """Stock, ours, stock, ours, …: `repeats` results of each, so that a slow spell of the machine hits both."""
    found: dict[str, list[dict]] = {variant: [] for variant in VARIANTS}
    for _ in range(repeats):
        for variant in VARIANTS:
            found[variant].append(in_process(name, variant, **options))
            last = found[variant][-1]
            print(f"  {name} {options} {variant}: {last['seconds']:.1f} s", file=sys.stderr, flush=True)
    return found
