"""The papers of a run: model card, data card, evaluation report, decision record, all written from its own numbers.

The model card is Hugging Face's (`huggingface_hub`): its metadata hold each metric as an evaluation result with n,
interval and basis, and `card_faults` reads it back and compares it with summary.json. Text from runs and from people
is data: markdown and HTML in it are made plain.

Left out on purpose: publishing, and any number that is not in the run. What was not measured is said to be so.
"""

import datetime
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ftlib.files import read_json
from ftlib.models import has_trained
from ftlib.pair_audit import audit_lengths
from ftlib.pairs import PairSet
from ftlib.risks import Risk
from ftlib.runs import STAGE, stage_folders, stage_path
from ftlib.sealed import digest_of
from ftlib.summary import SMOKE_NOTE, gate_rows, gate_verdict, is_smoke, load_summary, metric_rows, notebook_rows

EMBEDDED = "HuggingFaceTB/SmolLM2-135M-Instruct"
OTHER_LICENSE = (
    "The licence of the base model holds for what was trained on it; this card does not know it: read the base's."
)
LIMITS = (
    "The model is small: it shows what each method does, and is no assistant for customers.",
    "The data is authored for this project with a language model: one fictional shop, English only, no customers.",
    "Training and test rows come from the same hand, so scores on other traffic will be lower.",
    "Refusals are told by patterns of words and answers are judged by a rubric of words, not of meaning.",
    "The jailbreak wrappers are fixed texts; nobody searched for attacks on this model.",
)
# What a notebook's metrics are measured on; others say "items".
MEASURED_ON = {
    "02_sft": "held-out rows",
    "03_collect_preferences": "raters' votes",
    "04_dpo_qlora": "validation prompts",
    "05_validate": "held-out prompts and rows",
    "06_rft": "cases that were not trained on",
    "07_rollout": "shadow messages, none of a test split,",
}
SIMULATED_VOTES = "Votes of simulated raters follow the rubric that also measures the win-rate: no human preference."
AUTHORED_MEANS = (
    "*Authored* answers were not sampled from a model in a run. Those of the playbook were written for it with a "
    "language model, none by a person; of a user's own, their author must say it."
)


