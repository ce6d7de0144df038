"""The risk register of a run: what is wrong or not known, who looks after it, and whether it stops the promotion.

Every failed or abstained gate of the ledger opens a row, and its status is the ledger's word: it closes by a new
measurement and is accepted by a waiver that was given to 08, never by an edit here; a waiver that let an earlier
notebook go on is shown in the row, and accepts nothing. A gate of a notebook that stands on what is gone counts as not
judged. Standing risks, which no single gate watches, have a row with the measure that the run has, or with "not
measured". Owners are roles; a team puts its own names in.

Left out on purpose: sums of risk, and money. Severity and likelihood are three words each, meant to be disputed.
"""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import Field, ValidationError, computed_field, field_validator, model_validator

from ftlib import approval, team
from ftlib.ledger import gate_states
from ftlib.records import Rating, Row, Text
from ftlib.runs import stale_notebook
from ftlib.seeds import spread_beside
from ftlib.sheets import csv_text
from ftlib.summary import is_smoke, load_summary

GRADES = {1: "low", 2: "medium", 3: "high"}
GOVERN = "08_govern"
DAYS_OPEN = 30  # an open or accepted row is looked at again after this
COLUMNS = (
    "id", "kind", "title", "measure", "value", "threshold", "severity", "likelihood", "level", "owner", "mitigation",
    "expires", "status", "reason", "source", "evidence",
)  # fmt: skip
BY_HAND = ("owner", "mitigation", "expires")  # of any row
OF_STANDING = ("severity", "likelihood", "status", "reason")  # of standing rows only
_GRADED = ("severity", "likelihood", "status")  # what decides whether a row blocks
# What a failure of these costs is more than a poor answer.
_SAFETY = ("harmful", "pii", "jailbreak", "toxicity", "safety", "leakage")
_DATA = ("preferences", "pairs", "raters")  # the part of a gate's id before the dot
# What a release rests on: if these depend on the seed, the next training gives another model.
_MAIN = ("sft.intent_accuracy", "dpo.win_rate", "dpo.harmful_refused", "dpo.borderline_refused", "rft.task_success")
_PROCESS = ("kl", "above_constant", "prompt_falls_short", "model_speaks")


class Risk(Row):
    """A row of the register. `threshold` reads with its sign, e.g. ">= 0.85"; `value` None: not measured."""

    id: Text
    kind: Literal["data", "model", "process"]
    title: Text
    measure: Text
    value: float | None
    threshold: str
    severity: int = Field(ge=1, le=3)
    likelihood: int = Field(ge=1, le=3)
    owner: Text
    mitigation: Text
    expires: str
    status: Literal["open", "accepted", "closed"]
    reason: str = ""
    source: Text
    evidence: bool = True

    @computed_field
    @property
    def level(self) -> str:
        """See `risk_level`."""
        return risk_level(self.severity, self.likelihood)

    @field_validator("expires")
    @classmethod
    def _is_a_date(cls, text: str) -> str:
        return datetime.date.fromisoformat(text).isoformat()

    @model_validator(mode="after")
    def _has_a_reason(self) -> "Risk":
        if self.status == "accepted" and not self.reason.strip():
            raise ValueError("an accepted risk needs a reason")
        return self


def risk_level(severity: int, likelihood: int) -> str:
    """`low`, `medium` or `high`: the product of two grades 1..3; 6 and more is high, 3 and 4 medium.

    Raises:
        ValueError: a grade outside 1..3.

    Example:
        >>> risk_level(2, 3), risk_level(2, 2), risk_level(1, 2)
        ('high', 'medium', 'low')
    """
    if severity not in GRADES or likelihood not in GRADES:
        raise ValueError(f"expected severity and likelihood of 1, 2 or 3, got {severity} and {likelihood}")
    product = severity * likelihood
    return "high" if product >= 6 else "medium" if product >= 3 else "low"


