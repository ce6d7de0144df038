"""Profiles: one frozen set of sizes and number formats per kind of machine.

`smoke` proves the wiring only. `cpu` is the embedded default and gives real results on two cores. `t4` is fp16 (no
bf16 there), `gpu24` and `gpu80` are bf16. `auto` picks by what is there. A notebook's own parameter wins over the
profile where it is not 0.

Left out on purpose: learning rates and loss weights. They belong to the lesson and are read in the notebooks.
"""

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Profile:
    """What a notebook needs to know about the machine. Counts of 0 mean: all there are."""

    name: str
    device: str = "cpu"
    dtype: str = "bf16"  # bf16 | fp16 | fp32: of weights and matrix products
    is_smoke: bool = False
    need_ram_mb: int = 8_000
    need_disk_mb: int = 2_000
    sample_batch: int = 256  # the most rows sampled together
    eval_rows: int = 0  # rows of each SFT task that are evaluated
    few_shot: int = 10  # examples in the few-shot prompt
    sft_rows: int = 0
    sft_epochs: float = 1.0
    train_batch: int = 8  # rows a forward pass
    accumulate: int = 1  # forward passes an optimiser step
    preference_prompts: int = 10600  # prompts that get two answers to rate, a third of each sort as far as they last
    dpo_pairs: int = 0
    dpo_epochs: float = 1.0
    validate_prompts: int = 0  # prompts of each kind
    rft_demonstrations: int = 480
    rft_steps: int = 12
    rft_prompts: int = 4  # cases a GRPO step
    rft_generations: int = 8  # rollouts a case; with 4, most groups were all wrong and taught nothing
    rft_eval_cases: int = 160

    @property
    def bf16(self) -> bool:
        """For TRL's `bf16=`: always said, because TRL turns it on by itself."""
        return self.dtype == "bf16"

    @property
    def fp16(self) -> bool:
        """For TRL's `fp16=`."""
        return self.dtype == "fp16"

    @property
    def use_cpu(self) -> bool:
        """For TRL's `use_cpu=`."""
        return self.device == "cpu"

    def table(self) -> list[dict]:
        """Every field with its value, for a table in the notebook."""
        return [{"field": f.name, "value": getattr(self, f.name)} for f in fields(self)]


PROFILES = {
    "smoke": Profile(
        "smoke", is_smoke=True, need_ram_mb=3_000, need_disk_mb=1_200, eval_rows=2, few_shot=2, sft_rows=24,
        sft_epochs=1, dpo_epochs=1, train_batch=4, preference_prompts=4, dpo_pairs=8, validate_prompts=2,
        rft_demonstrations=8, rft_steps=1, rft_prompts=1, rft_generations=4, rft_eval_cases=4,
    ),
    "cpu": Profile("cpu"),
    "t4": Profile("t4", device="cuda", dtype="fp16", need_ram_mb=6_000, need_disk_mb=8_000, sft_epochs=3, rft_steps=40),
    "gpu24": Profile("gpu24", device="cuda", need_disk_mb=12_000, sft_epochs=3, train_batch=16,
                     rft_steps=60, rft_prompts=8),
    "gpu80": Profile("gpu80", device="cuda", need_disk_mb=20_000, sft_epochs=3, train_batch=32,
                     rft_steps=80, rft_prompts=16),
}  # fmt: skip


def resolve(name: str, **overrides) -> Profile:
    """The profile of that name; `auto` picks one for this machine.

    On a CPU without native bf16 the dtype falls back to fp32, which is faster there.

    Args:
        overrides: fields to replace; a value of 0 keeps the profile's.

    Raises:
        ValueError: an unknown name or field, or a GPU profile without a GPU.
    """
    if name not in (*PROFILES, "auto"):
        raise ValueError(f"profile={name!r}: expected one of {', '.join(PROFILES)} or auto")
    unknown = set(overrides) - {f.name for f in fields(Profile)}
    if unknown:
        raise ValueError(f"unknown profile fields {sorted(unknown)}; known: {[f.name for f in fields(Profile)]}")
    profile = PROFILES[_pick() if name == "auto" else name]
    if profile.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ValueError(f"profile={profile.name!r} needs a CUDA GPU and none is there; use cpu, smoke or auto")
    elif profile.dtype == "bf16":
        from ftlib.models import cpu_has_bf16

        if not cpu_has_bf16():
            profile = replace(profile, dtype="fp32")
    return replace(profile, **{key: value for key, value in overrides.items() if value})


def _pick() -> str:
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    memory_gb = torch.cuda.get_device_properties(0).total_memory / 2**30
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        return "t4"
    return "gpu80" if memory_gb > 60 else "gpu24"
