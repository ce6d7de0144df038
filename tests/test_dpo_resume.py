"""DPO that is killed between two steps and goes on from its checkpoint: the policy that it would have been."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from test_grpo_resume import Killed, small_model
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from ftlib import lean, models
from ftlib import train as ft

PAIRS = [
    {"prompt": f"Customer {n}: {wish}", "chosen": f" {good}", "rejected": f" {bad}"}
    for n, (wish, good, bad) in enumerate(
        [("refund", "Gladly.", "No."), ("why", "It rained.", "Ask them."), ("when", "On Monday.", "Who knows?")] * 4
    )
]
STEPS, EVERY, KILLED_IN = 6, 2, 3


class Begun(TrainerCallback):
    """The step from which each started training went on."""

    def __init__(self):
        self.at: list[int] = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.at.append(state.global_step)


def trained(folder, tokenizer, *callbacks) -> tuple[dict, list[torch.Tensor], list[float]]:
    """As 04 trains: its losses, its callbacks, the reference computed once and kept; weights, their mean, losses."""
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(6)
    policy = get_peft_model(small_model(tokenizer), lora)
    config = DPOConfig(
        output_dir=str(folder / "trainer"), beta=0.3, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 1.0],
        learning_rate=1e-2, lr_scheduler_type="cosine", num_train_epochs=1, train_sampling_strategy="sequential",
        per_device_train_batch_size=len(PAIRS) // STEPS, precompute_ref_log_probs=False, max_length=64,
        remove_unused_columns=False, bf16=False, fp16=False, use_cpu=True, activation_checkpointing=False,
        logging_steps=1, save_steps=EVERY, save_total_limit=2, seed=3, data_seed=3, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    progress, average = ft.Progress("DPO"), ft.TailAverage(start=2)
    trainer = DPOTrainer(
        model=policy, args=config, train_dataset=Dataset.from_list(PAIRS), processing_class=tokenizer,
        callbacks=[progress, average, ft.MarkCheckpoints(), *callbacks],
    )  # fmt: skip
    lean.speed_up(trainer)
    ft.keep_reference(trainer, kept=folder / "reference.jsonl", of="the small model")
    resume = ft.last_complete_checkpoint(folder / "trainer", fingerprint={"config": ft.fingerprint(config)})
    trainer.train(resume_from_checkpoint=resume)
    weights = {name: w.detach().clone() for name, w in policy.named_parameters() if w.requires_grad}
    with average.in_place():
        mean = [w.detach().clone() for w in policy.parameters() if w.requires_grad]
    return weights, mean, progress.series("loss")[1]


def test_a_killed_training_becomes_the_policy_that_was_not_killed(tmp_path):
    tokenizer = models.load_tokenizer("embedded")
    begun = Begun()
    whole, mean, losses = trained(tmp_path / "whole", tokenizer, begun)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed", tokenizer, begun, Killed(in_step=KILLED_IN))
    assert sorted(f.name for f in (tmp_path / "killed" / "trainer").glob("checkpoint-*")) == ["checkpoint-2"]
    again, mean_again, losses_again = trained(tmp_path / "killed", tokenizer, begun)
    assert begun.at == [0, 0, 2]
    assert len(losses) == STEPS and losses_again == pytest.approx(losses, abs=1e-5)
    assert max((whole[name] - again[name]).abs().max().item() for name in whole) < 1e-6
    assert max((one - two).abs().max().item() for one, two in zip(mean, mean_again, strict=True)) < 1e-6
    assert max(w.abs().max().item() for name, w in whole.items() if "lora_B" in name) > 1e-3  # it has learned something
    assert losses[-1] < losses[0] - 0.01
