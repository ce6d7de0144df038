"""The ledger of gates: append-only, each line carries the sha256 of the line before, so that edits show.

A line is a gate's measurement, a waiver, or a fact that verdicts rest on: a file sealed, a sealed file opened, an
approval ({"kind": "gate" | "waiver" | "seal" | "opened" | "approval", …}). summary.json keeps the number of lines and
the last hash, so that lines cut off at the end show too.

Left out on purpose: signatures. Who can rewrite both files can forge both; keep a copy of the last hash elsewhere.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from ftlib.files import append_line, mend_tail, read_json, to_json, utc_now, whole_lines

FIRST_PREV = "0" * 64  # what the first line points back to
FACTS = ("seal", "opened", "approval")  # lines that are no verdicts


def append_entry(path: Path, record: Mapping[str, object]) -> None:
    """Add a record to the chain; to be called under the folder's lock.

    Raises:
        ValueError: the chain that is there is broken; nothing is added to it.
    """
    mend_tail(path)
    lines = read_ledger(path)
    line = {**record, "at": utc_now(), "prev": lines[-1]["hash"] if lines else FIRST_PREV}
    append_line(path, to_json(line | {"hash": _line_hash(line)}, path.name))


def read_ledger(path: Path, *, allow_cut_tail: bool = True) -> list[dict]:
    """The lines of a ledger whose chain holds; none where there is no file.

    Args:
        allow_cut_tail: overlook a last line without its newline, which a killed write leaves behind.

    Raises:
        ValueError: names the line where the chain breaks.
    """
    whole, tail = whole_lines(path)
    lines: list[dict] = []
    for number, raw in enumerate(whole, start=1):
        prev = lines[-1]["hash"] if lines else FIRST_PREV
        try:
            line = json.loads(raw)
            sound = line["prev"] == prev and line["hash"] == _line_hash(line)
            # Byte for byte as `append_entry` wrote it: a tab for a space or 1E-05 for 1e-05 would parse alike.
            sound = sound and to_json(line, path.name).encode("utf-8") == raw
        except (ValueError, TypeError, KeyError):
            sound = False
        if not sound:
            raise ValueError(
                f"{path} line {number}: the hash chain breaks here; a line was changed, removed or inserted; "
                "restore the file from a copy, or start a new run"
            )
        lines.append(line)
    if tail and not allow_cut_tail:
        raise ValueError(
            f"{path} line {len(lines) + 1}: the line is cut off (a write was killed); what is before it is sound, "
            "and the next gate written to this run drops the piece"
        )
    return lines


def states_of(lines: list[dict]) -> list[dict]:
    """The latest line of each gate of each notebook, with the waivers given since.

    Returns:
        Ledger lines; where somebody waived, "waived" holds the last reason, and "waivers" notebook -> its reason.
    """
    states: dict[tuple[str, str], dict] = {}
    for line in lines:
        key = (line["notebook"], line["id"])
        if line["kind"] == "gate":
            states.pop(key, None)  # a new measurement goes to the end, and needs a waiver of its own
            states[key] = dict(line)
        elif line["kind"] == "waiver" and key in states:
            states[key]["waived"] = line["reason"]
            states[key]["waivers"] = states[key].get("waivers", {}) | {line["waived_by"]: line["reason"]}
    return list(states.values())


def summary_gates(lines: list[dict]) -> list[dict]:
    """The gates as summary.json lists them: the states, without what belongs to the chain alone."""
    apart = ("kind", "at", "prev", "hash", "waivers")
    return [{key: value for key, value in state.items() if key not in apart} for state in states_of(lines)]


def blocks(state: Mapping[str, object]) -> bool:
    """Whether a gate's state stops the next notebook: failed, counts as evidence, not waived."""
    return state["verdict"] == "FAIL" and bool(state["evidence"]) and not state.get("waived")


def gate_states(run_path: str | Path) -> list[dict]:
    """The ledger's latest line of each gate of each notebook; see `states_of`."""
    return states_of(read_ledger(Path(run_path) / "gates.jsonl"))


def unwaived_failures(run_path: str | Path) -> list[dict]:
    """The gates that failed, count as evidence, and were not waived since: what keeps a run from exit code 0."""
    return [state for state in gate_states(run_path) if blocks(state)]


def verify_ledger(path: str | Path, *, allow_cut_tail: bool = False) -> None:
    """Check the hash chain of a gates.jsonl, and that it is no shorter than the summary.json beside it says.

    Args:
        allow_cut_tail: as `read_ledger`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: names the first line that was changed, removed, inserted or cut off.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a ledger, found no file; give the gates.jsonl of a run")
    lines = read_ledger(path, allow_cut_tail=allow_cut_tail)
    summary_path = path.with_name("summary.json")
    anchor = read_json(summary_path).get("ledger") if summary_path.exists() else None
    if anchor and anchor["lines"]:
        last = lines[anchor["lines"] - 1] if len(lines) >= anchor["lines"] else None
        if last is None or last["hash"] != anchor["head"]:
            raise ValueError(
                f"{path} line {min(len(lines), anchor['lines'])}: summary.json knows {anchor['lines']} lines ending "
                f"in {anchor['head'][:12]}, got {len(lines)} lines; lines were removed or rewritten; restore the file"
            )


def _line_hash(line: Mapping[str, object]) -> str:
    """sha256 of the line without its own hash, as JSON with sorted keys; "prev" is inside, which makes the chain."""
    body = {key: value for key, value in line.items() if key != "hash"}
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
