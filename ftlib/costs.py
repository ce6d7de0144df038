"""What one training attempt takes: memory, hours and money, from the model's shape, the plan and the device.

    memory = weights + gradients + optimiser + activations + logits + what the process holds anyway
    hours  = FLOP / (the device's throughput x the share of it that such a training reaches)
    money  = hours x the price that the reader gives

It describes TRL's trainers as they come; on a CPU `lean` needs less of both. Every constant says where it is from, and
`check` sets the estimates beside the runs that the project has measured: the error is part of the answer.

Left out on purpose: several GPUs, offloading, and price lists, which are stale the day after.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from ftlib.files import did_you_mean

Method = Literal["sft", "dpo", "rft"]
TUNINGS = {
    "full": "full fine-tuning",
    "later": "later layers only",
    "lora": "LoRA",
    "qlora": "QLoRA (NF4 base)",
}
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}

# Bytes of optimiser and gradient for a trained weight. AdamW keeps two fp32 moments (8) and, where the weight itself is
# in 16 bits, an fp32 master copy (4): ZeRO, arXiv 1910.02054, section 3.1. With the weight and its gradient: 16 in all.
OPTIMISER_BYTES = {"fp32": 8, "bf16": 12, "fp16": 12}
# NF4: half a byte, and 0.127 bits for the doubly quantised constants (QLoRA, arXiv 2305.14314, section 3).
NF4_BYTES = 0.5 + 0.127 / 8
# A logit while the loss is taken: fp32: itself, log-softmax, gradient. 16 bits: itself and its gradient (2 + 2), and
# in fp32 a copy, log-softmax and gradient (12).
LOGIT_BYTES = {"fp32": 12, "bf16": 16, "fp16": 16}
# The worst of the checked peaks was 1.69 times its estimate (GRPO): below that much room, do not call it a fit.
MARGIN = 1.7
# How many times as fast as TRL the playbook's notebooks train on a CPU (`lean`): README, "Speed", two cores with AVX2.
LEAN = {"sft": 4.0, "dpo": 4.3, "rft": 2.7}


@dataclass(frozen=True)
class Shape:
    """A Llama-like decoder: gated MLP, grouped keys, RMSNorm. `kv` is the width of all key heads together."""

    hidden: int
    inner: int
    layers: int
    kv: int
    vocab: int
    tied: bool = True  # the output head is the embedding

    @property
    def body(self) -> int:
        """Weights of the linear layers: q and o, k and v, and the three matrices of the MLP."""
        return self.layers * (2 * self.hidden**2 + 2 * self.hidden * self.kv + 3 * self.hidden * self.inner)

    @property
    def head(self) -> int:
        """Weights of the output head."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All weights; two norms a layer and one at the end are counted too."""
        return self.body + self.head * (1 if self.tied else 2) + self.hidden * (2 * self.layers + 1)

    def adapter(self, rank: int) -> int:
        """Weights of LoRA on all linear layers: rank x (in + out) of each."""
        ins_and_outs = 2 * 2 * self.hidden + 2 * (self.hidden + self.kv) + 3 * (self.hidden + self.inner)
        return self.layers * rank * ins_and_outs


# From the config.json of SmolLM2-135M, Qwen2.5-0.5B, -1.5B and -7B, and Llama-3.1-8B.
SHAPES = {
    "0.135b": Shape(576, 1536, 30, 192, 49_152),
    "0.5b": Shape(896, 4864, 24, 128, 151_936),
    "1.5b": Shape(1536, 8960, 28, 256, 151_936),
    "7b": Shape(3584, 18_944, 28, 512, 152_064, tied=False),
    "8b": Shape(4096, 14_336, 32, 1024, 128_256, tied=False),
}


@dataclass(frozen=True)
class Device:
    """Throughput of dense matrix products, and the share of it that a training and a sampling reach."""

    label: str
    memory_gb: float
    dtype: str  # what the profile of that name trains in
    tflops: dict[str, float]
    training: dict[str, float]
    sampling: dict[str, float]
    overhead_mb: float  # interpreter, libraries, allocator; GPU: its context and the allocator's slack
    measured: bool  # whether the shares come from runs of this project


