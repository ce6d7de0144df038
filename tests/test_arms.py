"""An arm is done when its mark says so under the same key, and its cost comes back from the mark."""

import numpy as np
import pytest

from ftlib.arms import Arm, Cost, Results


def test_a_finished_arm_is_known_again_and_only_under_its_key(tmp_path):
    arm = Arm(tmp_path / "a", key="lr 1")
    assert not arm.done and arm.cost == Cost()
    arm.adapter.mkdir(parents=True)
    arm.finish(rollouts=8, sampled=300, trained=250, notes={"reward": [0.25, 0.5]})
    again = Arm(tmp_path / "a", key="lr 1")
    assert again.done and again.cost == arm.cost and again.notes == {"reward": [0.25, 0.5]}
    assert (again.cost.rollouts, again.cost.sampled, again.cost.trained) == (8, 300, 250) and again.cost.seconds >= 0
    other = Arm(tmp_path / "a", key="lr 2")
    assert not other.done and other.cost == Cost() and other.notes == {}


def test_seconds_run_from_the_arms_making(tmp_path, monkeypatch):
    now = iter([10.0, 17.25])
    monkeypatch.setattr("ftlib.arms.time.perf_counter", lambda: next(now))
    arm = Arm(tmp_path, key="")
    arm.adapter.mkdir()
    arm.finish(rollouts=1, sampled=0, trained=0)
    assert arm.cost.seconds == 7.2  # half to even


def test_an_arm_without_what_it_trained_is_not_marked(tmp_path):
    with pytest.raises(FileNotFoundError, match="save it before finish"):
        Arm(tmp_path / "a", key="").finish(rollouts=1, sampled=1, trained=1)
    assert not Arm(tmp_path / "a", key="").done


def test_costs_add_up():
    assert Cost(1.5, 2, 3, 4) + Cost(0.5, 20, 30, 40) == Cost(2.0, 22, 33, 44)
    assert sum([Cost(1.0, 1, 1, 1)] * 2, Cost()) == Cost(2.0, 2, 2, 2)


def test_results_of_trainings_come_back_and_another_key_finds_none(tmp_path):
    results = Results(tmp_path / "found", key="pairs 1")
    assert "beta 0.05" not in results
    with pytest.raises(KeyError, match="beta 0.05: not measured under this key"):
        results["beta 0.05"]
    results["beta 0.05"] = {"refused": np.array([1.0, 0.0]), "texts": ["a", "b"], "n": 2}
    again = Results(tmp_path / "found", key="pairs 1")  # after a kill
    assert "beta 0.05" in again and "beta_0.05" not in again  # a name that gives the same file is another training
    for found in (results["beta 0.05"], again["beta 0.05"]):
        assert (found["refused"][np.array([True, False])].tolist(), found["texts"], found["n"]) == (
            [1.0],
            ["a", "b"],
            2,
        )
    other = Results(tmp_path / "found", key="pairs 2")
    assert "beta 0.05" not in other
    other["beta 0.05"] = {"refused": [0.5]}
    assert "beta 0.05" not in again and other["beta 0.05"]["refused"].mean() == 0.5
