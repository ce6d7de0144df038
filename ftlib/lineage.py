"""OpenLineage run events: which notebook made which file out of which.

Left out on purpose: sending them anywhere. They are lines of a run's lineage.jsonl, for any OpenLineage backend.
"""

from collections.abc import Mapping
from typing import Any, Literal

from ftlib.files import utc_now

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
        job=event_v2.Job(namespace=NAMESPACE, name=job),
        inputs=[dataset(event_v2.InputDataset, name, digest) for name, digest in inputs.items()],
        outputs=[dataset(event_v2.OutputDataset, name, digest) for name, digest in outputs.items()],
    )
    return Serde.to_json(event)
