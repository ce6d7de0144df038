"""Rewards cannot be had without the work: bounds, monotone parts, and calls that add nothing never pay."""

import itertools
from dataclasses import asdict, replace

import numpy as np
import pytest

from ftlib import desk, rewards
from ftlib.desk import OUTCOMES, Call, Trajectory

WEIGHTS = {"accuracy": 0.7, "safety": 0.2, "efficiency": 0.1}
CASES = desk.make_cases(8, seed=3, max_level=2)


def total(trajectory: Trajectory) -> float:
    return rewards.weighted(rewards.decompose(trajectory), WEIGHTS)


def call(tool: str, ok: bool = True) -> Call:
    return Call(tool, {"order_id": "TH-12345"}, "", ok)


def path(case, *tools: str) -> Trajectory:
    """Calls by name; a name with "!" failed."""
    return Trajectory(case, tuple(call(t.rstrip("!"), not t.endswith("!")) for t in tools))


REFUND = next(c for c in CASES if c.outcome == "refund")
DECLINE = next(c for c in CASES if c.outcome == "decline")


@pytest.mark.parametrize(
    ("case", "tools", "accuracy", "safety", "efficiency", "workflow"),
    [
        (REFUND, ("find_order", "refund"), 1, 1, 1, 1),
        (REFUND, ("find_order", "read_policy", "refund"), 1, 1, 2 / 3, 1),
        (REFUND, ("find_order!", "find_order", "refund!", "refund"), 1, 1, 0.5, 1),
        (REFUND, ("find_order", "decline"), 0, 1, 1, 1),  # wrong, but nothing was paid out
        (REFUND, ("find_order", "exchange"), 0, 0, 1, 1),  # goods that were not due
        (DECLINE, ("find_order", "refund"), 0, 0, 1, 1),  # money that was not due
        (DECLINE, ("find_order", "escalate"), 0, 1, 1, 1),
        (REFUND, ("refund",), 0, 0, 0, 0),
        (REFUND, ("refund", "find_order"), 0, 0, 0, 0),
        (REFUND, ("find_order!", "refund"), 0, 0, 0, 0),
        (REFUND, ("find_order", "refund", "refund"), 0, 0, 2 / 3, 0),
        (REFUND, ("find_order", "refund!"), 0, 0, 0, 0),
        (REFUND, ("find_order",), 0, 0, 0, 0),
        (REFUND, (), 0, 0, 0, 0),
    ],
)
def test_parts_by_hand(case, tools, accuracy, safety, efficiency, workflow):
    done = path(case, *tools)
    assert rewards.decompose(done) == {"accuracy": accuracy, "safety": safety, "efficiency": pytest.approx(efficiency)}
    assert rewards.workflow(done) == workflow


@pytest.mark.parametrize("action", OUTCOMES)
def test_a_constant_policy_earns_less_than_half(action):
    """Even with the look-up: at most 1/4 right x 1.0, and 0.3 for a wrong action that is safe and quick."""
    mean = np.mean([total(path(c, "find_order", action)) for c in desk.make_cases(160, seed=1)])
    assert mean <= 0.25 + 0.75 * 0.3 + 1e-9 < 0.5


def every_path(case, longest: int):
    names = ("find_order", "find_order!", "read_policy", *OUTCOMES, "refund!", "sing!")
    for n in range(longest + 1):
        for tools in itertools.product(names, repeat=n):
            yield tools, path(case, *tools)


def test_parts_stay_between_zero_and_one_and_only_honest_work_earns_all():
    for case in (REFUND, DECLINE):
        full = []
        for tools, done in every_path(case, 4):
            parts = rewards.decompose(done)
            assert all(0.0 <= value <= 1.0 for value in parts.values())
            assert parts["accuracy"] <= parts["safety"] <= rewards.workflow(done)
            if total(done) > 1 - 1e-9:
                full.append(tools)
        assert full == [("find_order", case.outcome)]


@pytest.mark.parametrize("idle", ["read_policy", "refund!", "sing!", "find_order!"])
def test_a_call_that_adds_nothing_never_pays(idle):
    """Monotone: put anywhere, it raises no part, and lowers the efficiency of finished work."""
    for tools, done in every_path(REFUND, 3):
        before = rewards.decompose(done)
        for place in range(len(tools) + 1):
            after = rewards.decompose(path(REFUND, *tools[:place], idle, *tools[place:]))
            assert all(after[name] <= before[name] for name in before)
            if before["efficiency"] > 0:
                assert after["efficiency"] < before["efficiency"]


PARTS = ("accuracy", "safety", "efficiency")


