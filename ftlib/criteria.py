"""What the scorecard asks, what each level of an answer means, and how far it speaks for each method.

The anchor texts are there so that two people rate alike; numbers are counted, not rated. The fits are judgements of
the authors, kept in one table so that a team can dispute and change them.

Left out on purpose: the scoring (`scorecard`), and criteria that speak for every method alike.
"""

import math
from dataclasses import dataclass
from typing import Literal

from ftlib.files import did_you_mean

METHODS = ("prompt", "sft", "dpo", "rft")
LABELS = {"prompt": "Prompt first", "sft": "SFT", "dpo": "DPO", "rft": "RFT"}
TRAINED = METHODS[1:]  # in the order in which they are run: each starts from the model that the one before left
SEQUENCES = (("sft", "dpo"), ("sft", "rft"), ("sft", "dpo", "rft"))  # the usual ones

WEIGHTS = {
    "labelled_pairs": 3.0,
    "preference_pairs": 3.0,
    "reward_computable": 3.0,
    "alignment_depth": 3.0,
    "safety_class": 2.0,
    "compute_hours": 2.0,
    "horizon": 2.0,
    "task_type": 2.0,
    "output_stability": 2.0,
    "device": 1.0,
}


@dataclass(frozen=True)
class Level:
    """One level of a criterion: a choice by name, or everything from `at` up to the next level."""

    at: str | float
    anchor: str  # what is true at this level, so that two people rate alike


@dataclass(frozen=True)
class Criterion:
    """A question of the scorecard. `kind` "count" and "hours" take numbers, "choice" takes one of its levels."""

    question: str
    kind: Literal["count", "hours", "choice"]
    levels: tuple[Level, ...]


CRITERIA: dict[str, Criterion] = {
    "labelled_pairs": Criterion(
        "How many checked input-output pairs can you train on?",
        "count",
        (
            Level(0, "A handful at most: enough to show in a prompt, too few to train on and measure with."),
            Level(50, "Enough to learn an output form; rare cases are missing."),
            Level(200, "Each frequent case is there several times; the rare ones once or twice."),
            Level(500, "Each case, rare ones too, in several wordings; a held-out set can be spared."),
            Level(2000, "More than the task needs; more rows buy little, better rows still do."),
        ),
    ),
    "preference_pairs": Criterion(
        "How many pairs of a better and a worse answer do you have, or will you have rated before training?",
        "count",
        (
            Level(0, "None, or so few that raters cannot be checked against each other."),
            Level(100, "One topic or one raters' round; shows a direction, does not settle edge cases."),
            Level(400, "The frequent cases and their counter-cases (what must not change); agreement measured."),
            Level(1000, "All important cases, each by two raters, with hidden gold items."),
            Level(2000, "As above, and fresh pairs keep coming from production."),
        ),
    ),
    "reward_computable": Criterion(
        "Can a program tell a good answer from a bad one, without a person?",
        "choice",
        (
            Level("no", "Only a person can tell, or two people would not agree."),
            Level("partly", "A program sees the form or some facts; the rest is a matter of judgement."),
            Level("yes", "A program checks the outcome itself: the right refund was booked, the test passed."),
        ),
    ),
    "alignment_depth": Criterion(
        "How deep must the model change?",
        "choice",
        (
            Level("none", "It already does the task when told how; only the instruction was missing."),
            Level("format", "It must always give a fixed form, labels or terms."),
            Level("style", "It must sound like your house: tone, length, what is said first."),
            Level("judgement", "It must choose between answers that both look fine: when to refuse, what to concede."),
        ),
    ),
    "safety_class": Criterion(
        "What does a bad answer cost?",
        "choice",
        (
            Level("low", "Annoyance: somebody reads it and asks again."),
            Level("medium", "Money or trust: a wrong promise, a wrong refund, one customer's data in a log."),
            Level("high", "Harm to people, or the law: medical, legal or dangerous advice, leaked personal data."),
        ),
    ),
    "compute_hours": Criterion(
        "How many hours of training can one attempt take on the device you have?",
        "hours",
        (
            Level(0.0, "Minutes at most: a prompt can be tried, a training cannot."),
            Level(0.5, "A short adapter training; no room for a second try."),
            Level(2.0, "SFT and DPO with a second try, or one short RFT."),
            Level(8.0, "A night: comparisons, several seeds, RFT with enough rollouts."),
            Level(40.0, "Days: full fine-tuning and sweeps are possible."),
        ),
    ),
    "horizon": Criterion(
        "How long is one task?",
        "choice",
        (
            Level("single", "One message, one answer."),
            Level("dialogue", "Several turns with a person; earlier turns matter."),
            Level("tools", "Several steps with tools; an early wrong step spoils the rest."),
        ),
    ),
    "task_type": Criterion(
        "What is one answer?",
        "choice",
        (
            Level("lookup", "A fact that stands in a document: a price, a deadline, a paragraph of the policy."),
            Level("label", "One of a fixed set, or fields copied out: classify, route, extract."),
            Level("text", "Free text that a person reads: a reply, a summary, a translation."),
            Level("ruling", "A policy applied to a case: refuse or help, grant or decline."),
            Level("action", "Tool calls or code, whose effect can be seen afterwards."),
        ),
    ),
    "output_stability": Criterion(
        "How stable is the right answer, over time and from one careful person to the next?",
        "choice",
        (
            Level("moving", "It changes within weeks: stock, prices, a policy under revision."),
            Level("open", "It holds for months, but two careful people would write two different good answers."),
            Level("fixed", "It holds for months, and two careful people would give the same answer."),
        ),
    ),
    "device": Criterion(
        "Which device can a training have to itself?",
        "choice",
        (
            Level("cpu", "No GPU: a laptop or some server cores; models of a few hundred million weights."),
            Level("t4", "A GPU of up to 16 GB without bf16: adapters over 1 to 3 billion weights in 4 bits."),
            Level("gpu24", "A GPU of about 24 GB with bf16: adapters over 7 to 8 billion weights in 4 bits."),
            Level("gpu80", "A GPU of 80 GB or more: adapters over 8 billion in 16 bits, many rollouts at once."),
        ),
    ),
}

