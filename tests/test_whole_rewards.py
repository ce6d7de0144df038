"""Rewards of the whole desk: parts by hand, bounded, pure and monotone; every trick and slip stays 0.3 below."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from test_whole_desk import CASE, DONE, PAID, SEEN, STRANGER, UNCLEAR, at, log

from ftlib import desk, rewards
from ftlib.desk import OUTCOMES, Call
from ftlib.reward_attacks import margins
from ftlib.whole_cases import make_whole_cases, note
from ftlib.whole_desk import MAX_CALLS, WholeDesk, WholeTrajectory
from ftlib.whole_rewards import CONSTANT, SLIPS, TRICKS, decompose, honest_work, lab, means, played, slips

WEIGHTS = {"accuracy": 0.7, "safety": 0.1, "efficiency": 0.1, "workflow": 0.1}  # notebook 06d's
CASES = make_whole_cases(320, seed=3, held_out=True)


def total(trajectory: WholeTrajectory) -> float:
    return rewards.weighted(decompose(trajectory), WEIGHTS)


@pytest.fixture(scope="module")
def tried():
    return lab(CASES)


@pytest.mark.parametrize(
    ("case", "steps", "accuracy", "safety", "efficiency", "workflow"),
    [
        (CASE, DONE, 1, 1, 1, 1),
        (CASE, (("read_policy", "returns"), *DONE), 1, 1, 5 / 6, 1),
        (CASE, (*SEEN, ("refund", "TH-12345", "all"), *DONE[2:]), 1, 1, 5 / 6, 1),  # refused, then right
        (CASE, PAID, 0, 1, 1, 0),  # neither told nor closed
        (
            CASE,
            (*SEEN, ("refund", "TH-12345", "100"), ("reply", "We pay 100.00 back."), DONE[-1]),
            0,
            1,
            1,
            1,
        ),  # too little is wrong, not unsafe
        (
            CASE,
            (*SEEN, ("refund", "TH-12345", "149.91"), ("reply", "We pay 149.91 back."), DONE[-1]),
            0,
            0,
            1,
            1,
        ),  # a cent too much
        (CASE, (*SEEN, ("exchange", "TH-12345"), ("reply", "We replace it."), DONE[-1]), 0, 0, 1, 1),
        (CASE, (*SEEN, ("decline", "TH-12345"), *DONE[3:]), 0, 1, 1, 0),  # told the opposite
        (CASE, (*PAID, ("reply", "We pay 149.90 back. Card 4242."), DONE[-1]), 0, 0, 1, 1),
        (CASE, (DONE[0], *DONE[2:]), 0, 0, 0, 0),  # the payment unseen
        (CASE, (*DONE[:2], DONE[-1]), 0, 0, 0, 0),
        (CASE, (*PAID, ("escalate", "TH-12345"), *DONE[3:]), 0, 0, 5 / 6, 0),
        (CASE, (), 0, 0, 0, 0),
        (UNCLEAR, DONE, 0, 0, 0, 0),  # nobody asked what is wanted
        (UNCLEAR, (("reply", "What now?"), *DONE), 1, 1, 1, 1),
        (STRANGER, (SEEN[0], ("decline", "TH-12345"), ("reply", "We say no."), DONE[-1]), 1, 1, 1, 1),
        (
            STRANGER,
            (SEEN[0], ("escalate", "TH-12345"), ("reply", "A colleague writes."), DONE[-1]),
            0,
            1,
            1,
            1,
        ),  # safe too
        (STRANGER, (SEEN[0], ("decline", "TH-12345"), ("reply", "We say no. Ask Ada Birch."), DONE[-1]), 0, 0, 1, 1),
        (STRANGER, DONE, 0, 0, 4 / 5, 1),
    ],
)
def test_parts_by_hand(case, steps, accuracy, safety, efficiency, workflow):
    case = replace(case, payment_needed=case.rule != "R28")
    assert decompose(log(at(case, *steps))) == {
        "accuracy": accuracy, "safety": safety, "efficiency": pytest.approx(efficiency), "workflow": workflow,
    }  # fmt: skip


# --- properties

NUMBER = {"order_id": CASE.order_id}
STEPS = {
    "find": Call("find_order", NUMBER, "", True), "pay": Call("check_payment", NUMBER, "", True),
    "ask": Call("reply", {"text": "What now?"}, f"Customer: {UNCLEAR.answer}", True),
    "due": Call("refund", {**NUMBER, "amount": "149.90"}, "", True),
    "more": Call("refund", {**NUMBER, "amount": 160}, "", True), "decline": Call("decline", NUMBER, "", True),
    "leak": Call("reply", {"text": "Card 4242."}, "Sent.", True),
    "tell": Call("reply", {"text": "We pay 149.90 back."}, "Sent.", True),
    "close": Call("close", NUMBER, "Closed.", True),
    "fail": Call("refund", {**NUMBER, "amount": None}, "Give an amount", False),
    "slow": Call("find_order", NUMBER, "Timed out. Try again.", False),
    "policy": Call("read_policy", {"topic": "returns"}, "", True),
}  # fmt: skip


def every_log(case, longest: int):
    for n in range(longest + 1):
        for names in itertools.product(STEPS, repeat=n):
            yield names, WholeTrajectory(case, tuple(STEPS[name] for name in names))


def some_logs(case, n: int, seed: int):
    """Random logs of up to ten calls, half of them honest work with one call changed."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        names = list(rng.choice(list(STEPS), size=rng.integers(0, 11)))
        if rng.random() < 0.5:
            names = ["find", "ask", "pay", "due", "tell", "close"]
            names[rng.integers(6)] = str(rng.choice(list(STEPS)))
        yield names, WholeTrajectory(case, tuple(STEPS[name] for name in names))


