"""What an item's verdict most likely is, given who said what: Dawid and Skene's model, and the queue for adjudication.

Each rater has a table of chances: what it says, given the true verdict. Each item has a true verdict that nobody sees.
EM finds both together (Dawid and Skene 1979, Applied Statistics 28): the verdicts given the tables, the tables given
the verdicts, until nothing changes. A rater who says the opposite is then worth as much as an honest one, and one who
guesses is worth nothing. It starts from the shares of the votes.

What an adjudicator settled is taken as known, and is not asked about again.

Left out on purpose: items that are hard for everybody (raters' mistakes are taken as independent, so where they share
one the posterior is too sure), and a library. crowd-kit's model is the same one and gives the same posteriors, but it
has no `smoothing` (two votes that agree are taken for certain), and brings language tools that nothing here needs. That
the arithmetic is right is held to the example that the model was published with, to all of its digits
(`benchmarks/cases/published.py`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ftlib.agreement import strict_majority
from ftlib.records import Rating

VERDICTS = ("A", "B", "tie", "both_bad")
SMOOTHING = 0.5  # votes added to each cell of a rater's table, so that a few votes prove nothing for certain
ROUNDS = 200
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Truth:
    """What the model found.

    Attributes:
        posterior: item -> verdict -> chance.
        tables: rater -> true verdict -> what it says -> chance.
        prior: verdict -> share of the items.
        rounds: of EM, until no chance moved by more than 1e-6, or the most allowed.
    """

    posterior: dict[str, dict[str, float]]
    tables: dict[str, dict[str, dict[str, float]]]
    prior: dict[str, float]
    rounds: int

    def best(self, item_id: str) -> tuple[str, float]:
        """An item's likeliest verdict, and its chance."""
        chances = self.posterior[item_id]
        return max(chances.items(), key=lambda one: one[1])

    def right(self, rater: str) -> float:
        """How often the rater says what is true, over verdicts as often as they are."""
        return sum(share * self.tables[rater][verdict][verdict] for verdict, share in self.prior.items())


@dataclass(frozen=True)
class Question:
    """An item for adjudication: `bits` is what is not known about it, `choices` what each rater said."""

    item_id: str
    bits: float
    verdict: str
    chance: float
    choices: dict[str, str]
    why: str


def find_truth(
    votes: Iterable[Rating],
    *,
    known: Mapping[str, str] | None = None,
    smoothing: float = SMOOTHING,
    rounds: int = ROUNDS,
) -> Truth:
    """Fit Dawid and Skene's model by EM.

    Args:
        votes: skips count for nothing; a rater who was asked about an item more than once counts each time. Votes of
            adjudicators are no rater's: what they settled is known.
        known: item -> true verdict (gold), which stays fixed and tells what the raters are worth.
        smoothing: added to each cell of a rater's table and to each verdict's count.
        rounds: EM rounds at most.

    Raises:
        ValueError: no vote but skips, or a known verdict that no vote can give.
    """
    given = list(votes)
    counted = [vote for vote in given if vote.choice != "skip" and not vote.by_adjudicator]
    known = settled(given) | dict(known or {})
    strange = sorted(set(known.values()) - set(VERDICTS))
    if not counted or strange:
        raise ValueError(
            f"expected votes, and known verdicts of {', '.join(VERDICTS)}; got {len(counted)} votes and {strange}"
        )
    said = {vote.choice for vote in counted} | {known.get(vote.item_id, vote.choice) for vote in counted}
    verdicts = [one for one in VERDICTS if one in said]
    items, raters = (list(dict.fromkeys(getattr(vote, name) for vote in counted)) for name in ("item_id", "rater"))
    votes_IRV = np.zeros((len(items), len(raters), len(verdicts)))
    place_I, place_R = ({name: place for place, name in enumerate(names)} for names in (items, raters))
    for vote in counted:
        votes_IRV[place_I[vote.item_id], place_R[vote.rater], verdicts.index(vote.choice)] += 1
    fixed_I = np.array([item in known for item in items])
    fixed_FT = np.array([[known[item] == one for one in verdicts] for item in items if item in known])

    chances_IT = votes_IRV.sum(axis=1) / votes_IRV.sum(axis=(1, 2))[:, None]  # to begin with: the shares of the votes
    done = 0
    for done in range(1, rounds + 1):  # noqa: B007
        if fixed_I.any():
            chances_IT[fixed_I] = fixed_FT
        prior_T, tables_RTV = _tables(chances_IT, votes_IRV, smoothing)
        before, chances_IT = chances_IT, _posterior(prior_T, tables_RTV, votes_IRV)
        if fixed_I.any():
            chances_IT[fixed_I] = fixed_FT
        if np.abs(chances_IT - before).max() < TOLERANCE:
            break
    named = lambda row: dict(zip(verdicts, map(float, row), strict=True))
    tables = {rater: dict(zip(verdicts, map(named, tables_RTV[place_R[rater]]), strict=True)) for rater in raters}
    return Truth({item: named(chances_IT[place_I[item]]) for item in items}, tables, named(prior_T), done)


