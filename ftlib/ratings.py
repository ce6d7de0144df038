"""A rater's session over the store, and raters who are not people: recorded votes and simulated ones.

A vote names the *answer* ("A" or "B" of the candidate), not the side it was shown on: which one is left is drawn from
the seed for each rater and item. Buttons, recorded votes and simulated raters all go through `RatingSession.submit`,
which returns when the vote is committed, and only then does the next item show. A session has a list of items (split
them beforehand with `assign_items`), or draws from the store, one leased item after the other, as a team does.

Left out on purpose: calibration on gold items (`calibration` puts it around a session), and rater quality.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np

from ftlib.files import utc_now
from ftlib.records import ADJUDICATOR, Candidate, Rating
from ftlib.schema import CHOICES
from ftlib.store import LEASE_SECONDS, RatingStore, SlotTaken, open_store

Choice = Literal["A", "B", "tie", "both_bad", "skip"]
Side = Literal["left", "right"]
Mark = Literal[-1, 0, 1]


@dataclass(frozen=True)
class Shown:
    """An item as one rater sees it: which answer is left, and how far along it comes (`number` of `total`)."""

    item: Candidate
    left: Literal["A", "B"]
    number: int
    total: int

    def text(self, side: Side) -> str:
        """The answer shown on that side."""
        return self.item.answer_a if self.choice(side) == "A" else self.item.answer_b

    def choice(self, side: Side) -> Literal["A", "B"]:
        """The answer's own name ("A" or "B"), which is what a vote records."""
        return self.left if side == "left" else {"A": "B", "B": "A"}[self.left]

    def mark(self, side: Side | Literal["same"] | None) -> Mark | None:
        """A rubric mark: 1 where answer A is better, -1 where B is, 0 the same, None not rated."""
        if side is None or side == "same":
            return None if side is None else 0
        return 1 if self.choice(side) == "A" else -1


@dataclass(frozen=True)
class Vote:
    """What a rater says to one item; the session adds the rest. Fields as in `Rating`."""

    choice: Choice
    helpfulness: Mark | None = None
    harmlessness: Mark | None = None
    task_fit: Mark | None = None
    reason: str = ""


@dataclass(frozen=True)
class Progress:
    """Items rated, of all in the session; of all that the store hands out where the session draws from it.

    `what` says what is counted.
    """

    done: int
    total: int
    what: str = "rated"


Rater = Callable[[Shown], Vote]


