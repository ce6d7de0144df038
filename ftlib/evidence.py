"""The report of a run for a person: one `report.html` that opens offline, and the check that a run is as it was made.

Everything in it is read from the run folder: the numbers and gates of `summary.json`, the figures and samples that the
notebooks left in their stages. All of it is data: the template (`report.jinja`) escapes it, the page's own policy
forbids every request, and plotly.js is put in once.

Left out on purpose: any number of its own. What is not in the run folder is not in the report.
"""

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from urllib.parse import quote

from ftlib import seeds
from ftlib import summary as numbers
from ftlib.cards import card_faults
from ftlib.files import list_files, read_json, sha256, write_atomic
from ftlib.ledger import read_ledger, summary_gates, verify_ledger
from ftlib.lineage import last_made, lineage_faults, read_events, versions
from ftlib.risks import GOVERN
from ftlib.runs import is_complete, stage_folders, stage_path

SAMPLE_ROWS = 12  # of each table; all of them are in the stage's samples.json
TEMPLATE = Path(__file__).with_name("report.jinja")
# fmt: off
PACKAGES = (
    "torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate", "plotly", "papermill",
    "scipy", "statsmodels", "pydantic",
)
# fmt: on
_BESIDE_MANIFEST = ("checkpoints", "COMPLETE", "manifest.json")


def build_report(run_path: str | Path) -> Path:
    """Write `report.html` into a run folder, from whatever the run holds so far.

    Returns:
        Its path.

    Raises:
        FileNotFoundError: the folder is no run.
    """
    import jinja2

    run_path = Path(run_path)
    if not (run_path / "run.json").is_file():
        raise FileNotFoundError(f"{run_path}: expected a run folder with run.json, found none; give a run's id or path")
    summary, figures = numbers.load_summary(run_path), _figures(run_path)
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    html = page.render(
        run={"created_at": ""} | read_json(run_path / "run.json"),
        summary=summary,
        notes=_notes(run_path, summary),
        metrics=numbers.metric_rows(summary),
        pictures=_interval_pictures(summary["metrics"]),
        over_seeds=seeds.spread_rows(seeds.spread_beside(run_path)),
        gates=numbers.gate_rows(summary),
        figures=figures,
        samples=_samples(run_path),
        notebooks=[row | {"href": _href(run_path, row["notebook"])} for row in numbers.notebook_rows(summary)],
        machine=_machine(run_path),
        versions=_versions(),
        plotlyjs=_plotlyjs() if figures else "",
    )
    return write_atomic(run_path / "report.html", html)


def verify_run(run_path: str | Path) -> list[str]:
    """Check a run: the ledger's chain, the lineage, every file of every complete stage against its manifest, and the
    model card against the numbers.

    Of summary.json the gates are compared with the ledger, the metrics with the card, and what names the run with
    run.json; minutes and memory stand nowhere else, and are not checked.

    Returns:
        The faults, one line each; none when all is as it was made.
    """
    run_path, faults = Path(run_path), []
    summary = numbers.load_summary(run_path)
    ledger = run_path / "gates.jsonl"
    if ledger.exists() or summary.get("ledger", {}).get("lines"):
        try:
            verify_ledger(ledger)
        except (ValueError, FileNotFoundError) as error:
            faults.append(str(error))
    faults += [] if faults else unsigned_gates(run_path)
    identity = read_json(run_path / "run.json") if (run_path / "run.json").is_file() else {}
    faults += _identity_faults(summary, identity, where=str(run_path / "summary.json"))
    lineage = run_path / "lineage.jsonl"
    anchored = summary.get("lineage")  # not there in runs of before
    broken = lineage_faults(lineage, anchored=anchored) if lineage.exists() or anchored else []
    faults += broken
    made = {} if broken else last_made(read_events(lineage))
    for name in _named(summary, complete=True):
        found = _stage_faults(run_path, name)
        faults += found
        if not found and made:
            stage = stage_path(run_path, name)
            where, manifest = str(stage / "manifest.json"), read_json(stage / "manifest.json")
            faults += manifest_faults(manifest, made, where=where)
            faults += _identity_faults(manifest, identity, where=where) if name in made else []
    card = stage_path(run_path, GOVERN) / "model_card.md"
    if card.exists() and (card.parent / "COMPLETE").exists():
        faults += card_faults(card.read_text(encoding="utf-8", errors="replace"), summary)
    return faults