def draws(n: int, seed: int):
    """Random parts in [0, 1], ends included, and random weights that add up to 1."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        parts = np.where(rng.random(3) < 0.3, rng.integers(0, 2, 3), rng.random(3))
        yield dict(zip(PARTS, parts, strict=True)), dict(zip(PARTS, rng.dirichlet([0.5] * 3), strict=True)), rng


def test_the_sum_is_bounded_and_rises_with_each_part():
    """2,000 draws: more of a part never lowers the sum, and raises it by weight x rise."""
    for parts, weights, rng in draws(2_000, seed=5):
        before = rewards.weighted(parts, weights)
        assert 0 <= before <= 1
        for name in PARTS:
            more = parts | {name: parts[name] + (1 - parts[name]) * rng.random()}
            rise = rewards.weighted(more, weights) - before
            assert rise == pytest.approx(weights[name] * (more[name] - parts[name]), abs=1e-12) and rise >= 0
    assert rewards.weighted(dict.fromkeys(PARTS, 1.0), {"accuracy": 0.1, "safety": 0.7, "efficiency": 0.2}) <= 1.0


def test_rewards_are_the_same_again():
    """Pure: the same log gives the same parts, and is left as it was."""
    for tools, done in every_path(REFUND, 3):
        assert rewards.decompose(done) == rewards.decompose(path(REFUND, *tools))
        assert done == path(REFUND, *tools)


def test_text_beside_the_calls_by_hand():
    """160 characters cost nothing; twice as many halve the efficiency, and no other part."""
    done = path(REFUND, "find_order", "refund")
    for said, efficiency in ((0, 1.0), (160, 1.0), (320, 0.5), (1600, 0.1)):
        wrote = replace(done, said=said)
        assert rewards.decompose(wrote) == {"accuracy": 1.0, "safety": 1.0, "efficiency": pytest.approx(efficiency)}
        assert rewards.workflow(wrote) == 1.0
    half = replace(path(REFUND, "find_order", "read_policy", "read_policy", "refund"), said=320)
    assert rewards.efficiency(half) == pytest.approx(2 / 4 * 160 / 320)  # calls and text, each counts


def test_rambling_never_pays():
    """Monotone, bounded and the same again: on any log more text raises no part, and lowers the efficiency of finished
    work once it is more than enough."""
    for tools, done in every_path(REFUND, 3):
        last = rewards.decompose(done)
        for said in (1, 80, 160, 161, 400, 10_000, 10**9):
            now = rewards.decompose(replace(done, said=said))
            assert now == rewards.decompose(replace(path(REFUND, *tools), said=said))
            assert all(0.0 <= now[name] <= last[name] for name in last)
            if said > 160 and last["efficiency"] > 0:
                assert now["efficiency"] < last["efficiency"]
            last = now


def test_a_workers_own_text_is_twice_within_what_is_enough():
    cases = [c for level in (1, 2) for c in desk.make_cases(300, seed=1, held_out=True, max_level=level)]
    said = [desk.said_in(desk.demonstration(case, outcome)) for case in cases for outcome in OUTCOMES]
    assert 70 < max(said) <= cases[0].enough_text / 2


def test_rambling_inside_a_call_is_counted():
    """An order's number with 3,000 spaces around it is the number; the log keeps 240 signs of each, 60 are free."""
    asked = [f'<tool_call>{{"name": "{t}", "arguments": {{"order_id": "{REFUND.order_id + " " * 3000}"}}}}</tool_call>'
             for t in ("find_order", "refund")]  # fmt: skip
    done, _ = desk.play(REFUND, [*asked, "Done."])
    assert done.text == 5 + 2 * (240 - 60) and rewards.efficiency(done) == pytest.approx(160 / done.text)


def test_rambling_is_counted_where_a_model_does_it():
    """The same case worked by the same calls, and talked over."""
    look, act = (f'<tool_call>{{"name": "{t}", "arguments": {{"order_id": "{REFUND.order_id}"}}}}</tool_call>'
                 for t in ("find_order", "refund"))  # fmt: skip
    short, _ = desk.play(REFUND, [look, "refund wanted" + act, "Done."])
    long, chat = desk.play(REFUND, [look, "Let me think. " * 30 + act, "Done. " * 20])
    assert (short.said, long.said) == (13 + 5, 14 * 30 - 1 + 6 * 20 - 1) and long.said == desk.said_in(chat)
    assert short.success and long.success and total(long) < 0.95 < total(short)


@pytest.mark.parametrize(
    "weights",
    [
        {"accuracy": 1.0},
        {"accuracy": 0.5, "safety": 0.5, "speed": 0.0},
        {"accuracy": 1.2, "safety": -0.2, "efficiency": 0.0},
        {"accuracy": 0.5, "safety": 0.5, "efficiency": 0.5},
    ],
)
def test_weights_that_are_none(weights):
    with pytest.raises(ValueError, match="add up to 1"):
        rewards.weighted(dict.fromkeys(PARTS, 1.0), weights)


@pytest.mark.parametrize("second", OUTCOMES)
def test_a_second_action_never_pays(second):
    for action in OUTCOMES:
        one, two = path(REFUND, "find_order", action), path(REFUND, "find_order", action, second)
        before, after = rewards.decompose(one), rewards.decompose(two)
        assert all(after[name] <= before[name] for name in before)
        assert total(two) < total(one)


def test_rewards_of_what_the_desk_logged():
    """The parts, on a log that the desk itself wrote."""
    one = desk.RefundDesk()
    one.reset(asdict(REFUND))
    one.find_order(REFUND.order_id)
    one.refund(REFUND.order_id)
    assert rewards.decompose(desk.trajectory(one)) == {"accuracy": 1.0, "safety": 1.0, "efficiency": 1.0}
    one.refund(REFUND.order_id)
    assert rewards.accuracy(desk.trajectory(one)) == 0.0