class RatingSession:
    """One rater's way through items, over a store; it goes on where an earlier session stopped.

    Args:
        store: where votes are kept.
        rater: the rater's name; one name, one vote an item.
        items: what to rate; the order, and which answer is left, are drawn from seed, rater and item. None: the session
            draws from the store, and holds one item at a time, so that a team shares the work (`RatingStore.claim`).
        seed: the same seed shows the same order and sides again.
        simulated: mark this session's votes as simulated.
        overlap: without items: votes wanted for an item, from whoever comes.
        lease_seconds: without items: how long an item is held for its rater.
        left: show this answer left on every item, for texts that speak of A and B; None: drawn for each item.
        in_order: show the items as they are given, not in a drawn order.

    Attributes:
        lesson, may_begin_again: for sessions with a training round (`calibration`); this one has none.

    Raises:
        ValueError: no items, an id twice, a blank name, an item known to the store with other texts; without items: no
            overlap, a time that is not positive, or an adjudicator's name.
    """

    lesson = None
    may_begin_again = False

    def __init__(
        self,
        store: RatingStore,
        rater: str,
        items: Sequence[Candidate] | None,
        seed: int,
        *,
        simulated: bool = False,
        overlap: int | None = None,
        lease_seconds: float = LEASE_SECONDS,
        left: Literal["A", "B"] | None = None,
        in_order: bool = False,
    ):
        if not rater.strip():
            raise ValueError("expected a rater's name, got a blank one; votes are kept under it")
        self.store, self.rater, self.seed, self.simulated = store, rater, seed, simulated
        self.draws = items is None
        if self.draws and rater.startswith(ADJUDICATOR):
            raise ValueError(
                f"rater {rater!r}: an adjudicator settles a list of items and takes no rater's place; give the items, "
                f"as adjudication_session does, or leave {ADJUDICATOR!r} out of a rater's name"
            )
        self._overlap, self._lease_seconds, self._left = overlap, lease_seconds, left
        if items is None:
            if overlap is None or overlap < 1 or not lease_seconds > 0:
                raise ValueError(
                    f"without items, expected an overlap (votes wanted for an item) of 1 or more and a positive "
                    f"lease_seconds; got {overlap} and {lease_seconds}"
                )
            self._items: dict[str, Candidate] = {}  # what the store has handed out to this session
            self._total = store.item_count()
            self._done = store.rated_by(rater, handed_out=True)
        else:
            _check_items(items)
            store.add_items(items)
            order = lambda item: draw_bits(seed, rater, "order", item.id)
            ordered = items if in_order else sorted(items, key=order)
            self._items = {item.id: item for item in ordered}
            self._total = len(items)
            self._done = store.rated_by(rater) & self._items.keys()
        self._timed: tuple[str, float] = ("", 0.0)  # the item on show, and since when

    def current(self) -> Shown | None:
        """The item to rate now; None when nothing is left. The clock of an item starts when it is first asked for.

        A session that draws from the store may get an item later, when another rater's lease runs out: ask again.
        """
        item_id = next((item_id for item_id in self._items if item_id not in self._done), None)
        if item_id is None and self.draws:
            item_id = self._claim()
        if item_id is None:
            return None
        if self._timed[0] != item_id:
            self._timed = (item_id, time.monotonic())
        return self._shown(item_id)

    def _claim(self) -> str | None:
        item = self.store.claim(self.rater, overlap=self._overlap, lease_seconds=self._lease_seconds)
        if item is None:
            return None
        self._items[item.id] = item
        self._done.discard(item.id)  # withdrawn elsewhere
        return item.id

    def submit(
        self,
        choice: Choice,
        *,
        helpfulness: Mark | None = None,
        harmlessness: Mark | None = None,
        task_fit: Mark | None = None,
        reason: str = "",
        item_id: str = "",
        recorded: Rating | None = None,
    ) -> Rating:
        """Store a vote; it is committed when this returns.

        Args:
            choice: the better answer by its own name (`Shown.choice` translates a side), "tie", "both_bad" or "skip".
            helpfulness, harmlessness, task_fit: 1 where A is better, -1 where B is, 0 the same, None not rated.
            reason: a comment.
            item_id: the item meant; empty for the current one.
            recorded: the vote is one given before: its seconds, side, time and `simulated` are kept.

        Raises:
            SlotTaken: the item's lease has run out and others have its places; `current` is the next item then.
            ValueError: nothing is left to rate, the item is not in this session, a value is unknown, or a skip comes
                without a reason (who skips what is hard makes the rest look easy; the reasons tell).
        """
        if not item_id:
            shown = self.current()
            if shown is None:
                raise ValueError(self._nothing_left())
            item_id = shown.item.id
        if item_id not in self._items:
            raise ValueError(f"item {item_id!r} is not among the {len(self._items)} items of {self.rater}'s session")
        if choice not in CHOICES:
            raise ValueError(f"choice is {choice!r}; expected one of {', '.join(CHOICES)}")
        if choice == "skip" and recorded is None and not reason.strip():
            raise ValueError("expected a reason for the skip, got none; pick one or write a comment")
        started = self._timed[1] if self._timed[0] == item_id else time.monotonic()
        vote = Rating(
            item_id=item_id,
            rater=self.rater,
            choice=choice,
            helpfulness=helpfulness,
            harmlessness=harmlessness,
            task_fit=task_fit,
            reason=reason,
            seconds=recorded.seconds if recorded else round(time.monotonic() - started, 3),
            left=recorded.left if recorded else self._shown(item_id).left,
            simulated=recorded.simulated if recorded else self.simulated,
            created_at=recorded.created_at if recorded else utc_now(),
        )
        try:
            self.store.submit(vote, overlap=self._overlap if self.draws else None)
        except SlotTaken:
            del self._items[item_id]
            raise
        self._done.add(item_id)
        return vote

    def _nothing_left(self) -> str:
        if self.draws:
            return (
                f"no item is open to {self.rater} now: each has its {self._overlap} votes, or is held by other raters"
            )
        return f"{self.rater} has rated all {self._total} items; undo, or give an item_id"

    def undo(self) -> Rating | None:
        """Withdraw this rater's newest vote and open that item again; None if there is none.

        The vote is one on this session's items; where the session draws from the store, any vote of this rater: then
        the item is held for them again, in place of the one on show.
        """
        if self.draws:
            vote = self.store.withdraw_latest(self.rater, lease_seconds=self._lease_seconds)
        else:
            vote = self.store.withdraw_latest(self.rater, self._items)
        if vote is not None:
            if self.draws:
                self._items = {item_id: item for item_id, item in self._items.items() if item_id in self._done}
                self._items.setdefault(vote.item_id, self.store.item(vote.item_id))
            self._done.discard(vote.item_id)
            self._items = {vote.item_id: self._items.pop(vote.item_id)} | self._items
            self._timed = ("", 0.0)
        return vote

    def progress(self) -> Progress:
        """How far along the rater is."""
        return Progress(len(self._done), self._total)

    def has(self, item_id: str) -> bool:
        """Whether a vote on this item is one of this session's."""
        return item_id in self._items or item_id in self._done

    def nothing_open(self) -> str:
        """Why `current` is None, in words for the rater."""
        if self.draws:
            return "Nothing is open to you now: each item has its votes, or is held by another rater"
        return f"All {self._total} items are rated"

    def _shown(self, item_id: str) -> Shown:
        left = self._left or left_answer(self.seed, self.rater, item_id)
        return Shown(self._items[item_id], left, min(len(self._done) + 1, self._total), self._total)