def manifest_faults(manifest: Mapping, made: Mapping[str, Mapping], *, where: str) -> list[str]:
    """Compare a stage's manifest with what its latest lineage event says was read and made.

    Args:
        manifest: of a stage.
        made: from `lineage.last_made`; a stage without an event (borrowed by a smoke run) is passed over.
        where: the manifest's name, for the fault.
    """
    event = made.get(manifest["notebook"])
    if event is None:
        return []
    outputs = {name.split("/artifacts/", 1)[-1].split("/", 1)[-1]: digest
               for name, digest in versions(event["outputs"]).items()}  # fmt: skip
    home = f"{manifest['run_id']}/artifacts"
    read = manifest.get("sources", {}) | {f"{home}/{name}": digest for name, digest in manifest["inputs"].items()}
    return [
        f"{where}: {name} has another sha256 than in the lineage of {manifest['notebook']}"
        for stated, known in ((manifest["files"], outputs), (read, versions(event["inputs"])))
        for name in sorted(stated.keys() | known.keys())
        if stated.get(name) != known.get(name)
    ]


def unsigned_gates(run_path: str | Path) -> list[str]:
    """Gates of summary.json that are not as the ledger has them last, and those that are left out, one line each."""
    run_path, faults = Path(run_path), []
    signed = {(gate["notebook"], gate["id"]): gate for gate in summary_gates(read_ledger(run_path / "gates.jsonl"))}
    for gate in numbers.load_summary(run_path)["gates"]:
        named = f"gate {gate.get('id')!r} of {gate.get('notebook')}"
        known = signed.pop((gate.get("notebook"), gate.get("id")), None)
        if known is None:
            faults.append(f"{named} ({gate.get('verdict')}) stands in summary.json, but the ledger has no such line; "
                          f"run {gate.get('notebook')} again")  # fmt: skip
        else:
            faults += [
                f"{named}: {field} is {gate.get(field)!r} in summary.json and {known.get(field)!r} in the ledger; "
                "restore summary.json from a copy, or run the notebook again"
                for field in sorted(gate.keys() | known.keys())
                if gate.get(field) != known.get(field)
            ]
    return [*faults, *(f"gate {name!r} of {notebook} is in the ledger, but not in summary.json"
                       for notebook, name in signed)]  # fmt: skip


def _identity_faults(stated: Mapping, identity: Mapping, *, where: str) -> list[str]:
    return [
        f"{where}: {field} is {stated[field]!r}, run.json says {identity[field]!r}"
        for field in ("run_id", "profile", "seed", "model_id")
        if field in stated and field in identity and stated[field] != identity[field]
    ]


def _stage_faults(run_path: Path, name: str) -> list[str]:
    stage = stage_path(run_path, name)
    if not (stage / "COMPLETE").exists() or not (stage / "manifest.json").exists():
        return [f"{stage}: {name} is complete by summary.json, but its marker or manifest is gone; run {name} again"]
    made = read_json(stage / "manifest.json")["files"]
    there = {file.relative_to(stage).as_posix(): file for file in list_files(stage)}
    there = {rel: file for rel, file in there.items() if rel.split("/")[0] not in _BESIDE_MANIFEST}
    faults = [f"{stage / rel}: gone since {name} completed" for rel in made if rel not in there]
    faults += [f"{stage / rel}: added since {name} completed" for rel in there if rel not in made]
    faults += [
        f"{stage / rel}: changed since {name} completed"
        for rel in made
        if rel in there and sha256(there[rel]) != made[rel]
    ]
    if not faults and not is_complete(run_path, name):
        faults.append(f"{stage}: what {name} stands on was made anew since; run {name} again")
    return faults


