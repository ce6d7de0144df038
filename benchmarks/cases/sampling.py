"""Sampling: `model.generate` on padded batches against `generate.sample`, from the same prompts.

Stock is what the documentation of transformers shows: tokenise with left padding, `generate`, its default sdpa
attention and dynamic cache; batches in the order given. The dtype is the one that the profile takes on this device.
"""

import time

import numpy as np

from benchmarks.cases import gpu_peak_mb, load, mflop_a_token
from ftlib import generate, models, tasks
from ftlib.profiles import resolve
from ftlib.records import ProductionPrompt, SftRow, assistant_chat, data_path, load_jsonl
from ftlib.train import steady_heap

NOISE_ROWS = 64  # answers by which the noise of a dtype is told: some 3,000 tokens
STOCK = "transformers' model.generate: batches in the order given, padded on the left, sdpa attention, dynamic cache"


def chats(n: int, *, mixed: bool, seed: int) -> list[list[dict]]:
    """n chats of the playbook's own data, drawn with the seed.

    Mixed: production prompts, the three tasks of the held-out rows (short, with a policy, a long thread), and every
    eighth with two examples before it. Else production prompts, 50 to 110 tokens each.
    """
    rng = np.random.default_rng(seed)
    short = [assistant_chat(row.text) for row in load_jsonl(data_path("prompts/production.jsonl"), ProductionPrompt)]
    if mixed:
        rows = load_jsonl(data_path("sft/test.jsonl"), SftRow)
        shots = tasks.pick_examples(rows, per_task={"classify": 2, "reply": 2, "summary": 2}, seed=seed)
        long = [tasks.prompted(row, shots[row.task] if i % 4 == 0 else []) for i, row in enumerate(rows)]
        short = [chat for pair in zip(short, long, strict=False) for chat in pair]
    return [short[i] for i in rng.permutation(len(short))[:n]] if n <= len(short) else short


def run(
    variant: str, *, size: int, mixed: bool, drawn: bool, batch: int, new_tokens: int = 48, seed: int = 17,
    weights: str = "",
) -> dict:  # fmt: skip
    """Seconds for `size` prompts; `tokens` counts each answer up to its stop token.

    Args:
        drawn: temperature 1, top-k 50; else greedy.
        batch: rows a batch of stock; ours chooses its own.
        weights: a size of random weights (`cases.RANDOM`); empty: the embedded model.
    """
    import torch

    steady_heap()
    torch.manual_seed(seed)
    profile = resolve("auto")
    model = load(weights, dtype=profile.dtype, device=profile.device).eval()
    tokenizer = models.load_tokenizer("embedded")
    prompts = generate.chat_ids(tokenizer, chats(size, mixed=mixed, seed=seed))
    work = {"stock": stock_answers, "ours": _ours}[variant]
    options = {"drawn": drawn, "batch": batch, "seed": seed}
    work(model, tokenizer, prompts[:2], new_tokens=2, **options)  # first calls pay for what is made once
    passed = []  # tokens of each forward pass, padding too
    model.register_forward_pre_hook(lambda m, a, given: passed.append(given["input_ids"].numel()), with_kwargs=True)
    started = time.perf_counter()
    ids = work(model, tokenizer, prompts, new_tokens=new_tokens, **options)
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "tokens": sum(map(len, ids)),
        "prompt_tokens": sum(map(len, prompts)),
        # A recorded step of a GPU is not seen by the hook: there, what must be read and written counts, for both.
        "passed_tokens": sum(passed) if profile.use_cpu else sum(map(len, prompts)) + sum(map(len, ids)),
        "prompts": len(prompts),
        # Each pass reads all weights once; the recorded steps of a GPU are not seen, so there it is not known.
        "weights_read_gb": len(passed) * _gb(model) if profile.use_cpu else None,
        "dtype": profile.dtype,
        "ids": [] if drawn else ids,
        **mflop_a_token(model.config),
    } | gpu_peak_mb()


def _gb(model) -> float:
    """Of the weights, those that a pass reads: the table of input vectors is read at a few rows only."""
    table = model.get_input_embeddings().weight
    tied = model.get_output_embeddings().weight is table
    weights = (weight for weight in model.parameters() if tied or weight is not table)
    return sum(weight.numel() * weight.element_size() for weight in weights) / 1e9


