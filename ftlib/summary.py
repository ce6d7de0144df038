"""The numbers of a run as text: what the command line prints and what the report shows are the same words.

Left out on purpose: statistics. Intervals and verdicts of gates are in summary.json; the notebooks measured them.
"""

from collections.abc import Mapping
from pathlib import Path

from ftlib.files import read_json

SMOKE_NOTE = "This is a smoke run: a few steps that prove the wiring. None of its numbers is evidence."


def load_summary(run_path: str | Path) -> dict:
    """The run's summary.json; an empty one before the first notebook has begun."""
    path = Path(run_path) / "summary.json"
    empty = {
        "run_id": Path(run_path).name,
        "profile": "",
        "wall_seconds": 0,
        "peak_rss_mb": 0,
        "notebooks": {},
        "metrics": {},
        "gates": [],
    }
    return empty | (read_json(path) if path.exists() else {})


def is_smoke(summary: Mapping) -> bool:
    """Whether the numbers of this run are no evidence."""
    return summary["profile"] == "smoke"


def metric_verdict(metric: Mapping) -> str:
    """`better`, `worse` or `no clear change`: which side of zero the interval of candidate - baseline lies on."""
    if metric.get("ci95") is None:
        return "no interval"
    low, high = metric["ci95"]
    if low <= 0 <= high:
        return "no clear change"
    return "better" if (low > 0) == metric.get("higher_is_better", True) else "worse"


def metric_rows(summary: Mapping) -> list[dict[str, str]]:
    """Header -> text of every before/after number; fractions as percent, their change in points (hundredths)."""
    smoke = is_smoke(summary)
    return [
        {
            "metric": name,
            "baseline": _value(metric["baseline"], metric),
            "candidate": _value(metric["candidate"], metric),
            "change [95 %]": _change(metric),
            "n": str(metric["n"]),
            "verdict": "no evidence" if smoke else metric_verdict(metric),
            "basis": metric.get("basis", ""),
        }
        for name, metric in summary["metrics"].items()
    ]


def compared_rows(run_paths: Mapping[str, str | Path]) -> list[dict[str, str]]:
    """One row a metric, one column a run: the candidate's value, or empty where the run has none.

    Args:
        run_paths: the column's header -> the run.
    """
    found = {label: load_summary(path)["metrics"] for label, path in run_paths.items()}
    names = dict.fromkeys(name for metrics in found.values() for name in metrics)
    return [
        {
            "metric": name,
            **{label: _value(m[name]["candidate"], m[name]) if name in m else "" for label, m in found.items()},
        }
        for name in names
    ]


def _gate_note(gate: Mapping) -> str:
    """The waiver's reason, or what to do; a gate that passed needs no advice, but says what it rests on."""
    if gate.get("waived"):
        return f"waived: {gate['waived']}"
    note = gate.get("note", "")
    return note if gate["verdict"] != "PASS" else "; ".join(part for part in note.split("; ") if "rests on" in part)


def gate_rows(summary: Mapping) -> list[dict[str, str]]:
    """Header -> text of every gate, as last measured; the note is the waiver's reason where there is one."""
    return [
        {
            "notebook": gate["notebook"],
            "gate": gate["id"],
            "value": _number(gate["value"]),
            "needed": f"{gate['op']} {_number(gate['threshold'])}",
            "n": str(gate["n"]),
            "verdict": gate_verdict(gate),
            "note": _gate_note(gate),
        }
        for gate in summary["gates"]
    ]


def gate_verdict(gate: Mapping) -> str:
    """`PASS`, `FAIL` or `ABSTAIN`, with what takes its force away."""
    if not gate.get("evidence", True):
        return f"{gate['verdict']} (no evidence)"
    return gate["verdict"] + (" (waived)" if gate.get("waived") else "")


def notebook_rows(summary: Mapping) -> list[dict[str, str]]:
    """Header -> text of every notebook that was begun, in their order."""
    return [
        {
            "notebook": name,
            "status": entry["status"],
            "minutes": f"{entry['seconds'] / 60:.1f}",
            "peak GB": f"{entry['peak_rss_mb'] / 1024:.1f}",
        }
        for name, entry in sorted(summary["notebooks"].items())
    ]


def text_table(rows: list[dict[str, str]]) -> list[str]:
    """Rows as lines with columns of even width, headers first; a column that is empty throughout is left out."""
    if not rows:
        return []
    headers = [header for header in rows[0] if any(row[header] for row in rows)]
    lines = [headers, *([row[header] for header in headers] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(headers))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _is_share(metric: Mapping) -> bool:
    return metric.get("unit", "fraction") == "fraction"


def _value(value: float, metric: Mapping) -> str:
    return f"{100 * value:.1f} %" if _is_share(metric) else f"{value:.4g} {metric['unit']}"


def _change(metric: Mapping) -> str:
    """`+72.0 [+65.1, +78.2] points`."""
    scale, digits, unit = (100, "+.1f", "points") if _is_share(metric) else (1, "+.3g", metric["unit"])
    change = format(scale * (metric["candidate"] - metric["baseline"]), digits)
    ends = ", ".join(format(scale * end, digits) for end in metric.get("ci95") or ())
    return f"{change} [{ends}] {unit}" if ends else f"{change} {unit}"