# GPU: peak rates of dense products from NVIDIA's data sheets. The shares are assumptions, nobody measured them here:
# 0.35 for training (large trainings report 0.3 to 0.5 of peak, e.g. PaLM 0.46, arXiv 2204.02311, section 4.1); 0.02 for
# sampling, where each new token reads all weights for little work; 1,000 MB for context and slack.
# CPU: 178 (fp32) and 422 (bf16) GFLOP/s were measured on two cores, with the rates below: LoRA, batch 8 x 128,
# no checkpointing: 134 and 203.5 tokens/s at 580 MFLOP a token; sampling, batch 32: 105 and 93.5 tokens/s at 269 MFLOP.
# The overhead is what the stock SFT run held beyond the other terms. See MEASURED, basis "fitted".
GPU_SHARES = {
    "training": {"bf16": 0.35, "fp16": 0.35, "fp32": 0.35},
    "sampling": {"bf16": 0.02, "fp16": 0.02, "fp32": 0.02},
    "overhead_mb": 1000.0,
    "measured": False,
}
DEVICES = {
    "cpu": Device("two CPU cores, 8 GB free", 8, "bf16", {"bf16": 0.422, "fp32": 0.178}, {"bf16": 0.280, "fp32": 0.437},
                  {"bf16": 0.060, "fp32": 0.159}, 2173.0, True),
    "t4": Device("one T4, 16 GB", 16, "fp16", {"fp16": 65.0, "fp32": 8.1}, **GPU_SHARES),
    "gpu24": Device("one A10, 24 GB", 24, "bf16", {"bf16": 125.0, "fp16": 125.0, "fp32": 31.2}, **GPU_SHARES),
    "gpu80": Device("one A100, 80 GB", 80, "bf16", {"bf16": 312.0, "fp16": 312.0, "fp32": 19.5}, **GPU_SHARES),
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """One training attempt.

    Attributes:
        method: what is trained.
        tuning: which weights are trained, a key of TUNINGS.
        rows: rows, pairs or rollouts, over all epochs.
        tokens: length of a row with its padding; DPO: of prompt and one answer; RFT: of prompt and rollout.
        answer_tokens: of these, what an RFT rollout adds to its prompt: it is sampled, and the loss looks at it alone.
        batch: rows, pairs or rollouts in one forward pass.
        rank: of LoRA, on all linear layers.
        later_share: share of the layers that "later" trains, counted from the top.
        checkpointing: keep each layer's input only and compute the rest again; TRL's default.
        reference: DPO and RFT compare with the model that they started from, in a forward pass of its own.
        samples: RFT samples its rollouts; False where they are given.

    Raises:
        ValueError: an unknown method or tuning, or a size that makes no sense.
    """

    method: Method
    tuning: str
    rows: int
    tokens: int
    answer_tokens: int = 0
    batch: int = 8
    rank: int = 16
    later_share: float = 0.25
    checkpointing: bool = True
    reference: bool = True
    samples: bool = True

    def __post_init__(self) -> None:
        for name, known in (("method", ("sft", "dpo", "rft")), ("tuning", tuple(TUNINGS))):
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise ValueError(
                    f"{name}: expected one of {', '.join(known)}, got {value!r}{did_you_mean(value, known)}"
                )
        for name in ("rows", "tokens", "batch", "rank"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}: expected a whole number of 1 or more, got {value!r}; correct it")
        if not 0 < self.later_share <= 1:
            raise ValueError(f"later_share: expected more than 0 and at most 1, got {self.later_share!r}; correct it")
        if not 0 <= self.answer_tokens <= self.tokens or (self.method == "rft" and not self.answer_tokens):
            raise ValueError(
                f"answer_tokens: expected at most tokens = {self.tokens}, and for RFT 1 or more, got "
                f"{self.answer_tokens}; say how long a rollout is"
            )

    @property
    def compares(self) -> bool:
        """Whether a reference is read."""
        return self.reference and self.method != "sft"

    @property
    def texts(self) -> int:
        """Texts a row brings: a pair has two."""
        return 2 if self.method == "dpo" else 1

    @property
    def depth(self) -> float:
        """Share of the layers that the backward pass goes through."""
        return self.later_share if self.tuning == "later" else 1.0


@dataclass(frozen=True)
class Estimate:
    """What an attempt takes. `memory` names its parts in MB (1e6 bytes).

    `fits`: "yes" with MARGIN to spare, "tight" as estimated but not with the margin, else "no".
    """

    memory: dict[str, float]
    hours: float
    exaflop: float
    money: float | None
    fits: Literal["yes", "tight", "no"]

    @property
    def memory_gb(self) -> float:
        """The sum of the parts."""
        return sum(self.memory.values()) / 1e3


def trained_weights(shape: Shape, plan: Plan) -> int:
    """How many weights the optimiser moves."""
    if plan.tuning == "full":
        return shape.parameters
    return round(shape.body * plan.later_share) if plan.tuning == "later" else shape.adapter(plan.rank)


def memory_parts(shape: Shape, plan: Plan, *, dtype: str, overhead_mb: float = 0.0) -> dict[str, float]:
    """The peak's parts in MB. Trained adapters are kept in fp32 (notebook 04 says why), other weights in `dtype`."""
    size, tokens = BYTES[dtype], plan.batch * plan.texts * plan.tokens
    trained = trained_weights(shape, plan)
    adapter = plan.tuning in ("lora", "qlora")
    base = size * shape.parameters
    if plan.tuning == "qlora":
        base = NF4_BYTES * shape.body + size * (shape.parameters - shape.body)
    copy = base if plan.compares and not adapter else 0  # an adapter is switched off instead
    kind = "fp32" if adapter else dtype
    # What a layer keeps for its backward pass, in values a token: both norms' inputs and outputs (4 h), q and rotated q
    # (2 h), the attention's output (h), k, v, rotated k (3 kv), and the MLP's gate, its activation, up, product (4 i).
    layer = 7 * shape.hidden + 3 * shape.kv + 4 * shape.inner
    deep = shape.layers * plan.depth
    kept = deep * shape.hidden + layer if plan.checkpointing else deep * layer
    looked_at = plan.batch * plan.answer_tokens if plan.method == "rft" else tokens
    activations, logits = size * kept * tokens, looked_at * shape.vocab * LOGIT_BYTES[dtype]
    if plan.compares:
        logits += looked_at * shape.vocab * size  # the reference's, beside the policy's
    cache = 2 * shape.layers * shape.kv * size * tokens if plan.method == "rft" and plan.samples else 0
    parts = {
        "weights": base + copy + (BYTES["fp32"] * trained if adapter else 0),
        "gradients": BYTES[kind] * trained,
        "optimiser": OPTIMISER_BYTES[kind] * trained,
        "activations": activations,
        "logits": logits,
        "sampling cache": max(0, cache - activations - logits),  # one or the other, never both
    }
    return {name: value / 1e6 for name, value in parts.items()} | {"process": overhead_mb}


def flop_a_token(shape: Shape, plan: Plan) -> float:
    """FLOP of training on one token: two a weight and pass; attention over a causal text of `tokens` besides."""
    adapter = shape.adapter(plan.rank) if plan.tuning in ("lora", "qlora") else 0
    attention = 2 * plan.tokens * shape.hidden * shape.layers  # 4 s h a layer, halved by causality
    forward = 2 * (shape.body + shape.head + adapter) + attention
    to_inputs = plan.depth * 2 * (shape.body + attention) + 2 * (shape.head + adapter)
    to_weights = {"full": 2 * (shape.body + shape.head), "later": 2 * plan.depth * shape.body}.get(
        plan.tuning, 2 * adapter
    )
    again = plan.depth * (2 * shape.body + attention) if plan.checkpointing else 0
    reference = 2 * (shape.body + shape.head) + attention if plan.compares else 0
    return forward + to_inputs + to_weights + again + reference


def estimate(
    shape: Shape, plan: Plan, device: str, *, dtype: str = "", price_per_hour: float | None = None
) -> Estimate:
    """Memory, hours and money of an attempt.

    Args:
        shape: of the model, e.g. one of SHAPES.
        plan: what is trained on what.
        device: a key of DEVICES.
        dtype: of weights and products; empty: the device's own.
        price_per_hour: in your currency; None: no price is known, and none is made up.

    Raises:
        ValueError: an unknown device, a dtype that it is not known for, or a negative price.
    """
    if device not in DEVICES:
        raise ValueError(f"device: expected one of {', '.join(DEVICES)}, got {device!r}{did_you_mean(device, DEVICES)}")
    machine = DEVICES[device]
    dtype = dtype or machine.dtype
    if dtype not in machine.tflops:
        raise ValueError(f"dtype: expected one of {', '.join(machine.tflops)} on {device}, got {dtype!r}; choose one")
    if price_per_hour is not None and not price_per_hour >= 0:
        raise ValueError(f"price_per_hour: expected 0 or more, got {price_per_hour!r}; correct it, or leave it out")
    flop = plan.rows * plan.texts * plan.tokens * flop_a_token(shape, plan)
    seconds = flop / (1e12 * machine.tflops[dtype] * machine.training[dtype])
    if plan.method == "rft" and plan.samples:
        sampled = plan.rows * plan.answer_tokens * 2 * (shape.body + shape.head)
        seconds += sampled / (1e12 * machine.tflops[dtype] * machine.sampling[dtype])
        flop += sampled
    memory = memory_parts(shape, plan, dtype=dtype, overhead_mb=machine.overhead_mb)
    room = 1e3 * machine.memory_gb / sum(memory.values())
    fits = "yes" if room >= MARGIN else "tight" if room >= 1 else "no"
    money = None if price_per_hour is None else price_per_hour * seconds / 3600
    return Estimate(memory, seconds / 3600, flop / 1e18, money, fits)


def hours_here(method: Method, taken: Estimate, device: str) -> float:
    """The hours of an estimate as the playbook's notebooks take them: on a CPU LEAN times as fast, elsewhere TRL's.

    Example:
        >>> plan = Plan("sft", "lora", rows=480, tokens=256)
        >>> taken = estimate(SHAPES["0.135b"], plan, "cpu")
        >>> round(taken.hours, 2), round(hours_here("sft", taken, "cpu"), 2)
        (0.24, 0.06)
    """
    return taken.hours / LEAN[method] if device == "cpu" else taken.hours


@dataclass(frozen=True)
class Measured:
    """A number that the project has measured, and the plan that it was measured on.

    Attributes:
        what: "seconds" of the training, "sampling seconds", "peak MB" of the process, or "weights MB".
        basis: "fitted": a constant above comes from it, so it agrees by construction. "checked": it played no part.
    """

    name: str
    what: str
    value: float
    plan: Plan
    dtype: str
    basis: Literal["fitted", "checked"]
    origin: str


_BATCH = Plan("sft", "lora", 8, 128, checkpointing=False)  # rates were taken on 8 rows of 128 tokens: 1,024 tokens
_NF4_BATCH = dataclasses.replace(_BATCH, tuning="qlora")
_NOTES = "field notes, two cores with AVX-512 and bf16"
_SPEED = "README, Speed, stock column, two cores with AVX2"
# Lengths of the README's runs, counted with the embedded model's tokenizer over the benchmark's own rows: SFT 160
# rows, 4,862 tokens with loss, 23,378 with padding in random batches of 8 (mean of 50 orders): 146 a row, the longest
# 183. DPO 32 pairs, 7,197 tokens a pass with padding: 112 a text, the longest 114. GRPO: prompt 113 and rollout 142.
_SFT = Plan("sft", "lora", 160, 146)
_DPO = Plan("dpo", "qlora", 96, 112)
_GRPO = Plan("rft", "lora", 32, 255, answer_tokens=142, batch=32, samples=False)
MEASURED = (
    Measured("LoRA, fp32", "seconds", 1024 / 134, _BATCH, "fp32", "fitted", _NOTES),
    Measured("LoRA, bf16", "seconds", 1024 / 203.5, _BATCH, "bf16", "fitted", f"{_NOTES}; middle of 190 to 217"),
    Measured("NF4, compute bf16", "seconds", 1024 / 172.5, _NF4_BATCH, "bf16", "checked", f"{_NOTES}; 148 to 197"),
    Measured("NF4, compute fp32", "seconds", 1024 / 134.5, _NF4_BATCH, "fp32", "checked", f"{_NOTES}; 111 to 158"),
    Measured("SFT, 20 steps of 8", "seconds", 4862 / 22.2, _SFT, "fp32", "checked", _SPEED),
    Measured("DPO, NF4, 32 pairs x 3", "seconds", 96 / 0.38, _DPO, "fp32", "checked", _SPEED),
    Measured("GRPO, a step of 32 given rollouts", "seconds", 107, _GRPO, "fp32", "checked", _SPEED),
    Measured("sampling, fp32", "sampling seconds", 1024 / 105, _BATCH, "fp32", "fitted", f"{_NOTES}; batch 32"),
    Measured("sampling, bf16", "sampling seconds", 1024 / 93.5, _BATCH, "bf16", "fitted", f"{_NOTES}; 80 to 107"),
    Measured("sampling, NF4, bf16", "sampling seconds", 1024 / 118, _NF4_BATCH, "bf16", "checked", _NOTES),
    Measured("sampling, NF4, fp32", "sampling seconds", 1024 / 111, _NF4_BATCH, "fp32", "checked", _NOTES),
    Measured("SFT, longest batch", "peak MB", 3817, dataclasses.replace(_SFT, tokens=183), "fp32", "fitted", _SPEED),
    Measured("DPO, NF4, longest batch", "peak MB", 5354, dataclasses.replace(_DPO, tokens=114), "fp32", "checked",
             _SPEED),
    Measured("GRPO, 32 rollouts in one pass", "peak MB", 12_318, _GRPO, "fp32", "checked", _SPEED),
    Measured("weights, NF4 base", "weights MB", 110, _NF4_BATCH, "bf16", "checked", _NOTES),
    Measured("weights, bf16", "weights MB", 269, _BATCH, "bf16", "checked", _NOTES),
)  # fmt: skip


@dataclass(frozen=True)
class Checked:
    """An estimate beside its measurement. `error` is relative: +0.2 says a fifth too much."""

    measured: Measured
    estimate: float
    error: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "error", self.estimate / self.measured.value - 1)


def check(measured: tuple[Measured, ...] = MEASURED) -> list[Checked]:
    """Each measured number of the embedded model on a CPU beside its estimate."""
    return [Checked(one, _same_number(one)) for one in measured]


def _same_number(one: Measured) -> float:
    shape, machine = SHAPES["0.135b"], DEVICES["cpu"]
    found = estimate(shape, one.plan, "cpu", dtype=one.dtype)
    if one.what == "seconds":
        return 3600 * found.hours
    if one.what == "peak MB":
        return 1e3 * found.memory_gb
    if one.what == "weights MB":
        return found.memory["weights"] - BYTES["fp32"] * trained_weights(shape, one.plan) / 1e6  # without the adapter
    tokens = one.plan.rows * one.plan.tokens
    return tokens * 2 * (shape.body + shape.head) / (1e12 * machine.tflops[one.dtype] * machine.sampling[one.dtype])
