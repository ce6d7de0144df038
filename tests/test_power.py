"""power: exact binomial power by hand, sample sizes against statsmodels and the published tables."""

import math

import pytest
from statsmodels.stats.power import TTestPower

from ftlib.power import (
    difference_items_needed,
    difference_power,
    in_words,
    mcnemar_pairs_needed,
    share_items_needed,
    share_power,
    smallest_shown,
)


def test_share_power_by_hand():
    """n = 5 against 0.5 at 5 %: only 5 of 5 rejects (1/32 = 0.031; 4 of 5 would be 6/32). At 0.8: 0.8^5 = 0.32768."""
    assert share_power(5, 0.8, 0.5) == pytest.approx(0.32768)
    assert share_power(5, 0.2, 0.5) == pytest.approx(0.32768)  # "less than" is the same question about the rest
    assert share_power(4, 0.99, 0.5) == 0.0  # 4 of 4 has 1/16: no result of four items could show it


def test_share_items_needed_keeps_its_power_from_there_on():
    n = share_items_needed(0.92, 0.85)
    assert share_power(n - 1, 0.92, 0.85) < 0.8
    assert all(share_power(m, 0.92, 0.85) >= 0.8 for m in range(n, n + 60))
    assert share_items_needed(1.0, 0.85) == 19  # 0.85^19 = 0.0456 <= 0.05 < 0.85^18: all right, always


def test_differences_agree_with_statsmodels_t_test_for_large_n():
    """The t-test needs a hair more items than the normal formula, here one or two of 619."""
    n = difference_items_needed(sd=0.5, effect=0.05)
    exact = TTestPower().solve_power(effect_size=0.1, alpha=0.05, power=0.8, alternative="larger")
    assert n == 619 and 0 < exact - n < 3
    assert difference_power(n, 0.5, 0.05) == pytest.approx(0.8, abs=1e-3)
    assert smallest_shown(n, 0.5) == pytest.approx(0.05, abs=1e-4)
    assert difference_items_needed(0.0, 0.1) == 1 and difference_power(1, 0.0, 0.1) == 1.0


def test_mcnemar_gives_the_known_number():
    """(1.95996 sqrt(.15) + 0.84162 sqrt(.15 - .0025))^2 / .0025 = (0.75909 + 0.32323)^2 / .0025 = 468.6."""
    assert mcnemar_pairs_needed(0.10, 0.05) == mcnemar_pairs_needed(0.05, 0.10) == 469


def test_words():
    assert in_words(50, 783) == "n = 50 cannot show this; 783 needed"
    assert in_words(783, 783) == "n = 783 can show this"


@pytest.mark.parametrize(
    "call",
    [
        lambda: share_power(0, 0.9, 0.8),
        lambda: share_power(10, 0.8, 0.8),
        lambda: share_items_needed(0.9, 1.0),
        lambda: difference_power(10, 0.5, 0.0),
        lambda: difference_items_needed(0.5, -0.1),
        lambda: smallest_shown(0, 0.5),
        lambda: mcnemar_pairs_needed(0.1, 0.1),
        lambda: share_power(10, math.nan, 0.5),
    ],
)
def test_questions_without_an_answer_are_refused(call):
    with pytest.raises(ValueError, match="expected"):
        call()
