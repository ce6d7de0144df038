"""Near-duplicates and leakage over many rows of made-up words; one row in fifty is a copy with one word changed."""

import time

import numpy as np

from ftlib import quality

WORDS, TOKENS, EVERY = 20_000, 40, 50


def run(variant: str = "ours", *, rows: int, seed: int = 17) -> dict:
    """Seconds for both gates; how many of the planted copies were found."""
    rng = np.random.default_rng(seed)
    words = np.array([f"w{i}" for i in range(WORDS)])
    table = rng.integers(0, WORDS, (rows, TOKENS))
    copies = np.arange(EVERY, rows, EVERY)
    table[copies] = table[copies - 1]
    table[copies, TOKENS - 1] = rng.integers(0, WORDS, len(copies))
    texts = [" ".join(row) for row in words[table]]
    train, test = texts[: rows * 9 // 10], texts[rows * 9 // 10 :]
    planted = test[0]
    started = time.perf_counter()
    duplicates = quality.duplicate_rate(texts)
    leaks = quality.leakage([*train, planted], test)
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "rows": rows,
        "planted": len(copies),
        "duplicate_rate": duplicates.rate,
        "leaks": len(leaks),
    }
