"""Which pairs stay: contradictions are settled by votes, and one sort of pair does not crowd out the other.

**Contradictions.** Where two items ask the same question, same prompt and same two answers, and their pairs point
opposite ways, the votes of each direction are added up, votes for less votes against. The direction with more stays,
the other one's pairs go; at a draw all of them go. Where people voted in either, simulated votes do not count; where
one of them was adjudicated, only adjudicators' votes do. Longer circles (A over B, B over C, C over A) have no such
answer: every pair on the circle goes.

**Limits.** One pair is taken out at a time until both limits hold: as long as model-written chosen answers are too
many, one of those, of the side (safe or adversarial) that has more pairs; else, as long as one side has too many, one
of that side, model-written first. Of several, the one whose votes were least clear goes first.

Left out on purpose: weights instead of removal (TRL's trainer takes none), and circles between near twins.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ftlib.records import PreferencePair

OVER_CAP, UNBALANCED = "over the synthetic share", "one side too many"
ADVERSARIAL = ("harmful",)  # should be declined; every other sort is safe and should be answered


@dataclass(frozen=True)
class Backing:
    """The votes behind a pair: for the chosen answer, for the other one, all that were not skips; and whose."""

    won: int
    lost: int
    total: int
    people: bool
    adjudicated: bool = False

    @property
    def clear(self) -> float:
        """How clear the vote was, from just above 0 to 1 (nobody against)."""
        return (self.won - self.lost) / self.total


def same_text(text: str) -> str:
    """What two texts share that differ in case and spaces only."""
    return " ".join(text.lower().split())


def contradicted(pairs: Sequence[PreferencePair], backing: Mapping[str, Backing]) -> set[str]:
    """Ids of the pairs that go because others say the opposite; see the head of this room.

    Args:
        pairs: with ids of their own.
        backing: pair id -> the votes behind it.
    """
    gone: set[str] = set()
    asked: dict[tuple, list[PreferencePair]] = defaultdict(list)
    for pair in pairs:
        asked[same_text(pair.prompt), frozenset((same_text(pair.chosen), same_text(pair.rejected)))].append(pair)
    for group in asked.values():
        ways: dict[str, list[PreferencePair]] = defaultdict(list)
        for pair in group:
            ways[same_text(pair.chosen)].append(pair)
        if len(ways) == 1:
            continue
        weight = {pair.id: (backing[pair.id].people, backing[pair.id].adjudicated) for pair in group}
        counts = max(weight.values())  # people first, and of theirs an adjudicator's
        score = {
            chosen: sum(backing[p.id].won - backing[p.id].lost for p in mine if weight[p.id] == counts)
            for chosen, mine in ways.items()
        }
        best = max(score.values())
        draw = list(score.values()).count(best) > 1
        gone |= {pair.id for chosen, mine in ways.items() if draw or score[chosen] < best for pair in mine}
    return gone | _on_circles([pair for pair in pairs if pair.id not in gone])


def over_limits(
    pairs: Sequence[PreferencePair],
    backing: Mapping[str, Backing],
    *,
    synthetic_cap: float | None,
    balance: float | None,
    seed: int,
) -> dict[str, str]:
    """Which pairs go so that both limits hold, and for which of them: {pair id: reason}.

    Args:
        synthetic_cap: at most this share of the pairs may have a chosen answer sampled from a model; None: no limit.
        balance: safe pairs are at most so many times the adversarial ones, and the other way round; None: no limit.
            Where one side has no pairs, nothing can be in balance with it, and all go.
        seed: decides between votes that are equally clear.

    Raises:
        ValueError: a cap outside 0 to 1, or a balance below 1.
    """
    if not (synthetic_cap is None or 0 <= synthetic_cap <= 1) or not (balance is None or balance >= 1):
        raise ValueError(f"expected a synthetic_cap from 0 to 1 and a balance >= 1, got {synthetic_cap} and {balance}")

    def goes_last(pair: PreferencePair) -> tuple[float, bytes]:
        return backing[pair.id].clear, hashlib.sha256(f"{seed}/{pair.id}".encode("utf-8", "surrogatepass")).digest()

    left: dict[tuple[bool, bool], list[str]] = {(side, made): [] for side in (True, False) for made in (True, False)}
    for pair in sorted(pairs, key=goes_last, reverse=True):
        left[pair.kind in ADVERSARIAL, pair.synthetic].append(pair.id)
    gone: dict[str, str] = {}
    while True:
        size = {side: len(left[side, True]) + len(left[side, False]) for side in (True, False)}
        larger = max(size, key=size.get)
        synthetic = len(left[True, True]) + len(left[False, True])
        if synthetic_cap is not None and synthetic > synthetic_cap * sum(size.values()) + 1e-9:
            side = larger if left[larger, True] else not larger
            gone[left[side, True].pop()] = OVER_CAP
        elif balance is not None and size[larger] > balance * size[not larger]:
            gone[left[larger, bool(left[larger, True])].pop()] = UNBALANCED
        else:
            return gone


def side_counts(pairs: Sequence[PreferencePair]) -> dict[str, int]:
    """How many pairs are safe and how many adversarial."""
    counts = Counter(pair.kind in ADVERSARIAL for pair in pairs)
    return {"safe": counts[False], "adversarial": counts[True]}


def _on_circles(pairs: Sequence[PreferencePair]) -> set[str]:
    """Pairs of which both answers lie on one circle of preferences."""
    if not pairs:
        return set()
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    number: dict[tuple[str, str], int] = {}
    ends = [
        [
            number.setdefault((same_text(pair.prompt), same_text(text)), len(number))
            for text in (pair.chosen, pair.rejected)
        ]
        for pair in pairs
    ]
    rows, columns = zip(*ends, strict=True)
    graph = coo_array(([1] * len(ends), (rows, columns)), shape=(len(number), len(number)))
    _, part = connected_components(graph, directed=True, connection="strong")
    return {pair.id for pair, (first, second) in zip(pairs, ends, strict=True) if part[first] == part[second]}
