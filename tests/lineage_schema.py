"""The OpenLineage schema of a run event, from the installed client: its authors generate its classes from the schema.

`schema_faults` checks an event as JSON Schema: the event with its run, job and datasets, and each facet by the class
that its `_schemaURL` names. So a facet that no class knows, a field that is missing and a value of another type are
found, without a network. The formats (date-time, uuid, uri) are those that the classes check or describe.

Left out on purpose: what the schema does not say, such as that a dataset's version is a sha256 (see `ftlib.lineage`).
"""

import enum
import functools
import types
import typing

import attr
import jsonschema
from openlineage.client import event_v2, facet_v2
from openlineage.client.generated.base import BaseFacet

FORMATS = {
    "eventTime": "date-time", "runId": "uuid", "producer": "uri", "schemaURL": "uri", "_producer": "uri",
    "_schemaURL": "uri",
}  # fmt: skip
FILLED = {"producer", "schemaURL", "_producer", "_schemaURL"}  # required; the client has a default to fill them with
PLAIN = {str: "string", int: "integer", bool: "boolean", float: "number"}


def schema_of(kind: object) -> dict:
    """JSON Schema of a type of the client; `X | None` is X in a field that may be left out."""
    inner = [one for one in typing.get_args(kind) if one is not types.NoneType]
    if kind in PLAIN:
        return {"type": PLAIN[kind]}
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return schema_of(inner[0]) if len(inner) == 1 else {"anyOf": [schema_of(one) for one in inner]}
    if typing.get_origin(kind) is list:
        return {"type": "array", "items": schema_of(inner[0])}
    if typing.get_origin(kind) is dict:
        return {"type": "object", "additionalProperties": schema_of(inner[1])}
    if issubclass(kind, enum.Enum):
        return {"enum": [one.value for one in kind]}
    return class_schema(kind)


@functools.cache
def class_schema(kind: type) -> dict:
    """A class of the client; what has no default is required."""
    hints = typing.get_type_hints(kind)
    properties = {one.name: schema_of(hints[one.name]) for one in attr.fields(kind)}
    properties |= {name: properties[name] | {"format": FORMATS[name]} for name in FORMATS.keys() & properties.keys()}
    required = [one.name for one in attr.fields(kind) if one.default is attr.NOTHING or one.name in FILLED]
    return {"type": "object", "properties": properties, "required": required}


@functools.cache
def facet_classes() -> dict[str, type]:
    """`_schemaURL` -> class, of every facet that the client knows."""
    rooms = [room for room in vars(facet_v2).values() if isinstance(room, types.ModuleType)]
    kinds = {kind for room in rooms for kind in vars(room).values() if isinstance(kind, type)}
    return {kind._get_schema(): kind for kind in kinds if issubclass(kind, BaseFacet)}


def schema_faults(event: dict) -> list[str]:
    """Where an event is no run event by the schema, one line each; none where it is one."""
    found = _against(event, event_v2.RunEvent, "event")
    if found:
        return found
    holders = {"run": event["run"], "job": event["job"]}
    holders |= {f"{side}[{n}]": item for side in ("inputs", "outputs") for n, item in enumerate(event.get(side, []))}
    for where, holder in holders.items():
        for name, facet in holder.get("facets", {}).items():
            kind = facet_classes().get(facet["_schemaURL"])
            unknown = [f"{where}.facets.{name}: the schema has no facet {facet['_schemaURL']!r}"]
            found += unknown if kind is None else _against(facet, kind, f"{where}.facets.{name}")
    return found


def _against(value: dict, kind: type, where: str) -> list[str]:
    check = jsonschema.Draft202012Validator(class_schema(kind), format_checker=jsonschema.FormatChecker())
    return [f"{where}{one.json_path[1:]}: {one.message}" for one in check.iter_errors(value)]