def _ours(model, tokenizer, prompts, *, new_tokens: int, drawn: bool, seed: int, batch: int):
    found = generate.sample(
        model, tokenizer, prompts, max_new_tokens=new_tokens, temperature=float(drawn), top_k=50, seed=seed
    )
    return [sample.token_ids for sample in found]


def stock_answers(model, tokenizer, prompts, *, new_tokens: int, drawn: bool, seed: int, batch: int):
    """Token ids that `model.generate` writes for each prompt, up to and with its stop token."""
    stops = generate.stop_ids(model, tokenizer)
    draw = {"do_sample": True, "temperature": 1.0, "top_k": 50} if drawn else {"do_sample": False}
    ids = []
    for start in range(0, len(prompts), batch):
        part = [{"input_ids": p} for p in prompts[start : start + batch]]
        given = tokenizer.pad(part, padding_side="left", return_tensors="pt").to(model.device)
        out = model.generate(**given, max_new_tokens=new_tokens, pad_token_id=tokenizer.pad_token_id, **draw)
        for row in out[:, given["input_ids"].shape[1] :].tolist():
            end = next((i for i, token in enumerate(row) if token in stops), len(row) - 1)
            ids.append(row[: end + 1])
    return ids


def gaps(ids: list[list[int]], other: list[list[int]], *, size: int, mixed: bool, seed: int = 17) -> list[float]:
    """For each prompt whose greedy answers differ: how far apart the two logits are at the first differing token.

    The logits come from a plain fp32 pass over the prompt and what both wrote before it: below the rounding noise of
    the dtype (`noise`), either token is the greedy one.
    """
    prompts = generate.chat_ids(models.load_tokenizer("embedded"), chats(size, mixed=mixed, seed=seed))
    return gaps_after(prompts, ids, other)


def noise(ids: list[list[int]], *, dtype: str, size: int, mixed: bool, seed: int = 17) -> float:
    """How far the dtype by itself moves the gap between the two likeliest tokens (`noise_after`)."""
    prompts = generate.chat_ids(models.load_tokenizer("embedded"), chats(size, mixed=mixed, seed=seed))
    return noise_after(prompts, ids, dtype=dtype)


def noise_after(prompts: list[list[int]], ids: list[list[int]], *, dtype: str) -> float:
    """The most that the gap between the two likeliest tokens differs, over the tokens of the first NOISE_ROWS answers,
    between plain passes in this dtype and in the next finer one (fp64 for fp32, else fp32), in logits.

    The passes are transformers' own, a row at a time: nothing of `generate.sample` is in it.
    """
    import torch

    finer = torch.float64 if dtype == "fp32" else torch.float32
    plain, exact = (models.load_model("embedded", dtype=name).eval() for name in (dtype, "fp32"))
    exact, largest = exact.to(finer), 0.0
    for prompt, answer in list(zip(prompts, ids, strict=True))[:NOISE_ROWS]:
        given = {"input_ids": torch.tensor([prompt + answer[:-1]]), "logits_to_keep": len(answer)}
        with torch.inference_mode():
            fine, coarse = (model(**given).logits[0].to(finer) for model in (exact, plain))  # (T, V)
        top = fine.topk(2).indices
        apart = [logits.gather(-1, top).diff()[:, 0] for logits in (fine, coarse)]
        largest = max(largest, float((apart[0] - apart[1]).abs().max()))
    return largest


def gaps_after(prompts: list[list[int]], ids: list[list[int]], other: list[list[int]]) -> list[float]:
    """As `gaps`, of given prompts."""
    import torch

    model, found = models.load_model("embedded", dtype="fp32").eval(), []
    for prompt, one, two in zip(prompts, ids, other, strict=True):
        if one == two:
            continue
        n = next(i for i in range(max(len(one), len(two))) if one[i : i + 1] != two[i : i + 1])
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([prompt + one[:n]]), logits_to_keep=1).logits[0, -1]
        found.append(float((logits[one[n]] - logits[two[n]]).abs()) if n < min(len(one), len(two)) else float("inf"))
    return found
