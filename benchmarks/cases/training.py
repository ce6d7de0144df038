"""Training steps: TRL's trainers as their documentation has them, against the same trainers with `lean.speed_up`.

Stock keeps TRL's defaults (activation checkpointing, sdpa attention, random order, the reference's log-probs in every
DPO step); "reference" is stock in fp32 with our order of rows: what the first losses are compared with; "plain" is that
in the profile's dtype: what the dtype alone does to them. All train the same LoRA layers on the same rows from the same
seed, so the work done is the same; what was learned is measured on rows that no step saw.
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.cases import gpu_peak_mb, load, mflop_a_token
from ftlib import desk, generate, lean, models
from ftlib import train as ft
from ftlib.machine import peak_rss_mb
from ftlib.profiles import Profile, resolve
from ftlib.records import ProductionPrompt, RedTeamPrompt, SftRow, assistant_chat, data_path, load_jsonl

STEPS = 20  # of SFT; the losses that are compared
PAIRS, EPOCHS = 32, 3  # of DPO
CASES, ROLLOUTS, GRPO_STEPS = 4, 8, 2  # of GRPO: prompts a step, rollouts of each, steps
STOCK_ROWS = 8  # rollouts a pass of stock GRPO: TRL's default; four passes are accumulated to a step
HELD_OUT = 40  # rows or pairs that no step sees
NEW_TOKENS = 48  # of an answer to a validation prompt
STOCK = {
    "sft": "TRL's SFTTrainer: activation checkpointing, sdpa attention, rows in random order, padded; batches of 8",
    "dpo": "TRL's DPOTrainer: activation checkpointing, sdpa attention, the reference in every step; batches of 8",
    "grpo": "TRL's GRPOTrainer: activation checkpointing, sdpa attention, 8 rollouts a pass, 4 passes a step",
    "grpo_one_pass": "TRL's GRPOTrainer: activation checkpointing, sdpa attention, a step's 32 rollouts in one pass",
}


def run(
    variant: str, *, kind: str, nf4: bool = False, seed: int = 17, weights: str = "", folder: str = "",
    one_pass: bool = False,
) -> dict:  # fmt: skip
    """Train; seconds of `trainer.train()` and of what it needs beforehand, the losses, the gradient norms.

    "body" and "head" count the tokens that the layers and the head must take, whoever does it: each row's own tokens,
    without padding, once forward, once more (as dear) backward, and once for the reference where there is one.
    "held_out" is what SFT and DPO made of rows that no step saw, measured the same way for all: the loss of each.
    "answers" are those of a DPO model to the validation prompts (`asked`), greedy, sampled the same way for all.

    Args:
        kind: sft, dpo or grpo.
        weights: a size of random weights (`cases.RANDOM`); empty: the embedded model.
        folder: where these weights are kept for the next case, if they are to be NF4.
        one_pass: stock GRPO takes all rollouts of a step at a time instead of TRL's 8.
    """
    profile = resolve("auto")
    dtype = "fp32" if variant == "reference" else profile.dtype
    if variant == "ours":
        ft.steady_heap()
    with TemporaryDirectory() as work:
        make = {"sft": _sft, "dpo": _dpo, "grpo": _grpo}[kind]
        model = load(weights, dtype=dtype, device=profile.device, nf4=nf4, folder=folder)
        more = {"one_pass": one_pass} if kind == "grpo" else {}
        trainer, units, needed = make(model, variant, _common(variant, profile, dtype, seed, Path(work)), seed, **more)
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
        peak["peak_rss_mb"] = round(peak_rss_mb())  # before the look at what was learned
        held_out = {"sft": _held_out_rows, "dpo": _held_out_pairs}.get(kind, lambda trainer: [])(trainer)
        answers = _answers(trainer.model) if kind == "dpo" and variant in ("stock", "ours") else []
    history = [row for row in trainer.state.log_history if "loss" in row]
    return {
        "seconds": seconds,
        "units": units,
        **needed,
        "dtype": dtype,
        "losses": [row["loss"] for row in history],
        "grad_norms": [row["grad_norm"] for row in history],
        "held_out": held_out,
        "answers": answers,
        **mflop_a_token(model.config),
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
    grouped = {} if variant == "stock" else {"train_sampling_strategy": "group_by_length"}
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**common, num_train_epochs=1,
                       per_device_train_batch_size=8, **grouped),
        train_dataset=Dataset.from_list([{"prompt": r.prompt(), "completion": _said(r.answer())} for r in rows]),
        processing_class=models.load_tokenizer("embedded"),
        peft_config=_adapter(),
    )  # fmt: skip
    rows = trainer.train_dataset
    scored = sum(label != -100 for labels in rows["labels"] for label in labels)
    return trainer, scored, {"body": 2 * sum(map(len, rows["input_ids"])), "head": 2 * scored}


def _dpo(model, variant: str, common: dict, seed: int):
    """Three passes over 32 pairs in batches of 8; units: pairs seen."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(**common, num_train_epochs=EPOCHS,
                       per_device_train_batch_size=8),
        train_dataset=Dataset.from_list(_pairs()[:PAIRS]),
        processing_class=models.load_tokenizer("embedded"),
        peft_config=_adapter(),
    )  # fmt: skip
    asked, *answers = (trainer.train_dataset[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids"))
    scored = sum(len(ids) for side in answers for ids in side)
    passes = 2 * EPOCHS + 1
    needed = {"body": passes * (scored + 2 * sum(map(len, asked))), "head": passes * scored}
    return trainer, PAIRS * EPOCHS, needed


def _said(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def _pairs() -> list[dict]:
    """Red-team prompts with their own answer, chosen, and the answer to another, rejected."""
    red = [r for r in load_jsonl(data_path("prompts/redteam.jsonl"), RedTeamPrompt) if r.split == "train"]
    return [
        {"prompt": assistant_chat(one.text), "chosen": _said(one.answer), "rejected": _said(other.answer)}
        for one, other in zip(red, red[PAIRS:], strict=False)
    ]


def _held_out_rows(trainer) -> list[float]:
    """Of each row: nats a token of its answer."""
    rows = load_jsonl(data_path("sft/validation.jsonl"), SftRow)[:HELD_OUT]
    return [-float(x.mean()) for x in _logprobs(trainer.model, [r.prompt() + _said(r.answer()) for r in rows])]


def _held_out_pairs(trainer) -> list[float]:
    """Of each pair: DPO's loss, against the model without its adapter."""
    import torch

    pairs = _pairs()[2 * PAIRS :][:HELD_OUT]
    chats = [pair["prompt"] + pair[side] for side in ("chosen", "rejected") for pair in pairs]
    policy = [float(x.sum()) for x in _logprobs(trainer.model, chats)]
    with trainer.model.disable_adapter():
        reference = [float(x.sum()) for x in _logprobs(trainer.model, chats)]
    grown = torch.tensor(policy) - torch.tensor(reference)
    margins = grown[: len(pairs)] - grown[len(pairs) :]
    return (-torch.nn.functional.logsigmoid(trainer.args.beta * margins)).tolist()


def asked() -> list[ProductionPrompt | RedTeamPrompt]:
    """The validation prompts of both kinds: what a model that was trained on other prompts answers."""
    rows = load_jsonl(data_path("prompts/production.jsonl"), ProductionPrompt)
    red = load_jsonl(data_path("prompts/redteam.jsonl"), RedTeamPrompt)
    return [row for row in [*rows, *red] if row.split == "validation"]


def _answers(model) -> list[str]:
    chats = [assistant_chat(row.text) for row in asked()]
    found = generate.sample_chats(model.eval(), models.load_tokenizer("embedded"), chats, max_new_tokens=NEW_TOKENS)
    return [sample.text for sample in found]


def _logprobs(model, chats: list[list[dict]]) -> list:
    """Log-probs of the last message's tokens, by a plain forward pass."""
    import torch

    tokenizer, model = models.load_tokenizer("embedded"), model.eval()
    asked = generate.chat_ids(tokenizer, [chat[:-1] for chat in chats])
    whole = tokenizer.apply_chat_template(chats, return_dict=True)["input_ids"]
    rows = [(prompt, ids[len(prompt) :]) for prompt, ids in zip(asked, whole, strict=True)]
    with torch.inference_mode():
        return [x for start in range(0, len(rows), 4) for x in ft.token_logprobs(model, rows[start : start + 4])]


def _grpo(model, variant: str, common: dict, seed: int, *, one_pass: bool):
    """Two steps of four cases with eight given rollouts each, three turns a rollout; units: steps.

    Stock takes TRL's eight rollouts at a time, or all of a step; ours those of one case, as notebook 06 does on a CPU.
    The rollouts come through TRL's `rollout_func`.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    n = CASES * ROLLOUTS
    micro = min(n, ROLLOUTS if variant == "ours" else n if one_pass else STOCK_ROWS)
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
    steps = [[desk.chat(c) for c in cases[k : k + CASES] for _ in range(ROLLOUTS)] for k in range(0, len(cases), CASES)]
    laid = [given(prompts, trainer) for prompts in steps]
    read = sum(len(ids) for step in laid for name in ("prompt_ids", "completion_ids") for ids in step[name])
    needed = {"body": 3 * read, "head": 3 * sum(sum(mask) for step in laid for mask in step["env_mask"])}
    return trainer, GRPO_STEPS, needed


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
