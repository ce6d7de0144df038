"""An audit of preference pairs: length, balance; and of pairs from elsewhere: prompts, empty sides, contradictions.

Pairs made here are checked as they are made (`pairs`), but for length: where the chosen answer is mostly the longer
one, length is what a model learns. A downloaded file is not checked, and its faults train too.

Left out on purpose: repair, and gates. The audit counts and names rows; what to drop is the reader's decision.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ftlib.gates import wilson
from ftlib.records import PreferencePair

TURN = "\n\nAssistant:"


@dataclass(frozen=True)
class PairText:
    """One pair with the prompt of each side, which should be the same one."""

    prompt: str
    chosen: str
    rejected: str
    rejected_prompt: str


@dataclass(frozen=True)
class PairAudit:
    """What is wrong with which rows (numbers from 0), and how far length tells the chosen answer.

    Attributes:
        prompts_differ, empty, equal: rows with that fault.
        contradictions: rows whose chosen and rejected answers are another row's, the other way round.
        chosen_longer: share of all pairs whose chosen answer has more characters; None without pairs.
    """

    n: int
    prompts_differ: list[int]
    empty: list[int]
    equal: list[int]
    contradictions: list[int]
    chosen_longer: float | None


@dataclass(frozen=True)
class Lengths:
    """How far length tells the chosen answer, for one kind of prompt.

    Attributes:
        n: pairs.
        chosen_words, rejected_words: means.
        longer: share of the pairs of unequal length (in characters) whose chosen answer is the longer one; None
            without such pairs.
        interval: its 95 % interval (Wilson).
        verdict: "longer wins" or "shorter wins" where the interval leaves a half out, else "no sign".
    """

    kind: str
    n: int
    chosen_words: float
    rejected_words: float
    longer: float | None
    interval: tuple[float, float] | None
    verdict: str


def audit_lengths(pairs: Sequence[PreferencePair]) -> list[Lengths]:
    """Length of chosen and rejected answers: a row for each kind of prompt, and one for "all"."""
    kinds = sorted({pair.kind for pair in pairs})
    groups = {kind: [pair for pair in pairs if pair.kind == kind] for kind in kinds} | {"all": list(pairs)}
    return [_lengths(kind, group) for kind, group in groups.items() if group]


def _lengths(kind: str, pairs: Sequence[PreferencePair]) -> Lengths:
    words = [[len(text.split()) for text in (pair.chosen, pair.rejected)] for pair in pairs]
    signs = [np.sign(len(pair.chosen) - len(pair.rejected)) for pair in pairs]
    longer, unequal = signs.count(1), len(signs) - signs.count(0)
    chosen, rejected = np.mean(words, axis=0).tolist()
    if not unequal:
        return Lengths(kind, len(pairs), chosen, rejected, None, None, "no sign")
    low, high = wilson(longer, unequal)
    verdict = "longer wins" if low > 0.5 else "shorter wins" if high < 0.5 else "no sign"
    return Lengths(kind, len(pairs), chosen, rejected, longer / unequal, (low, high), verdict)


def split_transcript(chosen: str, rejected: str) -> PairText:
    """Prompt and answers of two transcripts in hh-rlhf's form: the answer is what follows the last "Assistant:".

    Raises:
        ValueError: a transcript without an assistant's turn.
    """
    sides = []
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        before, found, answer = text.rpartition(TURN)
        if not found:
            raise ValueError(f"{name}: expected a transcript with {TURN!r}, got {text[:60]!r}; give prompt and answer")
        sides.append((before, answer.strip()))
    return PairText(sides[0][0], sides[0][1], sides[1][1], sides[1][0])


def audit_pairs(pairs: Sequence[PairText]) -> PairAudit:
    """Count and name the faults of pairs."""
    given = {(pair.prompt, pair.chosen, pair.rejected) for pair in pairs}
    rows = list(enumerate(pairs))
    return PairAudit(
        len(pairs),
        [n for n, pair in rows if pair.prompt != pair.rejected_prompt],
        [n for n, pair in rows if not pair.chosen.strip() or not pair.rejected.strip()],
        [n for n, pair in rows if pair.chosen.strip() == pair.rejected.strip()],
        [n for n, p in rows if p.chosen != p.rejected and (p.prompt, p.rejected, p.chosen) in given],
        sum(len(pair.chosen) > len(pair.rejected) for pair in pairs) / len(pairs) if pairs else None,
    )


def kind_shares(pairs: Iterable[PreferencePair]) -> dict[str, float]:
    """Kind of prompt -> share of the pairs: is safe against adversarial in balance?"""
    counts = Counter(pair.kind for pair in pairs)
    return {kind: count / counts.total() for kind, count in sorted(counts.items())}