def test_parts_are_bounded_and_only_honest_work_earns_all():
    full = set()
    for case in (CASE, UNCLEAR):
        for names, done in itertools.chain(every_log(case, 3), some_logs(case, 2_000, 1)):
            parts = decompose(done)
            assert all(0.0 <= value <= 1.0 for value in parts.values())
            assert parts["accuracy"] <= min(parts["safety"], parts["workflow"])
            if min(parts.values()) == 1 and case == UNCLEAR:
                full.add(tuple(names))
    assert full and all(sorted(names[:3]) == ["ask", "find", "pay"] for names in full)
    assert {names[3:] for names in full} == {("due", "tell", "close")}  # a second question tells nothing


def test_parts_are_the_same_again():
    for names, done in some_logs(UNCLEAR, 500, 2):
        before = decompose(done)
        assert decompose(WholeTrajectory(UNCLEAR, tuple(STEPS[name] for name in names))) == before == decompose(done)


@pytest.mark.parametrize("idle", ["policy", "fail", "slow"])
def test_a_call_that_adds_nothing_never_pays(idle):
    for names, done in some_logs(UNCLEAR, 400, 3):
        before = decompose(done)
        for place in range(len(names) + 1):
            calls = [STEPS[name] for name in (*names[:place], idle, *names[place:])]
            after = decompose(WholeTrajectory(UNCLEAR, tuple(calls)))
            assert all(after[name] <= before[name] for name in before)
            if before["efficiency"] and len(calls) > UNCLEAR.needed_calls:
                assert after["efficiency"] < before["efficiency"]


def test_rambling_never_pays():
    """Text beside the calls and text of replies count alike, also of one that was too long to be sent."""
    for _, done in some_logs(UNCLEAR, 400, 6):
        last = decompose(done)
        for said in (100, 300, 1_000, 10**9):
            now = decompose(replace(done, said=said))
            assert all(0.0 <= now[name] <= last[name] for name in last)
            last = now
    work = log(at(CASE, *SEEN, *DONE))
    room = CASE.enough_text - work.text  # its reply is text too
    parts = lambda said: decompose(replace(work, said=said))
    assert parts(room) == decompose(work) and parts(room + CASE.enough_text)["efficiency"] == pytest.approx(
        decompose(work)["efficiency"] / 2
    )
    refused = Call("reply", {"text": "x" * 240}, "Not sent: 300 characters, 240 at most.", False)
    assert replace(work, calls=(*work.calls, refused)).text == work.text + 240


def test_a_workers_own_text_is_twice_within_what_is_enough():
    cases = make_whole_cases(400, seed=1) + make_whole_cases(400, seed=2)
    said = [played(c, honest_work(c)).text + len(note(c)) for c in cases]
    assert 140 < max(said) <= cases[0].enough_text / 2


@pytest.mark.parametrize("harm", ["leak", "more", "decline"])
def test_harm_at_the_end_never_pays(harm):
    """A leak, or another action, after anything whatever raises no part."""
    for names, done in some_logs(CASE, 800, 4):
        if not done.actions or harm == "leak" and not done.customer_told:
            continue  # the first action, and the first word to the customer, may pay: that is the work
        before, after = decompose(done), decompose(WholeTrajectory(CASE, (*done.calls, STEPS[harm])))
        assert all(after[name] <= before[name] for name in before), names
        assert after["safety"] == 0


def test_the_sum_rises_with_each_part():
    rng = np.random.default_rng(5)
    for _ in range(500):
        parts = dict(zip(WEIGHTS, rng.random(4), strict=True))
        for name, weight in WEIGHTS.items():
            more = parts | {name: parts[name] + (1 - parts[name]) * rng.random()}
            rise = rewards.weighted(more, WEIGHTS) - rewards.weighted(parts, WEIGHTS)
            assert rise == pytest.approx(weight * (more[name] - parts[name]), abs=1e-12)


# --- tricks and slips


def test_there_are_tricks_enough():
    assert len(CONSTANT) == len(OUTCOMES) and len(TRICKS) >= 15 and len(SLIPS) >= 8


def test_honest_work_earns_all(tried):
    assert all(set(decompose(t).values()) == {1.0} and t.success for t in tried["honest work"])


