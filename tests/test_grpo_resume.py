"""GRPO that is killed between two steps and goes on from its checkpoint: the policy that it would have been."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from ftlib import desk, generate, lean, models
from ftlib import train as ft

CHATS = [
    [{"role": "user", "content": text}] for text in ("refund", "exchange it", "why", "decline, please", "a", "b c")
]


class Killed(TrainerCallback):
    """Ends the process's training as a kill does: with a step begun and not done."""

    def __init__(self, in_step: int):
        self.in_step = in_step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.in_step:
            raise KeyboardInterrupt


def small_model(tokenizer) -> LlamaForCausalLM:
    torch.manual_seed(5)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def reward(text: str) -> float:
    return float(len(text))


def held_out_result(model, tokenizer) -> tuple[float, float, list[str]]:
    """As 06 measures: cases that no training saw, worked greedily. The share of success (no model this small has any),
    the mean of the reward that is trained on, and what was written."""
    cases = desk.make_cases(8, seed=9, held_out=True)
    done, chats = desk.rollouts(model, tokenizer, cases, temperature=0.0, seed=3, max_new_tokens=8, max_turns=2)
    said = ["".join(m["content"] for m in chat if m["role"] == "assistant") for chat in chats]
    return float(np.mean([t.success for t in done])), float(np.mean([reward(text) for text in said])), said


def trained(folder, tokenizer, *callbacks) -> tuple[dict[str, torch.Tensor], list[float], tuple]:
    """As 06 trains: sampled by this library, with its checkpoints; the adapter's weights, each step's reward, and the
    held-out result."""
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(6)
    policy = get_peft_model(small_model(tokenizer), lora)
    config = GRPOConfig(
        output_dir=str(folder), max_steps=6, learning_rate=1e-2, beta=0.05, num_generations=4,
        per_device_train_batch_size=8, max_completion_length=6, temperature=1.0, top_k=50, scale_rewards="none",
        logging_steps=1, save_steps=2, shuffle_dataset=False, report_to="none", disable_tqdm=True, use_cpu=True,
        bf16=False, seed=3, data_seed=3, lr_scheduler_type="linear",
    )  # fmt: skip
    progress = ft.Progress("GRPO")
    trainer = GRPOTrainer(
        model=policy, args=config, processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": chat} for chat in CHATS]),
        reward_funcs=lambda completions, **_: [reward(c[0]["content"]) for c in completions],
        callbacks=[progress, ft.MarkCheckpoints(), *callbacks],
    )  # fmt: skip
    lean.speed_up(trainer)
    sampler = generate.MergedCopy(policy, small_model(tokenizer))
    resume = ft.last_complete_checkpoint(folder, fingerprint={"config": ft.fingerprint(config)})
    with generate.fast_rollouts(policy, sampler, tokenizer, seed=3, step=lambda: trainer.state.global_step):
        trainer.train(resume_from_checkpoint=resume)
    weights = {name: w.detach().clone() for name, w in policy.named_parameters() if w.requires_grad}
    return weights, progress.series("reward")[1], held_out_result(sampler.refresh(), tokenizer)


def test_a_killed_training_becomes_the_policy_that_was_not_killed(tmp_path):
    tokenizer = models.load_tokenizer("embedded")
    whole, rewards, measured = trained(tmp_path / "whole", tokenizer)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed", tokenizer, Killed(in_step=3))
    assert sorted(f.name for f in (tmp_path / "killed").glob("checkpoint-*")) == ["checkpoint-2"]
    again, rewards_again, measured_again = trained(tmp_path / "killed", tokenizer)
    assert len(rewards) == 6 and rewards_again == pytest.approx(rewards)
    assert max((whole[name] - again[name]).abs().max().item() for name in whole) < 1e-6
    assert max(w.abs().max().item() for name, w in whole.items() if "lora_B" in name) > 1e-3  # it has learned something
    assert measured_again == measured
    assert measured[2] != held_out_result(small_model(tokenizer), tokenizer)[2]  # which the training has changed
