"""Rollouts on disk: the same back, made anew under another key, and files that hold something else."""

import json

import pytest

from ftlib import desk
from ftlib.kept_rollouts import Rollouts, kept
from ftlib.reward_attacks import ATTACKS, call, honest_work
from ftlib.whole_cases import make_whole_cases
from ftlib.whole_desk import WholeDesk, WholeTrajectory
from ftlib.whole_rewards import TRICKS, played
from ftlib.whole_rewards import honest_work as whole_work

CASES = desk.make_cases(4, seed=4)
ANSWERS = [
    honest_work(CASES[0]),
    ATTACKS["argument of a wrong type"](CASES[1]),
    ["Half a pair: \ud83d, and ünïcode. " + call("read_policy", topic="returns"), ""],
    [""],
]


class Made:
    """A policy that is scripted; counts how often it is asked."""

    def __init__(self):
        self.asked = 0

    def __call__(self):
        self.asked += 1
        played = [desk.play(case, answers) for case, answers in zip(CASES, ANSWERS, strict=True)]
        turns = [[([1, 2, n], [3, n])] for n in range(4)]
        return [t for t, _ in played], [chat for _, chat in played], turns


def test_the_same_comes_back_and_nothing_is_made_twice(tmp_path):
    make = Made()
    first = kept(tmp_path / "log.json", key="a", make=make)
    again = kept(tmp_path / "log.json", key="a", make=make)
    assert make.asked == 1
    assert again == first and len(again.trajectories) == 4
    assert [t.success for t in again.trajectories] == [True, False, False, False]
    assert [t.said for t in again.trajectories] == [t.said for t in first.trajectories] != [0] * 4
    assert again.chats == first.chats and again.turns[3] == [([1, 2, 3], [3, 3])]


def test_rollouts_of_the_whole_desk_come_back_as_such(tmp_path):
    case = make_whole_cases(8, seed=4)[0]
    made = [played(case, work(case)) for work in (whole_work, TRICKS["never tell"])]
    make = lambda: (made, [[], []], [[], []])
    kept(tmp_path / "log.json", key="a", make=make, desk=WholeDesk)
    again = kept(tmp_path / "log.json", key="a", make=lambda: None, desk=WholeDesk)
    assert again.trajectories == made and all(isinstance(t, WholeTrajectory) for t in again.trajectories)
    assert [t.success for t in again.trajectories] == [True, False]


def test_another_key_is_another_log(tmp_path):
    make = Made()
    kept(tmp_path / "log.json", key="a", make=make)
    kept(tmp_path / "log.json", key="b", make=make)
    kept(tmp_path / "log.json", key="b", make=make)
    assert make.asked == 2


def test_what_fails_leaves_the_file_as_it_was(tmp_path):
    kept(tmp_path / "log.json", key="a", make=Made())
    before = (tmp_path / "log.json").read_bytes()
    with pytest.raises(ValueError, match="got 4, 4 and 0"):
        kept(tmp_path / "log.json", key="b", make=lambda: (*Made()()[:2], []))
    assert (tmp_path / "log.json").read_bytes() == before


def test_a_file_that_was_changed_is_named_with_its_rollout(tmp_path):
    path = tmp_path / "log.json"
    kept(path, key="a", make=Made())
    known = json.loads(path.read_text(encoding="utf-8"))
    del known["rows"][2]["trajectory"]["case"]["outcome"]
    path.write_text(json.dumps(known), encoding="utf-8")
    with pytest.raises(ValueError, match=r"log.json rollout 2: not as it was kept"):
        kept(path, key="a", make=Made())


def test_lists_of_several_lengths():
    with pytest.raises(ValueError, match="got 1, 0 and 0"):
        Rollouts([1], [], [])
