"""OpenLineage run events: which notebook made which file out of which; checked, and read back from file to source.

The events speak of files. Below them, `row_origins` says for each preference pair which votes and which source row
it came from, so that a checkpoint leads back to a single vote.

Left out on purpose: sending them anywhere. They are lines of a run's lineage.jsonl, for any OpenLineage backend.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from ftlib.files import utc_now, whole_lines

PRODUCER = "urn:finetuning-playbook:ftlib"
NAMESPACE = "finetuning-playbook"


def new_event_id() -> str:
    """An id that ties the START and the COMPLETE of one execution together (UUIDv7)."""
    from openlineage.client.uuid import generate_new_uuid

    return str(generate_new_uuid())


def run_event(
    state: Literal["START", "COMPLETE"],
    *,
    job: str,
    event_id: str,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
) -> str:
    """One event as a line of JSON.

    Args:
        job: the notebook.
        event_id: from `new_event_id`.
        inputs: files read, name -> sha256, which stands as the dataset's version.
        outputs: files made, name -> sha256.
    """
    from openlineage.client import event_v2, facet_v2  # 0.2 s: not at import
    from openlineage.client.serde import Serde

    def dataset(kind: type, name: str, digest: str) -> Any:
        version = facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet(digest)
        return kind(namespace="file", name=name, facets={"version": version})

    event = event_v2.RunEvent(
        eventType=event_v2.RunState[state],
        eventTime=utc_now(),
        producer=PRODUCER,
        run=event_v2.Run(runId=event_id),
        job=event_v2.Job(
            namespace=NAMESPACE,
            name=job,
            facets={"jobType": facet_v2.job_type_job.JobTypeJobFacet("BATCH", "PAPERMILL", jobType="NOTEBOOK")},
        ),
        inputs=[dataset(event_v2.InputDataset, name, digest) for name, digest in inputs.items()],
        outputs=[dataset(event_v2.OutputDataset, name, digest) for name, digest in outputs.items()],
    )
    return Serde.to_json(event)


def anchor(path: str | Path) -> dict:
    """Number of lines and sha256 of a lineage.jsonl; summary.json keeps them, so that an edit shows."""
    data = Path(path).read_bytes() if Path(path).exists() else b""
    return {"lines": data.count(b"\n"), "sha256": hashlib.sha256(data).hexdigest()}


def lineage_faults(path: str | Path, *, anchored: Mapping | None = None) -> list[str]:
    """Check a lineage.jsonl against the OpenLineage event model, and against what summary.json knows of it.

    The client's own classes check ids, times and URIs as far as it goes without a network; the fields that the
    schema requires of events, datasets and facets are checked here.

    Args:
        path: the file.
        anchored: from `anchor`, as kept in summary.json; lines may have come since (a killed write), none may differ.

    Returns:
        The faults, one line each.
    """
    path, faults = Path(path), []
    lines, tail = whole_lines(path)
    if tail:
        faults.append(f"{path.name} line {len(lines) + 1}: the line is cut off")
    if anchored is not None:
        kept = b"".join(line + b"\n" for line in lines[: anchored["lines"]])
        if hashlib.sha256(kept).hexdigest() != anchored["sha256"]:
            faults.append(f"{path.name}: changed since it was written (summary.json knows {anchored['lines']} lines)")
    for number, raw in enumerate(lines, start=1):
        try:
            _check_event(json.loads(raw))
        except Exception as error:  # the file is anybody's; every oddity is a fault, none ends the check
            faults.append(f"{path.name} line {number}: no OpenLineage run event ({type(error).__name__}: {error})")
    return faults


def read_events(path: str | Path) -> list[dict]:
    """The events of a lineage.jsonl, in order; none where there is no file.

    Raises:
        ValueError: a line is no JSON.
    """
    path = Path(path)
    try:
        return [json.loads(line) for line in whole_lines(path)[0]]
    except ValueError as error:
        raise ValueError(f"{path}: a line is no JSON ({error}); restore the file from a copy") from None


def versions(datasets: Iterable[Mapping]) -> dict[str, str]:
    """Name -> sha256 of an event's inputs or outputs."""
    return {item["name"]: item["facets"]["version"]["datasetVersion"] for item in datasets}


def last_made(events: Iterable[Mapping]) -> dict[str, dict]:
    """Job -> its latest COMPLETE event."""
    return {event["job"]["name"]: event for event in events if event["eventType"] == "COMPLETE"}


