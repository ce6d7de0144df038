"""One timed piece of work each, stock or ours, in a process of its own: `python -m benchmarks.cases NAME '{…}'`.

A case is `run(variant, **options) -> dict`; a process of its own gives it a heap and a peak of memory of its own.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
VARIANTS = ("stock", "ours")
# Random weights, for speed and memory where the embedded model is too small to say, in the shapes of common models:
# hidden size, size of the inner layer, layers, heads, heads of keys.
RANDOM = {
    "2m": (128, 256, 2, 4, 2),
    "0.5b": (896, 4864, 24, 14, 2),
    "1.5b": (1536, 8960, 28, 12, 2),
    "8b": (4096, 14336, 32, 32, 8),
}


def load(size: str, *, dtype: str, device: str, nf4: bool = False, folder: str = ""):
    """The embedded model, or one of RANDOM by its size; its weights come from seed 0 and say nothing.

    Args:
        folder: where weights for NF4 are kept between two cases; empty: they are made anew.
    """
    from ftlib import models

    if not size:
        return models.load_model("embedded", dtype=dtype, device=device, nf4=nf4)
    kept = Path(folder, "config.json")
    if nf4 and folder and kept.exists():
        return models.load_model(folder, dtype=dtype, device=device, nf4=True)
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

    config = AutoConfig.from_pretrained(models.resolve("embedded"))
    config.hidden_size, config.intermediate_size, config.num_hidden_layers, *heads = RANDOM[size]
    config.num_attention_heads, config.num_key_value_heads = heads
    config.head_dim = config.hidden_size // config.num_attention_heads
    config.layer_types = None
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(config).to(models.torch_dtype(dtype))
    if not nf4:
        return model
    with TemporaryDirectory() as made:
        model.save_pretrained(folder or made)  # bitsandbytes quantises while it loads
        del model
        return models.load_model(folder or made, dtype=dtype, device=device, nf4=True)


def mflop_a_token(config) -> dict[str, float]:
    """MFLOP of the products with weights, two a weight: of a token in all layers, and in the head."""
    heads, kv = config.num_attention_heads, config.num_key_value_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    layer = config.hidden_size * (2 * (heads + kv) * dim + 3 * config.intermediate_size)
    head = config.hidden_size * config.vocab_size
    return {"mflop_body": 2 * config.num_hidden_layers * layer / 1e6, "mflop_head": 2 * head / 1e6}


def gpu_peak_mb() -> dict[str, int]:
    """The most memory that tensors have held on the GPU so far, as a field of a result; nothing without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return {}
    torch.cuda.synchronize()
    return {"peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 2**20)}


def in_process(name: str, variant: str, **options) -> dict:
    """Run a case in a new process.

    Raises:
        RuntimeError: it failed; the end of what it wrote to stderr is in the message.
    """
    command = [sys.executable, "-m", "benchmarks.cases", name, json.dumps({"variant": variant} | options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"benchmark case {name}, {variant}, {options} failed: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def side_by_side(name: str, *, repeats: int = 2, **options) -> dict[str, list[dict]]:
    """Stock, ours, stock, ours, …: `repeats` results of each, so that a slow spell of the machine hits both."""
    found: dict[str, list[dict]] = {variant: [] for variant in VARIANTS}
    for _ in range(repeats):
        for variant in VARIANTS:
            found[variant].append(in_process(name, variant, **options))
            last = found[variant][-1]
            print(f"  {name} {options} {variant}: {last['seconds']:.1f} s", file=sys.stderr, flush=True)
    return found