def _check_items(items: Sequence[Candidate]) -> None:
    twice = [item_id for item_id, count in Counter(item.id for item in items).items() if count > 1]
    if not items or twice:
        raise ValueError(
            f"expected items with ids of their own, got {f'{twice[0]!r} twice' if twice else 'no items'}; "
            "sample or load candidates first"
        )


def adjudication_session(
    store: RatingStore, name: str, items: Sequence[Candidate], seed: int, *, simulated: bool = False
) -> RatingSession:
    """A session in which a person has the last word on items that raters disputed; the same buttons drive it.

    The votes go to the store under "adjudicator:" and the name. `pairs.build_pairs` lets them decide.

    Args:
        name: the person's name; their votes as a rater are others, and stay.
        items: in the order in which they are to be settled (`truth.adjudication_queue`).
        seed: of the sides.
        simulated: a program settles.

    Raises:
        ValueError: as `RatingSession` does.
    """
    if not name.strip():
        raise ValueError("expected the adjudicator's name, got a blank one; verdicts are kept under it")
    return RatingSession(store, f"{ADJUDICATOR}{name}", items, seed, simulated=simulated, in_order=True)


def left_answer(seed: int, rater: str, item_id: str) -> Literal["A", "B"]:
    """Which answer this rater sees on the left: a coin that falls the same way each time it is asked."""
    return "A" if draw_bits(seed, rater, "side", item_id) % 2 == 0 else "B"


def assign_items(
    items: Sequence[Candidate], raters: Sequence[str], *, overlap: int, seed: int
) -> dict[str, list[Candidate]]:
    """Give each item to exactly `overlap` raters, loads equal to within one item.

    Raises:
        ValueError: more ratings an item are wanted than there are raters, or a name is there twice.
    """
    if not 1 <= overlap <= len(raters) or len(set(raters)) < len(raters):
        raise ValueError(
            f"expected an overlap from 1 to the number of raters, each named once; got overlap {overlap} and raters "
            f"{list(raters)}"
        )
    rng = np.random.default_rng([seed, len(items), overlap])
    assigned: dict[str, list[Candidate]] = {rater: [] for rater in raters}
    for place in rng.permutation(len(items)):
        free = sorted(raters, key=lambda rater: (len(assigned[rater]), rng.random()))
        for rater in free[:overlap]:
            assigned[rater].append(items[place])
    return assigned