# Of these a sequence takes the worst fit of its methods, of the others the best (`scorecard.sequence_contributions`).
NEEDS = ("labelled_pairs", "preference_pairs", "reward_computable", "compute_hours", "device")

Points = tuple[tuple[float, float], ...]
Fit = Points | dict[str, float]
_DEPTH = ("none", "format", "style", "judgement")
_TASKS = ("lookup", "label", "text", "ruling", "action")
_DEVICES = ("cpu", "t4", "gpu24", "gpu80")

# How far an answer speaks for a method: +1 strongly for it, 0 neither, -1 strongly against. Numbers between two points
# lie on a line in log(1 + n), because the step from 50 to 100 rows matters more than that from 5,000 to 5,050.
# A criterion that is not listed says nothing about the method.
FITS: dict[str, dict[str, Fit]] = {
    "prompt": {
        "labelled_pairs": ((0, 1.0), (50, 0.3), (200, -0.3), (500, -0.6), (2000, -0.8)),
        "alignment_depth": dict(zip(_DEPTH, (1.0, 0.0, -0.3, -0.6), strict=True)),
        "safety_class": {"low": 0.3, "medium": 0.0, "high": -0.3},
        "compute_hours": ((0, 1.0), (1, 0.2), (8, -0.2), (40, -0.4)),
        "horizon": {"single": 0.5, "dialogue": 0.0, "tools": -0.5},
        "task_type": dict(zip(_TASKS, (1.0, 0.0, 0.2, -0.3, -0.3), strict=True)),
        "output_stability": {"moving": 1.0, "open": 0.0, "fixed": -0.3},
    },
    "sft": {
        "labelled_pairs": ((0, -1.0), (50, -0.2), (200, 0.5), (500, 0.8), (2000, 1.0)),
        "alignment_depth": dict(zip(_DEPTH, (-1.0, 1.0, 0.6, 0.0), strict=True)),
        "safety_class": {"low": 0.3, "medium": 0.1, "high": -0.3},  # tuning wears refusals down
        "compute_hours": ((0, -1.0), (0.25, 0.0), (1, 0.5), (8, 1.0)),
        "horizon": {"single": 0.6, "dialogue": 0.3, "tools": 0.0},
        "task_type": dict(zip(_TASKS, (-0.8, 0.9, 0.6, 0.2, 0.4), strict=True)),
        "output_stability": {"moving": -1.0, "open": 0.3, "fixed": 0.9},
        "device": dict(zip(_DEVICES, (0.0, 0.4, 0.7, 1.0), strict=True)),
    },
    "dpo": {
        "labelled_pairs": ((0, -1.0), (50, 0.0), (200, 0.4), (500, 0.5)),  # its warm start
        "preference_pairs": ((0, -1.0), (100, -0.2), (400, 0.5), (1000, 0.8), (2000, 1.0)),
        "alignment_depth": dict(zip(_DEPTH, (-1.0, -0.5, 0.5, 1.0), strict=True)),
        "safety_class": {"low": -0.2, "medium": 0.3, "high": 0.8},
        "compute_hours": ((0, -1.0), (0.5, 0.0), (1, 0.3), (8, 1.0)),
        "horizon": {"single": 0.4, "dialogue": 0.4, "tools": 0.0},
        "task_type": dict(zip(_TASKS, (-0.8, -0.4, 0.5, 1.0, 0.0), strict=True)),
        "output_stability": {"moving": -0.6, "open": 0.8, "fixed": 0.3},
        "device": dict(zip(_DEVICES, (0.0, 0.2, 0.6, 1.0), strict=True)),
    },
    "rft": {
        "labelled_pairs": ((0, -1.0), (50, 0.0), (200, 0.3)),  # demonstrations to warm up on
        "reward_computable": {"no": -1.0, "partly": 0.2, "yes": 1.0},
        "alignment_depth": dict(zip(_DEPTH, (-1.0, -0.5, -0.3, 0.3), strict=True)),
        "safety_class": {"low": 0.1, "medium": 0.0, "high": -0.2},
        "compute_hours": ((0, -1.0), (1, 0.0), (8, 0.6), (40, 1.0)),
        "horizon": {"single": -1.0, "dialogue": 0.0, "tools": 1.0},
        "task_type": dict(zip(_TASKS, (-0.8, 0.2, -0.4, 0.3, 1.0), strict=True)),
        "output_stability": {"moving": -0.6, "open": -0.2, "fixed": 0.6},
        "device": dict(zip(_DEVICES, (-0.4, -0.2, 0.3, 1.0), strict=True)),
    },
}


