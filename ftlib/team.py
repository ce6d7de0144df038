"""What the lead of a rating team watches: how far it is, how far raters agree, who drifts, and how each does on gold.

Hidden gold works as long as nobody knows which items it is. So its numbers come in steps of `STEP` votes: a rater who
looks on here after each vote does not learn which item was a check.

Left out on purpose: what to do about a rater (talk), the flags of `rater_flags` (they are for the end, where all tests
are corrected together), items (nothing here names one), and adjudicators, whose votes are no rater's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from ftlib.agreement import Agreement, agreement, basis
from ftlib.files import utc_now
from ftlib.gates import Interval, wilson
from ftlib.raters import PASS_MARK, RECENT, agreement_windows, calibrate, control_chart
from ftlib.records import GoldItem, Rating
from ftlib.store import RatingStore

STEP = 5  # gold votes that are reported together
WINDOW = 25  # judged votes in one window of the control chart
RESAMPLES = 200  # of alpha's interval; the final figures take more


@dataclass(frozen=True)
class RaterRow:
    """One rater's row.

    Attributes:
        pairs: real items rated; skips are in `skipped`.
        seconds: median time of a vote on them.
        agreed: (agreeing, judged): votes on items where at least two others agree.
        training: "passed 14 of 16", "failed …", "open …", "none"; rounds before this one are named.
        gold: (right, n) on hidden items, in steps of `STEP`, of the last `RECENT`; None before the first step.
        interval: 95 %, of that share.
        below: that interval lies wholly below the pass mark.
        drift: the last window's signal, "low", "high", or "steady"; "" with fewer than three windows.
        last: when the newest vote came.
    """

    rater: str
    pairs: int
    skipped: int
    seconds: float | None
    agreed: tuple[int, int]
    training: str
    gold: tuple[int, int] | None
    interval: Interval | None
    below: bool
    drift: str
    last: str


@dataclass(frozen=True)
class TeamView:
    """The team at one moment (`at`): `complete` of `items` have `overlap` votes or more; `basis`: whose they are."""

    at: str
    items: int
    complete: int
    overlap: int
    votes: int
    basis: str
    agreement: Agreement
    raters: list[RaterRow]


def team_view(
    store: RatingStore,
    *,
    overlap: int,
    gold: Sequence[GoldItem] = (),
    pass_mark: float = PASS_MARK,
    recent: int = RECENT,
    seed: int = 0,
) -> TeamView:
    """Read the store once and sum up.

    Args:
        overlap: votes wanted for an item.
        gold: training and hidden items, as the raters' sessions have them.
        pass_mark, recent: as the raters' sessions have them.
        seed: of the resampling behind alpha's interval.
    """
    votes, withdrawn = (
        [vote for vote in store.ratings(withdrawn=gone) if not vote.by_adjudicator] for gone in (False, True)
    )
    training = [item for item in gold if item.round == "training"]
    hidden = {item.id: item.gold for item in gold if item.round == "hidden"}
    known = {item.id for item in gold}
    real = [vote for vote in votes if vote.item_id not in known]
    others = {"training": training, "hidden": hidden, "pass_mark": pass_mark, "recent": recent}
    counts = store.overlap_counts()
    return TeamView(
        at=utc_now(),
        items=sum(counts.values()),
        complete=sum(items for standing, items in counts.items() if standing >= overlap),
        overlap=overlap,
        votes=len(real),
        basis=basis(real),
        agreement=agreement(real, seed=seed, resamples=RESAMPLES),
        raters=_rows(votes, real, withdrawn, **others),
    )


def drift(votes: Iterable[Rating], *, gold: Mapping[str, str] | None = None) -> dict[str, str]:
    """Rater -> the control chart's word on the last window: low, high or steady; "" with fewer than three windows.

    Args:
        votes: one per rater and item.
        gold: hidden item -> verdict; judged beside the items on which at least two others agree.
    """
    charts = {rater: control_chart(found) for rater, found in agreement_windows(votes, gold=gold, size=WINDOW).items()}
    return {rater: (chart[-1].signal or "steady") if len(chart) > 2 else "" for rater, chart in charts.items()}


def _rows(
    votes: Sequence[Rating],
    real: Sequence[Rating],
    withdrawn: Iterable[Rating],
    *,
    training: Sequence[GoldItem],
    hidden: dict[str, str],
    pass_mark: float,
    recent: int,
) -> list[RaterRow]:
    rounds = calibrate(votes, training, pass_mark=pass_mark) if training else {}
    earlier = _earlier_rounds(withdrawn, {item.id for item in training})
    singles = agreement_windows(real, size=1)
    checks = [vote for vote in votes if vote.item_id in hidden]
    drifts = drift([*real, *checks], gold=hidden)
    rows = []
    for rater in sorted({vote.rater for vote in votes} | set(earlier)):
        pairs = [vote for vote in real if vote.rater == rater]
        checked = [vote for vote in checks if vote.rater == rater and vote.choice != "skip"]
        gold = _in_steps([vote.choice == hidden[vote.item_id] for vote in checked], recent)
        interval = wilson(*gold) if gold else None
        found, before = rounds.get(rater), earlier.get(rater, 0)
        state = f"{found.state} {found.right} of {len(training)}" if found else f"open 0 of {len(training)}"
        rows.append(
            RaterRow(
                rater=rater,
                pairs=sum(vote.choice != "skip" for vote in pairs),
                skipped=sum(vote.choice == "skip" for vote in pairs),
                seconds=median(vote.seconds for vote in pairs) if pairs else None,
                agreed=(sum(k for k, _ in singles.get(rater, [])), len(singles.get(rater, []))),
                training=(state + (f", round {before + 1}" if before else "")) if found or before else "none",
                gold=gold,
                interval=interval,
                below=gold is not None and gold[1] >= recent and interval.high < pass_mark,
                drift=drifts.get(rater, ""),
                last=max((vote.created_at for vote in votes if vote.rater == rater), default=""),
            )
        )
    return rows


def _in_steps(hits: Sequence[bool], recent: int) -> tuple[int, int] | None:
    """(right, n) of the last `recent`, as they were at the last full step."""
    seen = hits[: len(hits) - len(hits) % STEP][-recent:]
    return (sum(seen), len(seen)) if seen else None


def _earlier_rounds(withdrawn: Iterable[Rating], training: set[str]) -> dict[str, int]:
    """Rater -> training rounds that were started anew."""
    times: dict[tuple[str, str], int] = {}
    for vote in withdrawn:
        if vote.item_id in training:
            times[vote.rater, vote.item_id] = times.get((vote.rater, vote.item_id), 0) + 1
    found: dict[str, int] = {}
    for (rater, _), count in times.items():
        found[rater] = max(found.get(rater, 0), count)
    return found
