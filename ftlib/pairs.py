"""From votes to preference pairs: majority, no ties, no contradictions or repeats, a split by cluster; where all went.

An item's votes are counted together: a strict majority of those who did not skip decides, anything else drops the
item. Where people voted, simulated votes on the same item are set aside; where an adjudicator has settled an item, that
verdict stands in place of the raters' votes. Every step is a row of the waterfall, every pair names the votes that
decided it, and every dropped item has its reason.

Contradictions and limits are in `pair_rules`. Left out on purpose: limits by default (the shares are computed, a gate
decides), weighing of raters, and pairs from rubric marks. The overall choice is what a preference is made of.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ftlib.agreement import basis, people_first, strict_majority
from ftlib.pair_rules import OVER_CAP, UNBALANCED, Backing, contradicted, over_limits, same_text
from ftlib.quality import THRESHOLD, keep_first
from ftlib.records import Candidate, PreferencePair, Rating, load_jsonl

# Sources of answers that no model of a run was sampled for. The playbook's own were written for it, with a language
# model too (data/README.md): "authored" says how an answer came here, not that a person wrote it.
AUTHORED, OVER_REFUSAL = "authored", "over-refusal, authored"
ADJUDICATED = "settled by adjudication"  # a row of the waterfall, where nothing is dropped
BLOCK = 16  # batches whose rows are sorted by length together

# Why an item gives no pair, in the order of the waterfall; the texts are the figure's labels.
NO_VOTES, SKIPPED, BOTH_BAD, TIE, SPLIT = "no votes", "skipped", "both bad", "tie", "no majority"
NOT_A_PAIR, CONTRADICTED = "empty or equal answers", "contradicted"
DUPLICATE, NEAR_DUPLICATE = "duplicate", "near-duplicate"
REASONS = (
    NO_VOTES, SKIPPED, BOTH_BAD, TIE, SPLIT, NOT_A_PAIR, CONTRADICTED, DUPLICATE, NEAR_DUPLICATE, OVER_CAP, UNBALANCED,
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A row of the waterfall: `dropped` items went here, `left` remain."""

    name: str
    dropped: int
    left: int


@dataclass(frozen=True)
class PairSet:
    """Pairs, and how they came about.

    Attributes:
        pairs: in the order of their candidates.
        waterfall: "candidates" first, then one step for each reason in `REASONS`; the last `left` is len(pairs). Where
            items were adjudicated, "settled by adjudication: n" comes second, and drops none.
        dropped: candidate id -> reason.
        synthetic_share: share of pairs whose chosen answer was sampled from a model; None without pairs.
        near_duplicates: share of the distinct pairs that were dropped as near twins; None without pairs.
        adjudicated: items that an adjudicator's verdict decided, whether it made a pair or dropped the item.
    """

    pairs: list[PreferencePair]
    waterfall: list[Step]
    dropped: dict[str, str]
    synthetic_share: float | None
    near_duplicates: float | None
    adjudicated: int = 0


def is_authored(source: str) -> bool:
    """Is an answer of this source authored, not sampled from a model? Any source that does not say so is a model.

    Example:
        >>> is_authored("authored"), is_authored("over-refusal, authored for another prompt"), is_authored("sft at 0.0")
        (True, True, False)
    """
    return source == AUTHORED or source.startswith(OVER_REFUSAL)


def majority(votes: Sequence[Rating]) -> str:
    """The verdict on one item: "A", "B", or the reason why there is none.

    Example:
        A, A, tie -> "A". A, tie -> "no majority". A, B, tie, tie, tie -> "tie". A, A, an adjudicator's B -> "B".
    """
    if not votes:
        return NO_VOTES
    choices = [vote.choice for vote in deciding(votes) if vote.choice != "skip"]
    if not choices:
        return SKIPPED
    choice = strict_majority(choices)
    return {"": SPLIT, "tie": TIE, "both_bad": BOTH_BAD}.get(choice, choice)


def deciding(votes: Sequence[Rating]) -> Sequence[Rating]:
    """Of the votes on one item those that decide it: an adjudicator's where there is one, else all.

    An adjudicator who skips settles nothing. Several adjudicators are counted as raters are: by a strict majority.
    """
    return [vote for vote in votes if vote.by_adjudicator and vote.choice != "skip"] or votes


def decided(candidates: Sequence[Candidate], ratings: Iterable[Rating]) -> int:
    """How many rated items have a winner (`majority`): the most pairs that these votes can make.

    Raises:
        ValueError: an id twice, a vote on an unknown item, or a rater who voted twice on one.
    """
    return sum(majority(votes) in ("A", "B") for votes in _votes_by_item(candidates, ratings).values())


