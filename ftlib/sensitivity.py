"""What would change a scorecard's verdict: one answer alone, or the answers of a second rater.

`flips` and `overtakes` move each answer up and down until the path, or the order of the scores, changes; `swings` is
what a tornado figure shows; `differences` sets two raters' cards side by side.

Left out on purpose: answers that change together. Two wrong answers are found by a second rater, not by a search.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ftlib.criteria import CRITERIA, LABELS, METHODS, WEIGHTS, Criterion
from ftlib.scorecard import Answers, Card, Limits, contributions, path_label, recommend

Value = int | float | str


@dataclass(frozen=True)
class Flip:
    """The nearest change of one answer that changes the recommendation."""

    criterion: str
    now: Value
    value: Value
    path: tuple[str, ...]

    def sentence(self) -> str:
        """E.g. "preference_pairs from 220 to 99: the path becomes SFT -> RFT"."""
        return (
            f"{self.criterion} from {_show(self.now)} to {_show(self.value)}: the path becomes {path_label(self.path)}"
        )


@dataclass(frozen=True)
class Overtaking:
    """The nearest change of one answer that puts another method at the top of the scores."""

    criterion: str
    now: Value
    value: Value
    method: str
    passed: str

    def sentence(self) -> str:
        """E.g. "at labelled_pairs 120 (now 2,925) RFT overtakes DPO"."""
        return (
            f"at {self.criterion} {_show(self.value)} (now {_show(self.now)}) "
            f"{LABELS[self.method]} overtakes {LABELS[self.passed]}"
        )


@dataclass(frozen=True)
class Difference:
    """Where two raters differ. `steps`: levels between the two answers, 0 for two numbers on one level.

    `path`: what the first rater's path becomes with this one answer of the second.
    """

    criterion: str
    first: Value
    second: Value
    steps: int
    path: tuple[str, ...]
    decides: bool


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

    def path_of(one: Answers) -> tuple[str, ...]:
        return recommend(one, weights=weights, few_shot_low=few_shot_low, limits=limits).path

    return [Flip(name, now, value, path) for name, now, value, path in _changes(answers, path_of)]


def overtakes(answers: Answers, *, weights: Mapping[str, float] = WEIGHTS) -> list[Overtaking]:
    """Which single answer, changed by how much, puts another method at the top; scores alone, no rule is asked.

    Returns:
        In the order of the criteria, the nearest change up and down.
    """

    def best(one: Answers) -> str:
        sums = {method: sum(parts.values()) for method, parts in contributions(one, weights=weights).items()}
        return max(METHODS, key=sums.__getitem__)

    here = best(answers)
    return [Overtaking(name, now, value, method, here) for name, now, value, method in _changes(answers, best)]


def swings(
    answers: Answers, method: str, *, weights: Mapping[str, float] = WEIGHTS, against: str = "prompt"
) -> dict[str, tuple[float, float]]:
    """How far each answer alone can move a method's lead over another: what a tornado figure shows.

    Args:
        answers: the ten answers.
        method: e.g. "dpo".
        weights: criterion -> weight >= 0.
        against: the method that the lead is measured to.

    Returns:
        criterion -> (least, most) of score(method) - score(against), in points, over all of its levels.
    """

    def lead(name: str, value: Value) -> float:
        parts = contributions(dataclasses.replace(answers, **{name: value}), weights=weights)
        return sum(parts[method].values()) - sum(parts[against].values())

    found = {}
    for name, criterion in CRITERIA.items():
        leads = [lead(name, level.at) for level in criterion.levels] + [lead(name, getattr(answers, name))]
        found[name] = (min(leads), max(leads))
    return found


def differences(
    first: Card, second: Card, *, few_shot_low: float | None = None, limits: Limits | None = None
) -> list[Difference]:
    """Where two raters' answers differ, and which of the differences decides, for the first rater's card.

    Args:
        first: its weights hold, because a rating is about answers; agree on the weights beforehand.
        second: whose answers are tried one at a time.
        few_shot_low, limits: as in `scorecard.recommend`.

    Returns:
        In the order of the criteria; equal answers give none.
    """
    rest = {"weights": first.weights, "few_shot_low": few_shot_low, "limits": limits}
    here = recommend(first.answers, **rest).path
    found = []
    for name, criterion in CRITERIA.items():
        one, two = getattr(first.answers, name), getattr(second.answers, name)
        if one == two:
            continue
        path = recommend(dataclasses.replace(first.answers, **{name: two}), **rest).path
        steps = abs(_place(criterion, one) - _place(criterion, two))
        found.append(Difference(name, one, two, steps, path, path != here))
    return found


def _changes(answers: Answers, look: Callable[[Answers], Any]) -> list[tuple[str, Value, Value, Any]]:
    """(criterion, now, nearest other value, what is seen there), where one answer alone changes what `look` sees."""

    def at(name: str, value: Value) -> Any:
        return look(dataclasses.replace(answers, **{name: value}))

    here, found = look(answers), []
    for name, criterion in CRITERIA.items():
        now = getattr(answers, name)
        for way in (-1, 1):
            steps = _steps(criterion, now, way)
            value = next((step for step in steps if at(name, step) != here), None)
            if value is None:
                continue
            if criterion.kind != "choice":
                before = steps[steps.index(value) - 1] if steps.index(value) else now
                value = _nearest(before, value, criterion.kind, lambda step, name=name: at(name, step) != here)
            found.append((name, now, value, at(name, value)))
    return found


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


def _place(criterion: Criterion, value: Value) -> int:
    """The number of the level that an answer falls into."""
    if criterion.kind == "choice":
        return [level.at for level in criterion.levels].index(value)
    return sum(level.at <= value for level in criterion.levels) - 1
