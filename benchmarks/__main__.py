"""`python -m benchmarks [name …] [--out file.json]`: run benchmarks, print their checks, write their JSON.

A benchmark is a module of this folder with `measure() -> {"rows": […], "checks": […]}`. It reports and never fails.
"""

import argparse
import importlib
import platform
import sys
from importlib import metadata
from pathlib import Path

from ftlib.files import to_json, write_atomic
from ftlib.summary import text_table

PACKAGES = ("numpy", "scipy", "torch", "transformers", "trl", "peft")


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks asked for; 2 for a name that is none."""
    known = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("__"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(known)} (default: all)")
    parser.add_argument("--out", help="write the JSON here; with several benchmarks, a list")
    args = parser.parse_args(argv)
    unknown = [name for name in args.names if name not in known]
    if unknown:
        print(f"error: expected benchmarks of {known}, got {unknown}", file=sys.stderr)
        return 2
    results = []
    for name in args.names or known:
        found = importlib.import_module(f"benchmarks.{name}").measure()
        head = {"name": name, "device": platform.processor() or platform.machine(), "versions": _versions()}
        results.append(head | {"ceilings": {}} | found)
        print("\n".join([name, *text_table([_shown(row) for row in found["checks"]])]))
    if args.out:
        print(write_atomic(args.out, to_json(results[0] if len(results) == 1 else results, args.out, indent=1) + "\n"))
    return 0


def _shown(row: dict) -> dict[str, str]:
    low, high = row["spread"]
    words = {"value": f"{row['value']:.4g}", "target": f"{row['op']} {row['target']:g}", "n": str(row["n"])}
    return {"check": row["id"]} | words | {"95 %": f"{low:.4g} to {high:.4g}", "holds": "yes" if row["holds"] else "NO"}


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


if __name__ == "__main__":
    sys.exit(main())