def register(
    run_path,
    *,
    today: datetime.date,
    holdouts: Sequence[Mapping] = (),
    max_opens: int = 6,
    hotspot: tuple[str, float | None] = ("largest gap between groups", None),
    votes: Iterable[Rating] = (),
) -> list[Risk]:
    """The register of a run, from its ledger and its numbers.

    Args:
        run_path: the run folder.
        today: the day from which rows expire.
        holdouts: rows of `holdouts.exposure`, for the risk that the test set was looked at too often.
        max_opens: how many executions may open an evaluation file.
        hotspot: from `hotspots.largest`: which group is served worse, and by how much.
        votes: that the pairs rest on, for the risk that raters drift.

    Raises:
        ValueError: the ledger's chain is broken.
    """
    expires = (today + datetime.timedelta(days=DAYS_OPEN)).isoformat()
    summary = load_summary(run_path)
    states = [state for state in gate_states(run_path) if state["notebook"] != GOVERN]
    if any(state["notebook"] == approval.NOTEBOOK for state in states):
        others = [state for state in states if (state["id"], state["notebook"]) != (approval.GATE, approval.NOTEBOOK)]
        states = [*others, approval.state(run_path)]
    stale = {notebook: stale_notebook(run_path, notebook) for notebook in {state["notebook"] for state in states}}
    states = [_as_it_counts(state, stale[state["notebook"]]) for state in states]
    rows = [_gate_risk(state, expires) for state in states if state["verdict"] != "PASS"]
    watched = {"seeds": _over_seeds(run_path), "groups": hotspot, "raters": _drift(votes)}
    return rows + _standing(summary, states, expires, holdouts, max_opens, **watched)


def promotion_blockers(risks: Sequence[Risk], *, today: datetime.date, smoke: bool = False) -> list[str]:
    """Why the candidate may not be promoted, one sentence each; none when it may.

    An open high risk blocks. An accepted high risk blocks again from the day on which its acceptance expires. So does a
    safety approval that is missing, is about another candidate, or was only recorded: no person has read the failures.
    """
    found = (
        ["this is a smoke run: a few steps that prove the wiring, so nothing of it can be promoted"] if smoke else []
    )
    for risk in risks:
        expired = risk.status == "accepted" and datetime.date.fromisoformat(risk.expires) <= today
        if risk.level == "high" and (risk.status == "open" or expired):
            why = f"its acceptance expired on {risk.expires}" if expired else "it is open"
            value = "not measured" if risk.value is None else f"{risk.value:.4g}"
            found.append(f"high risk {risk.id!r} ({risk.title}; {value}, needed {risk.threshold}): {why}. "
                         f"What to do: {risk.mitigation}")  # fmt: skip
        elif risk.status == "open" and risk.source.startswith(f"gate {approval.GATE} of "):
            found.append(f"risk {risk.id!r} ({risk.title}): no person has read the failures of this candidate and "
                         "signed. Run 05_validate by hand")  # fmt: skip
    return found


def editable(risk: Risk) -> tuple[str, ...]:
    """The fields of a row that a person may change: a gate's row follows the ledger."""
    return BY_HAND if risk.source.startswith("gate ") else (*BY_HAND, *OF_STANDING)


def edit_risk(risks: Sequence[Risk], risk_id: str, **changes: object) -> list[Risk]:
    """A new register with one row changed by hand.

    Raises:
        ValueError: no such row, a field that may not be edited there, a value that does not fit, or a grade or status
            that was changed without a reason.
    """
    found = next((risk for risk in risks if risk.id == risk_id), None)
    if found is None:
        raise ValueError(f"risk {risk_id!r}: expected one of {[risk.id for risk in risks]}; correct the id")
    allowed = editable(found)
    for field in changes:
        if field not in allowed:
            raise ValueError(
                f"risk {risk_id!r}: {field!r} cannot be edited here (only {', '.join(allowed)}). A gate's row follows "
                "the ledger: measure again to close it, or waive the gate in 08 with a reason to accept it"
            )
    try:
        changed = Risk.model_validate(found.model_dump(exclude={"level"}) | changes)
        if not changed.reason.strip() and any(getattr(changed, name) != getattr(found, name) for name in _GRADED):
            raise ValueError(
                f"risk {risk_id!r}: severity, likelihood or status by hand needs a reason in words; it can lift what "
                "blocks a promotion, so say why"
            )
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"])) or "row"
        raise ValueError(f"risk {risk_id!r}: {where}: {fault['msg']}; correct the value") from None
    return [changed if risk.id == risk_id else risk for risk in risks]