def model_card(run_path: str | Path) -> str:
    """A model card in Hugging Face's format; loads with `huggingface_hub.ModelCard.load`."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    run_path = Path(run_path)
    summary = load_summary(run_path)
    simulated = any("simulated" in metric.get("basis", "") for metric in summary["metrics"].values())
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="finetuning-playbook",
            dataset_config=metric["notebook"],  # huggingface_hub names all results of one dataset and config alike
            dataset_name=f"{MEASURED_ON.get(metric['notebook'], 'items')} of {metric['notebook']}",
            metric_type=name,
            metric_name=name,
            metric_value=metric["candidate"],
            metric_args=_told(metric, summary),
        )
        for name, metric in summary["metrics"].items()
    ]
    embedded = summary["model_id"] == "embedded"
    # The embedded model's licence is known here; that of another model is its card's word.
    terms = {"license": "apache-2.0"} if embedded else {"license": "other", "license_name": "of-the-base-model"}
    data = ModelCardData(
        model_name=f"tarnhollow-desk {summary['run_id']}",
        base_model=EMBEDDED if embedded else _plain(summary["model_id"]),
        language="en",
        **terms,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["fine-tuning-playbook", *(["smoke-run", "no-evidence"] if is_smoke(summary) else [])],
        eval_results=results or None,
    )
    parts = [
        f"# Model card of run {summary['run_id']}",
        *([f"**{SMOKE_NOTE}**"] if is_smoke(summary) else []),
        f"LoRA adapters over `{data.base_model}`, profile {summary['profile']}, seed {summary['seed']}: "
        f"{', '.join(_adapters(run_path)) or 'none were kept'}.",
        "## Intended use",
        "To learn how fine-tuning is decided, measured and governed. Not for decisions about people, not for advice "
        "in danger, not in front of customers without the rollout of notebook 07.",
        "## Evaluation",
        _table(metric_rows(summary)),
        "The interval is of candidate − baseline, 95 %, paired where the items are the same.",
        "## Gates",
        _table(gate_rows(summary)),
        "## Data",
        _table(_sources(run_path)),
        "## Training cost",
        _table(notebook_rows(summary)),
        f"In all {summary['wall_seconds'] / 60:.1f} minutes, {summary['peak_rss_mb'] / 1024:.1f} GB at most.",
        "## Limits",
        "\n".join(
            f"- {line}"
            for line in (*LIMITS, *([SIMULATED_VOTES] if simulated else []), *([] if embedded else [OTHER_LICENSE]))
        ),
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))


def data_card(run_path: str | Path) -> str:
    """What data the run read, by file and hash, and what preference pairs it made of it."""
    run_path = Path(run_path)
    agreement = stage_path(run_path, "03_collect_preferences") / "agreement.json"
    rows = [
        {
            "items": name,
            "raters": one["raters"],
            "ratings": one["ratings"],
            "alpha": one["alpha"],
            "basis": one["basis"],
        }
        for name, one in (read_json(agreement) if agreement.exists() else {}).items()
    ]
    return "\n\n".join(
        [
            f"# Data card of run {run_path.name}",
            "Files from outside the run, as they were when they were read:",
            _table(_sources(run_path)),
            "## Raters",
            _table(rows) if rows else "Not measured: notebook 03 kept no agreement in this run.",
            "## Origin and limits",
            "The rows of `data/` were authored for the playbook with a language model; see `data/README.md` there. "
            "Files by parameter are the user's own; their origin is not known here.",
            "\n".join(f"- {line}" for line in (*LIMITS[1:3], SIMULATED_VOTES)),
        ]
    ) + "\n"  # fmt: skip


def pair_card(made: PairSet, *, basis: str, votes: int, smoke: bool = False) -> str:
    """A data card of preference pairs: where they come from, what was left out by which rule, and what they lean to.

    Args:
        made: the pairs, from `build_pairs`.
        basis: whose votes they rest on (`agreement.basis`).
        votes: how many there were.
        smoke: the pairs are of a smoke run, and no evidence.
    """
    kinds = sorted({pair.kind for pair in made.pairs})
    of_kind = {kind: [pair for pair in made.pairs if pair.kind == kind] for kind in kinds}
    sources = Counter((pair.chosen_source, pair.rejected_source) for pair in made.pairs)
    return "\n\n".join(
        [
            f"# Data card of {len(made.pairs)} preference pairs",
            *([f"**{SMOKE_NOTE}**"] if smoke else []),
            f"They rest on {votes} votes of {_plain(basis)}.",
            *([SIMULATED_VOTES] if "simulated" in basis else []),
            "## Where the rated items went",
            _table([{"step": step.name, "dropped": step.dropped, "left": step.left} for step in made.waterfall]),
            "A strict majority of those who did not skip decides an item. Of pairs that say the opposite of each "
            "other, the direction with more votes stays; a draw and a circle leave none.",
            *([_adjudicated(made.adjudicated)] if made.adjudicated else []),
            "## Kinds and split",
            _table([
                {
                    "kind": kind,
                    "pairs": len(mine),
                    "train": sum(pair.split == "train" for pair in mine),
                    "validation": sum(pair.split == "validation" for pair in mine),
                    "clusters": len({pair.cluster for pair in mine}),
                    "chosen answer sampled from a model": sum(pair.synthetic for pair in mine),
                }
                for kind, mine in of_kind.items()
            ]),
            "No cluster of prompts is in both splits. Harmful prompts are the adversarial side, others the safe one.",
            "## Sources",
            AUTHORED_MEANS,
            _table([{"chosen": one, "rejected": other, "pairs": n} for (one, other), n in sorted(sources.items())]),
            "## Length",
            _table([vars(row) for row in audit_lengths(made.pairs)]),
            "`longer`: share of the pairs of unequal length whose chosen answer has more characters (95 % interval).",
        ]
    ) + "\n"  # fmt: skip


def _adjudicated(items: int) -> str:
    return (
        f"On {items} of the items an adjudicator's verdict stands in place of the raters' votes; the pairs that rest "
        "on one name it among their `votes`."
    )


def evaluation_report(run_path: str | Path, *, holdouts: Sequence[Mapping], gaps: Sequence[Mapping]) -> str:
    """All numbers, gates, and how worn the evaluation sets are, as Markdown."""
    summary = load_summary(run_path)
    return "\n\n".join(
        [
            f"# Evaluation report of run {summary['run_id']}",
            *([f"**{SMOKE_NOTE}**"] if is_smoke(summary) else []),
            "## Before and after",
            _table(metric_rows(summary)),
            "## Gates",
            _table(gate_rows(summary)),
            "## How often the evaluation files were opened",
            _table(holdouts),
            "## Public against hidden",
            _table(gaps),
            "A public score is one that choices were made on; the gap is public − hidden.",
        ]
    ) + "\n"  # fmt: skip


def decision_record(
    run_path: str | Path,
    *,
    decision: str,
    blockers: Sequence[str],
    risks: Sequence[Risk],
    signed_by: str,
    today: datetime.date,
) -> str:
    """Who decided what on which evidence: the gates' numbers, the ledger's last hash, and the adapters by hash.

    Args:
        decision: "promote" or "hold".
        blockers: from `risks.promotion_blockers`.
        signed_by: the role that signs; empty leaves a draft, which cannot promote.

    Raises:
        ValueError: an unknown decision, or a promotion that is blocked or not signed.
    """
    if decision not in ("promote", "hold"):
        raise ValueError(f"decision: expected 'promote' or 'hold', got {decision!r}; choose one of them")
    if decision == "promote" and blockers:
        raise ValueError("decision='promote' is refused:\n" + "\n".join(f"- {line}" for line in blockers))
    if decision == "promote" and not signed_by.strip():
        raise ValueError("decision='promote' needs signed_by, the role that signs it; or take decision='hold'")
    columns = ("id", "title", "level", "status", "reason", "owner", "expires")
    shown = [
        {name: getattr(risk, name) for name in columns} for risk in risks if risk.status != "closed" or risk.reason
    ]
    run_path = Path(run_path)
    summary = load_summary(run_path)
    gates = [
        {"gate": gate["id"], "notebook": gate["notebook"], "value": gate["value"],
         "needed": f"{gate['op']} {gate['threshold']:.4g}", "n": gate["n"],
         "95 %": "none" if gate["ci95"] is None else gate["ci95"], "verdict": gate_verdict(gate)}
        for gate in summary["gates"]
    ]  # fmt: skip
    ledger = summary.get("ledger", {"lines": 0, "head": "none"})
    return "\n\n".join(
        [
            f"# Decision record of run {run_path.name}",
            *([f"**{SMOKE_NOTE}**"] if is_smoke(summary) else []),
            f"**{decision.upper()}**, {today.isoformat()}. "
            + (f"Signed by: {_plain(signed_by)}." if signed_by.strip() else "Not signed: this is a draft."),
            "## What stands against a promotion",
            "\n".join(f"- {_plain(line)}" for line in blockers) or "Nothing.",
            "## On which evidence",
            _table(gates),
            f"Ledger: {ledger['lines']} lines, the last with sha256 {ledger['head']}.",
            "The candidate, by its adapters:",
            _table([{"adapter": name, "sha256 of its files": digest_of(run_path / "artifacts" / name / "adapter")}
                    for name in _adapters(run_path)]),
            "## Risks that are open or accepted, or were graded or closed by hand",
            _table(shown),
        ]
    ) + "\n"  # fmt: skip


def card_faults(text: str, summary: Mapping) -> list[str]:
    """Load a model card with `huggingface_hub` and compare its evaluation results with summary.json.

    What a deep notebook measured may be missing: it may have run after the card was written.

    Returns:
        The faults, one line each.
    """
    from huggingface_hub import ModelCard

    try:
        loaded = ModelCard(text, ignore_metadata_errors=False)
        found = {
            one.metric_type: {"value": one.metric_value, **one.metric_args} for one in loaded.data.eval_results or []
        }
    except Exception as error:  # the card is anybody's text; every oddity is a fault, none ends the check
        return [f"model card: does not load with huggingface_hub ({type(error).__name__}: {error})"]
    known = {
        name: {"value": metric["candidate"], **_told(metric, summary)} for name, metric in summary["metrics"].items()
    }
    deep = {name for name, metric in summary["metrics"].items() if metric.get("notebook") not in STAGE}
    faults = []
    for name in sorted(known.keys() | found.keys()):
        one, other = found.get(name), known.get(name)
        if one is None and name not in deep:
            faults.append(f"model card: {name} is missing, summary.json has it")
        elif other is None:
            faults.append(f"model card: {name} is {one['value']}, summary.json has no such metric")
        elif one is not None:
            faults += [
                f"model card: {name}: {field} is {one.get(field)!r}, summary.json says {other.get(field)!r}"
                for field in sorted(one.keys() | other.keys())
                if one.get(field) != other.get(field)
            ]
    return faults


def _told(metric: Mapping, summary: Mapping) -> dict:
    """What the card says of a metric beside its value."""
    return {
        "n": metric["n"],
        "baseline": metric["baseline"],
        "ci95_of_difference": metric["ci95"],
        "unit": metric["unit"],
        "basis": metric.get("basis", "measured"),
        "evidence": not is_smoke(summary),
    }


def _adapters(run_path: Path) -> list[str]:
    return [stage.name for stage in stage_folders(run_path) if has_trained(stage / "adapter")]


def _sources(run_path: Path) -> list[dict]:
    read_by: dict[tuple[str, str], list[str]] = {}
    for path in sorted((run_path / "artifacts").glob("*/manifest.json")):
        made = read_json(path)
        for name, digest in made.get("sources", {}).items():
            read_by.setdefault((name, digest), []).append(made["notebook"])
    return [
        {"file": name, "sha256": digest[:16], "read by": ", ".join(names)}
        for (name, digest), names in sorted(read_by.items())
    ]


def _table(rows: Sequence[Mapping]) -> str:
    if not rows:
        return "None."
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([_plain(row.get(column)) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(value: object) -> str:
    """A value as one line of text in which neither markdown nor HTML means anything."""
    if value is None:
        return "not measured"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return re.sub(r"([\\`*|\[\]<>])", r"\\\1", " ".join(str(value).split()))
