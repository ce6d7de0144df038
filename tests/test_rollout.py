"""Rollout: whose failure was it, when does it stop, and does the log give the state back? Numbers worked by hand."""

import dataclasses
import json
import math

import numpy as np
import pytest

from ftlib.rollout import Canary, Evidence, Guardrail, Plan, bucket, log_evidence, simulate

SMALL = Plan(shares=(0.1, 0.5, 1.0), requests=(4, 4, 0), guardrails=(Guardrail("failed", 0.05, (2.0,)),))


def user_of(arm: str, canary: Canary, start: int = 0) -> str:
    return next(f"u{n}" for n in range(start, start + 10_000) if canary.arm(f"u{n}") == arm)


def test_split_is_sticky_even_and_unrelated_between_salts():
    places = np.array([bucket(f"u{n}", salt="a") for n in range(4_000)])
    other = np.array([bucket(f"u{n}", salt="b") for n in range(4_000)])
    assert bucket("u1", salt="a") == places[1] and places.min() >= 0 and places.max() < 1
    assert abs((places < 0.05).mean() - 0.05) < 0.012  # 3.5 standard errors
    assert abs(np.corrcoef(places, other)[0, 1]) < 0.06


def test_a_higher_share_keeps_those_who_have_the_candidate():
    canary = Canary(SMALL)
    early = {f"u{n}" for n in range(500) if canary.arm(f"u{n}") == "candidate"}
    canary.stage = 1
    later = {f"u{n}" for n in range(500) if canary.arm(f"u{n}") == "candidate"}
    assert early < later


def test_evidence_by_hand():
    """w = .1, r = 2: the candidate's failure has odds 2*.1 : .9 of 1.1 instead of .1 : .9 of 1. So 2/1.1 and 1/1.1."""
    assert math.isclose(math.exp(log_evidence(0.1, of_candidate=True, ratio=2.0)), 2 / 1.1)
    assert math.isclose(math.exp(log_evidence(0.1, of_candidate=False, ratio=2.0)), 1 / 1.1)
    evidence = Evidence(Guardrail("failed", 0.05, (2.0, 4.0)))
    assert evidence.value == 1
    evidence.add("a", share=0.1, of_candidate=True)
    evidence.add("b", share=0.1, of_candidate=False)
    # mean over r = 2 and r = 4: (2/1.1^2 + 4/1.3^2) / 2
    assert math.isclose(evidence.value, (2 / 1.21 + 4 / 1.69) / 2)


def test_evidence_is_fair_when_both_are_alike():
    """Mean of one factor under the null: w * r/(rw+1-w) + (1-w) * 1/(rw+1-w) = 1, for every share and ratio."""
    for share in (0.01, 0.25, 0.5):
        for ratio in (1.5, 4.0):
            of = {mine: math.exp(log_evidence(share, of_candidate=mine, ratio=ratio)) for mine in (True, False)}
            assert math.isclose(share * of[True] + (1 - share) * of[False], 1)


def test_a_user_counts_once_and_no_control_group_says_nothing():
    evidence = Evidence(Guardrail("failed", 0.05, (2.0,)))
    once = evidence.add("a", share=0.1, of_candidate=True)
    assert evidence.add("a", share=0.1, of_candidate=True) == once
    assert evidence.failed == {"baseline": 0, "candidate": 1}
    assert evidence.add("b", share=1.0, of_candidate=True) == once


def test_stages_advance_and_end_with_everyone():
    canary = Canary(SMALL)
    for n in range(8):
        canary.record(f"u{n}", arm="baseline", share=canary.share, events=[])
    assert (canary.state, canary.share, canary.stage) == ("promoted", 1.0, 2)
    assert [d["request"] for d in canary.decisions] == [4, 8]


def test_six_failures_of_the_candidate_stop_it():
    """Each adds ln(2/1.1) = .598; ln 20 = 2.996 lies between five (2.989) and six (3.587) of them."""
    plan = dataclasses.replace(SMALL, requests=(100, 4, 0))
    canary = Canary(plan)
    for n in range(5):
        assert canary.record(f"c{n}", arm="candidate", share=0.1, events=["failed"]) == []
    (decision,) = canary.record("c5", arm="candidate", share=0.1, events=["failed"])
    assert decision["what"] == "rolled back" and "6 users of the candidate, 0 of the baseline" in decision["why"]
    assert canary.share == 0 and {canary.arm(f"u{n}") for n in range(200)} == {"baseline"}
    assert canary.record("c6", arm="candidate", share=0.1, events=["failed"]) == []  # one that was on its way


