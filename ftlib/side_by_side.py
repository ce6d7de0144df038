"""Baseline against candidate before people: held-out answers to rating items, votes to wins, judges beside people.

The session, the store and the buttons are those of notebook 03 (`ratings`, `rater_widgets`); here held-out answers
become items, and votes become the candidate's wins. Raters see "A" and "B" and never which model wrote what. Judges and
people are then compared on the same prompts, in three words: candidate, tie, baseline.

Left out on purpose: training on these votes. They come from held-out prompts, and a prompt that was trained on holds
nothing out any more.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ftlib.agreement import Values, basis
from ftlib.ratings import candidate_id, draw_bits
from ftlib.records import Candidate, Rating

_SCORE = {"A": 1.0, "B": 0.0, "tie": 0.5, "both_bad": 0.5}


def held_out_items(
    rows: Sequence[Mapping],
    texts: Mapping[str, str],
    *,
    n: int,
    seed: int,
    baseline: str = "SFT",
    candidate: str = "DPO",
) -> list[Candidate]:
    """n answered prompts, drawn by seed and evenly over their kinds, as items to rate.

    Args:
        rows: of 05's `answers.jsonl`: {"id", "kind", <baseline>, <candidate>}.
        texts: prompt id -> prompt.
        n: items wanted; fewer where there are no more.

    Returns:
        Items whose A is the baseline or the candidate by a coin of seed and prompt; `source_a` says which.
        Answers that are equal are left out: nobody can choose between them.

    Raises:
        ValueError: no row has two different answers.
    """
    by_kind: dict[str, list[Mapping]] = {}
    for row in sorted(rows, key=lambda row: draw_bits(seed, "side by side", row["id"])):
        if row[baseline] != row[candidate] and row["id"] in texts:
            by_kind.setdefault(row["kind"], []).append(row)
    turns = [row for turn in range(max(map(len, by_kind.values()), default=0)) for row in _at(by_kind, turn)][:n]
    if not turns:
        raise ValueError("held_out_items: expected prompts with two different answers, got none; are the models equal?")
    items = []
    for row in turns:
        models = (baseline, candidate) if draw_bits(seed, "A", row["id"]) % 2 else (candidate, baseline)
        a, b = (row[model] for model in models)
        items.append(
            Candidate(id=candidate_id(row["id"], a, b), prompt_id=row["id"], prompt=texts[row["id"]], kind=row["kind"],
                      answer_a=a, source_a=models[0], answer_b=b, source_b=models[1], cluster=row["id"])
        )  # fmt: skip
    return items


def _at(by_kind: Mapping[str, list], turn: int) -> list:
    return [rows[turn] for rows in by_kind.values() if turn < len(rows)]


def candidate_wins(votes: Iterable[Rating], items: Sequence[Candidate], *, candidate: str = "DPO") -> dict[str, float]:
    """Prompt id -> the candidate's result, averaged over the raters of the item: 1 won, 0.5 a tie, 0 lost.

    "Both bad" is a tie; what was skipped by everybody is left out.
    """
    known = {item.id: item for item in items}
    scores: dict[str, list[float]] = {}
    for vote in votes:
        item = known.get(vote.item_id)
        if item is not None and vote.choice in _SCORE:
            of_a = _SCORE[vote.choice]
            scores.setdefault(item.prompt_id, []).append(of_a if item.source_a == candidate else 1 - of_a)
    return {prompt: float(np.mean(given)) for prompt, given in scores.items()}


def verdict(score: float) -> str:
    """A win score as a word: above a half the candidate has won, below it the baseline."""
    return "tie" if score == 0.5 else "candidate" if score > 0.5 else "baseline"


def verdicts(scores_by_judge: Mapping[str, Mapping[str, float]]) -> Values:
    """Who said what of which prompt, as `agreement.cohen_kappas` takes it.

    Args:
        scores_by_judge: judge -> prompt id -> the candidate's win score. A judge may lack prompts.

    Example:
        >>> verdicts({"rubric": {"p1": 1.0, "p2": 0.5}, "people": {"p1": 0.75}})
        {'p1': {'rubric': 'candidate', 'people': 'candidate'}, 'p2': {'rubric': 'tie'}}
    """
    values: dict[str, dict[str, str]] = {}
    for judge, scores in scores_by_judge.items():
        for prompt, score in scores.items():
            values.setdefault(prompt, {})[judge] = verdict(score)
    return values


def rests_on(votes: Sequence[Rating]) -> str:
    """ "human raters" or "simulated raters", with their number, for a metric's `basis`."""
    return f"{basis(votes)} ({len({vote.rater for vote in votes})}), side by side on held-out prompts"
