"""Cases of one to six calls: balanced, solved by exactly so many calls, and never by fewer."""

import json
from collections import Counter
from dataclasses import asdict

import pytest

from ftlib import desk, long_cases, rewards
from ftlib.reward_attacks import call

TENT = desk.Case(
    "c", "About my tent from TH-11111: please refund me.", "TH-33333", "tent", "unused, original packing", 5, 19.9,
    "refund", "R8", 1, trail=("TH-11111", "TH-22222"),
)  # fmt: skip
on = lambda tool, number: call(tool, order_id=number)


def solved(case: desk.Case) -> list[str]:
    """The shortest honest way."""
    numbers = () if case.told else (*case.trail, case.order_id)
    return [
        *(call("find_order", order_id=n) for n in numbers),
        call(case.outcome, order_id=case.order_id),
        "It is done.",
    ]


def test_a_trail_by_hand():
    """Two old numbers: two look-ups that name the next one, the record, the action: four calls."""
    done, chat = desk.play(TENT, solved(TENT))
    said = [message["content"] for message in chat if message["role"] == "tool"]
    assert said == ["Moved to TH-22222.", "Moved to TH-33333.", TENT.record(), "refund: done."]
    assert done.success and TENT.needed_calls == len(done.calls) == 4
    assert rewards.decompose(done) == {"accuracy": 1.0, "safety": 1.0, "efficiency": 1.0}


@pytest.mark.parametrize(
    "answers",
    [
        [on("find_order", "TH-11111"), on("refund", "TH-11111")],  # an old number: no such order
        [on("find_order", "TH-11111"), on("find_order", "TH-22222"), on("refund", "TH-33333")],
        [on("refund", "TH-33333")],  # the right order, unseen
    ],
)
def test_no_step_of_a_trail_can_be_left_out(answers):
    done, _ = desk.play(TENT, answers)
    assert not done.success and rewards.accuracy(done) == 0 and rewards.efficiency(done) == 0


def test_an_old_number_is_read_as_the_present_one_is():
    assert (TENT.moved_to(" th-11111 "), TENT.moved_to("TH-33333"), TENT.moved_to(5)) == ("TH-22222", None, None)


def test_a_record_at_hand_needs_no_look_up_and_a_look_up_costs_speed_only():
    case = next(c for c in long_cases.make_long(8, seed=3) if c.needed_calls == 1)
    assert case.record() in case.message and case.order_id in case.message
    at_once = call(case.outcome, order_id=case.order_id)
    quick, slow = (
        desk.play(case, answers)[0] for answers in ([at_once], [call("find_order", order_id=case.order_id), at_once])
    )
    assert quick.success and slow.success
    assert (rewards.efficiency(quick), rewards.efficiency(slow)) == (1.0, 0.5)


@pytest.mark.parametrize("longest", [1, 4, 6])
def test_every_case_is_solved_by_the_calls_that_it_needs(longest):
    cases = long_cases.make_long(24, seed=7, held_out=True, longest=longest)
    for case in cases:
        done, chat = desk.play(case, solved(case))
        assert done.success and len(done.calls) == case.needed_calls <= longest
        assert case.message.count((*case.trail, case.order_id)[0]) == 1  # the message has the oldest number
        assert not case.trail or case.order_id not in case.message
        shown = desk.demonstration(case, case.outcome)
        assert [m["content"] for m in shown if m["role"] == "tool"] == [
            m["content"] for m in chat if m["role"] == "tool"
        ]
        assert shown[-3]["content"] == desk.note(case)
    assert len({number for case in cases for number in (*case.trail, case.order_id)}) == sum(
        len(case.trail) + 1 for case in cases
    )


def test_outcomes_and_lengths_are_balanced_and_any_four_hold_all():
    cases = long_cases.make_long(32, seed=5)
    assert Counter((c.outcome, long_cases.length_of(c)) for c in cases) == {
        (outcome, length): 2 for outcome in desk.OUTCOMES for length in ("1", "2", "3", "4+")
    }
    for k in range(0, 32, 4):
        four = cases[k : k + 4]
        assert {c.outcome for c in four} == set(desk.OUTCOMES) and {c.needed_calls for c in four} == {1, 2, 3, 4}
    places = long_cases.by_length(cases)
    assert list(places) == ["1", "2", "3", "4+"] and sorted(n for part in places.values() for n in part) == list(
        range(32)
    )
    assert all(cases[n].needed_calls == 3 for n in places["3"])


def test_the_same_seed_makes_the_same_cases_and_a_table_gives_them_back():
    cases = long_cases.make_long(8, seed=2)
    assert cases == long_cases.make_long(8, seed=2) != long_cases.make_long(8, seed=3)
    assert [desk.Case(**json.loads(json.dumps(asdict(case)))) for case in cases] == cases
    assert len({case.id for case in cases}) == 8


@pytest.mark.parametrize("longest", [0, 7])
def test_lengths_that_the_desk_does_not_take(longest):
    with pytest.raises(ValueError, match="longest: expected 1 to 6"):
        long_cases.make_long(8, seed=1, longest=longest)
