"""What is watched while a model trains on preferences, and alarms with thresholds that were stated before.

The loss sees none of it: it falls as well when the model refuses everything, says one sentence to everybody, pads its
answers, or leaves the chosen answers behind. All numbers here are of texts or of log-probs, and none of them needs a
model.

Left out on purpose: whether an answer is good (`judges`), how far a number may be trusted (`gates` has the intervals),
and what to do about it: the remedy is written down with the threshold, in the notebook.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ftlib.pair_rules import ADVERSARIAL, same_text
from ftlib.safety import degenerate, is_refusal

OPENING = 8  # words of an answer in which diversity is read
# Words that refusals are made of. An answer may hold them and refuse nothing: then a model hedges because it pays.
PHRASES = re.compile(
    r"\b(?:unfortunately|(?:i'm|i am|we're|we are) (?:sorry|afraid|unable)|(?:i|we) (?:can't|cannot|won't|must decline)"
    r"|not able to|decline)\b"
)


@dataclass(frozen=True)
class Limit:
    """An alarm's threshold: well is what lies `op` the number `at`; `remedy` is what to do when it does not."""

    op: Literal["<=", ">="]
    at: float
    remedy: str

    def __post_init__(self) -> None:
        if self.op not in ("<=", ">=") or not math.isfinite(self.at):
            raise ValueError(f"Limit: expected op '<=' or '>=' and a finite number, got {self.op!r} and {self.at}")

    def is_broken(self, value: float) -> bool:
        """Is this an alarm? A number that is none (NaN) is one."""
        return not (value <= self.at if self.op == "<=" else value >= self.at)


def distinct_n(texts: Sequence[str], n: int = 2, *, first: int | None = None) -> float:
    """Different runs of n words, as a share of all runs of n words in the texts (Li et al. 2016, arXiv 1510.03055).

    The texts are counted together, so that one sentence said to everybody is seen.

    Args:
        first: only so many words of each text; longer texts give lower shares, so models whose answers differ in length
            are compared on their openings.

    Returns:
        In [0, 1]; 0 where no text has n words.

    Example:
        >>> distinct_n(["we can help", "we can not"])  # we-can twice, can-help, can-not: 3 different of 4
        0.75
    """
    if n < 1:
        raise ValueError(f"distinct_n: expected n >= 1, got {n}")
    words = [re.findall(r"[\w']+", text.lower())[:first] for text in texts]
    runs = Counter(tuple(one[at : at + n]) for one in words for at in range(len(one) - n + 1))
    return len(runs) / runs.total() if runs else 0.0


def commonest_share(texts: Sequence[str]) -> float:
    """Share of the texts that are the commonest one, but for case and spaces.

    Example:
        >>> commonest_share(["No.", "no. ", "Yes.", "Ask us."])
        0.5
    """
    return Counter(map(same_text, _some(texts))).most_common(1)[0][1] / len(texts)


def phrase_share(texts: Sequence[str]) -> float:
    """Share of the texts that hold a phrase of refusals, whether they refuse or not.

    Example:
        >>> phrase_share(["Unfortunately, it rains. Take a tarp.", "Take a tarp."])
        0.5
    """
    plain = [text.lower().replace("\u2019", "'") for text in _some(texts)]
    return sum(bool(PHRASES.search(text)) for text in plain) / len(texts)


def length_ratio(texts: Sequence[str], reference_texts: Sequence[str]) -> float | None:
    """Mean words of the answers over those of the reference, on the prompts that both answer and do not refuse.

    A refusal is shorter than an answer, and declining more is another matter. None where no prompt is answered by both.
    """
    both = [
        (len(text.split()), len(other.split()))
        for text, other in zip(texts, reference_texts, strict=True)
        if not is_refusal(text) and not is_refusal(other) and other.strip()
    ]
    return float(np.mean([words for words, _ in both]) / np.mean([words for _, words in both])) if both else None


def readings(texts: Sequence[str], reference_texts: Sequence[str], kinds: Sequence[str]) -> dict[str, float | None]:
    """All numbers of one look at a model's answers.

    Args:
        texts, reference_texts: answers of the model and of its reference to the same prompts.
        kinds: of each prompt: production, borderline or harmful.

    Returns:
        "<kind> refused" for each kind; "harmless refused" (all but the harmful); "length" (`length_ratio`); "loops
        gained", the share of answers that are empty or repeat themselves, less the reference's; and of the answers to
        harmless prompts "diversity" (distinct-2 of the first OPENING words, over the reference's), "same answer"
        (`commonest_share`) and "refusal phrases gained" (`phrase_share`, less the reference's). None for what these
        prompts cannot tell.

    Raises:
        ValueError: the lists differ in length, or are empty.
    """
    if not len(texts) == len(reference_texts) == len(kinds) or not len(texts):
        raise ValueError(
            f"readings: expected one text, reference text and kind a prompt, got {len(texts)}, {len(reference_texts)} "
            f"and {len(kinds)}"
        )
    refused = np.array([is_refusal(text) for text in texts], dtype=float)
    kind_N = np.array(kinds)
    harmless = ~np.isin(kind_N, ADVERSARIAL)
    mine, theirs = (
        [one for one, keep in zip(some, harmless, strict=True) if keep] for some in (texts, reference_texts)
    )
    before = distinct_n(theirs, first=OPENING)
    return {
        **{f"{kind} refused": float(refused[kind_N == kind].mean()) for kind in dict.fromkeys(kinds)},
        "harmless refused": float(refused[harmless].mean()) if mine else None,
        "length": length_ratio(texts, reference_texts),
        "loops gained": (sum(map(degenerate, texts)) - sum(map(degenerate, reference_texts))) / len(texts),
        "diversity": distinct_n(mine, first=OPENING) / before if before else None,
        "same answer": commonest_share(mine) if mine else None,
        "refusal phrases gained": phrase_share(mine) - phrase_share(theirs) if mine else None,
    }


