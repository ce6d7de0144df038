"""The policy over the KL cap, on planted KL curves: what comes back, what beta becomes, when training ends."""

from types import SimpleNamespace

import pytest
import torch

from ftlib.gates import mean_interval
from ftlib.kl_guard import KlGuard


class Played:
    """A one-weight model whose weight grows by one a step, and a KL that is planted for each look."""

    def __init__(self, curve: dict[int, float], *, last: int = 100, **options):
        self.model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.model.weight)
        self.model.register_parameter("frozen", torch.nn.Parameter(torch.tensor([5.0]), requires_grad=False))
        self.optimizer = torch.optim.Adam([self.model.weight], lr=1.0, betas=(0.9, 0.9))
        self.trainer, self.curve, self.last, self.asked = SimpleNamespace(beta=0.1), curve, last, []
        self.guard = KlGuard(self.trainer, self.measure, **{"every": 10, "cap": 1.0, **options})
        self.control = SimpleNamespace(should_training_stop=False)

    def measure(self, step: int) -> float:
        self.asked.append((step, self.weight))
        return self.curve[step]

    @property
    def weight(self) -> float:
        return self.model.weight.item()

    def train(self) -> int:
        """Steps with the gradient -1, which Adam with a rate of 1 turns into +1 a step; returns the last step."""
        given = {"model": self.model, "optimizer": self.optimizer}
        at = lambda step: SimpleNamespace(global_step=step, max_steps=self.last)
        self.guard.on_train_begin(None, at(0), self.control, **given)
        for step in range(1, self.last + 1):
            self.model.weight.grad = torch.full_like(self.model.weight, -1.0)
            self.optimizer.step()
            self.guard.on_step_end(None, at(step), self.control, **given)
            if self.control.should_training_stop:
                return step
        return self.last


def test_under_the_cap_nothing_happens():
    played = Played({10: 0.3, 20: 1.0, 25: 0.5}, last=25)  # at the cap is well
    assert played.train() == 25
    assert [row["action"] for row in played.guard.rows] == ["start", "kept", "kept", "kept"]
    assert played.weight == pytest.approx(25, abs=1e-3) and played.trainer.beta == 0.1
    assert played.guard.why_stopped == "all steps done"


def test_stop_gives_the_last_good_weights_back():
    """Kept at step 20 (weight 20), over at 30: back to 20, and the end."""
    kept = []
    played = Played({10: 0.4, 20: 0.9, 30: 1.25}, keep=lambda: kept.append(1))
    assert played.train() == 30
    assert played.weight == pytest.approx(20, abs=1e-3) and played.model.frozen.item() == 5.0
    assert len(kept) == 2 and played.trainer.beta == 0.1
    assert played.guard.why_stopped == "KL 1.250 is over its cap of 1 nats a token"


def test_a_killed_training_goes_on_with_the_beta_that_it_had(tmp_path):
    """Over at 10 and 20: 0.1 is doubled twice, and what was summed up is forgotten twice. Killed after the checkpoint
    of step 20, or of step 10: two raises are known, or one."""
    forgotten, record = [], tmp_path / "guard.json"
    kl = {10: 2.0, 20: 2.0, 30: 0.5}
    given = {"policy": "raise_beta", "record": record, "undone": lambda: forgotten.append(1)}
    played = Played(dict(kl), last=30, **given)
    played.train()
    assert (played.trainer.beta, len(forgotten)) == (pytest.approx(0.4), 2)
    for step, beta, raises in ((20, 0.4, 2), (10, 0.2, 1), (0, 0.1, 0)):
        again = Played(dict(kl), last=30, **given)
        again.guard.on_train_begin(
            None, SimpleNamespace(global_step=step), again.control, model=again.model, optimizer=again.optimizer
        )
        assert (again.trainer.beta, again.guard.raises) == (pytest.approx(beta), raises)
        assert again.guard.rows[-1]["step"] == step


def test_a_kl_that_is_no_number_is_over_the_cap():
    played = Played({10: float("nan")})
    assert played.train() == 10 and played.weight == 0.0
    assert played.guard.why_stopped == "KL is no number at step 10: it could not be measured"


def test_samples_whose_kl_has_no_mean_are_over_the_cap():
    """As 04 measures: a mean with its interval, which refuses NaN. The weights of step 10 come back."""
    played = Played({10: 0.5, 20: 0.0})
    measured = played.guard.measure
    k3 = {10: [0.5, 0.5], 20: [0.1, float("inf")]}
    played.guard.measure = lambda step: measured(step) + mean_interval(k3[step], seed=1)[0] - 0.5
    assert played.train() == 20 and played.weight == pytest.approx(10, abs=1e-3)
    assert played.guard.why_stopped.startswith(
        "KL is no number at step 20: values: expected a list of one or more finite"
    )
    assert [row["action"] for row in played.guard.rows] == ["start", "kept", "back, stopped"]