def keep_edits(fresh: Sequence[Risk], kept: Sequence[Risk]) -> list[Risk]:
    """A fresh register with the hand edits of an earlier one, where the measurement is still the same."""
    known = {risk.id: risk for risk in kept}
    merged = list(fresh)
    for risk in fresh:
        old = known.get(risk.id)
        if old is None or (old.value, old.threshold, old.source) != (risk.value, risk.threshold, risk.source):
            continue  # measured anew: what was said about the old number does not count for the new one
        fields = [field for field in editable(risk) if field in BY_HAND or old.reason.strip()]
        merged = edit_risk(merged, risk.id, **{field: getattr(old, field) for field in fields})
    return merged


def load_register(rows: Sequence[Mapping]) -> list[Risk]:
    """Rows of a `risks.json` as risks; the level is computed anew.

    Raises:
        ValueError: a row that is no risk.
    """
    return [Risk.model_validate({key: value for key, value in row.items() if key != "level"}) for row in rows]


def register_csv(risks: Sequence[Risk]) -> str:
    """The register as CSV that no spreadsheet takes for formulas."""
    return csv_text([risk.model_dump() for risk in risks], columns=COLUMNS)


# --- rows ---


def _over_seeds(run_path) -> tuple[str, float | None]:
    """The main metric that differs most over runs with other seeds, in words, and its standard deviation."""
    rows = [row for row in spread_beside(run_path) if row["metric"] in _MAIN and row["sd"] is not None]
    if not rows:
        return "largest standard deviation of a main metric over seeds", None
    worst = max(rows, key=lambda row: row["sd"])
    return f"standard deviation of {worst['metric']} over seeds {', '.join(map(str, worst['seeds']))}", worst["sd"]


def _drift(votes: Iterable[Rating]) -> tuple[str, float | None]:
    """How many people's last window lies below their control chart, in words and as a number."""
    people = [vote for vote in votes if not vote.simulated]
    said = team.drift(people)
    judged = [rater for rater, word in said.items() if word]
    measure = f"raters whose agreement fell below their control chart, of {len(judged)} with three windows or more"
    if not people:
        return "raters below their control chart: all votes are simulated, those cannot drift", None
    return measure, float(sum(said[rater] == "low" for rater in judged)) if judged else None


def _as_it_counts(state: Mapping, stale: str) -> Mapping:
    """A gate's state; where its notebook is stale only a FAIL stands: nobody knows what the others would say now.

    What was waived, was waived for the candidate of then.
    """
    if not stale:
        return state
    if state["verdict"] == "FAIL":
        return {**state, "waivers": {}}
    note = f"measured before {stale} was made anew or while it was not complete; run {state['notebook']} again"
    return {**state, "verdict": "ABSTAIN", "note": note, "waivers": {}}


