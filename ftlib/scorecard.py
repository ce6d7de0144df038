"""Should this task be trained at all, and how: prompt first, SFT, DPO, RFT, or several of them in a row?

Ten answers (`criteria`) give every method a score: 50 means that nothing speaks for or against it, and each answer
moves the score up or down by its weight. Hard rules stand apart from the scores: no weight can vote a rule down.
Everything that the verdict rests on is a table or an argument, and a card says whose it is and who signed it.

Left out on purpose: learning the weights from past projects (there are never enough of them), and probabilities. A
score is an ordering that can be argued about, not a forecast. What would change it is in `sensitivity`.
"""

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ftlib.criteria import CRITERIA, FITS, LABELS, METHODS, NEEDS, SEQUENCES, TRAINED, WEIGHTS, fit
from ftlib.files import did_you_mean, to_json


@dataclass(frozen=True)
class Answers:
    """The ten answers. The defaults describe the playbook's shop, its counts those of the files in `data/`.

    Raises:
        ValueError: an answer is not one of its levels, or not a count or hours >= 0.
    """

    labelled_pairs: int = 2925
    preference_pairs: int = 220
    reward_computable: str = "yes"
    alignment_depth: str = "judgement"
    safety_class: str = "medium"
    compute_hours: float = 1.0
    horizon: str = "tools"
    task_type: str = "ruling"
    output_stability: str = "fixed"
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, criterion in CRITERIA.items():
            value = getattr(self, name)
            if criterion.kind == "choice":
                known = [str(level.at) for level in criterion.levels]
                if value not in known:
                    raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}; choose one of them")
                continue
            whole = criterion.kind == "count"
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                wanted = "a whole number" if whole else "a number of hours"
                raise ValueError(f"{name}: expected {wanted}, got {value!r}; count it, do not rate it")
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{name}: expected 0 or more, got {value}; correct the number")


@dataclass(frozen=True)
class Limits:
    """What the hard rules and the path compare with. Replace the hours by those of your own runs (summary.json).

    The hours are measured: 02, 04 and 06 of the shop's run took 17, 38 and 21 minutes with the embedded model on two
    cores without bf16, evaluation included (README, "Notebooks"); rounded up to the next twentieth of an hour.
    """

    labelled_pairs: int = 50  # fewer teach an output form only, and leave nothing to measure with
    preference_pairs: int = 100  # 40 pairs moved nothing in the authors' tries, hundreds did
    sft_hours: float = 0.3
    dpo_hours: float = 0.65
    rft_hours: float = 0.35
    score_to_join: float = 60.0  # a method joins the path from here on, if it also beats prompting
    target_accuracy: float = 0.85  # what the task needs; a prompt that surely reaches it makes SFT needless
    prompt_rows: int = 50  # on fewer rows nothing is sure about the prompt


@dataclass(frozen=True)
class FiredRule:
    """A hard rule that applies: it takes methods out of the path, or makes one join it, whatever the scores say."""

    name: str
    methods: tuple[str, ...]
    effect: Literal["out", "joins"]
    reason: str
    remedy: str


@dataclass(frozen=True)
class Decision:
    """The verdict. `path` is what to train in order, empty for "prompt first"; `contributions` sum to score - 50.

    `sequences` has what `scores` has, for the usual sequences by their label, e.g. "SFT -> DPO".
    """

    path: tuple[str, ...]
    scores: dict[str, float]
    contributions: dict[str, dict[str, float]]
    rules: tuple[FiredRule, ...]
    sequences: dict[str, float]

    @property
    def recommendation(self) -> str:
        """The path in words, e.g. "SFT -> DPO"."""
        return path_label(self.path)