def decided_in(folder: str | Path) -> int:
    """`decided` for the `candidates.jsonl` and `votes.jsonl` of a folder.

    Raises:
        FileNotFoundError: one of the files is not there.
        ValueError: a row at fault; see `decided` too.
    """
    folder = Path(folder)
    return decided(load_jsonl(folder / "candidates.jsonl", Candidate), load_jsonl(folder / "votes.jsonl", Rating))


def build_pairs(
    candidates: Sequence[Candidate],
    ratings: Iterable[Rating],
    *,
    seed: int,
    validation_share: float = 0.1,
    threshold: float = THRESHOLD,
    synthetic_cap: float | None = None,
    balance: float | None = None,
) -> PairSet:
    """Turn rated candidates into preference pairs.

    Args:
        candidates: the items that were rated.
        ratings: their votes; votes on other items are an error.
        seed: of the split.
        validation_share: about this share of the pairs of each kind is set aside, by whole clusters.
        threshold: Jaccard similarity of prompt, chosen and rejected together from which a pair is a near-duplicate.
        synthetic_cap: at most this share of the pairs may be synthetic, their chosen answer sampled from a model
            (`is_authored`); None: no limit.
        balance: safe pairs are at most so many times the adversarial ones, and the other way round; None: no limit.

    Raises:
        ValueError: an id twice, a vote on an unknown item, a rater who voted twice on one, or a limit that is none.
    """
    votes_of = _votes_by_item(candidates, ratings)
    dropped: dict[str, str] = {}
    drafts: list[PreferencePair] = []
    backing: dict[str, Backing] = {}
    adjudicated = 0
    for candidate in candidates:
        votes = deciding(votes_of.get(candidate.id, []))
        adjudicated += bool(votes) and votes[0].by_adjudicator and votes[0].choice != "skip"
        verdict = majority(votes)
        if verdict not in ("A", "B"):
            dropped[candidate.id] = verdict
            continue
        chosen, rejected = (candidate.answer_a, candidate.answer_b)[:: 1 if verdict == "A" else -1]
        sources = (candidate.source_a, candidate.source_b)[:: 1 if verdict == "A" else -1]
        if not chosen.strip() or not rejected.strip() or same_text(chosen) == same_text(rejected):
            dropped[candidate.id] = NOT_A_PAIR
            continue
        backing[candidate.id] = _backing(votes, verdict)
        drafts.append(
            PreferencePair(
                id=candidate.id,
                prompt=candidate.prompt,
                chosen=chosen,
                rejected=rejected,
                kind=candidate.kind,
                cluster=candidate.cluster,
                chosen_source=sources[0],
                rejected_source=sources[1],
                votes=[vote_id(vote) for vote in votes],
                basis=basis(votes),
                synthetic=not is_authored(sources[0]),
                split="train",
            )
        )
    dropped |= dict.fromkeys(contradicted(drafts, backing), CONTRADICTED)
    pairs, share = _drop_repeats([pair for pair in drafts if pair.id not in dropped], dropped, threshold)
    dropped |= over_limits(pairs, backing, synthetic_cap=synthetic_cap, balance=balance, seed=seed)
    pairs = _split([pair for pair in pairs if pair.id not in dropped], validation_share, seed)
    return PairSet(
        pairs,
        _waterfall(len(candidates), dropped, adjudicated),
        dropped,
        float(np.mean([pair.synthetic for pair in pairs])) if pairs else None,
        share,
        adjudicated,
    )


