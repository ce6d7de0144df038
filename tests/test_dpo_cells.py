"""Cells of 04 as they stand, without a model: the gradient at toy size, the plan of looks, and why training stops."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from notebook_cells import cell_with, run_cell
from test_train import state_at

from ftlib import gates, methods, paired, safety
from ftlib import train as ft
from ftlib.kl_guard import KlGuard
from ftlib.looks import Steady

NOTEBOOK = "04_dpo_qlora"
REQUESTS = {"clusters": [n // 3 for n in range(90)], "strata": [n // 30 for n in range(90)]}


def test_what_the_loss_pulls_at_toy_size():
    """Beta 0.1, margins of -20, 0 and 20 nats: sigma(2), a half and sigma(-2), times beta, one up and one down."""
    shown = []
    names = {"torch": torch, "F": F, "math": math, "print": lambda *_: None}
    names["table"] = lambda rows, caption: shown.extend(rows)
    run_cell(NOTEBOOK, "def dpo_loss(", names)
    run_cell(NOTEBOOK, "pulls = []", names)
    assert [row["weight"] for row in shown] == pytest.approx([1 / (1 + math.exp(x)) for x in (-2, 0, 2)], abs=1e-6)
    assert [row["on the chosen"] for row in shown] == pytest.approx([-0.1 * row["weight"] for row in shown])
    assert [row["on the rejected"] for row in shown] == [-row["on the chosen"] for row in shown]


class Training:
    """The cell that plans the looks, and steps of a training whose looks are planted: {"score", "kl", "wins"} each."""

    def __init__(self, folder, found, **parameters):
        self.found, self.args = iter(found), SimpleNamespace(output_dir=str(folder))
        self.policy = torch.nn.Linear(1, 1)
        self.average, self.callbacks = ft.TailAverage(start=4), []
        self.trainer = SimpleNamespace(beta=0.3, add_callback=self.callbacks.append)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=0.1)
        self.control = SimpleNamespace(should_training_stop=False)
        folder.mkdir(parents=True, exist_ok=True)
        self.names = {
            "ft": ft, "math": math, "taught": [{"id": str(n)} for n in range(16)], "order": list(range(16)),
            "digest": lambda *_: "d", "reference_digest": "r", "config": SimpleNamespace(beta=0.3), "sft_weight": 1.0,
            "trained_layers": 0.75, "chosen_layers": [], "dpo_method": "qlora", "not_nf4": [], "average": self.average,
            "run": SimpleNamespace(stage=folder), "policy": self.policy, "trainer": self.trainer, "Steady": Steady,
            "measure": self.measure, "p": SimpleNamespace(train_batch=2, dtype="bf16"), "KlGuard": KlGuard,
            "methods": SimpleNamespace(save_for=lambda *_, **__: None), "of_request": REQUESTS, "headless": True,
            "print": lambda *_: None, "looks": 4, "kl_cap": 2.0, "over_cap": "stop", "patience": 4,
            "steady_within": 0.1, "stop_when_steady": False,
        } | parameters  # fmt: skip
        self.average.on_train_begin(self.args, state_at(0), None, model=self.policy)
        run_cell(NOTEBOOK, "monitor = ft.GenerationMonitor(", self.names)

    def measure(self, step):
        look = next(self.found)
        told = self.names["steady"].see(step, look["wins"]) if "steady" in self.names else {}
        return {"score": look["score"], "kl": look["kl"], "kl_low": look["kl"] - 0.2, **told}

    def train(self) -> int:
        """Eight steps, or fewer; returns the last. Callbacks as the notebook orders them: the mean comes first."""
        given = {"model": self.policy, "optimizer": self.optimizer}
        calls = lambda what, step: [
            getattr(one, what)(self.args, state_at(step, last=8), self.control, **given) for one in self.callbacks
        ]
        calls("on_train_begin", 0)
        for step in range(1, 9):
            self.policy.weight.grad = torch.full_like(self.policy.weight, -1.0)
            self.policy.bias.grad = torch.zeros_like(self.policy.bias)
            self.optimizer.step()
            self.average.on_step_end(self.args, state_at(step, last=8), self.control)
            calls("on_step_end", step)
            if self.control.should_training_stop:
                return step
        return 8

    def card(self) -> tuple[list[dict], str]:
        """The cell "why it stopped", as shown."""
        told = []
        self.names |= {"why_stopped": self.names["monitor"].why_stopped} | {
            "table": lambda rows, caption: told.append((rows, caption))
        }
        self.names["monitor"].best |= {"win_low": 0.5}
        run_cell(NOTEBOOK, 'span = f"', self.names)
        return told[0]


def planted(*wins, kl=(0.1,) * 5):
    """Looks at steps 0, 2, 4, 6 and 8; the score keeps growing."""
    return [{"score": n / 10, "kl": k, "wins": w} for n, (w, k) in enumerate(zip(wins, kl, strict=True))]


START, SETTLED = np.full(90, 0.5), np.repeat([1.0, 1.0, 0.0], 30)
TURNED = np.where(np.arange(90) < 45, 0.5, SETTLED)


def test_a_steady_win_rate_stops_training_where_that_is_asked_for(tmp_path):
    """It moves from the first look to the second, and no more from there to the third, at step 6 of 8. That no one of
    90 comparisons in 30 requests changed rules out a move of 0.12, not one of 0.1."""
    looks = planted(START, TURNED, SETTLED, SETTLED, SETTLED)
    asked = Training(tmp_path / "asked", looks, stop_when_steady=True, steady_within=0.12)
    assert asked.train() == 6
    rows, caption = asked.card()
    assert caption == "why it stopped: the win-rate is steady: it moved by +0.000 since the look before"
    (moved,) = [row for row in rows if row["what"].startswith("win-rate moved")]
    assert moved["rule"] == "steady within 0.12: stop" and moved["value"].startswith("+0.000 (-0.11")
    assert [row["steady"] for row in asked.names["monitor"].rows] == [0, 0, 0, 1]
    by_default = Training(tmp_path / "default", looks)
    assert by_default.train() == 8
    rows, caption = by_default.card()
    assert caption == "why it stopped: all steps done"
    assert [row["rule"] for row in rows if row["what"].startswith("win-rate moved")] == [
        "steady within 0.1: shown only"
    ]


def test_over_the_cap_training_stops_or_beta_is_raised(tmp_path):
    """Shown over at step 4 (2.5 less 0.2 against 2.0)."""
    looks = planted(START, START, START, START, START, kl=(0.0, 0.5, 2.5, 1.0, 1.0))
    stopped = Training(tmp_path / "stop", looks)
    assert stopped.train() == 4 and stopped.trainer.beta == 0.3 and stopped.names["guard"] is None
    assert stopped.names["monitor"].why_stopped == "KL 2.500 is over its cap of 2.0 nats a token"
    raised = Training(tmp_path / "raise", looks, over_cap="raise_beta")
    before = raised.policy.weight.item()
    assert raised.train() == 8 and raised.trainer.beta == pytest.approx(0.6)
    assert [row["action"] for row in raised.names["guard"].rows] == [
        "start",
        "kept",
        "back, beta 0.3 -> 0.6",
        "kept",
        "kept",
    ]
    # two steps of 0.1 were thrown away, and the mean, begun at step 4, knows only of the four after them
    assert raised.policy.weight.item() - before == pytest.approx(0.6, abs=0.01) and raised.average.count == 4
    assert json.loads((tmp_path / "raise/checkpoints/trainer/kl_guard.json").read_text())[2]["beta"] == 0.3
    assert [row["step"] for row in raised.names["monitor"].rows if row["kl"] > 2.0] == [4]
    assert raised.names["monitor"].best["step"] == 8


def test_looks_are_as_many_as_asked_for(tmp_path):
    few = Training(tmp_path / "2", planted(START, START, START, kl=(0.1,) * 3), looks=2)
    assert few.train() == 8 and [row["step"] for row in few.names["monitor"].rows] == [0, 4, 8]
    assert few.names["steady"].confidence == pytest.approx(1 - 0.05 / 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dpo_method": "full"}, "dpo_method='full': expected one of lora, qlora"),
        ({"over_cap": "wait"}, "expected over_cap 'stop' or 'raise_beta' and one look or more, got 'wait' and 4"),
        ({"looks": 0}, "and one look or more, got 'stop' and 0"),
    ],
)
def test_bad_parameters_are_refused_before_anything_is_loaded(change, message):
    names = {
        "methods": methods,
        "p": SimpleNamespace(dtype="bf16"),
        "dpo_method": "qlora",
        "over_cap": "stop",
        "looks": 4,
    }
    with pytest.raises(ValueError, match=message):
        run_cell(NOTEBOOK, "rests_on = [", names | change)


def test_intervals_of_a_look_share_the_error_and_go_by_request():
    """Four looks: 98.75 %, by request; KL is drawn the same way at a look and for the gate."""
    wins, k3 = np.repeat([1.0, 0.0, 1.0], 30), np.linspace(0, 1, 90)
    said = [SimpleNamespace(text="Yes.", token_ids=[1, 2])] * 90
    drawn = []
    names = {
        "average": SimpleNamespace(in_place=lambda: lambda function: function), "np": np, "safety": safety,
        "twin": SimpleNamespace(refresh=lambda: "model"), "anchor": "anchor", "tokenizer": range(9), "gates": gates,
        "generate": SimpleNamespace(sample=lambda *_, **given: drawn.append(given) or said), "rubrics": [], "asked": [],
        "judges": SimpleNamespace(judge_pairs=lambda *_: wins), "sft_texts": [], "write": {"max_new_tokens": 5},
        "seed": 3, "prompts": [[1]] * 90,
        "ft": SimpleNamespace(kl_on_samples=lambda *_: (k3, k3)), "paired": paired, "of_request": REQUESTS, "looks": 4,
        "kinds_seen": np.repeat(["harmful", "borderline", "production"], 30), "declining": 1, "p": None,
        "thresholds": {"dpo.harmful_refused": 0.85, "dpo.win_rate": 0.6, "dpo.borderline_refused": 0.1},
        "steady": SimpleNamespace(see=lambda step, wins: {"steady": 0.0}), "fresh": {"temperature": 1.0},
    }  # fmt: skip
    row = run_cell(NOTEBOOK, "def measure(step)", names)["measure"](7)
    assert row["win_low"] == paired.win_rate(wins, confidence=1 - 0.05 / 4, **REQUESTS)[1].low
    assert row["kl_low"] == paired.mean(k3, confidence=1 - 0.05 / 4, **REQUESTS)[1].low
    assert drawn[1] == {"temperature": 1.0, "seed": 10}
    assert "**fresh)" in cell_with(NOTEBOOK, "kl_ends = paired.mean(ft.kl_on_samples(best")


def test_samples_that_are_shown_hold_no_personal_data():
    told, shown = {}, []
    mail = "Write to mara@example.com."
    names = {
        "safety": safety, "kind_of": ["harmful"], "watched": [SimpleNamespace(text=mail, id="a")], "sft_texts": [mail],
        "generate": SimpleNamespace(sample=lambda *_, **__: [SimpleNamespace(text=mail)]), "write": {}, "rubrics": [],
        "models": SimpleNamespace(load_merged=lambda *_, **__: None), "model_id": "", "adapter": 2, "tokenizer": None,
        "p": SimpleNamespace(dtype="", device=""), "judges": SimpleNamespace(judge_pairs=lambda *_: [1.0]),
        "run": SimpleNamespace(samples=lambda title, rows: told.update({title: rows})), "prompts": [],
        "table": shown.extend, "sft_adapter": 1,
    }  # fmt: skip
    run_cell(NOTEBOOK, "picked = safety.masked(", names)
    (row,) = told["SFT and DPO on validation prompts"]
    assert row == shown[0] == {"kind": "harmful", "prompt": "Write to [EMAIL].", "SFT": "Write to [EMAIL].",
                               "DPO": "Write to [EMAIL].", "win": 1.0}  # fmt: skip
