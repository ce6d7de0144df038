"""Should this task be trained at all, and how: prompt first, SFT, DPO, RFT, or several of them in a row?

Seven answers (`criteria`) give every method a score: 50 means that nothing speaks for or against it, and each answer
moves the score up or down by its weight. Hard rules stand apart from the scores: no weight can vote a rule down.
Everything that the verdict rests on is a table or an argument, and `flips` says which single answer would change it.

Left out on purpose: learning the weights from past projects (there are never enough of them), and probabilities. A
score is an ordering that can be argued about, not a forecast.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from ftlib.criteria import CRITERIA, FITS, LABELS, METHODS, TRAINED, WEIGHTS, Criterion, fit
from ftlib.files import did_you_mean


@dataclass(frozen=True)
class Answers:
    """The seven answers. The defaults describe the playbook's shop.

    Raises:
        ValueError: an answer is not one of its levels, or not a count or hours >= 0.
    """

    labelled_pairs: int = 480
    preference_pairs: int = 400
    reward_computable: str = "yes"
    alignment_depth: str = "judgement"
    safety_class: str = "medium"
    compute_hours: float = 1.0
    horizon: str = "tools"

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
    """What the hard rules and the path compare with. Replace the hours by those of your own runs (summary.json)."""

    labelled_pairs: int = 50  # fewer teach an output form only, and leave nothing to measure with
    preference_pairs: int = 100  # 40 pairs moved nothing in the authors' tries, hundreds did
    sft_hours: float = 0.1  # sizes for a 135 M model on two CPU cores
    dpo_hours: float = 0.2
    rft_hours: float = 0.5
    score_to_join: float = 60.0  # a method joins the path from here on, if it also beats prompting
    target_accuracy: float = 0.85  # what the task needs; a prompt that surely reaches it makes SFT needless


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
    """The verdict. `path` is what to train in order, empty for "prompt first"; `contributions` sum to score - 50."""

    path: tuple[str, ...]
    scores: dict[str, float]
    contributions: dict[str, dict[str, float]]
    rules: tuple[FiredRule, ...]

    @property
    def recommendation(self) -> str:
        """The path in words, e.g. "SFT -> DPO"."""
        return path_label(self.path)


@dataclass(frozen=True)
class Flip:
    """The nearest change of one answer that changes the recommendation."""

    criterion: str
    now: int | float | str
    value: int | float | str
    path: tuple[str, ...]

    def sentence(self) -> str:
        """E.g. "preference_pairs from 400 to 99: the path becomes SFT -> RFT"."""
        return (
            f"{self.criterion} from {_show(self.now)} to {_show(self.value)}: the path becomes {path_label(self.path)}"
        )


def path_label(path: tuple[str, ...]) -> str:
    """A path in words; the empty path is "Prompt first"."""
    return " -> ".join(LABELS[method] for method in path) or LABELS["prompt"]


def contributions(answers: Answers, *, weights: Mapping[str, float] = WEIGHTS) -> dict[str, dict[str, float]]:
    """What each answer adds to each method's score, in points; a method's parts sum to its score - 50.

    Args:
        answers: the seven answers.
        weights: criterion -> weight >= 0; only their proportions matter.

    Returns:
        method -> criterion -> points: 50 * weight * fit / (weights of the criteria that concern the method).

    Raises:
        ValueError: a weight is missing, unknown, negative or not finite, or a method is left without any.
    """
    _check_weights(weights)
    found: dict[str, dict[str, float]] = {}
    for method in METHODS:
        total = sum(weights[name] for name in FITS[method])
        found[method] = {
            name: 50 * weights[name] * fit(method, name, getattr(answers, name)) / total for name in FITS[method]
        }
    return found


def fired_rules(
    answers: Answers, *, few_shot_low: float | None = None, limits: Limits | None = None
) -> tuple[FiredRule, ...]:
    """The hard rules that take methods out, in the order in which they are looked at.

    Args:
        answers: the seven answers.
        few_shot_low: low end of the 95 % interval of the measured few-shot accuracy; None if not measured.
        limits: what the rules compare with.
    """
    limits = limits or Limits()
    rules: list[FiredRule] = []

    def out(when: bool, name: str, methods: tuple[str, ...], reason: str, remedy: str) -> None:
        if when:
            rules.append(FiredRule(name, methods, "out", reason, remedy))

    few_rows = answers.labelled_pairs < limits.labelled_pairs
    out(
        few_rows,
        "no_labelled_pairs",
        ("sft",),
        f"{answers.labelled_pairs} labelled pairs, {limits.labelled_pairs} needed to train and to measure",
        "write or collect more; the chosen answers of preference pairs count too",
    )
    out(
        few_rows,
        "no_warm_start",
        ("dpo", "rft"),
        "both start from an SFT model: from the plain one, preferences move nothing and no rollout succeeds",
        "count the chosen answers of preference pairs as labelled pairs, or write demonstrations",
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
        answers: the seven answers.
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
    return Decision(tuple(method for method in TRAINED if method in wanted), scores, parts, rules + joining)


def flips(
    answers: Answers,
    *,
    weights: Mapping[str, float] = WEIGHTS,
    few_shot_low: float | None = None,
    limits: Limits | None = None,
) -> list[Flip]:
    """Which single answer, changed by how much, changes the recommendation: for each, the nearest one up and down.

    Numbers are followed to 100,000 pairs and 1,000 hours; counts are exact, hours to a hundredth.

    Returns:
        Flips in the order of the criteria. An answer that cannot change the recommendation alone gives none.
    """

    def path_at(name: str, value: int | float | str) -> tuple[str, ...]:
        changed = dataclasses.replace(answers, **{name: value})
        return recommend(changed, weights=weights, few_shot_low=few_shot_low, limits=limits).path

    found: list[Flip] = []
    for name, criterion in CRITERIA.items():
        now = getattr(answers, name)
        here = path_at(name, now)
        for way in (-1, 1):
            steps = _steps(criterion, now, way)
            value = next((step for step in steps if path_at(name, step) != here), None)
            if value is None:
                continue
            if criterion.kind != "choice":
                before = steps[steps.index(value) - 1] if steps.index(value) else now
                value = _nearest(
                    before, value, criterion.kind, lambda step, name=name, here=here: path_at(name, step) != here
                )
            found.append(Flip(name, now, value, path_at(name, value)))
    return found


def swings(
    answers: Answers, method: str, *, weights: Mapping[str, float] = WEIGHTS, against: str = "prompt"
) -> dict[str, tuple[float, float]]:
    """How far each answer alone can move a method's lead over another: what a tornado figure shows.

    Args:
        answers: the seven answers.
        method: e.g. "dpo".
        weights: criterion -> weight >= 0.
        against: the method that the lead is measured to.

    Returns:
        criterion -> (least, most) of score(method) - score(against), in points, over all of its levels.
    """

    def lead(name: str, value: int | float | str) -> float:
        parts = contributions(dataclasses.replace(answers, **{name: value}), weights=weights)
        return sum(parts[method].values()) - sum(parts[against].values())

    found = {}
    for name, criterion in CRITERIA.items():
        leads = [lead(name, level.at) for level in criterion.levels] + [lead(name, getattr(answers, name))]
        found[name] = (min(leads), max(leads))
    return found


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


def _steps(criterion: Criterion, now: int | float | str, way: int) -> list:
    """Values to try, going away from `now`: levels for a choice, about 4 % apart for a number."""
    if criterion.kind == "choice":
        names = [level.at for level in criterion.levels]
        place = names.index(now)
        return names[place + 1 :] if way > 0 else names[:place][::-1]
    unit, top = (1, 100_000) if criterion.kind == "count" else (0.01, 1_000.0)
    values, value = [], now
    while (value < top) if way > 0 else (value > 0):
        value = max(value * 1.04, value + unit) if way > 0 else max(0, min(value / 1.04, value - unit))
        value = int(math.ceil(value) if way > 0 else value) if criterion.kind == "count" else round(value, 2)
        values.append(value)
    return values


def _nearest(before, after, kind: str, changed: Callable[[int | float], bool]) -> int | float:
    """Bisect to the first value that changes the path, between one that does not and one that does."""
    scale = 1 if kind == "count" else 100
    low, high = round(before * scale), round(after * scale)
    while abs(high - low) > 1:
        middle = (low + high) // 2
        if changed(middle if scale == 1 else middle / scale):
            high = middle
        else:
            low = middle
    return high if scale == 1 else high / scale


def _show(value: int | float | str) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else value