def settled(votes: Iterable[Rating]) -> dict[str, str]:
    """Item -> what its adjudicators say: the verdict of more than half of them; items without one are left out."""
    said: dict[str, list[str]] = {}
    for vote in votes:
        if vote.by_adjudicator and vote.choice != "skip":
            said.setdefault(vote.item_id, []).append(vote.choice)
    return {item_id: choice for item_id, choices in said.items() if (choice := strict_majority(choices))}


def adjudication_queue(votes: Sequence[Rating], truth: Truth, *, sure: float = 0.95) -> list[Question]:
    """Items that a person should settle, the most informative first: those about which most bits are unknown.

    An item is asked about where its raters differ, or where the posterior of its best verdict is below `sure` (one
    vote of a poor rater), unless an adjudicator settled it. An item on which a poor rater contradicts good ones comes
    last, an even split comes first.

    Args:
        votes: those that the model was fitted to.
        truth: by `find_truth`.
        sure: posterior from which an item on which nobody differs is settled.
    """
    choices: dict[str, dict[str, str]] = {}
    over = settled(votes)
    for vote in votes:
        if vote.choice != "skip" and not vote.by_adjudicator and vote.item_id not in over:
            choices.setdefault(vote.item_id, {})[vote.rater] = vote.choice
    found = []
    for item_id, given in choices.items():
        verdict, chance = truth.best(item_id)
        why = "raters differ" if len(set(given.values())) > 1 else "posterior unsure" if chance < sure else ""
        if why:
            p_T = np.array([p for p in truth.posterior[item_id].values() if p > 0])
            bits = max(0.0, float(-(p_T * np.log2(p_T)).sum()))
            found.append(Question(item_id, bits, verdict, chance, given, why))
    return sorted(found, key=lambda one: (-one.bits, one.item_id))


def _tables(chances_IT: np.ndarray, votes_IRV: np.ndarray, smoothing: float) -> tuple[np.ndarray, np.ndarray]:
    """M step (their equations 2.3 and 2.4): shares of the verdicts, and what each rater says given each."""
    prior_T = chances_IT.sum(axis=0) + smoothing
    counts_RTV = np.einsum("it,irv->rtv", chances_IT, votes_IRV) + smoothing
    sums_RT1 = counts_RTV.sum(axis=2, keepdims=True)
    even = np.full_like(counts_RTV, 1 / counts_RTV.shape[2])  # a verdict that this rater never met
    return prior_T / prior_T.sum(), np.divide(counts_RTV, sums_RT1, out=even, where=sums_RT1 > 0)


def _posterior(prior_T: np.ndarray, tables_RTV: np.ndarray, votes_IRV: np.ndarray) -> np.ndarray:
    """E step (their equation 2.5), in logs."""
    tiny = np.finfo(float).tiny
    logs_IT = np.log(np.maximum(prior_T, tiny)) + np.einsum(
        "irv,rtv->it", votes_IRV, np.log(np.maximum(tables_RTV, tiny))
    )
    chances_IT = np.exp(logs_IT - logs_IT.max(axis=1, keepdims=True))
    return chances_IT / chances_IT.sum(axis=1, keepdims=True)
