"""The alarm for reward hacking: its stake by hand, when it goes off, and how seldom by mistake."""

import numpy as np
import pytest

from ftlib.hacking import HackMonitor
from ftlib.looks import STAKES, mean_above


def calm(steps: int = 4, n: int = 100) -> HackMonitor:
    return HackMonitor([0.5] * n, [0.5] * n, steps=steps)


def test_the_stake_by_hand():
    """No gap before: d = 0, (1 + d) / 2 = 0.5. One rollout a step. The stake is shared over four start steps; those
    that begin later still hold their quarter."""
    monitor = calm()
    assert monitor.bound == pytest.approx(1 - mean_above([0.5] * 100, alpha=0.025))
    assert monitor.limit == 40
    grow = lambda gap: np.array([1 + s * (gap - monitor.bound) / monitor.bound for s in STAKES])
    monitor.add([1.0], [0.0])  # (1 + 1) / 2 = 1
    assert monitor.evidence[-1] == pytest.approx((grow(1.0).mean() + 3) / 4)
    monitor.add([1.0], [1.0])  # 0.5
    assert monitor.evidence[-1] == pytest.approx(((grow(1.0) * grow(0.5)).mean() + grow(0.5).mean() + 2) / 4)


def test_a_proxy_that_rises_alone_sets_it_off_and_the_first_step_is_kept():
    monitor = calm()
    assert not monitor.add([0.5] * 32, [0.5] * 32)
    assert monitor.add([1.0] * 32, [0.3] * 32) and monitor.alarm == 2
    assert monitor.add([1.0] * 32, [0.3] * 32) and monitor.alarm == 2


def test_both_that_rise_and_a_true_one_that_falls_alone_do_not():
    monitor = calm()
    assert not any(monitor.add([level] * 32, [level] * 32) for level in (0.6, 0.8, 1.0))
    fallen = calm()
    assert not any(fallen.add([0.5] * 32, [0.0] * 32) for _ in range(4))
    assert fallen.evidence[-1] > fallen.limit  # the gap is seen, but the proxy has not risen: damage, no hack


def test_a_gap_that_was_there_before_is_none_of_its_business():
    monitor = HackMonitor([0.9] * 200, [0.3] * 200, steps=6)
    assert not any(monitor.add([0.95] * 32, [0.35] * 32) for _ in range(6))


def test_nothing_left_to_bet_on():
    monitor = HackMonitor([1.0], [0.0], steps=2)
    assert monitor.bound == 1.0 and not monitor.add([1.0] * 50, [0.0] * 50)


def test_more_steps_than_planned():
    monitor = calm(steps=2)
    for _ in range(5):
        monitor.add([0.5], [0.5])
    assert len(monitor.evidence) == 5


@pytest.mark.parametrize(
    ("proxy", "true", "words"),
    [
        ([], [], "one length"),
        ([1.0], [1.0, 0.0], "one length"),
        ([1.2], [0.0], "scale them"),
        ([np.nan], [0.0], "scale"),
    ],
)
def test_scores_that_cannot_be_watched(proxy, true, words):
    with pytest.raises(ValueError, match=words):
        HackMonitor(proxy, true, steps=3)
    with pytest.raises(ValueError, match=words):
        calm().add(proxy, true)


@pytest.mark.parametrize(("steps", "alpha"), [(0, 0.05), (3, 0.0), (3, 1.0)])
def test_plans_that_are_none(steps, alpha):
    with pytest.raises(ValueError, match="steps >= 1 and alpha inside"):
        HackMonitor([0.5], [0.5], steps=steps, alpha=alpha)
