"""What agreement means for the labels: how many are wrong, and how many comparisons a win rate then needs.

Two equally good raters who are right with chance p, choose between two answers and err independently agree with
chance p^2 + (1 - p)^2. So agreement tells p; p tells how many labels of one rater, or of a majority, are wrong; and a
share e of wrong labels pulls a win rate w towards a half: w' = 1/2 + (w - 1/2)(1 - 2e). Fewer points to see take more
pairs to see them.

Left out on purpose: ties (with them, agreement is lower at the same p, so the noise comes out too high), and raters who
share mistakes (then agreement flatters, and the noise comes out too low; gold items tell).
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from ftlib.gates import pairs_needed
from ftlib.records import PreferencePair

# What careful people reach (the papers' own figures), to set a team's agreement beside.
PUBLISHED = {
    "HH, crowd": 0.63,
    "InstructGPT, summaries: low end": 0.73,
    "InstructGPT, summaries: high end": 0.77,
    "MT-bench, experts": 0.81,
}


@dataclass(frozen=True)
class Noise:
    """What follows from an agreement; see the head of this room.

    Attributes:
        agreement: chance that two raters agree on an item.
        right: chance that one rater is right.
        wrong: share of wrong labels where `raters` vote and the majority decides.
        raters: ratings an item.
        seen: the win rate that such labels show where the true one is `true`.
        pairs: comparisons needed to see it against a half; None where nothing is left to see.
    """

    agreement: float
    right: float
    wrong: float
    raters: int
    true: float
    seen: float
    pairs: int | None


def right_from_agreement(agreement: float) -> float:
    """How often one rater is right, from how often two agree: p with p^2 + (1 - p)^2 = agreement, p >= 1/2.

    Below one half, where agreement is worse than two coins', no p gives it, and 1/2 is returned.

    Raises:
        ValueError: not a share.

    Example:
        >>> round(right_from_agreement(0.625), 3)
        0.75
    """
    if not 0 <= agreement <= 1:
        raise ValueError(f"expected an agreement from 0 to 1, got {agreement}; give a share, not a percentage")
    return (1 + math.sqrt(max(0.0, 2 * agreement - 1))) / 2


def wrong_majority(right: float, raters: int) -> float:
    """Share of wrong labels where a majority of an odd number of raters decides, each right with chance `right`.

    Raises:
        ValueError: an even number of raters, or `right` is not a share.

    Example:
        Three raters who are right on 3/4: 1/64 all wrong + 3 * 3/4 * 1/16 two wrong = 10/64.
        >>> wrong_majority(0.75, 3)
        0.15625
    """
    if raters < 1 or raters % 2 == 0 or not 0 <= right <= 1:
        raise ValueError(f"expected an odd number of raters and a share, got {raters} raters and right = {right}")
    return round(float(stats.binom.cdf(raters // 2, raters, right)), 12)


def label_noise(agreement: float, *, raters: int = 1, win_rate: float = 0.6) -> Noise:
    """From agreement to wrong labels to the comparisons that a true win rate needs (two-sided 5 %, power 80 %).

    Args:
        agreement: chance that two raters choose the same answer of two.
        raters: ratings an item, of which a majority decides; odd.
        win_rate: the true one, above or below a half.

    Raises:
        ValueError: a number is not in its range.
    """
    if not 0 < win_rate < 1 or win_rate == 0.5:
        raise ValueError(f"expected a win rate between 0 and 1 other than a half, got {win_rate}")
    right = right_from_agreement(agreement)
    wrong = wrong_majority(right, raters)
    seen = 0.5 + (win_rate - 0.5) * (1 - 2 * wrong)
    pairs = pairs_needed(seen) if abs(seen - 0.5) > 1e-9 else None
    return Noise(agreement, right, wrong, raters, win_rate, seen, pairs)


def label_worth(wrong: float) -> float:
    """What a label is worth beside one that is never wrong: (1 - 2e)^2 with a share e of wrong ones.

    An average over n labels shrinks by (1 - 2e) while its error stays 1/sqrt(n), so n noisy labels tell as much as
    n (1 - 2e)^2 clean ones.

    Raises:
        ValueError: not a share.

    Example:
        >>> label_worth(0.25)
        0.25
    """
    if not 0 <= wrong <= 1:
        raise ValueError(f"expected a share of wrong labels from 0 to 1, got {wrong}")
    return (1 - 2 * wrong) ** 2


def swap_labels(pairs: Sequence[PreferencePair], share: float, *, seed: int) -> list[PreferencePair]:
    """Pairs of which a share, drawn by seed and id, has chosen and rejected exchanged: wrong labels made on purpose.

    With a larger share the same pairs are swapped, and more.

    Returns:
        All pairs, in their order; `basis` of a swapped one says so.

    Raises:
        ValueError: not a share.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"expected a share of pairs from 0 to 1, got {share}")
    drawn = sorted(
        pairs, key=lambda pair: hashlib.sha256(f"{seed}/{pair.id}".encode("utf-8", "surrogatepass")).digest()
    )
    swapped = {pair.id for pair in drawn[: round(share * len(pairs))]}
    return [_swap(pair) if pair.id in swapped else pair for pair in pairs]


def _swap(pair: PreferencePair) -> PreferencePair:
    return pair.model_copy(
        update={
            "chosen": pair.rejected,
            "rejected": pair.chosen,
            "chosen_source": pair.rejected_source,
            "rejected_source": pair.chosen_source,
            "basis": f"{pair.basis}, swapped on purpose",
        }
    )
