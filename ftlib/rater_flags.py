"""Which raters are worth a talk: six tests over votes, corrected together so that an honest team raises no flag.

Each test asks whether a rater went beyond what an honest one does, and each bound is written down (`Bounds`), wider
than honest raters need. All are exact binomial tests. Their p-values, over all raters, are adjusted together by Holm: a
team within the bounds raises any flag at all with a chance of at most `alpha`, however the votes hang together.

    guessing   right on fewer than `right` of the items whose verdict is known (gold, or at least two others agree)
    flipped    on items with a better answer, picks the worse one more often than not
    one_side   takes the left answer, or the right one, on more than `side` of its picks
    fast       more than `hasty` of its votes came faster than the texts can be read
    copying    where it or another rater departs from the verdict, both say the same more often than `together`
    longer     its mistakes go to the longer answer, at more than `length_odds` times the odds of chance

Left out on purpose: telling why. A flag is a reason to look at the votes and to talk, not to dismiss anybody; nothing
is dropped here. Where most of a team guesses, the others are no yardstick, and only gold items help.
"""

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from ftlib.gates import holm
from ftlib.records import Candidate, GoldItem, Rating

FlagName = Literal["guessing", "flipped", "one_side", "fast", "copying", "longer"]
FLAGS: tuple[FlagName, ...] = ("guessing", "flipped", "one_side", "fast", "copying", "longer")
WORDS_A_SECOND = 20.0  # 1,200 words a minute: three times what people read with understanding
LEAST_SECONDS = 2.0

Votes = dict[str, dict[str, Rating]]  # item -> rater -> vote


@dataclass(frozen=True)
class Bounds:
    """How far an honest rater may go; a test asks whether a rater went beyond. See the head of this room."""

    right: float = 0.6
    side: float = 0.65
    hasty: float = 0.1
    together: float = 0.4
    length_odds: float = 2.0


@dataclass(frozen=True)
class Test:
    """One test of one rater: `count` of `n` against the `bound`; `p` alone, `p_adjusted` among all tests of the team.

    `other` is the rater that was copied, for "copying".
    """

    rater: str
    name: FlagName
    count: int
    n: int
    bound: float
    p: float
    p_adjusted: float = 1.0
    other: str = ""


def flag_raters(
    votes: Iterable[Rating],
    *,
    gold: Mapping[str, str] | None = None,
    floors: Mapping[str, float] | None = None,
    longer: Mapping[str, str] | None = None,
    unread: Collection[str] = (),
    alpha: float = 0.05,
    bounds: Bounds = Bounds(),
) -> list[Test]:
    """The tests that a rater fails, the surest first.

    "guessing" is left out for a rater with another flag that explains it (flipped, one_side, longer). Of two raters who
    depart together the one who voted later is flagged, both where the times do not tell.

    Args:
        votes: one per rater and item; skips and adjudicators' votes count for nothing.
        gold: item -> known verdict (`gold_verdicts`); other items are held to the others' votes.
        floors: item -> seconds that reading takes at least (`reading_floors`); 2 s for an item without one.
        longer: item -> the longer answer, "A" or "B" (`longer_answers`); no test of length without it.
        unread: raters who are programs. They read nothing, and the seconds of a replayed one are a computer's: no test
            of haste for them.
        alpha: chance that a team within the bounds raises any flag.
        bounds: what an honest rater may do.

    Raises:
        ValueError: a rater voted twice on an item.
    """
    tests = rater_tests(votes, gold=gold, floors=floors, longer=longer, unread=unread, bounds=bounds)
    failed = sorted((test for test in tests if test.p_adjusted <= alpha), key=lambda test: test.p)
    explained = {test.rater for test in failed if test.name in ("flipped", "one_side", "longer")}
    return [test for test in failed if test.name != "guessing" or test.rater not in explained]


def rater_tests(
    votes: Iterable[Rating],
    *,
    gold: Mapping[str, str] | None = None,
    floors: Mapping[str, float] | None = None,
    longer: Mapping[str, str] | None = None,
    unread: Collection[str] = (),
    bounds: Bounds = Bounds(),
) -> list[Test]:
    """All tests with their p-values, alone and adjusted by Holm; those without data have p = 1. See `flag_raters`."""
    by_item = _by_item(votes)
    raters = sorted({rater for given in by_item.values() for rater in given})
    found: list[Test] = []
    for rater in raters:
        mine = [given[rater] for given in by_item.values() if rater in given]
        judged = [(vote, verdict(by_item[vote.item_id], {rater}, gold=gold)) for vote in mine]
        judged = [(vote, right) for vote, right in judged if right]
        found += [
            _guessing(rater, judged, bounds),
            _flipped(rater, judged),
            _one_side(rater, mine, bounds),
            _fast(rater, [] if rater in unread else mine, floors or {}, bounds),
            _longer(rater, judged, longer or {}, bounds),
        ]
    found += [
        test
        for one, two in itertools.combinations(raters, 2)
        for test in _copying(one, two, by_item, gold or {}, bounds)
    ]
    if not found:
        return []
    adjusted = holm([test.p for test in found])
    return [Test(**(vars(test) | {"p_adjusted": float(p)})) for test, p in zip(found, adjusted, strict=True)]


