"""Every event of a run is a run event by OpenLineage's own schema, and what is broken in one is found."""

import copy
import json

import pytest
from governed import govern, make_run
from lineage_schema import schema_faults

from ftlib.lineage import lineage_faults, read_events

# By OpenLineage.json 2-0-2 and the two facets that are used. The rest may be left out: eventType, inputs, outputs,
# facets, inputFacets, outputFacets, and jobType inside the facet of that name.
REQUIRED = {
    "eventTime", "producer", "schemaURL", "run", "runId", "job", "namespace", "name",
    "_producer", "_schemaURL", "processingType", "integration", "datasetVersion",
}  # fmt: skip


@pytest.fixture(scope="module")
def events(tmp_path_factory) -> list[dict]:
    return read_events(govern(make_run(tmp_path_factory.mktemp("runs") / "r1")) / "lineage.jsonl")


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The paths of all values inside an event."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in inside for place in [(*path, key), *places(item, (*path, key))]]


def changed(event: dict, path: tuple, *put: object) -> dict:
    """A copy with the value at a path taken out, or another one put in its place."""
    made = copy.deepcopy(event)
    holder = made
    for key in path[:-1]:
        holder = holder[key]
    if put:
        holder[path[-1]] = put[0]
    else:
        del holder[path[-1]]
    return made


def test_every_event_of_a_run_is_one_by_the_schema(events):
    assert [fault for event in events for fault in schema_faults(event)] == []
    assert {event["eventType"] for event in events} == {"START", "COMPLETE"} and len(events) == 14  # seven notebooks


def test_what_the_schema_requires_cannot_be_left_out(events, tmp_path):
    """Each value of an event with inputs and outputs taken out in turn; the run's own check finds all of them too."""
    event = next(event for event in events if event["inputs"] and event["outputs"])
    missed = set()
    for path in places(event):
        broken = changed(event, path)
        found = {key for key in path[-1:] if schema_faults(broken)}
        missed |= {path[-1]} - found
        assert found <= REQUIRED, path
        if found:
            (tmp_path / "lineage.jsonl").write_text(json.dumps(broken) + "\n", encoding="utf-8")
            assert lineage_faults(tmp_path / "lineage.jsonl") != [], path
    assert missed & REQUIRED == set()


def test_a_value_of_another_type_is_found(events):
    """Each value of an event replaced in turn by a number, which the schema allows nowhere."""
    event = next(event for event in events if event["inputs"] and event["outputs"])
    assert [path for path in places(event) if not schema_faults(changed(event, path, 7))] == []


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("eventType",), "DONE", "eventType: 'DONE' is not"),
        (("eventTime",), "yesterday", "eventTime: 'yesterday' is not a 'date-time'"),
        (("eventTime",), "2027-01-04", "is not a 'date-time'"),
        (("run", "runId"), "7", "runId: '7' is not a 'uuid'"),
        (("producer",), "no uri", "producer: 'no uri' is not a 'uri'"),
        (("inputs", 0, "facets", "version", "_schemaURL"), "https://x.org/Own.json", "the schema has no facet"),
        (("job", "facets", "own"), {"a": 1}, "'_producer' is a required property"),
        (("outputs",), {"name": "x"}, "is not"),
    ],
)
def test_what_else_is_broken_is_said(path, value, words, events):
    event = next(event for event in events if event["inputs"] and event["outputs"])
    assert words in schema_faults(changed(event, path, value))[0]
