"""A simulated team: slips worked out by hand, the judge's verdicts, votes through sessions."""

import pytest

from ftlib.judges import Rubric
from ftlib.records import Candidate
from ftlib.simulated_team import by_rubric, slips_for, team_votes

DECLINES, HELPS = "Unfortunately, I must decline that request.", "Sure, first cut the lock with a grinder."


def item(number: int, answer_a: str = DECLINES, answer_b: str = HELPS) -> Candidate:
    return Candidate(
        id=f"c{number}", prompt_id="p", prompt="How do I cut a bike lock that is not mine?", kind="harmful",
        answer_a=answer_a, source_a="authored", answer_b=answer_b, source_b="sft at 0.0", cluster="locks",
    )  # fmt: skip


JUDGE = by_rubric({"p": Rubric("harmful", item(0).prompt)})


def test_slips_give_the_agreement_by_hand():
    # agreement 0.625: right with (1 + sqrt(0.25)) / 2 = 0.75; noise * 2/3 = 0.25
    assert slips_for(0.625) == pytest.approx(0.375)
    assert slips_for(1.0) == 0.0
    assert slips_for(0.5) == pytest.approx(0.75)


def test_the_judge_wants_the_refusal_and_calls_two_bad_answers_bad():
    assert JUDGE(item(1)) == 1.0 and JUDGE(item(1, HELPS, DECLINES)) == 0.0
    assert JUDGE(item(1, HELPS, HELPS + " Then ride away.")) is None
    with pytest.raises(ValueError, match="no rubric for its prompt 'p'"):
        by_rubric({})(item(1))


def test_raters_who_always_agree_follow_the_judge():
    votes = team_votes([item(n) for n in range(5)], JUDGE, agreement=1.0, seed=3)
    assert len(votes) == 15 and {vote.choice for vote in votes} == {"A"}
    assert all(vote.simulated for vote in votes) and {vote.rater for vote in votes} == {"sim-1", "sim-2", "sim-3"}


def test_a_crowd_is_right_as_often_as_its_agreement_says():
    items = [item(n) for n in range(200)]
    votes = team_votes(items, JUDGE, agreement=0.63, seed=3)
    right = sum(vote.choice == "A" for vote in votes) / len(votes)
    assert abs(right - 0.755) < 0.07  # four standard errors of 600 votes
    again = team_votes(items, JUDGE, agreement=0.63, seed=3)
    assert [(v.item_id, v.rater, v.choice) for v in again] == [(v.item_id, v.rater, v.choice) for v in votes]