def test_a_tripwire_needs_one_event_of_the_candidate():
    plan = dataclasses.replace(SMALL, guardrails=(Guardrail("leak", alpha=0.0),))
    canary = Canary(plan)
    assert canary.record("a", arm="baseline", share=0.1, events=["leak"]) == []
    (decision,) = canary.record("b", arm="candidate", share=0.1, events=["leak"])
    assert decision["why"] == "leak: 1 users of the candidate, 1 of the baseline; one was enough"


def test_hold_keeps_the_share_and_alarms_still_count():
    canary = Canary(SMALL)
    canary.hold("a holiday")
    for n in range(6):
        canary.record(f"u{n}", arm="baseline", share=0.1, events=[])
    assert (canary.state, canary.share) == ("held", 0.1)
    canary.go_on("back")
    canary.record("u6", arm="baseline", share=0.1, events=[])
    assert canary.stage == 1
    canary.roll_back("a complaint")
    with pytest.raises(ValueError, match="expected a rollout that is held to be went on, it is rolled_back"):
        canary.go_on("please")
    with pytest.raises(ValueError, match="reason in words"):
        Canary(SMALL).hold(" ")


def test_an_unknown_event_is_refused_and_nothing_counted():
    canary = Canary(SMALL)
    with pytest.raises(ValueError, match="expected an arm and events of \\['failed'\\]"):
        canary.record("u", arm="baseline", share=0.1, events=["slow"])
    assert canary.requests == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shares": (0.5, 0.1, 1.0)}, "rising shares"),
        ({"shares": (0.1, 0.5, 0.9)}, "end at 1"),
        ({"requests": (1, 2)}, "expected 3 counts"),
        ({"guardrails": ()}, "one or more"),
        ({"guardrails": (Guardrail("a"), Guardrail("a"))}, "each name once"),
        ({"guardrails": (Guardrail("a", 0.05, (0.5,)),)}, "ratios above 1"),
        ({"guardrails": (Guardrail("a", 0.6), Guardrail("b", 0.6))}, "less than 1, got 1.2"),
    ],
)
def test_a_plan_that_cannot_be_followed(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_a_plan_goes_through_json():
    plan = Plan(guardrails=(Guardrail("failed", 0.03), Guardrail("leak", 0.0)))
    assert Plan.from_dict(json.loads(json.dumps(dataclasses.asdict(plan)))) == plan
    with pytest.raises(ValueError, match="unknown fields \\['share'\\]"):
        Plan.from_dict({"share": [1.0]})


def test_the_simulation_is_the_canary():
    """One simulated rollout, replayed request by request through `Canary`, stops at the same request."""
    plan = Plan(shares=(0.1, 0.5, 1.0), requests=(600, 600, 0), guardrails=(Guardrail("failed", 0.05),))
    fast = simulate(plan, baseline={"failed": 0.05}, candidate={"failed": 0.2}, runs=6, seed=5)
    rng, stops = np.random.default_rng(5), []
    share_T = np.repeat(plan.shares, plan.requests)
    for _ in range(6):
        mine_T = rng.random(1200) < share_T
        failed_T = rng.random(1200) < np.where(mine_T, 0.2, 0.05)
        canary = Canary(plan)
        for t in range(1200):
            arm = "candidate" if mine_T[t] else "baseline"
            canary.record(f"u{t}", arm=arm, share=share_T[t], events=["failed"] if failed_T[t] else [])
        stops.append(next((d["request"] for d in canary.decisions if d["what"] == "rolled back"), 0))
    assert fast.stopped_at.tolist() == stops and any(stops)


def test_false_alarms_and_detection():
    """2 % against 4 %: stopped before the 25 % stage. Alike: stopped in 5 % at most (300 runs: 3 standard errors)."""
    rates = {"failed": 0.02}
    bad = simulate(Plan(), baseline=rates, candidate={"failed": 0.04}, runs=300, seed=1)
    alike = simulate(Plan(), baseline=rates, candidate=rates, runs=300, seed=2)
    assert (bad.stopped & (bad.stage < 2)).mean() > 0.95 - 3 * 0.0126
    assert (bad.stopped & (bad.share_spent < 0.25)).mean() >= 0.95
    assert alike.stopped.mean() <= 0.05 + 3 * 0.0126


def test_fewer_looks_stop_later_and_not_more_often():
    rates = {"failed": 0.02}
    often = simulate(Plan(), baseline=rates, candidate={"failed": 0.04}, runs=40, seed=3)
    seldom = simulate(Plan(), baseline=rates, candidate={"failed": 0.04}, runs=40, seed=3, every=500)
    both = often.stopped & seldom.stopped
    assert both.any() and (seldom.stopped_at[both] >= often.stopped_at[both]).all()
    assert seldom.stopped.sum() <= often.stopped.sum()
    assert (seldom.stopped_at[seldom.stopped] % 500 == 0).all()
