"""How time and memory grow with prompts, rows, length and model size; random weights and random tokens."""

import time

import numpy as np

from benchmarks.cases import gpu_peak_mb, load
from ftlib import generate, models
from ftlib.profiles import resolve
from ftlib.train import steady_heap


def run(variant: str = "ours", *, prompts: int, tokens: int, weights: str, new_tokens: int = 8, seed: int = 17) -> dict:
    """Sample for `prompts` random prompts of half of `tokens` to `tokens` tokens.

    Returns:
        Seconds, tokens that were read or written, and the parameters of the model.
    """
    steady_heap()
    profile = resolve("auto")
    model = load(weights, dtype=profile.dtype, device=profile.device).eval()
    model.generation_config.eos_token_id = None
    tokenizer = models.load_tokenizer("embedded")
    rng = np.random.default_rng(seed)
    lengths = rng.integers(tokens // 2, tokens, prompts, endpoint=True)
    rows = [rng.integers(100, 40_000, n).tolist() for n in lengths]
    generate.sample(model, tokenizer, rows[:2], max_new_tokens=2)
    started = time.perf_counter()
    found = generate.sample(model, tokenizer, rows, max_new_tokens=new_tokens)
    seconds = time.perf_counter() - started
    done = int(lengths.sum()) + sum(len(sample.token_ids) for sample in found)
    size = sum(weight.numel() for weight in model.parameters())
    return {"seconds": seconds, "tokens": done, "parameters": size, "dtype": profile.dtype} | gpu_peak_mb()