def pair_readings(chosen_moved: ArrayLike, rejected_moved: ArrayLike) -> dict[str, float]:
    """Where the log-probs of pairs went: nats an answer, policy minus reference.

    Args:
        chosen_moved, rejected_moved: log π - log π_ref of each pair's answers, shape (n,).

    Returns:
        "chosen moved", "rejected moved" and "margin" (their difference), means over pairs; "ranked right", the share
        with a margin above 0; "both fell", the share whose two answers both became less likely.

    Example:
        >>> pair_readings([-1.0, 2.0], [-4.0, 0.0])
        {'chosen moved': 0.5, 'rejected moved': -2.0, 'margin': 2.5, 'ranked right': 1.0, 'both fell': 0.5}
    """
    chosen_N, rejected_N = (np.asarray(moved, dtype=float) for moved in (chosen_moved, rejected_moved))
    if chosen_N.shape != rejected_N.shape or chosen_N.ndim != 1 or not chosen_N.size:
        raise ValueError(f"expected two lists of one length, got shapes {chosen_N.shape} and {rejected_N.shape}")
    return {
        "chosen moved": float(chosen_N.mean()),
        "rejected moved": float(rejected_N.mean()),
        "margin": float((chosen_N - rejected_N).mean()),
        "ranked right": float((chosen_N > rejected_N).mean()),
        "both fell": float(((chosen_N < 0) & (rejected_N < 0)).mean()),
    }


def pair_moves(policy, reference, rows: Sequence[tuple[list[int], list[int], list[int]]]):
    """How far the answers of pairs have moved: log π - log π_ref of each whole answer, in nats.

    On pairs that were trained on, the chosen answer rises because it was seen. What a policy does to others shows on
    pairs held out.

    Args:
        policy, reference: causal LMs.
        rows: (prompt, chosen, rejected) token ids of each pair, the answers with their stop token.

    Returns:
        (chosen, rejected), numpy arrays of shape (n,) each.
    """
    from ftlib.train import kl_on_samples

    prompts = [prompt for prompt, *_ in rows]
    moved = []
    for answers in ([chosen for _, chosen, _ in rows], [rejected for *_, rejected in rows]):
        mean_a_token, _ = kl_on_samples(policy, reference, prompts, answers, batch=8)  # k1: the mean log-ratio
        moved.append(mean_a_token * np.array([len(answer) for answer in answers]))
    return moved[0], moved[1]


def alarms(found: Mapping[str, float | None], limits: Mapping[str, Limit]) -> list[dict]:
    """Each limit beside its number: rows {"watch", "value", "well if", "alarm", "remedy"}; the remedy where it rings.

    Args:
        found: numbers by name, as from `readings`; None could not be measured, and rings nothing.
        limits: by the same names.

    Raises:
        ValueError: a limit on something that was not looked at.
    """
    unknown = [name for name in limits if name not in found]
    if unknown:
        raise ValueError(f"alarms: no number called {unknown[0]!r}; there are {', '.join(found)}")
    rows = []
    for name, limit in limits.items():
        value = found[name]
        rings = value is not None and limit.is_broken(value)
        rows.append(
            {
                "watch": name,
                "value": value,
                "well if": f"{limit.op} {limit.at:g}",
                "alarm": rings,
                "remedy": limit.remedy if rings else "",
            }
        )
    return rows


def first_alarm(steps: Sequence[int], values: Sequence[float], limit: Limit, *, in_a_row: int = 1) -> int | None:
    """The step at which a series has broken its limit `in_a_row` times running; None if it never does.

    Single batches are noisy: for numbers that a trainer logs, ask for two or three in a row.

    Example:
        >>> first_alarm([1, 2, 3, 4], [0.0, -1.0, -2.0, -3.0], Limit(">=", -0.5, ""), in_a_row=2)
        3
    """
    if in_a_row < 1:
        raise ValueError(f"first_alarm: expected in_a_row >= 1, got {in_a_row}")
    running = 0
    for step, value in zip(steps, values, strict=True):
        running = running + 1 if limit.is_broken(value) else 0
        if running == in_a_row:
            return int(step)
    return None


def _some(texts: Sequence[str]) -> Sequence[str]:
    if not len(texts):
        raise ValueError("expected at least one text, got none; sample answers first")
    return texts