def verdict(
    given: Mapping[str, Rating], without: Iterable[str], *, gold: Mapping[str, str] | None = None, least: int = 2
) -> str:
    """What an item's verdict is, as far as it can be known without these raters' votes: gold, or the others' majority.

    Args:
        given: rater -> vote on this item.
        without: raters who are judged by it.
        gold: item -> known verdict.
        least: votes that must agree; more than half of the others' must, too.

    Returns:
        "A", "B", "tie" or "both_bad"; "" where it is not known.
    """
    left_out = set(without)
    item_id = next(iter(given.values())).item_id
    if gold and item_id in gold:
        return gold[item_id]
    others = Counter(vote.choice for rater, vote in given.items() if rater not in left_out)
    choice, most = others.most_common(1)[0] if others else ("", 0)
    return choice if most >= least and 2 * most > others.total() else ""


def gold_verdicts(gold: Iterable[GoldItem]) -> dict[str, str]:
    """Gold item -> its verdict."""
    return {item.id: item.gold for item in gold}


def reading_floors(items: Iterable[Candidate | GoldItem]) -> dict[str, float]:
    """Item -> seconds under which nobody has read prompt and answers: 20 words a second, and no less than 2 s."""
    return {
        item.id: max(LEAST_SECONDS, len(f"{item.prompt} {item.answer_a} {item.answer_b}".split()) / WORDS_A_SECOND)
        for item in items
    }


def longer_answers(items: Iterable[Candidate | GoldItem]) -> dict[str, str]:
    """Item -> "A" or "B", the answer with more characters; items with equal lengths are left out."""
    lengths = {item.id: (len(item.answer_a), len(item.answer_b)) for item in items}
    return {item_id: "A" if a > b else "B" for item_id, (a, b) in lengths.items() if a != b}


def _by_item(votes: Iterable[Rating]) -> Votes:
    by_item: Votes = {}
    for vote in votes:
        if vote.by_adjudicator:
            continue
        given = by_item.setdefault(vote.item_id, {})
        if vote.rater in given:
            raise ValueError(f"{vote.rater} voted twice on {vote.item_id!r}; give standing votes only")
        given[vote.rater] = vote
    counted = ((item, {r: v for r, v in given.items() if v.choice != "skip"}) for item, given in by_item.items())
    return {item: given for item, given in counted if given}


def _at_most(count: int, n: int, share: float) -> float:
    """Chance of this few, were the share as large as `share`."""
    return float(stats.binom.cdf(count, n, share)) if n else 1.0


def _at_least(count: int, n: int, share: float) -> float:
    """Chance of this many, were the share as small as `share`."""
    return float(stats.binom.sf(count - 1, n, share)) if n else 1.0


def _guessing(rater: str, judged: Sequence[tuple[Rating, str]], bounds: Bounds) -> Test:
    right = sum(vote.choice == known for vote, known in judged)
    return Test(rater, "guessing", right, len(judged), bounds.right, _at_most(right, len(judged), bounds.right))


def _flipped(rater: str, judged: Sequence[tuple[Rating, str]]) -> Test:
    picked = [vote.choice == known for vote, known in judged if vote.choice in ("A", "B") and known in ("A", "B")]
    wrong = len(picked) - sum(picked)
    return Test(rater, "flipped", wrong, len(picked), 0.5, _at_least(wrong, len(picked), 0.5))


def _one_side(rater: str, mine: Sequence[Rating], bounds: Bounds) -> Test:
    picks = [vote.choice == vote.left for vote in mine if vote.choice in ("A", "B")]
    most = max(sum(picks), len(picks) - sum(picks))
    p = min(1.0, 2 * _at_least(most, len(picks), bounds.side))  # either side
    return Test(rater, "one_side", most, len(picks), bounds.side, p)


def _fast(rater: str, mine: Sequence[Rating], floors: Mapping[str, float], bounds: Bounds) -> Test:
    hasty = sum(vote.seconds < floors.get(vote.item_id, LEAST_SECONDS) for vote in mine)
    return Test(rater, "fast", hasty, len(mine), bounds.hasty, _at_least(hasty, len(mine), bounds.hasty))


def _longer(rater: str, judged: Sequence[tuple[Rating, str]], longer: Mapping[str, str], bounds: Bounds) -> Test:
    """How many mistakes went to the longer answer? By chance, the share of items where that is the worse one."""
    told = [(vote, known) for vote, known in judged if known in ("A", "B") and vote.item_id in longer]
    openings = sum(known != longer[vote.item_id] for vote, known in told)  # where the longer answer is the worse one
    share = openings / len(told) if told else 0.5
    bound = bounds.length_odds * share / (bounds.length_odds * share + 1 - share)
    wrong = [vote for vote, known in told if vote.choice in ("A", "B") and vote.choice != known]
    count = sum(vote.choice == longer[vote.item_id] for vote in wrong)
    return Test(rater, "longer", count, len(wrong), bound, _at_least(count, len(wrong), bound))


def _copying(one: str, two: str, by_item: Votes, gold: Mapping[str, str], bounds: Bounds) -> list[Test]:
    """One test a pair, named after the one who votes later; without an order, one for each at twice its p."""
    count = n = later = 0  # later: items on which `one` voted after `two`, minus the others
    for given in by_item.values():
        if one not in given or two not in given:
            continue
        later += (given[one].created_at > given[two].created_at) - (given[one].created_at < given[two].created_at)
        known = verdict(given, {one, two}, gold=gold, least=1)
        choices = {given[one].choice, given[two].choice}
        if known and choices != {known}:
            n += 1
            count += len(choices) == 1
    p = _at_least(count, n, bounds.together)
    if later:
        copier, other = (one, two) if later > 0 else (two, one)
        return [Test(copier, "copying", count, n, bounds.together, p, other=other)]
    both = [(one, two), (two, one)]
    return [Test(r, "copying", count, n, bounds.together, min(1.0, 2 * p), other=o) for r, o in both]
