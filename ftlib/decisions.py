"""Preference pairs as rows for DPO the way notebook 04 takes them, for notebooks that train several times.

Where one answer declines and the other helps, greedy decoding decides between them at the first token. So such a pair
is cut to it (a *decision*); in one of eight the prompt holds the first token of an answer already, and the row teaches
how that one goes on (a *continuation*). Two answers that both help, or both decline, stay whole. What each was measured
to do is told in 04.

A KTO row is one answer with a label, and SimPO has no reference: `unpaired` and `simpo_reference` say both in columns
that TRL's trainers read, so that all losses can be compared on the same tokens.

Left out on purpose: rows of other tasks and answers kept whole for the writing, which 04 mixes in (a few steps forget
little), and tokenising: TRL does it when a trainer is made, and `cut` comes after it.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ftlib.pairs import balanced_order
from ftlib.records import PreferencePair, assistant_chat
from ftlib.safety import is_refusal

OFF_SIDE = 1 / 4  # of the continuations of pairs whose rejected answer declines: they go on with the refusal
GOES_ON = 12  # tokens of an answer, its first one with them, that a continuation knows


def one_declines(pair: PreferencePair) -> bool:
    """Does one answer decline and the other not?"""
    return is_refusal(pair.chosen) != is_refusal(pair.rejected)


def chat_rows(
    pairs: Sequence[PreferencePair], *, seed: int, continued: float = 1 / 8, whole: bool = False
) -> list[dict]:
    """Rows for a DPOTrainer, one a pair.

    Args:
        seed: draws which decisions are continuations.
        continued: their share; 04's by default. A short training needs more of them to learn how a refusal goes on.
        whole: leave every pair whole, as plain DPO takes it; `pull` still says which way.

    Returns:
        Rows {"id", "kind", "prompt", "chosen", "rejected", "declines", "begun", "pull"}: `declines` and `begun` name
        the side ("chosen", "rejected", "" for neither) that declines, and that a continuation goes on with; `pull` is
        which way the first token is pulled: "refuse" or "answer".
    """
    say = lambda text: [{"role": "assistant", "content": text}]
    rows = []
    for pair, drawn in zip(pairs, np.random.default_rng(seed).random(len(pairs)), strict=True):
        declines = ("chosen" if is_refusal(pair.chosen) else "rejected") if one_declines(pair) else ""
        begun = "chosen" if declines and drawn < continued else ""
        if begun and declines == "rejected" and drawn < continued * OFF_SIDE:
            begun = "rejected"
        rows.append(
            {
                "id": pair.id,
                "kind": pair.kind,
                "prompt": assistant_chat(pair.prompt),
                "chosen": say(pair.chosen),
                "rejected": say(pair.rejected),
                "declines": "" if whole else declines,
                "begun": "" if whole else begun,
                "pull": "refuse" if declines == "chosen" else "answer",
            }
        )
    return rows


def cut(row: Mapping) -> dict:
    """What of a tokenised row changes: for `trainer.train_dataset.map`, after TRL has made the columns of ids.

    Example:
        >>> cut({"prompt_ids": [1], "chosen_ids": [5, 6], "rejected_ids": [7, 8], "declines": "chosen", "begun": ""})
        {'chosen_ids': [5], 'rejected_ids': [7]}
    """
    chosen, rejected = row["chosen_ids"], row["rejected_ids"]
    if not row["declines"]:
        return {}
    if not row["begun"]:
        return {"chosen_ids": chosen[:1], "rejected_ids": rejected[:1]}
    on, off = (chosen, rejected) if row["begun"] == "chosen" else (rejected, chosen)
    return {"prompt_ids": row["prompt_ids"] + on[:1], "chosen_ids": on[1:GOES_ON], "rejected_ids": off[1:2]}


def length_gap(pair: PreferencePair) -> int:
    """Words of the chosen answer less those of the rejected one."""
    return len(pair.chosen.split()) - len(pair.rejected.split())


def longer_chosen(pairs: Sequence[PreferencePair], *, least_words: int) -> list[PreferencePair]:
    """The pairs whose chosen answer is longer by `least_words` or more, the largest gap first."""
    return sorted((pair for pair in pairs if length_gap(pair) >= least_words), key=length_gap, reverse=True)


def length_balanced(pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """As many pairs with the longer answer chosen as rejected, matched by their gaps; pairs of one length stay.

    Each pair of the rarer sort, the smallest gap first, takes the pair of the other sort whose gap is nearest to it.
    """
    longer = sorted((pair for pair in pairs if length_gap(pair) > 0), key=length_gap)
    shorter = sorted((pair for pair in pairs if length_gap(pair) < 0), key=length_gap, reverse=True)
    few, many = sorted((shorter, longer), key=len)
    matched = []
    for pair in few:
        nearest = min(many, key=lambda other: abs(length_gap(other) + length_gap(pair)))
        many.remove(nearest)
        matched += [pair, nearest]
    return [*matched, *(pair for pair in pairs if length_gap(pair) == 0)]


def balanced(rows: Sequence[Mapping], *, steps: int, batch: int, seed: int) -> list[int]:
    """Row numbers of `steps` batches, each with as many rows that pull one way as the other (`balanced_order`)."""
    _check_steps(rows, steps, batch)
    sizes = [len(str(row["prompt"])) + (0 if row["declines"] else len(str(row["chosen"]))) for row in rows]
    pulls = [row["pull"] for row in rows]
    order = balanced_order(pulls, sizes, batch=batch, epochs=steps * batch / len(rows), seed=seed)
    return order[: steps * batch]


def in_shares(rows: Sequence[Mapping], shares: Mapping[str, float], *, steps: int, batch: int, seed: int) -> list[int]:
    """Row numbers of `steps` batches drawn kind by kind in the shares given, as a log that nobody balanced would hold.

    A kind's rows are gone through in a drawn order, and again from the start where they run out.

    Raises:
        ValueError: a kind of `shares` that no row has, or shares that are not positive.
    """
    _check_steps(rows, steps, batch)
    places = {kind: [n for n, row in enumerate(rows) if row["kind"] == kind] for kind in shares}
    missing = [kind for kind, found in places.items() if not found]
    if missing or not shares or min(shares.values()) <= 0:
        raise ValueError(
            f"in_shares: expected positive shares of kinds that the rows have, got {dict(shares)}, no row of "
            f"{', '.join(missing) or 'none'}; take kinds out of shares"
        )
    rng = np.random.default_rng(seed)
    kinds = list(shares)
    weights = np.array([shares[kind] for kind in kinds], dtype=float)
    drawn = rng.choice(len(kinds), size=steps * batch, p=weights / weights.sum())
    queues = {}
    for number, kind in enumerate(kinds):
        rounds = math.ceil(int((drawn == number).sum()) / len(places[kind]))
        queues[kind] = iter([n for _ in range(rounds) for n in rng.permutation(places[kind]).tolist()])
    return [next(queues[kinds[number]]) for number in drawn]


def distinct(order: Sequence[int]) -> tuple[list[int], list[int]]:
    """(rows that come at all, place of each of `order` in them): what a trainer reads once, and the order over it.

    Example:
        >>> distinct([7, 3, 7])
        ([7, 3], [0, 1, 0])
    """
    rows = list(dict.fromkeys(order))
    place = {row: n for n, row in enumerate(rows)}
    return rows, [place[row] for row in order]


def renewed(
    pairs: Sequence[PreferencePair],
    first_texts: Sequence[str],
    second_texts: Sequence[str],
    scores: Sequence[float],
    *,
    basis: str,
) -> list[PreferencePair]:
    """New pairs on the prompts of old ones: two fresh answers each, and a verdict on them.

    Args:
        scores: 1 where the first text is better, 0 where the second is, 0.5 for a tie, which gives no pair.
        basis: what the verdicts rest on, for the pairs.

    Returns:
        Pairs of two different answers that are not empty, marked as synthetic.

    Raises:
        ValueError: the lists differ in length.
    """
    made = []
    for pair, first, second, score in zip(pairs, first_texts, second_texts, scores, strict=True):
        if score == 0.5 or not first.strip() or not second.strip() or first.strip() == second.strip():
            continue
        chosen, rejected = (first, second) if score > 0.5 else (second, first)
        sources = {"chosen_source": "sampled", "rejected_source": "sampled", "votes": []}
        new = {"chosen": chosen, "rejected": rejected, "basis": basis, "synthetic": True, **sources}
        made.append(pair.model_copy(update=new))
    return made


def unpaired(rows: Sequence[Mapping], *, batch: int) -> list[dict]:
    """Tokenised pairs as KTO rows (arXiv 2402.01306): each pair gives its chosen answer (true) and its rejected one.

    In a batch of 2 x `batch` rows the chosen answers come first. KTO's baseline is a KL on answers to *other* prompts:
    each row holds the answer of the row before it (the first one that of the last), as TRL's trainer makes it.

    Args:
        rows: with "prompt_ids", "chosen_ids", "rejected_ids", in training order.
        batch: pairs a step; the trainer's batch is twice that.

    Raises:
        ValueError: fewer than two pairs in a batch; then no other prompt is there.
    """
    rows = list(rows)  # a slice of a Dataset would be its columns
    made = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        if len(part) < 2:
            raise ValueError(f"unpaired: expected two or more pairs in each batch, got {len(part)} at row {start}")
        answers = [(row, row[f"{side}_ids"], side == "chosen") for side in ("chosen", "rejected") for row in part]
        for place, (row, answer, label) in enumerate(answers):
            before = answers[place - 1][1]
            made.append(
                {"prompt_ids": row["prompt_ids"], "completion_ids": answer, "KL_completion_ids": before, "label": label}
            )
    return made


def simpo_reference(rows: Sequence[Mapping], *, beta: float, gamma: float) -> dict[str, list[float]]:
    """Columns of reference log-probs with which TRL's `sigmoid_norm` is SimPO (arXiv 2405.14734, eq. 6).

    SimPO is -log σ(β/|w| log π_w - β/|l| log π_l - γ). `sigmoid_norm` takes (log π - reference)/|answer| on both sides:
    a reference of γ/β a token for the chosen answer, and 0 for the rejected one, makes the two the same.

    Args:
        rows: with "chosen_ids" and "rejected_ids".
        gamma: the margin that is asked for, in units of beta x nats a token.

    Raises:
        ValueError: a beta that is not positive.
    """
    if beta <= 0:
        raise ValueError(f"simpo_reference: expected beta > 0, got {beta}")
    return {
        "ref_chosen_logps": [gamma / beta * len(row["chosen_ids"]) for row in rows],
        "ref_rejected_logps": [0.0] * len(rows),
    }


def _check_steps(rows: Sequence[Mapping], steps: int, batch: int) -> None:
    if not rows or steps < 1 or batch < 1:
        raise ValueError(f"expected rows, steps >= 1 and batch >= 1, got {len(rows)} rows, {steps} and {batch}")
