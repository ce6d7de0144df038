"""Rollouts of three turns at the desk: what was read of a conversation is kept, or its history is read again.

What is done at the desk is given, whatever the model says, and each turn writes the same number of tokens: all variants
have the same actions and as many tokens. A turn's prompt is the one before, the answer and the tool's result, token by
token, as TRL's tool loop joins them. Greedy, so that the answers can be compared; each row is another case.
"""

import time

from benchmarks.cases import gpu_peak_mb, load, mflop_a_token, sampling
from ftlib import desk, generate, models
from ftlib.profiles import resolve
from ftlib.train import steady_heap

STOCK = "transformers' model.generate on the whole history of each turn, padded on the left, as TRL's tool loop has it"
ANEW = "our own sampling, the whole history read again in each turn"


def run(variant: str, *, cases: int, new_tokens: int, anew: bool = False, seed: int = 17) -> dict:
    """Seconds for three turns of `cases` rollouts; "ids": what each row wrote in each turn.

    Args:
        variant: ours keeps what it has read from turn to turn.
        anew: stock is our own sampling without that, not `model.generate`.
    """
    steady_heap()
    profile = resolve("auto")
    model = load("", dtype=profile.dtype, device=profile.device).eval()
    prompts, results = given(cases, seed=seed)
    tokenizer = models.load_tokenizer("embedded")
    model.generation_config.eos_token_id = tokenizer.eos_token = None  # a turn ends after its tokens
    memory = generate.Memory() if variant == "ours" else None

    def answers(prompts):
        if variant == "stock" and not anew:
            same = {"drawn": False, "seed": seed, "batch": len(prompts)}
            return sampling.stock_answers(model, tokenizer, prompts, new_tokens=new_tokens, **same)
        found = generate.sample(model, tokenizer, prompts, max_new_tokens=new_tokens, memory=memory)
        return [sample.token_ids for sample in found]

    generate.sample(model, tokenizer, prompts[:2], max_new_tokens=2)  # first calls pay for what is made once
    passed, ids = [], [[] for _ in prompts]
    model.register_forward_pre_hook(lambda m, a, given: passed.append(given["input_ids"].numel()), with_kwargs=True)
    started = time.perf_counter()
    for turn in range(1 + len(results[0])):
        for row, answer in zip(ids, answers(prompts), strict=True):
            row.append(answer)
        if turn < len(results[0]):
            prompts = [[*p, *row[-1], *of[turn]] for p, row, of in zip(prompts, ids, results, strict=True)]
    seconds = time.perf_counter() - started
    tokens = sum(len(answer) for row in ids for answer in row)
    return {
        "seconds": seconds,
        "tokens": tokens,
        # As in `sampling`; on a GPU what the last turn's histories hold, and what is written after them.
        "passed_tokens": sum(passed) if profile.use_cpu else sum(map(len, prompts)) + len(prompts) * new_tokens,
        "dtype": profile.dtype,
        "ids": ids,
        **mflop_a_token(model.config),
    } | gpu_peak_mb()


def given(cases: int, *, seed: int) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Of each rollout: the first prompt, and what follows on each answer: a tool's result, up to where the model
    speaks again."""
    tokenizer, tools, prompts, results = models.load_tokenizer("embedded"), desk.tools(), [], []
    render = lambda chat, **to: tokenizer.apply_chat_template(chat, tools=tools, return_dict=True, **to)["input_ids"]
    for case in desk.make_cases(cases, seed=seed):
        chat, of = desk.demonstration(case, case.outcome), []
        said = [n for n, message in enumerate(chat) if message["role"] == "tool"]
        prompts.append(render(chat[: said[0] - 1], add_generation_prompt=True))
        for n in said:
            before, after = render(chat[:n]), render(chat[: n + 1], add_generation_prompt=True)
            assert after[: len(before)] == before, "a result is written behind what was there"
            of.append(after[len(before) :])
        results.append(of)
    return prompts, results


def noise(ids: list, *, dtype: str, seed: int = 17) -> float:
    """As `sampling.noise`, of the first turns."""
    return sampling.noise_after(given(len(ids), seed=seed)[0], [row[0] for row in ids], dtype=dtype)


def gaps(ids: list, other: list, *, seed: int = 17) -> list[float]:
    """As `sampling.gaps`, of each rollout's first turn whose answers differ; until then both have the same history."""
    prompts, one, two = [], [], []
    for prompt, of, answers, others in zip(*given(len(ids), seed=seed), ids, other, strict=True):
        for result, a, b in zip([*of, []], answers, others, strict=True):
            if a != b:
                prompts, one, two = [*prompts, prompt], [*one, a], [*two, b]
                break
            prompt = [*prompt, *a, *result]
    return sampling.gaps_after(prompts, one, two) if prompts else []