def anchor(name: str, value: int | float | str) -> Level:
    """The level that an answer falls into, with its anchor text.

    Raises:
        ValueError: no such criterion, or no such level.
    """
    if name not in CRITERIA:
        raise ValueError(f"criterion {name!r} is not known{did_you_mean(name, CRITERIA)}")
    levels = CRITERIA[name].levels
    if CRITERIA[name].kind == "choice":
        found = [level for level in levels if level.at == value]
    else:
        found = [level for level in levels if isinstance(value, int | float) and value >= level.at][-1:]
    if not found:
        raise ValueError(f"{name}: {value!r} is no level; use one of {', '.join(str(level.at) for level in levels)}")
    return found[0]


def fit(method: str, name: str, value: int | float | str) -> float | None:
    """How far an answer speaks for a method, in [-1, 1]; None where it says nothing about it."""
    table = FITS[method].get(name)
    if table is None:
        return None
    if isinstance(table, dict):
        return table[str(value)]
    return _on_the_line(float(value), table)


def _on_the_line(value: float, points: Points) -> float:
    """Piecewise linear in log(1 + n); level beyond both ends."""
    if value >= points[-1][0]:
        return points[-1][1]
    for (left, low), (right, high) in zip(points, points[1:], strict=False):
        if value < right:
            share = (math.log1p(value) - math.log1p(left)) / (math.log1p(right) - math.log1p(left))
            return low + share * (high - low)
    raise AssertionError(f"{value} lies nowhere on {points}")