def replay(session: RatingSession, votes: Sequence[Rating] | Rater) -> int:
    """Feed votes to a session through the `submit` that the buttons call.

    Args:
        votes: recorded votes (those of this session's rater are used, on items of the session), or a rater such as
            `simulated_rater` makes, who is asked until nothing is left.

    Returns:
        How many votes were given.

    Raises:
        ValueError: recorded votes for a session that draws from the store. They name their items: give it those.
    """
    given = 0
    if callable(votes):
        while (shown := session.current()) is not None:
            vote = votes(shown)
            session.submit(**vars(vote), item_id=shown.item.id)
            given += 1
        return given
    if not isinstance(session, RatingSession) or session.draws:
        raise ValueError(
            "recorded votes name their items, and this session chooses them itself; replay into a RatingSession with "
            "items=[…]"
        )
    known = session._items.keys()
    for recorded in votes:
        if recorded.rater == session.rater and recorded.item_id in known:
            fields = {name: getattr(recorded, name) for name in Vote.__dataclass_fields__}
            session.submit(**fields, item_id=recorded.item_id, recorded=recorded)
            given += 1
    return given


def replay_apart(
    items: Sequence[Candidate],
    given: Mapping[str, Sequence[Rating] | Rater],
    *,
    seed: int,
    simulated: bool = False,
) -> tuple[int, list[Rating]]:
    """Votes through the sessions of several raters, into a store of their own that is thrown away.

    Args:
        given: rater's name -> what `replay` takes.
        seed, simulated: of the sessions.

    Returns:
        (how many votes were given, those that stand).
    """
    with TemporaryDirectory() as folder:
        store = open_store(Path(folder) / "votes.db")
        try:
            count = sum(
                replay(RatingSession(store, rater, items, seed, simulated=simulated), votes)
                for rater, votes in given.items()
            )
            return count, store.ratings(item_ids=[item.id for item in items])
        finally:
            store.close()


def voted_anew(earlier: Iterable[Rating], now: Sequence[Rating]) -> list[Rating]:
    """Votes of two stores as one list: a rater who voted on an item again has taken the earlier vote back."""
    again = {(vote.item_id, vote.rater) for vote in now}
    return [*now, *(vote for vote in earlier if (vote.item_id, vote.rater) not in again)]


def simulated_rater(
    judge: Callable[[Candidate], float | None], *, seed: int, noise: float = 0.2, left_bias: float = 0.05
) -> Rater:
    """A rater for `replay` who follows a judge, with slips and a liking for the left side.

    Its slips depend on the seed and the item alone, so a replay that was interrupted goes on as it would have. It marks
    no rubric: it has an overall verdict only.

    Args:
        judge: item -> 1 (A is better), 0 (B is), anything between (a tie), or None (both are bad).
        seed: give each simulated rater its own.
        noise: share of items on which it picks one of A, B, tie at random. Two raters with 0.2 agree on about three
            items in four, as careful people do.
        left_bias: share of items on which it takes the left answer without reading.

    Raises:
        ValueError: a share is not within 0..1.
    """
    if not (0 <= noise <= 1 and 0 <= left_bias <= 1):
        raise ValueError(f"expected noise and left_bias within 0..1, got {noise} and {left_bias}")

    def rate(shown: Shown) -> Vote:
        rng = np.random.default_rng(draw_bits(seed, "slips", shown.item.id))
        careless, slips = rng.random() < left_bias, rng.random() < noise
        if careless:
            return Vote(shown.left)
        if slips:
            return Vote(("A", "B", "tie")[rng.integers(3)])
        score = judge(shown.item)
        if score is None:
            return Vote("both_bad")
        return Vote({1.0: "A", 0.0: "B"}.get(float(score), "tie"))

    return rate


def candidate_id(prompt_id: str, answer_a: str, answer_b: str) -> str:
    """An id that changes with the texts, so that a vote never ends up on an answer its rater has not seen."""
    return f"{prompt_id}-{draw_bits(answer_a, answer_b) >> 24:010x}"


def draw_bits(*parts: object) -> int:
    """64 random bits that hang on the parts alone: the same on every machine and in every process."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