@dataclass(frozen=True)
class SignOff:
    """Who answers for a scorecard. It may stay empty: then the scorecard is shown as not signed.

    Raises:
        ValueError: the date is no ISO date.
    """

    name: str = ""
    role: str = ""
    date: str = ""

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not isinstance(value, str):
                raise ValueError(
                    f"sign-off, {entry.name}: expected text, got {value!r}; leave it empty or write it out"
                )
            object.__setattr__(self, entry.name, value.strip())
        try:
            datetime.date.fromisoformat(self.date or "2000-01-01")
        except ValueError:
            raise ValueError(f"sign-off: expected a date such as 2027-01-31, got {self.date!r}; correct it") from None

    @property
    def missing(self) -> list[str]:
        """What a signature still lacks; all three where nobody began to sign."""
        return [entry.name for entry in fields(self) if not getattr(self, entry.name)]

    def sentence(self) -> str:
        """E.g. "Not signed." or "Signed: name, role, 2027-01-31."."""
        if not self.missing:
            return f"Signed: {self.name}, {self.role}, {self.date}."
        begun = len(self.missing) < len(fields(self))
        return f"Not signed: {' and '.join(self.missing)} missing." if begun else "Not signed."


@dataclass(frozen=True)
class Card:
    """One rater's scorecard: the answers, the weights, and the signature under both."""

    answers: Answers = field(default_factory=Answers)
    weights: dict[str, float] = field(default_factory=lambda: dict(WEIGHTS))
    sign_off: SignOff = field(default_factory=SignOff)


def card_of(record: Mapping[str, Any], what: str) -> Card:
    """A card from plain values: scorecard.json, or a draft.

    Args:
        record: has "answers" and "weights"; "sign_off" may be missing.
        what: names it in errors, e.g. the file.

    Raises:
        ValueError: an answer is missing, unknown or of a wrong value, or the weights are.
    """
    answers, weights = record.get("answers"), record.get("weights")
    if not isinstance(answers, Mapping) or not isinstance(weights, Mapping):
        raise ValueError(f"{what}: expected a scorecard with answers and weights, got {sorted(record)}; check the file")
    known = {entry.name for entry in fields(Answers)}
    if set(answers) != known:
        odd = sorted(set(answers) ^ known)
        raise ValueError(f"{what}: {', '.join(odd)} missing or unknown; made by another version, run 01 again")
    _check_weights(weights)
    sign = record.get("sign_off") or {}
    return Card(
        Answers(**answers), dict(weights), SignOff(**{name: sign.get(name, "") for name in ("name", "role", "date")})
    )


def draft(start: Card, now: Card) -> dict[str, Card]:
    """What a form keeps after each change; `read_draft` reads it."""
    return {"start": start, "now": now}


