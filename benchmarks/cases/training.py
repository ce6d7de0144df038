"""Training steps: TRL's trainers as their documentation has them, against the same trainers with `lean.speed_up`.

Stock keeps TRL's defaults (activation checkpointing, sdpa attention, random order, the reference's log-probs in every
DPO step); "reference" is stock in fp32 with our order of rows: what the first losses are compared with. All train the
same LoRA layers on the same rows from the same seed, so the work done is the same.
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.cases import gpu_peak_mb, load
from ftlib import desk, lean, models
from ftlib import train as ft
from ftlib.profiles import Profile, resolve
from ftlib.records import RedTeamPrompt, SftRow, assistant_chat, data_path, load_jsonl

STEPS = 20  # of SFT; the losses that are compared
PAIRS, EPOCHS = 32, 3  # of DPO
CASES, ROLLOUTS, GRPO_STEPS = 4, 8, 2  # of GRPO: prompts a step, rollouts of each, steps


def run(variant: str, *, kind: str, nf4: bool = False, seed: int = 17, weights: str = "") -> dict:
    """Train; seconds of `trainer.train()` and of what it needs beforehand, the losses and the gradient norms.

    Args:
        kind: sft, dpo or grpo.
        weights: a size of random weights (`cases.RANDOM`); empty: the embedded model.
    """
    profile = resolve("auto")
    dtype = "fp32" if variant == "reference" else profile.dtype
    if variant == "ours":
        ft.steady_heap()
    with TemporaryDirectory() as folder:
        make = {"sft": _sft, "dpo": _dpo, "grpo": _grpo}[kind]
        model = load(weights, dtype=dtype, device=profile.device, nf4=nf4)
        trainer, units = make(model, variant, _common(variant, profile, dtype, seed, Path(folder)), seed)
        ft.quiet(trainer)
        if variant != "stock" or dtype == "fp32":  # without bf16 in the CPU, bf16 adapters would slow stock to a crawl
            _fp32_adapter(trainer.model)
        started = time.perf_counter()
        if variant == "ours":
            lean.speed_up(trainer)
            if kind == "dpo":
                ft.keep_reference(trainer)
        trainer.train()
        peak = gpu_peak_mb()  # waits for the GPU
        seconds = time.perf_counter() - started
    history = [row for row in trainer.state.log_history if "loss" in row]
    return {
        "seconds": seconds,
        "units": units,
        "dtype": dtype,
        "losses": [row["loss"] for row in history],
        "grad_norms": [row["grad_norm"] for row in history],
    } | peak


def _common(variant: str, profile: Profile, dtype: str, seed: int, folder: Path) -> dict:
    """Arguments of all trainers; what is left out here is TRL's default."""
    given = {
        "output_dir": str(folder), "use_cpu": profile.use_cpu, "bf16": dtype == "bf16", "fp16": dtype == "fp16",
        "learning_rate": 1e-3, "lr_scheduler_type": "constant", "seed": seed, "data_seed": seed, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
    return given | ({"activation_checkpointing": False} if variant == "ours" else {})


def _adapter():
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def _fp32_adapter(model) -> None:
    """As in notebook 04: TRL makes the adapter of a 4-bit base bf16, where small late steps round away."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def _sft(model, variant: str, common: dict, seed: int):
    """One pass over 160 rows in batches of 8; units: tokens that carry loss."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = load_jsonl(data_path("sft/train.jsonl"), SftRow)[: 8 * STEPS]
    say = lambda text: [{"role": "assistant", "content": text}]
    grouped = {} if variant == "stock" else {"train_sampling_strategy": "group_by_length"}
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**common, num_train_epochs=1,
                       per_device_train_batch_size=8, **grouped),
        train_dataset=Dataset.from_list([{"prompt": r.prompt(), "completion": say(r.answer())} for r in rows]),
        processing_class=models.load_tokenizer("embedded"),
        peft_config=_adapter(),
    )  # fmt: skip
    return trainer, sum(label != -100 for row in trainer.train_dataset for label in row["labels"])


def _dpo(model, variant: str, common: dict, seed: int):
    """Three passes over 32 pairs in batches of 8; units: pairs seen."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    red = [r for r in load_jsonl(data_path("prompts/redteam.jsonl"), RedTeamPrompt) if r.split == "train"]
    say = lambda row: [{"role": "assistant", "content": row.answer}]
    rows = [
        {"prompt": assistant_chat(one.text), "chosen": say(one), "rejected": say(other)}
        for one, other in zip(red[:PAIRS], red[PAIRS:], strict=False)
    ]
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(**common, num_train_epochs=EPOCHS,
                       per_device_train_batch_size=8),
        train_dataset=Dataset.from_list(rows),
        processing_class=models.load_tokenizer("embedded"),
        peft_config=_adapter(),
    )  # fmt: skip
    return trainer, PAIRS * EPOCHS


def _grpo(model, variant: str, common: dict, seed: int):
    """Two steps of four cases with eight given rollouts each, three turns a rollout; units: steps.

    Stock takes a step's rollouts in one pass, ours in eight. The rollouts come through TRL's `rollout_func`.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    n = CASES * ROLLOUTS
    micro = n if variant == "stock" else ROLLOUTS // 2
    tokenizer = models.load_tokenizer("embedded")
    cases = desk.make_cases(CASES * GRPO_STEPS, seed=seed)
    given = _Rollouts(tokenizer, desk.old_log(desk.make_cases(n, seed=seed + 1), new_share=0.5, seed=seed))
    trainer = GRPOTrainer(
        model=model,
        args=GRPOConfig(**common, max_steps=GRPO_STEPS, beta=0.05,
                        num_generations=ROLLOUTS, per_device_train_batch_size=micro,
                        gradient_accumulation_steps=n // micro, max_completion_length=256, scale_rewards="none",
                        shuffle_dataset=False),
        train_dataset=Dataset.from_list([{"prompt": desk.chat(case)} for case in cases]),
        processing_class=tokenizer,
        reward_funcs=[given.reward],
        rollout_func=given,
        peft_config=_adapter(),
    )  # fmt: skip
    return trainer, GRPO_STEPS


class _Rollouts:
    """The same rollouts whatever the policy says, in TRL's form; rewards run from 0 to 1 within a group."""

    def __init__(self, tokenizer, log: list[list[dict]]):
        self.tokenizer, self.completions = tokenizer, []
        for chat in log:
            whole = self._render(chat, return_assistant_tokens_mask=True)
            start = len(self._render(chat[:2], add_generation_prompt=True)["input_ids"])
            self.completions.append((whole["input_ids"][start:], whole["assistant_masks"][start:]))

    def _render(self, chat: list[dict], **options) -> dict:
        return self.tokenizer.apply_chat_template(chat, tools=desk.tools(), return_dict=True, **options)

    def __call__(self, prompts: list, trainer) -> dict:
        told = [self._render(prompt, add_generation_prompt=True)["input_ids"] for prompt in prompts]
        said = self.completions[: len(prompts)]
        ids, masks = [list(ids) for ids, _ in said], [list(mask) for _, mask in said]
        return {"prompt_ids": told, "completion_ids": ids, "env_mask": masks, "logprobs": None}

    def reward(self, completions: list, **_) -> list[float]:
        """0 to 1 within each group of eight."""
        return [(i % ROLLOUTS) / (ROLLOUTS - 1) for i in range(len(completions))]

    __name__ = "given"