# --- what the template shows ---


def _notes(run_path: Path, summary: Mapping) -> list[str]:
    notes = [numbers.SMOKE_NOTE] if numbers.is_smoke(summary) else []
    unfinished = _named(summary, complete=False)
    if unfinished:
        notes.append(f"Not finished: {', '.join(unfinished)}.")
    stale = [name for name in _named(summary, complete=True) if not is_complete(run_path, name)]
    if stale:
        notes.append(f"No longer as they were made, or standing on what was made anew since: {', '.join(stale)}.")
    return notes


def _named(summary: Mapping, *, complete: bool) -> list[str]:
    return [name for name, entry in sorted(summary["notebooks"].items()) if (entry["status"] == "complete") == complete]


def _interval_pictures(metrics: Mapping[str, dict]) -> dict[str, dict[str, str]]:
    """Where the bar of each interval begins and ends: 0..180, zero at 90, one scale for all metrics of a unit."""
    pictures = {}
    ends = {name: (*m["ci95"], m["candidate"] - m["baseline"]) for name, m in metrics.items() if m.get("ci95")}
    for name, values in ends.items():
        alike = [other for other in ends if metrics[other].get("unit") == metrics[name].get("unit")]
        reach = max(abs(value) for other in alike for value in ends[other]) or 1.0
        places = (f"{90 + 85 * value / reach:.1f}" for value in values)
        pictures[name] = dict(zip(("low", "high", "change"), places, strict=True))
    return pictures


def _figures(run_path: Path) -> list[dict]:
    """Stage by stage, each in the order in which the notebook made them."""
    import markupsafe

    figures = []
    for stage in stage_folders(run_path):
        kept = [(_read_or_empty(file), file) for file in sorted((stage / "figures").glob("*.json"))]
        for found, file in sorted(kept, key=lambda pair: pair[0].get("order", 0)):
            data = json.dumps(found["figure"]).replace("<", "\\u003c") if "figure" in found else ""
            figures.append(
                {
                    "name": f"{stage.name}/{file.stem}",
                    "caption": found.get("caption", ""),
                    "json": markupsafe.Markup(data),  # JSON without "<": no </script> inside can end the element
                }
            )
    return figures


def _samples(run_path: Path) -> list[dict]:
    samples = []
    for stage in stage_folders(run_path):
        path = stage / "samples.json"
        for kept in json.loads(path.read_text(encoding="utf-8")) if path.exists() else []:
            rows = kept["rows"][:SAMPLE_ROWS]
            columns = list(dict.fromkeys(column for row in rows for column in row))
            part = f", {len(rows)} of {len(kept['rows'])}" if len(rows) < len(kept["rows"]) else ""
            cells = [{column: _cell(row.get(column)) for column in columns} for row in rows]
            if cells:
                samples.append({"title": kept["title"], "origin": f"{stage.name}{part}", "rows": cells})
    return samples


def _cell(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _href(run_path: Path, name: str) -> str:
    files = [f"{name}{state}.ipynb" for state in ("", ".failed", ".interrupted")]
    return next((quote(file) for file in files if (run_path / file).exists()), "")


def _machine(run_path: Path) -> list[dict[str, str]]:
    """What 00_start_here kept about the machine of the run, if it did: start/machine.json, name -> value."""
    found = _read_or_empty(stage_path(run_path, "00_start_here") / "machine.json")
    return [{"what": key, "found": _cell(value)} for key, value in found.items()]


def _versions() -> list[dict[str, str]]:
    versions = {"Python": platform.python_version(), "system": platform.platform()}
    installed = {dist.name.lower(): dist.version for dist in metadata.distributions() if dist.name}
    versions |= {name: installed[name] for name in PACKAGES if name in installed}
    return [{"what": name, "version": version} for name, version in versions.items()]


def _plotlyjs() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _read_or_empty(path: Path) -> dict:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}