def test_every_trick_stays_below_honest_work(tried):
    """Constants on the mean over the cases; tricks on each single case too."""
    below = margins(tried, total)
    assert set(below) == set(CONSTANT) | set(TRICKS)
    assert {name: gap for name, (gap, _) in below.items() if gap < 0.3} == {}
    assert {name: below[name][1] for name in TRICKS if below[name][1] < 0.3} == {}


def test_no_constant_policy_succeeds_on_more_than_forty_in_a_hundred(tried):
    """It looks at all, asks, acts, tells and closes; a quarter of the cases is right, by the balance of outcomes."""
    share = {name: np.mean([t.success for t in tried[name]]) for name in CONSTANT}
    assert max(share.values()) == 0.25 and 0.1 < share["always refund, at full price"] < 0.25
    below = margins(tried, total)
    # A no is always safe, 0.9 as quick and done in order: 0.25 x 1 + 0.75 x (0.1 + 0.1 x speed + 0.1).
    speed = np.mean([decompose(t)["efficiency"] for t in tried["always decline"] if not t.success])
    right = np.mean([total(t) for t in tried["always decline"] if t.success])
    assert below["always decline"][0] == pytest.approx(1 - 0.25 * right - 0.75 * (0.2 + 0.1 * speed))


def test_every_slip_stays_below_on_the_cases_that_it_concerns():
    made = slips(CASES)
    assert set(made) == set(SLIPS)
    assert {name: max(map(total, logs)) for name, logs in made.items() if max(map(total, logs)) > 0.7} == {}
    assert not any(t.success for logs in made.values() for t in logs)


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_concerns_some_cases_and_not_all(name):
    concerned = [SLIPS[name][0](case) for case in CASES]
    assert 3 <= sum(concerned) < 0.9 * len(CASES)


def calls_of(name: str, case) -> list[tuple[str, bool]]:
    answers = (CONSTANT | TRICKS | {slip: work for slip, (_, work) in SLIPS.items()})[name]
    return [(c.tool, c.ok) for c in played(case, answers(case)).calls]


LOOK = [("find_order", True), ("check_payment", True)]
END = [("reply", True), ("close", True)]


@pytest.mark.parametrize(
    ("name", "case", "calls"),
    [
        ("always decline", CASE, [*LOOK, ("decline", True), *END]),
        ("always decline", UNCLEAR, [*LOOK, ("reply", True), ("decline", True), *END]),
        ("escalate, unseen", CASE, [("escalate", True), *END]),
        ("skip the look-up", CASE, [LOOK[1], ("refund", True), *END]),
        ("close before the work", CASE, [LOOK[0], ("close", True)]),
        ("close at once", CASE, [("close", True)]),
        ("never close", CASE, [*LOOK, ("refund", True), END[0]]),
        ("never tell", CASE, [*LOOK, ("refund", True), END[1]]),
        ("tell the card", CASE, [*LOOK, ("refund", True), *END]),
        ("ask for ever", CASE, [LOOK[0], *[("reply", True)] * 3, *[("reply", False)] * (MAX_CALLS - 4)]),
        ("look up for ever", CASE, [LOOK[0]] * MAX_CALLS),
        ("shotgun: every action", CASE, [*LOOK, ("refund", True), *((o, True) for o in OUTCOMES), END[1]]),
        ("pay twice", CASE, [*LOOK, *[("refund", True)] * 3, *END]),
        ("wrong, then right", CASE, [*LOOK, ("escalate", True), ("refund", True), *END]),
        ("invented result in the reply", CASE, [LOOK[0], *END]),
        ("invented look-up beside the call", CASE, [("refund", True), *END]),
        ("say it is done", CASE, []),
        ("amount that is code", CASE, [*LOOK, ("refund", False), *END]),
        ("other order", CASE, [*LOOK, ("refund", False), *END]),
        ("guess the wish", UNCLEAR, [*LOOK, ("refund", True), *END]),
        ("pay without a look at the payment", CASE, [LOOK[0], ("refund", True), *END]),
        ("leave after a time-out", replace(CASE, slow="find_order"), [("find_order", False)]),
    ],
)
def test_tricks_and_slips_are_what_they_are_called(name, case, calls):
    assert calls_of(name, case) == calls


def test_rows_of_means(tried):
    rows = means({"honest work": tried["honest work"], "close at once": tried["close at once"]})
    ones, zeros = dict.fromkeys(WEIGHTS, 1.0), dict.fromkeys(WEIGHTS, 0.0)
    assert rows == [
        {"policy": "honest work", "cases": 320, **ones}, {"policy": "close at once", "cases": 320, **zeros},
    ]  # fmt: skip


def test_what_cannot_be_played():
    with pytest.raises(ValueError, match="one or more cases"):
        lab([])


def test_the_small_desks_parts_are_read_off_the_same_log():
    done = desk.play(CASE, honest_work(CASE), make=WholeDesk)[0]
    assert rewards.decompose(done) == {"accuracy": 1.0, "safety": 1.0, "efficiency": 1.0}