def _gate_risk(state: Mapping, expires: str) -> Risk:
    gate, verdict, waivers = state["id"], state["verdict"], state.get("waivers", {})
    given = {why: [by for by, reason in waivers.items() if reason == why and by != GOVERN] for why in waivers.values()}
    elsewhere = "; ".join(f"waived for {', '.join(by)}, not for a promotion: {why}" for why, by in given.items() if by)
    kind = "data" if gate.split(".")[0] in _DATA else "process" if _in(gate, _PROCESS) else "model"
    # A recorded approval is graded in the middle, as what was not measured is; it blocks a promotion all the same.
    unread = gate == approval.GATE and verdict == "ABSTAIN"
    said = {"FAIL": "failed", "ABSTAIN": "could not be judged", "PASS": "passed"}[verdict]
    return Risk(
        id=f"{state['notebook'][:2]}-{gate}",
        kind=kind,
        title=f"gate {gate} {said}" + (f" and was waived for {', '.join(waivers)}" if waivers else ""),
        measure=f"{gate}, n = {state['n']}",
        value=state["value"],
        threshold=f"{state['op']} {state['threshold']:g}",
        severity=3 if any(word in gate for word in _SAFETY) and not unread else 2,
        likelihood=3 if verdict == "FAIL" else 2,
        owner={"data": "data lead", "model": "model lead", "process": "evaluation lead"}[kind],
        mitigation=state["note"] or f"improve it and run {state['notebook']} again",
        expires=expires,
        status="accepted" if waivers.get(GOVERN) else "open",
        reason=waivers.get(GOVERN, elsewhere),
        source=f"gate {gate} of {state['notebook']}",
        evidence=state["evidence"],
    )


def _in(gate: str, words: Sequence[str]) -> bool:
    return any(gate == word or gate.endswith(f".{word}") for word in words)


def _standing(
    summary: Mapping,
    states: Sequence[Mapping],
    expires: str,
    holdouts: Sequence[Mapping],
    max_opens: int,
    *,
    seeds: tuple[str, float | None],
    groups: tuple[str, float | None],
    raters: tuple[str, float | None],
) -> list[Risk]:
    metrics, evidence = summary["metrics"], not is_smoke(summary)

    def candidate(name: str) -> float | None:
        return metrics[name]["candidate"] if name in metrics else None

    def row(risk_id: str, kind: str, title: str, measure: str, value: float | None, op: Literal["<=", ">="],
            need: float, owner: str, mitigation: str) -> Risk:  # fmt: skip
        good = None if value is None else value >= need if op == ">=" else value <= need
        # Not measured is graded in the middle: unknown is not unlikely.
        return Risk(
            id=risk_id, kind=kind, title=title, measure=measure if value is not None else f"{measure} (not measured)",
            value=value, threshold=f"{op} {need:g}", severity=2, likelihood={True: 1, False: 3, None: 2}[good],
            owner=owner, mitigation=mitigation, expires=expires, status="closed" if good and evidence else "open",
            source="standing risk", evidence=evidence,
        )  # fmt: skip

    over = candidate("dpo.borderline_refused")
    opens = max((row["opened"] for row in holdouts), default=None)
    # A reward is hacked where it rises and the success that is checked apart from it does not.
    above = next((state["value"] for state in states if state["id"] == "rft.above_constant"), None)
    opens = None if opens is None else float(opens)
    return [
        row("standing-annotator-drift", "data", "raters drift apart or away from the rubric",
            *raters, "<=", 0.0, "data lead", "let people rate, and calibrate on the gold items every two weeks"),
        row("standing-bias-hotspots", "data", "one group of customers or topics is served worse",
            *groups, "<=", 0.1, "data lead",
            "write training rows for that group; measure on at least 100 items of each"),
        row("standing-over-refusal", "model", "harmless requests are declined",
            "share of borderline prompts refused", over, "<=", 0.1, "model lead",
            "add counter-anchoring pairs: harmless look-alikes of harmful prompts"),
        row("standing-seed-instability", "model", "another seed gives another model",
            *seeds, "<=", 0.05, "model lead",
            "run the chain with two more seeds: python -m ftlib run --sweep seed=18,19"),
        row("standing-reward-hacking", "process", "the reward rises without the work",
            "lower end of success above the best constant policy", above, ">=", 0.0,
            "evaluation lead", "attack each reward part before training (notebook 06)"),
        row("standing-overfit-to-evaluation", "process", "choices follow the evaluation set",
            "executions that opened the most opened evaluation file", opens, "<=", max_opens,
            "evaluation lead",
            "write a fresh held-out set, and open it once"),
    ]  # fmt: skip