def test_weights_that_hold_nan_are_seen_before_anything_is_sampled():
    played = Played({10: 0.4, 20: 0.4})
    guard, looked = played.guard, played.guard.on_step_end

    def on_step_end(args, state, control, **given):
        if state.global_step == 15:
            played.model.weight.data.fill_(float("nan"))
        looked(args, state, control, **given)

    guard.on_step_end = on_step_end
    assert played.train() == 20 and played.weight == pytest.approx(10, abs=1e-3)
    assert [step for step, _ in played.asked] == [10]
    assert guard.why_stopped == "KL is no number at step 20: 1 of 1 trained tensors hold NaN or infinite values"


def test_beta_is_raised_and_training_goes_on_from_the_last_good_state():
    """Over at 20 and at 40: back to the weights of 10, then of 30. Ten steps each: 10, (20) 10, 20, (30) 20, 30."""
    played = Played({10: 0.4, 20: 1.2, 30: 0.8, 40: 1.1, 50: 0.9}, last=50, policy="raise_beta", factor=3.0)
    assert played.train() == 50
    assert played.asked == [
        (s, pytest.approx(w, abs=1e-3)) for s, w in ((10, 10), (20, 20), (30, 20), (40, 30), (50, 30))
    ]
    assert played.trainer.beta == pytest.approx(0.9)
    assert [row["action"] for row in played.guard.rows[1:]] == [
        "kept", "back, beta 0.1 -> 0.3", "kept", "back, beta 0.3 -> 0.9", "kept",
    ]  # fmt: skip
    assert [round(row["beta"], 3) for row in played.guard.rows] == [0.1, 0.1, 0.1, 0.3, 0.3, 0.9]


def test_it_ends_after_so_many_raises():
    played = Played(dict.fromkeys(range(10, 110, 10), 2.0), policy="raise_beta", factor=2.0, most_raises=2)
    assert played.train() == 30
    assert played.weight == 0.0 and played.trainer.beta == pytest.approx(0.4)
    assert played.guard.why_stopped == "KL 2.000 is over its cap of 1 nats a token after beta was raised 2 times"


def test_at_the_last_step_nothing_is_left_to_raise_beta_for():
    played = Played({10: 0.5, 20: 3.0}, last=20, policy="raise_beta")
    assert played.train() == 20
    assert played.weight == pytest.approx(10, abs=1e-3) and played.trainer.beta == 0.1
    assert played.guard.rows[-1]["action"] == "back, no steps left"


def test_adams_moments_come_back_and_the_learning_rate_does_not():
    """Of step 10, where the rate was 1; it has since been set to a half by its schedule."""
    played = Played({10: 0.5, 20: 9.0}, last=21, policy="raise_beta")
    moments = lambda: played.optimizer.state_dict()["state"][0]
    guard, seen = played.guard, {}
    looked = guard.on_step_end

    def on_step_end(args, state, control, **given):
        if state.global_step == 15:
            played.optimizer.param_groups[0]["lr"] = 0.5
        looked(args, state, control, **given)
        if state.global_step in (10, 20):
            seen[state.global_step] = {k: v.clone() for k, v in moments().items()}

    guard.on_step_end = on_step_end
    played.curve[21] = 0.0
    played.train()
    assert seen[20] == seen[10] and seen[20]["step"] == 10
    assert played.optimizer.param_groups[0]["lr"] == 0.5


def test_a_trainer_without_beta_is_stopped_and_has_none_to_raise():
    """SFTTrainer: the KL to where it began is watched, and nothing in its loss holds it there."""
    played = Played({10: 0.4, 20: 1.5})
    del played.trainer.beta
    assert played.train() == 20 and played.weight == pytest.approx(10, abs=1e-3)
    assert [row["beta"] for row in played.guard.rows] == [None, None, None]
    with pytest.raises(ValueError, match="expected a trainer with a beta to raise"):
        KlGuard(played.trainer, played.measure, every=1, cap=1.0, policy="raise_beta")


@pytest.mark.parametrize(
    "options",
    [{"policy": "shout"}, {"cap": 0.0}, {"every": 0}, {"factor": 1.0}, {"most_raises": -1}, {"cap": float("nan")}],
)
def test_a_policy_that_is_none_is_refused(options):
    with pytest.raises(ValueError, match="KlGuard: expected"):
        Played({}, **options)
