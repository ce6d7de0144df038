"""A team of programs whose faults are known: honest raters, and planted ones that a check of raters should find.

They serve benchmarks, tests and lessons. Every vote is marked as simulated.

Left out on purpose: the store and the session (`ratings.simulated_rater` goes through them); here only rows are made.
And people: the planted faults are plain ones. Finding them says that the arithmetic works, not that cheats are found.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ftlib.ratings import left_answer
from ftlib.records import Rating

Kind = Literal["honest", "random", "one_side", "flipped", "fast", "copying", "longer", "drifting"]
CHOICES = ("A", "B", "tie")
START = datetime.datetime(2026, 1, 5, 9, tzinfo=datetime.UTC)
HARD = 0.15  # share of items on which everybody slips more often
COPIED = 0.98  # share of the shared items on which a copying rater repeats what the other said


@dataclass(frozen=True)
class Manner:
    """How one program votes: its share of slips, of taking the left answer unread, its usual seconds a vote."""

    kind: Kind
    slips: float
    left_bias: float
    seconds: float


def team_votes(
    truth: Mapping[str, str],
    kinds: Mapping[str, Kind],
    *,
    seed: int,
    overlap: int,
    everybody: Sequence[str] = (),
    longer: Mapping[str, str] | None = None,
) -> list[Rating]:
    """Votes of a team, each rater from the first to the last of its items.

    Honest raters slip on 10 to 25 % of the items (on half of the hard ones) and take the left answer unread on up to
    10 %. "random" picks at random, "one_side" always takes the left, "flipped" says the opposite, "fast" takes about a
    second, "copying" repeats what the first honest rater said, "longer" takes the longer answer, "drifting" is honest
    for the first half of its votes and then guesses.

    Args:
        truth: item -> "A", "B" or "tie".
        kinds: rater -> how it votes.
        seed: of all draws.
        overlap: ratings an item, spread evenly.
        everybody: items that all raters get, in between (hidden gold).
        longer: item -> the longer answer, for "longer".

    Raises:
        ValueError: more ratings an item are wanted than there are raters, or nobody is honest where one copies.
    """
    if not 1 <= overlap <= len(kinds):
        raise ValueError(f"expected an overlap from 1 to {len(kinds)}, the number of raters; got {overlap}")
    source = next((rater for rater, kind in kinds.items() if kind == "honest"), "")
    if "copying" in kinds.values() and not source:
        raise ValueError("expected an honest rater for 'copying' to copy, got none; add one to kinds")
    rng = np.random.default_rng(seed)
    hard = {item for item in truth if rng.random() < HARD}
    assigned = _assign([item for item in truth if item not in set(everybody)], list(kinds), overlap, rng)
    votes: dict[str, dict[str, Rating]] = {}
    for rater in sorted(kinds, key=lambda name: kinds[name] == "copying"):  # who copies comes last
        items = rng.permutation([*assigned[rater], *everybody])
        manner = Manner(kinds[rater], rng.uniform(0.1, 0.25), rng.uniform(0, 0.1), rng.uniform(9, 20))
        copied = votes[source] if manner.kind == "copying" else {}
        start = START + datetime.timedelta(days=bool(copied), seconds=float(rng.uniform(0, 3_600)))
        votes[rater] = {}
        for number, item in enumerate(map(str, items)):
            left = left_answer(seed, rater, item)
            late = number >= len(items) / 2
            choice = _choose(manner, truth[item], item in hard, left, (longer or {}).get(item, left), late, rng)
            if item in copied and rng.random() < COPIED:
                choice = copied[item].choice
            usual = 1.2 if manner.kind == "fast" else manner.seconds
            seconds = round(float(usual * rng.lognormal(0, 0.4)), 1)
            start += datetime.timedelta(seconds=seconds + 1)
            votes[rater][item] = Rating(
                item_id=item, rater=rater, choice=choice, helpfulness=None, harmlessness=None, task_fit=None,
                seconds=seconds, left=left, simulated=True, created_at=start.isoformat(timespec="milliseconds"),
            )  # fmt: skip
    return [vote for given in votes.values() for vote in given.values()]


def _choose(
    manner: Manner, truth: str, hard: bool, left: str, longer: str, late: bool, rng: np.random.Generator
) -> str:
    guess = CHOICES[rng.integers(3)]
    if manner.kind == "random" or (manner.kind == "drifting" and late):
        return guess
    if manner.kind == "one_side":
        return left
    if manner.kind == "longer":
        return longer
    if rng.random() < manner.left_bias:
        return left
    said = guess if rng.random() < max(manner.slips, 0.5 * hard) else truth
    return {"A": "B", "B": "A"}.get(said, said) if manner.kind == "flipped" else said


def _assign(items: Sequence[str], raters: Sequence[str], overlap: int, rng: np.random.Generator) -> dict[str, list]:
    """Each item to `overlap` raters, whose loads differ by one item at most."""
    assigned: dict[str, list[str]] = {rater: [] for rater in raters}
    for item in items:
        for rater in sorted(raters, key=lambda name: (len(assigned[name]), rng.random()))[:overlap]:
            assigned[rater].append(item)
    return assigned