def read_draft(path: str | Path, start: Card) -> Card:
    """The card as the form was left, where it began from `start`; else `start` (no draft yet, or other parameters).

    Raises:
        ValueError: the draft is damaged.
    """
    path = Path(path)
    if not path.exists():
        return start
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        same = kept["start"] == json.loads(to_json(start, "the start"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected a draft of the form, got {error!r}; delete it to begin anew") from None
    return card_of(kept["now"], str(path)) if same else start


def path_label(path: tuple[str, ...]) -> str:
    """A path in words; the empty path is "Prompt first"."""
    return " -> ".join(LABELS[method] for method in path) or LABELS["prompt"]


def contributions(answers: Answers, *, weights: Mapping[str, float] = WEIGHTS) -> dict[str, dict[str, float]]:
    """What each answer adds to each method's score, in points; a method's parts sum to its score - 50.

    Args:
        answers: the ten answers.
        weights: criterion -> weight >= 0; only their proportions matter.

    Returns:
        method -> criterion -> points: 50 * weight * fit / (weights of the criteria that concern the method).

    Raises:
        ValueError: a weight is missing, unknown, negative or not finite, or a method is left without any.
    """
    _check_weights(weights)
    return {method: _parts((method,), answers, weights) for method in METHODS}


def sequence_contributions(answers: Answers, *, weights: Mapping[str, float] = WEIGHTS) -> dict[str, dict[str, float]]:
    """As `contributions`, for the usual sequences.

    A sequence asks for all that its methods ask for, so of a need (data, reward, compute) the worst fit counts. It can
    do what any of its methods can, so of everything else the best fit counts.

    Returns:
        label -> criterion -> points, e.g. {"SFT -> DPO": {"labelled_pairs": 4.1, …}, …}.

    Raises:
        ValueError: see `contributions`.
    """
    _check_weights(weights)
    return {path_label(path): _parts(path, answers, weights) for path in SEQUENCES}


def _parts(path: Sequence[str], answers: Answers, weights: Mapping[str, float]) -> dict[str, float]:
    """criterion -> points of one method, or of several in a row."""
    concerned = [name for name in CRITERIA if any(name in FITS[method] for method in path)]
    total = sum(weights[name] for name in concerned)
    points = {}
    for name in concerned:
        fits = [fit(method, name, getattr(answers, name)) for method in path if name in FITS[method]]
        points[name] = 50 * weights[name] * (min(fits) if name in NEEDS else max(fits)) / total
    return points


def surely_reached(shot: Mapping[str, Any], *, limits: Limits | None = None) -> float | None:
    """What a measured prompt surely reaches, for `few_shot_low`: the low end of its 95 % interval.

    Args:
        shot: a prompt of 00's `baseline.json`, with "ci95" and "n".
        limits: on fewer rows than `prompt_rows` the answer is None: no rule may rest on them.

    Raises:
        ValueError: the interval or the number of rows is missing.

    Example:
        >>> surely_reached({"ci95": [0.88, 0.97], "n": 100}), surely_reached({"ci95": [0.88, 1.0], "n": 30})
        (0.88, None)
    """
    if not shot.get("ci95") or "n" not in shot:
        raise ValueError(f"expected a measured prompt with 'ci95' and 'n', got {sorted(shot)}; run 00 again")
    return float(shot["ci95"][0]) if shot["n"] >= (limits or Limits()).prompt_rows else None


def fired_rules(
    answers: Answers, *, few_shot_low: float | None = None, limits: Limits | None = None
) -> tuple[FiredRule, ...]:
    """The hard rules that take methods out, in the order in which they are looked at.

    Args:
        answers: the ten answers.
        few_shot_low: low end of the 95 % interval of the measured few-shot accuracy (`surely_reached`); None if not
            measured, or on too few rows.
        limits: what the rules compare with.
    """
    limits = limits or Limits()
    rules: list[FiredRule] = []

    def out(when: bool, name: str, methods: tuple[str, ...], reason: str, remedy: str) -> None:
        if when:
            rules.append(FiredRule(name, methods, "out", reason, remedy))

    few_rows = answers.labelled_pairs < limits.labelled_pairs
    no_hours = answers.compute_hours < limits.sft_hours
    out(
        few_rows,
        "no_labelled_pairs",
        ("sft",),
        f"{answers.labelled_pairs} labelled pairs, {limits.labelled_pairs} needed to train and to measure",
        "write or collect more; the chosen answers of preference pairs count too",
    )
    out(
        few_rows or no_hours,
        "no_warm_start",
        ("dpo", "rft"),
        "both start from an SFT model: from the plain one, preferences move nothing and no rollout succeeds",
        "count the chosen answers of preference pairs as labelled pairs, or write demonstrations"
        if few_rows
        else "find the hours for SFT first",
    )
    out(
        few_shot_low is not None and few_shot_low >= limits.target_accuracy,
        "prompt_reaches_target",
        ("sft",),
        f"few-shot prompting surely reaches {few_shot_low or 0:.2f}, {limits.target_accuracy:.2f} is needed",
        "ship the prompt; train only for what it cannot do, or for a cheaper model",
    )
    out(
        answers.preference_pairs < limits.preference_pairs,
        "no_preference_pairs",
        ("dpo",),
        f"{answers.preference_pairs} preference pairs, {limits.preference_pairs} needed to move anything",
        "rate answers first (notebook 03)",
    )
    out(
        answers.reward_computable == "no",
        "no_computable_reward",
        ("rft",),
        "no program can tell a good answer from a bad one, so there is nothing to reinforce",
        "find an outcome that can be checked, or use preference pairs",
    )
    out(
        answers.task_type == "lookup" and answers.output_stability == "moving",
        "facts_that_move",
        TRAINED,
        "a fact that changes within weeks is stale in the weights before the training is over",
        "put the document into the prompt; train only what stays, such as the form of the answer",
    )
    for method in TRAINED:
        needed = getattr(limits, f"{method}_hours")
        out(
            answers.compute_hours < needed,
            f"{method}_needs_compute",
            (method,),
            f"{answers.compute_hours:g} hours, {needed:g} needed for one {LABELS[method]} attempt",
            "take a smaller model or a larger device",
        )
    # Fine-tuning on benign data alone raised harmful answers from 5.5 to 31.8 % (arXiv 2310.03693).
    out(
        answers.safety_class == "high" and any("dpo" in rule.methods for rule in rules),
        "tuning_undoes_safety",
        ("sft", "rft"),
        "training wears refusals down, and where DPO is out nothing restores them",
        f"collect {limits.preference_pairs} pairs with refusals and their harmless look-alikes",
    )
    return tuple(rules)


def recommend(
    answers: Answers,
    *,
    weights: Mapping[str, float] = WEIGHTS,
    few_shot_low: float | None = None,
    limits: Limits | None = None,
) -> Decision:
    """Scores, fired rules, and the path: what to train, in order, if anything.

    A method joins the path when no rule takes it out, its score reaches `limits.score_to_join`, and it beats
    prompting. A rule may make DPO join a path that trains something else.

    Args:
        answers: the ten answers.
        weights: criterion -> weight >= 0.
        few_shot_low: see `fired_rules`.
        limits: see `Limits`.

    Raises:
        ValueError: see `contributions`.
    """
    limits = limits or Limits()
    parts = contributions(answers, weights=weights)
    scores = {method: 50 + sum(parts[method].values()) for method in METHODS}
    rules = fired_rules(answers, few_shot_low=few_shot_low, limits=limits)
    gone = {method for rule in rules for method in rule.methods}
    wanted = {
        method
        for method in TRAINED
        if method not in gone and scores[method] >= limits.score_to_join and scores[method] > scores["prompt"]
    }
    joining = _joining_rules(answers, wanted, gone)
    wanted |= {method for rule in joining for method in rule.methods}
    rows = sequence_contributions(answers, weights=weights)
    sequences = {label: 50 + sum(points.values()) for label, points in rows.items()}
    return Decision(tuple(method for method in TRAINED if method in wanted), scores, parts, rules + joining, sequences)


def _joining_rules(answers: Answers, wanted: set[str], gone: set[str]) -> tuple[FiredRule, ...]:
    """Rules that add a method to a path that trains something."""
    rules = []
    if wanted & {"dpo", "rft"} and not {"sft"} & (wanted | gone):
        rules.append(
            FiredRule(
                "warm_start",
                ("sft",),
                "joins",
                f"SFT scores too low alone, but {path_label(tuple(m for m in TRAINED if m in wanted))} starts from it",
                "keep it short: a warm start has to show the form, not to win",
            )
        )
    if wanted and answers.safety_class == "high" and "dpo" not in gone:
        rules.append(
            FiredRule(
                "safety_needs_contrast",
                ("dpo",),
                "joins",
                "training wears refusals down; a high safety class needs DPO on contrast pairs",
                "measure refusals again after every later training (notebook 05)",
            )
        )
    return tuple(rules)


def _check_weights(weights: Mapping[str, float]) -> None:
    for name in weights:
        if name not in CRITERIA:
            raise ValueError(f"weights name {name!r}, which is no criterion{did_you_mean(name, CRITERIA)}")
    for name in CRITERIA:
        value = weights.get(name)
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
        if not good:
            raise ValueError(f"weights[{name!r}]: expected a number >= 0, got {value!r}; give every criterion a weight")
    for method in METHODS:
        if not sum(weights[name] for name in FITS[method]) > 0:
            raise ValueError(f"weights: all criteria of {LABELS[method]} weigh 0; give one of them a weight above 0")
