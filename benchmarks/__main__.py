"""`python -m benchmarks [name …] [--out file.json]`: run benchmarks, print their checks, write their JSON and a page.

A benchmark is a module of this folder with `measure() -> {"rows": […], "checks": […]}`. It reports and never fails. A
long one is a generator: it yields what it has so far, part by part, and the JSON holds that if it is stopped. One that
has `figures(found) -> {title: figure}` shows them on the page, which opens offline.
"""

import argparse
import importlib
import inspect
import platform
import sys
from importlib import metadata
from pathlib import Path

from ftlib.files import to_json, write_atomic
from ftlib.show import table
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
    if args.out and Path(args.out).suffix == ".html":
        print(
            f"error: expected a name for the JSON, got {args.out!r}: the page goes there; take .json", file=sys.stderr
        )
        return 2
    results = []
    for name in args.names or known:
        head = {
            "name": name,
            "device": platform.processor() or platform.machine(),
            "versions": _versions(),
            "ceilings": {},
        }
        results.append(head)
        measured = importlib.import_module(f"benchmarks.{name}").measure()
        for found in measured if inspect.isgenerator(measured) else [measured]:
            results[-1] = head | found
            if args.out:
                _write(args.out, results)
        print("\n".join([name, *text_table([_shown(row) for row in found["checks"]])]))
    if args.out:
        print(args.out)
        print(write_atomic(Path(args.out).with_suffix(".html"), _page(results)))
    return 0


def _write(out: str, results: list[dict]) -> None:
    write_atomic(out, to_json(results[0] if len(results) == 1 else results, out, indent=1) + "\n")


def _shown(row: dict) -> dict[str, str]:
    low, high = row["spread"]
    return {
        "check": row["id"],
        "value": f"{row['value']:.4g}",
        "target": f"{row['op']} {row['target']:g}",
        "n": str(row["n"]),
        "95 %, or spread": f"{low:.4g} to {high:.4g}",
        "holds": "yes" if row["holds"] else "NO",
    }


def _part(found: dict) -> str:
    """A benchmark's part of the page: its checks, its figures, its rows without the long lists."""
    figures = getattr(importlib.import_module(f"benchmarks.{found['name']}"), "figures", lambda found: {})(found)
    drawn = [figure.to_html(full_html=False, include_plotlyjs=False) for figure in figures.values()]
    rows = [{k: v for k, v in row.items() if not isinstance(v, list) or len(v) <= 2} for row in found["rows"]]
    kinds = dict.fromkeys(tuple(row) for row in rows)  # rows of one kind have the same columns
    tables = [table([row for row in rows if tuple(row) == kind]) for kind in kinds]
    checks = _table(table([_shown(row) for row in found["checks"]]))
    return "\n".join([f"<h1>{found['name']}</h1>", checks, *drawn, *map(_table, tables)])


def _table(shown) -> str:
    return f"<div style='overflow-x:auto;margin:1em 0'>{shown._repr_html_()}</div>"


def _page(results: list[dict]) -> str:
    from plotly.offline import get_plotlyjs

    parts = [_part(found) for found in results]
    look = "body{font:14px sans-serif;margin:2em;max-width:1200px} td,th{padding:2px 10px 2px 0}"
    script = f"<script>{get_plotlyjs()}</script>" if any("plotly-graph-div" in part for part in parts) else ""
    head = f"<meta charset='utf-8'><title>Benchmarks</title><style>{look}</style>{script}"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


if __name__ == "__main__":
    sys.exit(main())
