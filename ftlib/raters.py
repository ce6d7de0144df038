"""Raters over time: the calibration round, accuracy on hidden gold, when to calibrate again, and a control chart.

A rater starts with gold items that are explained after the vote, and passes with enough of them right. Hidden gold
items among the others then tell how it goes on. The rule for calibrating again: the 95 % interval of the last `RECENT`
hidden items lies wholly below the pass mark. The chart sets windows of votes beside the rater's own first ones.

Left out on purpose: the session that shows gold items (any votes on gold ids will do), and what to do about a rater:
see `rater_flags` for who is worth a talk.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from ftlib.gates import Interval, wilson
from ftlib.rater_flags import verdict
from ftlib.records import Candidate, GoldItem, Rating

PASS_MARK = 0.75  # 12 of 16: a guesser among three passes once in 1,250 times, a rater who is right on 85 % in 9 of 10
RECENT = 20  # hidden gold items that the rule of calibrating again looks at
FALSE_ALARM = 0.00135  # of one window, as with limits at three sigma on one side


@dataclass(frozen=True)
class Calibration:
    """One rater on the training round. `state` is "open" until every training item has a vote.

    Attributes:
        right, n: items right, of those voted on (a skip is no vote).
        interval: 95 %, of the share.
        missed: (item, what it said, the verdict, why), to talk over.
    """

    rater: str
    right: int
    n: int
    interval: Interval | None
    state: Literal["passed", "failed", "open"]
    missed: list[tuple[str, str, str, str]]


@dataclass(frozen=True)
class Running:
    """One rater's accuracy on hidden gold so far, after each gold vote in the order of time.

    Attributes:
        shares, intervals: after 1, 2, … gold votes: of all until then.
        recent: share of the last `RECENT` (or fewer).
        recalibrate: the rule holds now: the interval of the last `RECENT` lies below the pass mark.
    """

    rater: str
    shares: list[float]
    intervals: list[Interval]
    recent: float | None
    recalibrate: bool


@dataclass(frozen=True)
class Window:
    """One window of a control chart: `right` of `n`, and the limits between which it should fall.

    `signal` is "low" or "high" outside of them, else "". The windows that the limits were made of have none.
    """

    number: int
    right: float
    n: int
    share: float
    low: float | None
    high: float | None
    signal: Literal["low", "high", ""]


def gold_candidates(gold: Iterable[GoldItem]) -> list[Candidate]:
    """Gold items as candidates, so that they go through the session that all items go through."""
    return [
        Candidate(
            id=item.id, prompt_id=item.id, prompt=item.prompt, kind=item.kind, answer_a=item.answer_a, cluster=item.id,
            source_a="gold", answer_b=item.answer_b, source_b="gold",
        )
        for item in gold
    ]  # fmt: skip


def calibrate(
    votes: Iterable[Rating], gold: Sequence[GoldItem], *, pass_mark: float = PASS_MARK
) -> dict[str, Calibration]:
    """Rater -> how the training round went, for raters with a vote on a training item.

    Raises:
        ValueError: there is no training item.
    """
    training = {item.id: item for item in gold if item.round == "training"}
    if not training:
        raise ValueError("expected gold items of round 'training', got none; load data/preferences/gold.jsonl")
    given: dict[str, dict[str, str]] = {}
    for vote in votes:
        if vote.item_id in training and vote.choice != "skip":
            given.setdefault(vote.rater, {})[vote.item_id] = vote.choice
    found = {}
    for rater, said in sorted(given.items()):
        missed = [
            (item_id, choice, training[item_id].gold, training[item_id].explanation)
            for item_id, choice in said.items()
            if choice != training[item_id].gold
        ]
        right, n = len(said) - len(missed), len(said)
        state = "open" if n < len(training) else "passed" if right >= pass_mark * n else "failed"
        found[rater] = Calibration(rater, right, n, wilson(right, n), state, missed)
    return found


def pass_chance(right: float, n: int, *, pass_mark: float = PASS_MARK) -> float:
    """Chance that a rater who is right with chance `right` passes a training round of n items.

    Example:
        >>> round(pass_chance(1 / 3, 16), 5), round(pass_chance(0.85, 16), 2)
        (0.00079, 0.92)
    """
    least = next(k for k in range(n + 1) if k >= pass_mark * n)
    return float(stats.binom.sf(least - 1, n, right))


def running_accuracy(
    votes: Iterable[Rating], gold: Mapping[str, str], *, pass_mark: float = PASS_MARK, recent: int = RECENT
) -> dict[str, Running]:
    """Rater -> accuracy on hidden gold as it grows, with intervals, and whether to calibrate again.

    Each look at the rule errs with about 2.5 % for a rater exactly at the pass mark, and hardly ever for a better one.

    Args:
        votes: of any items; those on others than `gold` are passed over.
        gold: hidden item -> verdict.
        pass_mark: the share that a rater is held to.
        recent: gold votes that the rule looks at; with fewer it says nothing.
    """
    found = {}
    for rater, mine in _by_rater(votes).items():
        hits = [vote.choice == gold[vote.item_id] for vote in mine if vote.item_id in gold]
        if not hits:
            continue
        sums = [sum(hits[: n + 1]) for n in range(len(hits))]
        last = hits[-recent:]
        found[rater] = Running(
            rater,
            [right / n for n, right in enumerate(sums, start=1)],
            [wilson(right, n) for n, right in enumerate(sums, start=1)],
            sum(last) / len(last),
            calibrate_again(hits, pass_mark=pass_mark, recent=recent),
        )
    return found


def calibrate_again(hits: Sequence[bool], *, pass_mark: float = PASS_MARK, recent: int = RECENT) -> bool:
    """The rule: the 95 % interval of the last `recent` hidden items (right or not) lies wholly below the pass mark."""
    last = hits[-recent:]
    return len(last) == recent and wilson(sum(last), recent).high < pass_mark


def agreement_windows(
    votes: Iterable[Rating], *, gold: Mapping[str, str] | None = None, size: int = 25, against: str = "both"
) -> dict[str, list[tuple[int, int]]]:
    """Rater -> (agreeing, judged) for each full window of `size` judged votes, in the order of time.

    Args:
        votes: one per rater and item; adjudicators' votes are passed over.
        gold: hidden item -> verdict.
        size: judged votes a window; what is left over at the end makes no window.
        against: "gold", "others" (at least two who agree), or "both".

    Raises:
        ValueError: an unknown `against`, or a size below 1.
    """
    if against not in ("gold", "others", "both") or size < 1:
        raise ValueError(f"expected against of gold, others, both and size >= 1, got {against!r} and {size}")
    all_votes = [vote for vote in votes if not vote.by_adjudicator]
    by_item: dict[str, dict[str, Rating]] = {}
    for vote in all_votes:
        if vote.choice != "skip":
            by_item.setdefault(vote.item_id, {})[vote.rater] = vote
    known = dict(gold or {}) if against != "others" else {}

    def judged(vote: Rating) -> str:
        if against == "gold":
            return known.get(vote.item_id, "")
        if against == "others" and vote.item_id in (gold or {}):
            return ""
        return verdict(by_item[vote.item_id], {vote.rater}, gold=known)

    return {rater: _windows(mine, judged, size) for rater, mine in _by_rater(all_votes).items()}


def control_chart(
    windows: Sequence[tuple[int, int]], *, baseline: int = 2, false_alarm: float = FALSE_ALARM
) -> list[Window]:
    """A p-chart: each window's share, and the limits that the first windows predict for the later ones.

    The classic limits p +- 3 sqrt(p (1 - p) / n) take p as known and the share as normal. With windows of 25 votes
    neither holds, so the limits here are those of the beta-binomial prediction from the baseline (Jeffreys' prior): a
    steady rater falls below in at most about `false_alarm` of the windows.

    Args:
        windows: (right, n) in the order of time.
        baseline: first windows that the limits are made of.
        false_alarm: chance of a signal on either side, in one window.

    Raises:
        ValueError: a baseline below 1.
    """
    if baseline < 1:
        raise ValueError(f"expected a baseline of 1 window or more, got {baseline}; the limits are made of it")
    right = sum(k for k, _ in windows[:baseline])
    wrong = sum(n for _, n in windows[:baseline]) - right
    chart = []
    for number, (k, n) in enumerate(windows, start=1):
        if number <= baseline:
            chart.append(Window(number, k, n, k / n, None, None, ""))
            continue
        foretold = stats.betabinom(n, right + 0.5, wrong + 0.5)
        low, high = int(foretold.ppf(false_alarm)), int(foretold.isf(false_alarm))
        signal = "low" if k < low else "high" if k > high else ""
        chart.append(Window(number, k, n, k / n, low / n, high / n, signal))
    return chart


def _by_rater(votes: Iterable[Rating]) -> dict[str, list[Rating]]:
    """Rater -> votes in the order of time; skips left out."""
    found: dict[str, list[Rating]] = {}
    for vote in sorted(votes, key=lambda vote: vote.created_at):
        if vote.choice != "skip":
            found.setdefault(vote.rater, []).append(vote)
    return dict(sorted(found.items()))


def _windows(mine: Sequence[Rating], judged: Callable[[Rating], str], size: int) -> list[tuple[int, int]]:
    hits = [vote.choice == right for vote in mine if (right := judged(vote))]
    return [(sum(hits[start : start + size]), size) for start in range(0, len(hits) - size + 1, size)]
