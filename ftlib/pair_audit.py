"""An audit of preference pairs from elsewhere: prompts that differ, empty sides, contradictions, length, balance.

Pairs made here are checked as they are made (`pairs`); a downloaded file is not, and its faults train too.

Left out on purpose: repair, and gates. The audit counts and names rows; what to drop is the reader's decision.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
