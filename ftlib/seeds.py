"""The same experiment with other seeds: which runs differ in nothing else, and how far their numbers spread.

One run shows what happened once. The spread over seeds says how much of a number was luck of the draw: the order of
rows, the start of an adapter, the sampled answers. A run counts here when every notebook up to the one that made a
number had the same profile, parameters and data; what differs is said, not averaged away.

Left out on purpose: tests and intervals. Two or three seeds carry none; a metric's own interval is over its items.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev

from ftlib.files import read_json
from ftlib.runs import is_complete, stage_path
from ftlib.summary import load_summary


def other_seeds(run_path: str | Path) -> list[Path]:
    """The newest run of each other seed that lies beside a run and has its profile and model, by seed.

    Raises:
        FileNotFoundError: the folder is no run.
    """
    own = read_json(Path(run_path) / "run.json")
    newest: dict[int, tuple[str, Path]] = {}
    for record in Path(run_path).resolve().parent.glob("*/run.json"):
        known = read_json(record)
        if all(known[field] == own[field] for field in ("profile", "model_id")) and known["seed"] != own["seed"]:
            one = (str(known.get("created_at", "")), record.parent)
            newest[known["seed"]] = max(one, newest.get(known["seed"], one))
    return [newest[seed][1] for seed in sorted(newest)]


def difference(one: str | Path, two: str | Path, notebook: str) -> str:
    """What sets two runs apart besides the seed, up to and with a notebook; "" when nothing does.

    Example:
        >>> difference(run_17, run_23, "05_validate")  # doctest: +SKIP
        '02_sft: other data (data/sft/train.jsonl)'
    """
    for name in sorted(set(load_summary(one)["notebooks"]) | set(load_summary(two)["notebooks"])):
        if name > notebook or name[2] != "_":  # later notebooks, and the deep ones, change nothing before them
            continue
        if not (is_complete(one, name) and is_complete(two, name)):
            return f"{name}: not complete in both"
        a, b = (_given(run, name) for run in (one, two))
        for part in ("profile", "parameters", "data"):
            fields = sorted(
                field for field in a[part].keys() | b[part].keys() if a[part].get(field) != b[part].get(field)
            )
            if fields:
                return f"{name}: other {part} ({', '.join(fields)})"
    return ""


def spread(run_paths: Sequence[str | Path]) -> list[dict]:
    """How far each number lies apart over runs that differ in their seed alone.

    Args:
        run_paths: the first one is compared with the others.

    Returns:
        A row for each metric that the first run and one more have: {"metric", "unit", "seeds", "values", "mean",
        "sd"} with "values" in the order of "seeds", "sd" with n - 1, and "left_out" {seed: why}.
    """
    first, *others = [(load_summary(path), Path(path)) for path in run_paths]
    rows = []
    for name, metric in first[0]["metrics"].items():
        values, left_out = {first[0]["seed"]: metric["candidate"]}, {}
        for summary, path in others:
            if name not in summary["metrics"]:
                continue
            why = difference(first[1], path, metric["notebook"])
            if why:
                left_out[summary["seed"]] = why
            else:
                values[summary["seed"]] = summary["metrics"][name]["candidate"]
        if len(values) > 1 or left_out:
            rows.append({"metric": name, "unit": metric["unit"], "seeds": list(values), "values": list(values.values()),
                         "mean": mean(values.values()), "sd": stdev(values.values()) if len(values) > 1 else None,
                         "left_out": left_out})  # fmt: skip
    return rows


def spread_beside(run_path: str | Path) -> list[dict]:
    """`spread` of a run and the newest run of each other seed beside it."""
    return spread([run_path, *other_seeds(run_path)])


def spread_rows(rows: Iterable[dict]) -> list[dict[str, str]]:
    """Rows of `spread` as text: one column a seed, then mean and standard deviation."""
    rows = list(rows)
    seeds = sorted({seed for row in rows for seed in row["seeds"]})
    shown = []
    for row in rows:
        known = dict(zip(row["seeds"], row["values"], strict=True))
        cells = {f"seed {seed}": f"{known[seed]:.3f}" if seed in known else "" for seed in seeds}
        sd = "" if row["sd"] is None else f"{row['sd']:.3f}"
        apart = "; ".join(f"seed {seed}: {why}" for seed, why in row["left_out"].items())
        shown.append({"metric": row["metric"], **cells, "mean": f"{row['mean']:.3f}", "sd": sd, "left out": apart})
    return shown


def _given(run: str | Path, notebook: str) -> dict[str, dict]:
    stage = stage_path(run, notebook)
    said, manifest = read_json(stage / "parameters.json"), read_json(stage / "manifest.json")
    parameters = {name: value for name, value in said["parameters"].items() if name != "waive"}
    return {"profile": said["profile"], "parameters": parameters, "data": manifest.get("sources", {})}
