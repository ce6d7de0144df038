"""What happens when KL goes over its cap, as a policy that is stated before training.

`stop`: the last good weights come back and training ends. `raise_beta`: they come back, the trainer's beta is
multiplied by a factor and training goes on; after so many raises, it ends too. Steps that were thrown away count: the
budget is steps spent, and the learning rate goes on by its schedule. Adam's moments come back with the weights, or the
first step would repeat what led over the cap.

Left out on purpose: lowering beta again while KL is small (an adaptive penalty as in arXiv 1909.08593, section 2.2,
aims at a KL; a cap asks for none), and the learning rate: one knob at a time can be read off a figure.
"""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from transformers import TrainerCallback

from ftlib.files import write_atomic
from ftlib.records import NotFinite
from ftlib.train import check_weights

RAISED = " -> "  # between the two betas of a row's action


class KlGuard(TrainerCallback):
    """Looks at KL every few steps, keeps the last good state in memory, and acts over the cap.

    What it keeps and brings back are the weights that are trained on, with their moments, or training could not go on.
    Where `measure` looks at a mean of weights, it is that mean which was under the cap.

    Args:
        trainer: whose `beta` is raised (TRL's DPOTrainer and KTOTrainer read it at each step). One without a beta, such
            as an SFTTrainer, can be stopped only.
        measure: step -> KL(policy || reference) in nats a token, on fresh samples.
        every: steps between two looks; there is one at the last step too.
        cap: nats a token. NaN is over it, and so is a policy whose weights hold NaN, which is not sampled from.
        policy: "stop" or "raise_beta".
        factor: beta is multiplied by it, > 1.
        most_raises: how often beta is raised before training ends.
        keep: called after each good look, to write the checkpoint to disk.
        undone: called when weights have come back, to forget what was summed up over the steps that were thrown away.
        record: a JSON file of the looks so far. A training that was killed goes on with the beta that it had; the
            weights of its checkpoint count as the last good ones.

    Attributes:
        rows: {"step", "kl", "beta", "action"} of each look; at step 0 the policy is the reference. "beta" is None
            where the trainer has none.
        why_stopped: in words.

    Raises:
        ValueError: an unknown policy, a factor of 1 or less, a cap or number of steps that is not positive, or a beta
            to be raised that the trainer does not have.
    """

    def __init__(
        self,
        trainer,
        measure: Callable[[int], float],
        *,
        every: int,
        cap: float,
        policy: Literal["stop", "raise_beta"] = "stop",
        factor: float = 2.0,
        most_raises: int = 3,
        keep: Callable[[], None] | None = None,
        undone: Callable[[], None] | None = None,
        record: Path | None = None,
    ):
        if policy not in ("stop", "raise_beta"):
            raise ValueError(f"KlGuard: expected policy 'stop' or 'raise_beta', got {policy!r}")
        if every < 1 or not 0 < cap < math.inf or factor <= 1 or most_raises < 0:
            raise ValueError(
                f"KlGuard: expected every >= 1, a finite cap > 0, factor > 1 and most_raises >= 0, got {every}, {cap}, "
                f"{factor} and {most_raises}"
            )
        if policy == "raise_beta" and not hasattr(trainer, "beta"):
            raise ValueError(
                f"KlGuard: expected a trainer with a beta to raise, got {type(trainer).__name__}; use 'stop'"
            )
        self.trainer, self.measure, self.every, self.cap = trainer, measure, every, cap
        self.policy, self.factor, self.most_raises, self.keep = policy, factor, most_raises, keep
        self.undone, self.record = undone, record
        self.rows: list[dict] = []
        self.raises = 0
        self.why_stopped = "all steps done"
        self._weights: dict = {}
        self._moments: dict = {}

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        self._remember(model, optimizer)
        known = json.loads(self.record.read_text(encoding="utf-8")) if self.record and self.record.exists() else []
        self.rows = [row for row in known if state.global_step and row["step"] <= state.global_step]
        self.raises = sum(RAISED in row["action"] for row in self.rows)
        if self.raises:
            self.trainer.beta *= self.factor**self.raises
        self.rows = self.rows or [{"step": state.global_step, "kl": 0.0, "beta": self._beta(), "action": "start"}]

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        if state.global_step % self.every and state.global_step != state.max_steps:
            return
        self._act(state, control, model, optimizer)
        if self.record:
            write_atomic(self.record, json.dumps(self.rows))

    def _act(self, state, control, model, optimizer) -> None:
        row = {"step": state.global_step, "kl": math.nan, "beta": self._beta()}
        self.rows.append(row)
        broken = "it could not be measured"
        try:
            check_weights(model)
            row["kl"] = float(self.measure(state.global_step))
        except NotFinite as error:
            broken = str(error)
        if row["kl"] <= self.cap:
            row["action"] = "kept"
            self._remember(model, optimizer)
            if self.keep is not None:
                self.keep()
            return
        self._go_back(model, optimizer)
        if state.global_step == state.max_steps:
            row["action"] = "back, no steps left"
            return
        if self.policy == "raise_beta" and self.raises < self.most_raises:
            self.raises += 1
            self.trainer.beta *= self.factor
            row["action"] = f"back, beta {row['beta']:g}{RAISED}{self.trainer.beta:g}"
            return
        row["action"] = "back, stopped"
        times = f" after beta was raised {self.raises} times" if self.raises else ""
        self.why_stopped = f"KL {row['kl']:.3f} is over its cap of {self.cap:g} nats a token{times}"
        if not math.isfinite(row["kl"]):
            self.why_stopped = f"KL is no number at step {row['step']}: {broken}{times}"
        control.should_training_stop = True

    def _beta(self) -> float | None:
        return getattr(self.trainer, "beta", None)

    def _remember(self, model, optimizer) -> None:
        self._weights = {name: w.detach().clone() for name, w in model.named_parameters() if w.requires_grad}
        self._moments = copy.deepcopy(optimizer.state_dict())

    def _go_back(self, model, optimizer) -> None:
        import torch

        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name in self._weights:
                    weight.copy_(self._weights[name])
        rates = [group["lr"] for group in optimizer.param_groups]
        optimizer.load_state_dict(copy.deepcopy(self._moments))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate  # the schedule goes on
        if self.undone is not None:
            self.undone()