def trace(events: Iterable[Mapping], name: str) -> list[dict[str, str]]:
    """How a file came about: its steps back to files that no notebook made.

    Args:
        events: from `read_events`.
        name: the end of the file's name, e.g. "dpo/adapter/adapter_model.safetensors".

    Returns:
        Rows {"file", "sha256", "made_by", "from"}, the file first, sources last ("made_by" is "source").

    Raises:
        ValueError: no notebook made such a file.
    """
    made_by: dict[str, dict] = {}
    for event in last_made(events).values():
        made_by |= {output: event for output in versions(event["outputs"])}
    start = next((output for output in made_by if output.endswith(name)), None)
    if start is None:
        raise ValueError(
            f"lineage: expected a file that ends in {name!r}, no notebook made one; run its notebook first"
        )
    found: dict[str, dict[str, str]] = {}
    waiting = [(start, versions(made_by[start]["outputs"])[start])]
    while waiting:
        file, digest = waiting.pop(0)
        if file in found:
            continue
        event = made_by.get(file)
        inputs = versions(event["inputs"]) if event else {}
        found[file] = {
            "file": file,
            "sha256": digest,
            "made_by": event["job"]["name"] if event else "source",
            "from": ", ".join(inputs),
        }
        waiting += inputs.items()
    return sorted(found.values(), key=lambda row: row["made_by"] == "source")


def row_origins(
    pairs: Iterable[Mapping],
    *,
    candidates: Iterable[Mapping],
    sources: Mapping[str, str],
    checkpoint: str,
    trained: Iterable[str],
) -> list[dict]:
    """For each pair: the votes that made it, the prompt's row and file, and the checkpoint that was trained on it.

    Args:
        pairs: rows of pairs.jsonl.
        candidates: rows of the candidates that were rated; they name their prompt.
        sources: prompt id -> file that holds it.
        checkpoint: the folder of the adapter.
        trained: ids of the pairs that it was trained on; the others of the train split have no checkpoint.

    Raises:
        ValueError: a pair of an unknown candidate, a prompt that no source file holds, or training on no pair of these.
    """
    pairs, trained = list(pairs), set(trained)
    strange = sorted(trained - {pair["id"] for pair in pairs if pair["split"] == "train"})
    if strange:
        raise ValueError(f"trained on {strange[0]!r}: expected a pair of the train split, found none; run 04 again")
    prompt_of = {row["id"]: row["prompt_id"] for row in candidates}
    rows = []
    for pair in pairs:
        prompt = prompt_of.get(pair["id"])
        if prompt is None or prompt not in sources:
            what = f"candidate {pair['id']!r}" if prompt is None else f"prompt {prompt!r}"
            raise ValueError(f"pair {pair['id']!r}: expected its {what} among the inputs, found none; run 03 again")
        rows.append(
            {
                "pair": pair["id"],
                "votes": pair["votes"],
                "source_row": prompt,
                "source_file": sources[prompt],
                "basis": pair["basis"],
                "split": pair["split"],
                "checkpoint": checkpoint if pair["id"] in trained else "",
            }
        )
    return rows


def _check_event(event: Mapping) -> None:
    from openlineage.client import event_v2, facet_v2

    needed = {"eventTime", "eventType", "producer", "schemaURL", "run", "job", "inputs", "outputs"}
    _need(set(event) == needed, f"expected the fields {sorted(needed)}, got {sorted(event)}")
    _need(str(event["schemaURL"]).endswith("OpenLineage.json#/$defs/RunEvent"), f"schemaURL is {event['schemaURL']!r}")
    datasets = [
        *(("inputFacets", item) for item in event["inputs"]),
        *(("outputFacets", item) for item in event["outputs"]),
    ]
    for extra, item in datasets:
        _need(set(item) == {"namespace", "name", "facets", extra}, f"dataset with the fields {sorted(item)}")
        _need(bool(item["name"]) and bool(item["namespace"]), "a dataset without a name")
        digest = item["facets"]["version"]["datasetVersion"]
        _need(bool(re.fullmatch("[0-9a-f]{64}", digest)), f"{item['name']}: version {digest!r} is no sha256")
    kinds = {
        "jobType": facet_v2.job_type_job.JobTypeJobFacet,
        "version": facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet,
    }
    holders = [event["run"], event["job"], *(item for _, item in datasets)]
    for name, facet in (pair for holder in holders for pair in holder["facets"].items()):
        _need(name in kinds, f"facet {name!r}: expected one of {sorted(kinds)}")
        for field in ("_producer", "_schemaURL"):
            _need(bool(re.match(r"(https?://|urn:)\S+$", facet[field])), f"facet with {field} {facet[field]!r}")
        kinds[name](**{field: value for field, value in facet.items() if not field.startswith("_")})
    event_v2.RunEvent(
        eventType=event_v2.RunState[event["eventType"]],
        eventTime=event["eventTime"],
        producer=event["producer"],
        run=event_v2.Run(runId=event["run"]["runId"]),
        job=event_v2.Job(namespace=event["job"]["namespace"], name=event["job"]["name"]),
    )


def _need(holds: bool, text: str) -> None:
    if not holds:
        raise ValueError(text)