def balanced_order(groups: Sequence[str], lengths: Sequence[int], *, batch: int, epochs: float, seed: int) -> list[int]:
    """The order in which to train on rows, so that every batch holds as many of one group as of another.

    Where the groups pull in opposite ways (refuse, answer), a batch with more of one moves the model that way on every
    prompt, and the next one moves it back. In a balanced batch the common pull cancels, and what is left is the
    difference between the prompts. Batches hold rows of like length; their order is drawn.

    Args:
        groups: of each row; their number may not exceed `batch`.
        lengths: of each row, in any unit.
        batch: rows an optimiser step.
        epochs: rows are drawn `epochs` times on average; a small group comes round more often than a large one.
        seed: of all draws.

    Returns:
        Row numbers, a multiple of `batch` of them: for a sequential sampler, and one epoch over them.

    Raises:
        ValueError: more groups than a batch has rows, or no rows.
    """
    names = sorted(set(groups))
    if not 0 < len(names) <= batch:
        raise ValueError(f"balanced_order: expected 1 to batch={batch} groups, got {len(names)}; take a larger batch")
    rng = np.random.default_rng(seed)
    batches = math.ceil(epochs * len(groups) / batch)
    seats = {name: batch // len(names) + (place < batch % len(names)) for place, name in enumerate(names)}
    queues = {}
    for name in names:
        rows = np.flatnonzero([group == name for group in groups])
        rounds = math.ceil(batches * seats[name] / len(rows))
        queues[name] = np.concatenate([rng.permutation(rows) for _ in range(rounds)])
    order: list[int] = []
    for start in range(0, batches, BLOCK):
        count = min(BLOCK, batches - start)
        block = [[] for _ in range(count)]
        for name in names:
            part = queues[name][start * seats[name] : (start + count) * seats[name]]
            part = sorted(part.tolist(), key=lambda row: lengths[row])
            for number, one in enumerate(block):
                one += part[number * seats[name] : (number + 1) * seats[name]]
        order += [row for number in rng.permutation(count) for row in block[number]]
    return order


def vote_id(vote: Rating) -> str:
    """How a pair names a vote: "item/rater=choice"; item and rater find it in the store."""
    return f"{vote.item_id}/{vote.rater}={vote.choice}"


def _votes_by_item(candidates: Sequence[Candidate], ratings: Iterable[Rating]) -> dict[str, list[Rating]]:
    twice = [item_id for item_id, count in Counter(one.id for one in candidates).items() if count > 1]
    if twice:
        raise ValueError(f"candidate {twice[0]!r} is there twice; give each item its own id")
    known = {candidate.id for candidate in candidates}
    votes_of: dict[str, list[Rating]] = {}
    for vote in ratings:
        if vote.item_id not in known:
            raise ValueError(
                f"{vote.rater} voted on {vote.item_id!r}, which is not among the {len(known)} candidates; "
                "give the candidates that were rated"
            )
        votes = votes_of.setdefault(vote.item_id, [])
        if any(other.rater == vote.rater for other in votes):
            raise ValueError(f"{vote.rater} voted twice on {vote.item_id!r}; give standing votes only")
        votes.append(vote)
    return {item_id: people_first(votes) for item_id, votes in votes_of.items()}


def _backing(votes: Sequence[Rating], verdict: str) -> Backing:
    counts = Counter(vote.choice for vote in votes if vote.choice != "skip")
    other = {"A": "B", "B": "A"}[verdict]
    return Backing(counts[verdict], counts[other], counts.total(), not votes[0].simulated, votes[0].by_adjudicator)


def _drop_repeats(
    drafts: list[PreferencePair], dropped: dict[str, str], threshold: float
) -> tuple[list[PreferencePair], float | None]:
    """Drop repeats, then near twins of a pair that stays; notes the reasons in `dropped`."""
    seen: set[tuple[str, str, str]] = set()
    distinct = []
    for pair in drafts:
        key = (same_text(pair.prompt), same_text(pair.chosen), same_text(pair.rejected))
        if key in seen:
            dropped[pair.id] = DUPLICATE
        else:
            seen.add(key)
            distinct.append(pair)
    # Two judgements on one prompt may share the chosen answer: the whole pair is compared, not its parts.
    kept = keep_first([f"{pair.prompt}\n{pair.chosen}\n{pair.rejected}" for pair in distinct], threshold)
    pairs = [distinct[place] for place in kept]
    dropped |= dict.fromkeys({pair.id for pair in distinct} - {pair.id for pair in pairs}, NEAR_DUPLICATE)
    return pairs, 1 - len(pairs) / len(distinct) if distinct else None


def _split(pairs: list[PreferencePair], share: float, seed: int) -> list[PreferencePair]:
    """Set clusters aside for validation, kind by kind, until about `share` of the kind's pairs are in them."""
    if not 0 <= share < 1:
        raise ValueError(f"expected a validation_share from 0 to below 1, got {share}")
    sizes = Counter(pair.cluster for pair in pairs)
    home = {pair.cluster: pair.kind for pair in pairs}  # a cluster with two kinds counts for one, and moves whole
    aside: set[str] = set()
    for kind in sorted(set(home.values())):
        mine = sorted(cluster for cluster in home if home[cluster] == kind)
        wanted, count = share * sum(sizes[cluster] for cluster in mine), 0
        for cluster in sorted(mine, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest()):
            # The last cluster is taken only if that comes nearer to the share than leaving it.
            if count + sizes[cluster] / 2 <= wanted:
                aside.add(cluster)
                count += sizes[cluster]
    return [pair.model_copy(update={"split": "validation"}) if pair.cluster in aside else pair for pair in pairs]


def _waterfall(candidates: int, dropped: dict[str, str], adjudicated: int) -> list[Step]:
    counts = Counter(dropped.values())
    steps = [Step("candidates", 0, candidates)]
    if adjudicated:
        steps.append(Step(f"{ADJUDICATED}: {adjudicated}", 0, candidates))
    for reason in REASONS:
        steps.append(Step(reason, counts[reason], steps[-1].left - counts[reason]))
    return steps
