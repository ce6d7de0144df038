"""A rater's session with calibration: first a training round of explained gold items, later hidden gold among the rest.

No real item is open before the training round is passed. After that, one item of every 1 / `gold_rate` is a hidden gold
item, at a place drawn for each rater; nothing that the rater sees tells it from the others. When the rule of `raters`
says that accuracy on hidden gold has fallen, the training round starts again, in another order.

Where a rater stands is read from the votes in the store whenever an item is asked for, so a killed kernel or another
one goes on; what else a click asks (how far along, may the round begin again) is answered from that one reading. The
votes of a training round stand until the next one starts; then they are withdrawn and stay as the record of earlier
rounds.

Left out on purpose: new gold for another round (the same items come again, so a second round also measures memory; the
lead sees how many rounds it took), sides drawn by lot in a training round (the explanations speak of A and B, so A is
left), and undo there, where the explanation has been seen.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ftlib.raters import PASS_MARK, RECENT, calibrate, calibrate_again, gold_candidates
from ftlib.ratings import Choice, Mark, Progress, RatingSession, Shown, draw_bits
from ftlib.records import ADJUDICATOR, Candidate, GoldItem, Rating, data_path, load_jsonl
from ftlib.store import LEASE_SECONDS, RatingStore, open_store

GOLD_RATE = 0.1

State = Literal["training", "failed", "rating"]


@dataclass(frozen=True)
class Lesson:
    """What a rater is told after a vote of the training round: what they `said`, what is `known`, and why."""

    shown: Shown
    said: str
    known: str
    explanation: str

    @property
    def right(self) -> bool:
        """Whether the vote was the known verdict."""
        return self.said == self.known


@dataclass(frozen=True)
class Standing:
    """Where a rater stands: the state, the number of the training round, and `right` of its `n` votes.

    `needed` of `total` items must be right. `due`: accuracy on hidden gold says that another round must come first.
    """

    state: State
    number: int
    right: int
    n: int
    total: int
    needed: int
    due: bool = False


class CalibratedSession:
    """One rater's way through training round, real items and hidden gold; to the buttons it is a `RatingSession`.

    Args:
        store, rater, items, seed, simulated, overlap, lease_seconds: as for `RatingSession`.
        gold: training and hidden items; they are put on record, and never handed out as real ones.
        gold_rate: share of hidden gold among what is shown after the training round, 0 to 0.5; 0: none. Each hidden
            item comes once, so with all of them seen, none is left.
        pass_mark: share of the training items that must be right, and the share that hidden gold is held to.
        recent: hidden gold votes that the rule looks at (`raters.running_accuracy`).

    Raises:
        ValueError: no training item, a share out of its range, or an adjudicator's name; and as `RatingSession` does.
    """

    def __init__(
        self,
        store: RatingStore,
        rater: str,
        items: Sequence[Candidate] | None,
        seed: int,
        *,
        gold: Sequence[GoldItem],
        gold_rate: float = GOLD_RATE,
        pass_mark: float = PASS_MARK,
        recent: int = RECENT,
        simulated: bool = False,
        overlap: int | None = None,
        lease_seconds: float = LEASE_SECONDS,
    ):
        self._training = {item.id: item for item in gold if item.round == "training"}
        self._hidden = {item.id: item for item in gold if item.round == "hidden"}
        if not self._training:
            raise ValueError("expected gold items of round 'training', got none; load data/preferences/gold.jsonl")
        if not (0 <= gold_rate <= 0.5 and 0 < pass_mark <= 1 and recent >= 1):
            raise ValueError(
                f"expected a gold_rate from 0 to 0.5, a pass_mark above 0 and up to 1, and recent of 1 or more; got "
                f"{gold_rate}, {pass_mark} and {recent}"
            )
        if rater.startswith(ADJUDICATOR):
            raise ValueError(f"rater {rater!r}: an adjudicator is not trained on gold; use adjudication_session")
        self.store, self.rater, self.seed, self.simulated = store, rater, seed, simulated
        self.lesson: Lesson | None = None
        self._stands: Standing | None = None  # as last read; None after every vote, undo or new round
        self._pass_mark, self._recent = pass_mark, recent
        self._every = round(1 / gold_rate) if gold_rate and self._hidden else 0
        store.add_items(gold_candidates(gold), handed_out=False)
        self._work = RatingSession(
            store, rater, items, seed, simulated=simulated, overlap=overlap, lease_seconds=lease_seconds
        )
        self.draws = self._work.draws
        self._checks = None
        if self._every:
            hidden = gold_candidates(self._hidden.values())
            self._checks = RatingSession(store, rater, hidden, seed, simulated=simulated)
        real = self._work.progress().total
        self._total = real + self._checks_among(real)
        self._begin(self.standing().number)

    def _begin(self, number: int) -> None:
        items = gold_candidates(self._training.values())
        self._number = number
        self._round = RatingSession(
            self.store, self.rater, items, self.seed + number, simulated=self.simulated, left="A"
        )

    def standing(self) -> Standing:
        """Where the rater stands, as the store has it now."""
        self._stands = self._read_standing()
        return self._stands

    def _last_read(self) -> Standing:
        """`standing` without a look into the store, as long as this session has changed nothing since the last one."""
        return self._stands or self.standing()

    def _read_standing(self) -> Standing:
        votes = self.store.ratings(rater=self.rater, item_ids=self._training.keys() | self._hidden.keys())
        earlier = self.store.ratings(rater=self.rater, item_ids=self._training, withdrawn=True)
        number = 1 + max(Counter(vote.item_id for vote in earlier).values(), default=0)
        places = [place for place, vote in enumerate(votes) if vote.item_id in self._training]
        done = calibrate([votes[place] for place in places], list(self._training.values()), pass_mark=self._pass_mark)
        total = len(self._training)
        needed = math.ceil(self._pass_mark * total - 1e-9)
        if not done:
            return Standing("training", number, 0, 0, total, needed)
        found = done[self.rater]
        state = {"open": "training", "failed": "failed", "passed": "rating"}[found.state]
        since = [vote for vote in votes[places[-1] + 1 :] if vote.choice != "skip"]
        hits = [vote.choice == self._hidden[vote.item_id].gold for vote in since]
        due = state == "rating" and calibrate_again(hits, pass_mark=self._pass_mark, recent=self._recent)
        return Standing(state, number, found.right, found.n, total, needed, due)

    def current(self) -> Shown | None:
        """The item to rate now; None when nothing is open, or the training round was not passed (`nothing_open`)."""
        return self._item_at(self.standing())

    def _item_at(self, standing: Standing) -> Shown | None:
        if standing.due:
            standing = self.begin_again()
        if standing.state == "failed":
            return None
        if standing.state == "training":
            if standing.number != self._number:  # another kernel of this rater began it
                self._begin(standing.number)
            return self._round.current()
        work = self._work.progress()
        check = work.done < work.total and self._is_check(self._done())
        shown = (self._checks.current() if check else None) or self._work.current()
        if shown is None:
            return None
        # Numbers of the whole, so that a hidden item does not count among its own kind.
        return dataclasses.replace(shown, number=self._done() + 1, total=self._total)

    def submit(
        self,
        choice: Choice,
        *,
        helpfulness: Mark | None = None,
        harmlessness: Mark | None = None,
        task_fit: Mark | None = None,
        reason: str = "",
        item_id: str = "",
    ) -> Rating:
        """Store a vote, as `RatingSession.submit` does. In a training round, `lesson` then says what it is worth.

        Raises:
            ValueError: as there; a skip in a training round; a real item while a training round is open.
        """
        standing = self._last_read()
        shown = self._item_at(standing) if not item_id or item_id in self._training else None
        item_id = item_id or (shown.item.id if shown else "")
        if not item_id:
            raise ValueError(self.nothing_open())
        in_round = item_id in self._training
        if not (shown and shown.item.id == item_id if in_round else standing.state == "rating"):
            raise ValueError(
                f"item {item_id!r} is not open: the training round comes first, one item after the other, each once"
            )
        if in_round and choice == "skip":
            raise ValueError("an item of the training round cannot be skipped; its explanation comes after the vote")
        target = self._round if in_round else self._checks if item_id in self._hidden else self._work
        marks = {"helpfulness": helpfulness, "harmlessness": harmlessness, "task_fit": task_fit}
        self._stands = None  # before the vote: after an error nobody knows whether it was committed
        vote = target.submit(choice, **marks, reason=reason, item_id=item_id)
        gold = self._training.get(item_id)
        self.lesson = Lesson(shown, vote.choice, gold.gold, gold.explanation) if gold else None
        return vote

    def begin_again(self) -> Standing:
        """Start the training round anew: the votes of the last one are withdrawn, and stay on record."""
        self._stands = None
        self.store.withdraw(self.rater, self._training)
        self.lesson = None
        standing = self.standing()
        self._begin(standing.number)
        return standing

    @property
    def may_begin_again(self) -> bool:
        """Whether a failed round waits to be started anew."""
        return self._last_read().state == "failed"

    def undo(self) -> Rating | None:
        """Withdraw the newest vote and open that item again, back to the last training round; None if there is none."""
        if self._last_read().state != "rating":
            return None
        checked, trained = self._hidden.keys(), self._training.keys()
        newest = self.store.newest_item(
            self.rater, lambda item_id: item_id in checked or item_id in trained or self._work.has(item_id)
        )
        if newest in trained:
            return None
        self._stands = None
        return self._checks.undo() if newest in checked else self._work.undo()

    def progress(self) -> Progress:
        """How far along: in a training round of its items, later of all, hidden ones included."""
        standing = self._last_read()
        if standing.state != "rating":
            return Progress(standing.n, standing.total, f"of training round {standing.number}")
        return Progress(self._done(), self._total)

    def nothing_open(self) -> str:
        """Why `current` is None, in words for the rater."""
        standing = self._last_read()
        if standing.state == "failed":
            return (
                f"{standing.right} of {standing.total} were right, and {standing.needed} are needed to go on. Read "
                "what was missed once more, then start the round again"
            )
        return self._work.nothing_open()

    def missed(self) -> list[tuple[str, str, str, str]]:
        """Of the training round: (prompt, what was said, the verdict, why) for each item that was missed."""
        votes = self.store.ratings(rater=self.rater, item_ids=self._training)
        found = calibrate(votes, list(self._training.values()), pass_mark=self._pass_mark)
        missed = found[self.rater].missed if found else []
        return [(self._training[item_id].prompt, *rest) for item_id, *rest in missed]

    def _done(self) -> int:
        """Votes after training rounds: real items and hidden ones."""
        return self._work.progress().done + (self._checks.progress().done if self._checks else 0)

    def _is_check(self, place: int) -> bool:
        """Whether a hidden item comes at this place: one in each block of `_every`, where is drawn."""
        if not self._every:
            return False
        block, within = divmod(place, self._every)
        return draw_bits(self.seed, self.rater, "gold", block) % self._every == within

    def _checks_among(self, real: int) -> int:
        """How many hidden items come until so many real ones are rated."""
        checks = place = 0
        while place - checks < real:
            checks += checks < len(self._hidden) and self._is_check(place)
            place += 1
        return checks


def join_team(
    database_url: str, rater: str, *, overlap: int, gold_rate: float = GOLD_RATE, seed: int = 17
) -> CalibratedSession:
    """Rate with others: a session that draws from a store that has items already. It needs no run and no model.

    The gold items are those of `data/preferences/gold.jsonl`.

    Args:
        database_url, rater, overlap, gold_rate: the team's address and numbers; a name for each rater.
        seed: of the order and the sides.

    Raises:
        ValueError: the store has no items; and as `open_store` and `CalibratedSession` do.
    """
    store = open_store(database_url)
    if not store.item_count():
        address = store.address
        store.close()
        raise ValueError(
            f"{address}: expected items to rate, found none; run the rating cell of notebook 03 on it first"
        )
    gold = load_jsonl(data_path("preferences/gold.jsonl"), GoldItem)
    return CalibratedSession(store, rater, None, seed, gold=gold, gold_rate=gold_rate, overlap=overlap)
