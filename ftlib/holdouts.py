"""How often each evaluation file was opened in a run, and how far the score that choices were made on flatters.

A held-out set wears out: each look lets a choice lean on it. The looks are counted from the lineage (every execution
of a notebook leaves an event, also those that were repeated) and from the ledger (every verdict leaves a line).

Left out on purpose: opens that leave no trace. A person who reads the file, or code that opens it without `run.uses`,
is not counted; so the counts are a lower end.
"""

import math
from collections.abc import Mapping
from pathlib import Path

from ftlib import gates
from ftlib.files import read_json
from ftlib.ledger import read_ledger
from ftlib.lineage import read_events, versions
from ftlib.runs import stage_path
from ftlib.summary import load_summary

# file -> what in it is held out. The red-team and production files hold their test split beside the others.
EVALUATION_FILES = {
    "data/sft/test.jsonl": "test rows of the SFT tasks",
    "data/sft/validation.jsonl": "sealed rows of the SFT task; each opening is in the ledger too",
    "data/prompts/redteam.jsonl": "held-out clusters (split test), beside train and validation",
    "data/prompts/production.jsonl": "held-out clusters (split test), beside train and validation",
    "data/preferences/gold.jsonl": "hidden gold items that check raters, beside those that train them",
}
# These read the two prompt files for their train and validation rows only; any other notebook counts as an opening of
# the test split, one that is not known here too.
_NOT_THE_TEST_SPLIT = (
    "03_collect_preferences", "03b_how_many_pairs", "04_dpo_qlora", "04a_break_it_on_purpose", "04b_losses_compared",
    "07_rollout",
)  # fmt: skip
_SPLIT_FILES = ("data/prompts/redteam.jsonl", "data/prompts/production.jsonl")
# The score that choices were made on, and the one of the items that were opened last.
PUBLIC_AND_HIDDEN = {
    "win-rate of DPO": ("dpo.validation_win_rate", "dpo.win_rate"),
    "success of RFT": ("rft.task_success", "rft.hidden_success"),
}

_SHARES = ("rft.task_success", "rft.hidden_success")  # of cases, 0 or 1 each


def exposure(run_path: str | Path) -> list[dict]:
    """A row for each evaluation file: executions that opened it, by which notebooks, and verdicts given there.

    What a run has sealed itself, such as 06's case families, is counted by the ledger's lines that say "opened". The
    known red-team sets are read from packages, and leave no line.

    Returns:
        Rows {"file", "holds", "opened", "by", "verdicts", "versions"}; "opened" leaves out notebooks that read other
        splits of the file only, "verdicts" counts ledger lines of gates that the notebooks which opened the file have
        written, "versions" counts different contents that were seen.

    Raises:
        ValueError: the ledger or the lineage cannot be read.
    """
    run_path = Path(run_path)
    seen: dict[str, dict[str, tuple[str, str]]] = {name: {} for name in EVALUATION_FILES}
    for event in read_events(run_path / "lineage.jsonl"):
        for name, digest in versions(event["inputs"]).items():
            if name in _SPLIT_FILES and event["job"]["name"] in _NOT_THE_TEST_SPLIT:
                continue
            if name in seen:  # START and COMPLETE of one execution carry one run id, and count once
                seen[name][event["run"]["runId"]] = (event["job"]["name"], digest)
    lines = read_ledger(run_path / "gates.jsonl")
    verdicts = [line["notebook"] for line in lines if line["kind"] == "gate"]
    rows = []
    for name, holds in EVALUATION_FILES.items():
        jobs = sorted({job for job, _ in seen[name].values()})
        rows.append(
            {
                "file": name,
                "holds": holds,
                "opened": len(seen[name]),
                "by": jobs,
                "verdicts": sum(notebook in jobs for notebook in verdicts),
                "versions": len({digest for _, digest in seen[name].values()}),
            }
        )
    counted = {digest for opens in seen.values() for _, digest in opens.values()}
    opened = [line for line in lines if line["kind"] == "opened" and line["sha256"] not in counted]
    for seal in dict.fromkeys(line["id"] for line in opened):
        mine = [line for line in opened if line["id"] == seal]
        jobs = sorted({line["notebook"] for line in mine})
        rows.append(
            {
                "file": mine[-1]["file"],
                "holds": f"sealed in this run ({seal}); openings by the ledger",
                "opened": len(mine),
                "by": jobs,
                "verdicts": sum(notebook in jobs for notebook in verdicts),
                "versions": len({line["sha256"] for line in mine}),
            }
        )
    return rows


def public_gap(run_path: str | Path) -> list[dict]:
    """How much the public score exceeds the hidden one, with its 95 % interval, where the run has both.

    Returns:
        Rows {"score", "public", "hidden", "gap", "ci95", "n", "note"}; numbers are None where not measured.
    """
    metrics = load_summary(run_path)["metrics"]
    rows = []
    for score, names in PUBLIC_AND_HIDDEN.items():
        public, hidden = (metrics.get(name) for name in names)
        row = {"score": score, "public": None, "hidden": None, "gap": None, "ci95": None, "n": None, "note": ""}
        if public and hidden and public["ci95"] and hidden["ci95"]:
            gap, ends = difference_of_two(_value_with_ends(names[0], public), _value_with_ends(names[1], hidden))
            row |= {"public": public["candidate"], "hidden": hidden["candidate"], "gap": gap, "ci95": ends}
            row |= {"n": [public["n"], hidden["n"]], "note": f"{names[0]} against {names[1]}"}
        else:
            lacking = [name for name, one in zip(names, (public, hidden), strict=True) if not (one and one["ci95"])]
            row["note"] = f"not measured: {' and '.join(lacking)} missing in this run"
        rows.append(row)
    return [*rows, _sealed_gap(Path(run_path))]


def _sealed_gap(run_path: Path) -> dict:
    """What 05 measured on the sealed rows, from its `sealed.json`."""
    row = {"score": "intent accuracy of DPO", "public": None, "hidden": None, "gap": None, "ci95": None, "n": None}
    path = stage_path(run_path, "05_validate") / "sealed.json"
    if not path.is_file():
        return row | {"note": "not measured: 05 has opened no sealed rows in this run"}
    found = read_json(path)
    return row | {key: found[key] for key in ("public", "hidden", "gap", "ci95", "n")} | {"note": found["opening"]}


def difference_of_two(
    one: tuple[float, float, float], two: tuple[float, float, float]
) -> tuple[float, tuple[float, float]]:
    """one - two of independent samples, with the interval that Newcombe's square-and-add rule gives.

    Args:
        one, two: (value, low, high).

    Example:
        >>> difference_of_two((0.8, 0.7, 0.9), (0.7, 0.6, 0.8))
        (0.10000000000000009, (-0.04142135623730943, 0.24142135623730962))
    """
    (p, p_low, p_high), (q, q_low, q_high) = one, two
    gap = p - q
    return gap, (gap - math.hypot(p - p_low, q_high - q), gap + math.hypot(p_high - p, q - q_low))


def _value_with_ends(name: str, metric: Mapping) -> tuple[float, float, float]:
    """The candidate with its own interval.

    The baseline of a win-rate is the constant one half, so the interval of the difference is the candidate's own. That
    of a share of cases is of two models, paired: here the candidate's share has Wilson's.
    """
    if name in _SHARES:
        ends = gates.wilson(round(metric["candidate"] * metric["n"]), metric["n"])
        return metric["candidate"], ends.low, ends.high
    low, high = metric["ci95"]
    return metric["candidate"], metric["baseline"] + low, metric["baseline"] + high
