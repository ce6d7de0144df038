"""Sample many texts from a causal LM: one plain call, faster than `model.generate` on a CPU.

What it saves: tokens that all prompts share (system prompt, few-shot examples, tools) are read once, and so are
prompts that come several times; prompts are bucketed by length; key/value states go into one block of memory instead
of being copied at each step; finished rows leave the batch; a draw looks at the top-k tokens only. A row's random
numbers depend on its own seed and index alone, so its text does not depend on its batch mates (but for rounding: a
batch of another shape rounds differently).

Left out on purpose: beam search, penalties, and any model that is not a decoder with an ordinary cache.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ftlib.machine import trim_heap
from ftlib.progress import bar as progress_bar


@dataclass(frozen=True)
class Sample:
    """One sampled answer."""

    text: str  # decoded, special tokens left out
    token_ids: list[int]  # with the stop token, if it came
    logprobs: list[float]  # natural log-prob of each token under the untempered model
    stopped: bool  # a stop token came before `max_new_tokens`


def chat_ids(tokenizer, chats: list[list[dict]], *, tools: list | None = None) -> list[list[int]]:
    """Render chats with the model's own template, up to where the assistant speaks; token ids of each."""
    rendered = tokenizer.apply_chat_template(
        chats, tools=tools, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return rendered["input_ids"]


def sample_chats(model, tokenizer, chats: list[list[dict]], **options) -> list[Sample]:
    """Answer each chat; options as in `sample`."""
    return sample(model, tokenizer, chat_ids(tokenizer, chats), **options)


def sample(
    model,
    tokenizer,
    prompts: list[list[int]],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int = 50,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
    progress: str = "",
) -> list[Sample]:
    """Continue each prompt until a stop token or `max_new_tokens`.

    Args:
        prompts: token ids, one list a row; rows may differ in length.
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_k: draw among the k most likely tokens (at least 1).
        top_p: of these, keep the smallest set whose probability reaches top_p (arXiv 1904.09751, section 3.1).
        seed: with the row's index it fixes the row's draws.
        progress: label of a progress bar; empty shows none.

    Returns:
        One Sample a prompt, in the order given.

    Raises:
        ValueError: an empty prompt, or an option out of its range.
    """
    import torch

    _check_options(prompts, max_new_tokens, temperature, top_k, top_p, batch_size)
    stops = _stop_ids(model, tokenizer)
    prefix = _shared_prefix(prompts)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    samples: list[Sample | None] = [None] * len(prompts)
    bar = progress_bar(
        total=len(prompts), desc=progress, unit="answer", disable=not progress, leave=False, mininterval=1.0
    )
    was_training = model.training
    model.eval()
    with torch.inference_mode(), bar:
        prefix_cache = _read_prefix(model, prefix)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            draws = None
            if temperature > 0:
                draws = np.stack([np.random.default_rng([seed, i]).random(max_new_tokens) for i in rows])
            batch = _Batch(model, [prompts[i][len(prefix) :] for i in rows], prefix_cache, len(prefix), max_new_tokens)
            results = _decode(batch, stops, max_new_tokens, temperature, top_k, top_p, draws, bar)
            del batch  # its cache goes before the next one comes
            for i, (ids, logprobs, stopped) in zip(rows, results, strict=True):
                samples[i] = Sample(tokenizer.decode(ids, skip_special_tokens=True).strip(), ids, logprobs, stopped)
    model.train(was_training)
    trim_heap()  # the cache was the largest thing in memory
    return samples


def _check_options(prompts, max_new_tokens, temperature, top_k, top_p, batch_size) -> None:
    empty = [i for i, ids in enumerate(prompts) if not len(ids)]
    if empty:
        raise ValueError(f"prompt {empty[0]} is empty: expected at least one token; drop the row or fix its template")
    if max_new_tokens < 1 or temperature < 0 or top_k < 1 or not 0 < top_p <= 1 or batch_size < 1:
        raise ValueError(
            "expected max_new_tokens >= 1, temperature >= 0, top_k >= 1, 0 < top_p <= 1, batch_size >= 1; got "
            f"{max_new_tokens}, {temperature}, {top_k}, {top_p}, {batch_size}"
        )


def _stop_ids(model, tokenizer) -> list[int]:
    stops = model.generation_config.eos_token_id
    stops = list(stops) if isinstance(stops, (list, tuple)) else [stops]
    return sorted({i for i in [*stops, tokenizer.eos_token_id] if i is not None})


def _shared_prefix(prompts: list[list[int]]) -> list[int]:
    """The tokens that all prompts begin with; each keeps at least one token of its own."""
    if len(prompts) < 2:
        return []
    low, high = min(prompts), max(prompts)
    n = 0
    while n < min(len(low), len(high)) and low[n] == high[n]:
        n += 1
    return list(low[: min(n, min(map(len, prompts)) - 1)])


def _read_prefix(model, prefix: list[int]):
    import torch
    from transformers import DynamicCache

    if not prefix:
        return None
    cache = DynamicCache()
    ids = torch.tensor([prefix], device=model.device)
    model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return [(layer.keys, layer.values) for layer in cache.layers]


def _slab_cache(capacity: int, prefix_cache, batch: int):
    """A cache whose layers write into one block, allocated once (`DynamicCache` copies all it has at each step)."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    class SlabLayer(DynamicLayer):
        def lazy_initialization(self, key_states, value_states):
            b, h, _, d = key_states.shape
            self.dtype, self.device = key_states.dtype, key_states.device
            self.key_block = key_states.new_empty(b, h, capacity, d)
            self.value_block = value_states.new_empty(b, h, capacity, value_states.shape[-1])
            self.keys, self.values = self.key_block[:, :, :0], self.value_block[:, :, :0]
            self.is_initialized = True

        def update(self, key_states, value_states, *args, **kwargs):
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            start = self.keys.shape[-2]
            stop = start + key_states.shape[-2]
            self.key_block[:, :, start:stop] = key_states
            self.value_block[:, :, start:stop] = value_states
            self.keys, self.values = self.key_block[:, :, :stop], self.value_block[:, :, :stop]
            return self.keys, self.values

        def batch_select_indices(self, indices):
            length, n = self.keys.shape[-2], len(indices)
            for name in ("key_block", "value_block"):
                block = getattr(self, name)
                if n > len(block):  # rows that were read once for several
                    block = block[indices]
                else:  # in place: a smaller block beside the old one, at each of many steps, would tear the heap
                    block[:n] = block[indices]
                setattr(self, name, block[:n])
            self.keys, self.values = self.key_block[:, :, :length], self.value_block[:, :, :length]

    cache = DynamicCache()
    cache.layer_class_to_replicate = SlabLayer
    for i, (keys, values) in enumerate(prefix_cache or []):
        cache.update(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1), i)
    return cache


class _Batch:
    """Rows in flight: the cache, the attention mask, and each row's position. Shapes: B rows, P prefix, S suffix."""

    def __init__(self, model, suffixes: list[list[int]], prefix_cache, prefix_length: int, max_new_tokens: int):
        import torch

        self.model = model
        distinct = list(dict.fromkeys(map(tuple, suffixes)))  # the rollouts of one case begin alike: read once
        place = {suffix: r for r, suffix in enumerate(distinct)}
        rows = [place[tuple(suffix)] for suffix in suffixes]
        suffixes = distinct
        width = max(map(len, suffixes))
        b = len(suffixes)
        ids = torch.zeros(b, width, dtype=torch.long)
        mask = torch.zeros(b, width, dtype=torch.long)
        for r, suffix in enumerate(suffixes):  # padding stands between the shared prefix and the row's own tokens
            ids[r, width - len(suffix) :] = torch.tensor(suffix)
            mask[r, width - len(suffix) :] = 1
        mask = torch.cat([torch.ones(b, prefix_length, dtype=torch.long), mask], dim=1)  # (B, P + S)
        self.mask = mask.to(model.device)
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        self.next_position = positions[:, -1:] + 1  # (B, 1)
        self.cache = _slab_cache(prefix_length + width + max_new_tokens, prefix_cache, b)
        self.logits = self._forward(ids.to(model.device), positions[:, prefix_length:])  # (B, V)
        if len(rows) > b:
            self.keep(torch.tensor(rows, device=model.device))

    def _forward(self, ids, positions):
        import torch

        return self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            # As an index, not as the number 1: the slice that 1 gives is not contiguous, and for frozen weights PyTorch
            # then copies the whole vocabulary matrix once a row (57 MB a row here: 7 GB for a batch of 128).
            logits_to_keep=torch.tensor([ids.shape[1] - 1], device=ids.device),
        ).logits[:, -1]

    def step(self, ids) -> None:
        """Feed one token a row, (B,), and compute the next logits."""
        self.mask = self._append(self.mask)
        self.logits = self._forward(ids[:, None], self.next_position)
        self.next_position = self.next_position + 1

    @staticmethod
    def _append(mask):
        import torch

        return torch.cat([mask, mask.new_ones(mask.shape[0], 1)], dim=1)

    def keep(self, indices) -> None:
        """Go on with these rows: without those that have finished, or with one of them several times."""
        self.mask, self.next_position = self.mask[indices], self.next_position[indices]
        self.logits = self.logits[indices]
        for layer in self.cache.layers:
            layer.batch_select_indices(indices)


def _decode(batch, stops, max_new_tokens, temperature, top_k, top_p, draws, bar):
    """Token ids, log-probs and whether it stopped, for each row of the batch."""
    import torch

    n = batch.logits.shape[0]
    ids_of, logprobs_of, stopped = [[] for _ in range(n)], [[] for _ in range(n)], [False] * n
    alive = list(range(n))  # rows of the batch, as indices of the results
    for step in range(max_new_tokens):
        logits = batch.logits.float()
        if temperature == 0:
            tokens = logits.argmax(-1)
        else:
            u = torch.from_numpy(draws[alive, step]).to(logits.device, torch.float32)
            tokens = _draw(logits / temperature, u, top_k, top_p)
        logprobs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
        for row, token, logprob in zip(alive, tokens.tolist(), logprobs.tolist(), strict=True):
            if not stopped[row]:  # a finished row may stay a few steps until the batch is made smaller
                ids_of[row].append(token)
                logprobs_of[row].append(logprob)
                if token in stops:
                    stopped[row] = True
                    bar.update()
        going = [j for j, row in enumerate(alive) if not stopped[row]]
        if not going or step == max_new_tokens - 1:
            break
        if len(going) <= 0.8 * len(alive):  # copying the cache costs about a step: not for every single row
            keep = torch.tensor(going, device=tokens.device)
            batch.keep(keep)
            tokens = tokens[keep]
            alive = [alive[j] for j in going]
        batch.step(tokens)
    bar.update(stopped.count(False))
    return list(zip(ids_of, logprobs_of, stopped, strict=True))


def _draw(logits, u, top_k: int, top_p: float):
    """Inverse-CDF draw among the top-k (and top-p) tokens: logits (B, V), u uniform in [0, 1) (B,) -> ids (B,)."""
    import torch

    values, indices = logits.topk(min(top_k, logits.shape[-1]), dim=-1)  # (B, k), sorted
    probs = values.softmax(-1)
    if top_p < 1:
        before = probs.cumsum(-1) - probs
        probs = probs.masked_fill(before >= top_p, 0.0)
    cdf = probs.cumsum(-1)
    pick = torch.searchsorted(cdf, (u * cdf[:, -1])[:, None], right=True)
    last = (probs > 0).sum(-1, keepdim=True) - 1  # u may round to 1: never past the last token that was kept
    return indices.gather(1, torch.minimum(pick, last))[:, 0]


class MergedCopy:
    """A plain copy of a PEFT model for sampling while the adapter trains: weights W + B·A·scale, rounded once.

    `refresh()` brings it up to date with the adapter; nothing in the trained model is touched, so no rounding
    builds up. For an NF4 base the dequantised weights are kept.
    """

    def __init__(self, peft_model, plain_model):
        """plain_model: an unquantised load of the same base, in the dtype to sample in. It is changed in place."""
        import torch

        from ftlib.models import unpacked_weight

        self.model = plain_model.eval()
        self._pairs = []
        base = peft_model.get_base_model()
        for name, target in plain_model.named_modules():
            if not isinstance(target, torch.nn.Linear):
                continue
            module = base.get_submodule(name)
            adapted = hasattr(module, "lora_A")
            weight = unpacked_weight(name, module.get_base_layer() if adapted else module)
            weight = weight.to(target.weight.dtype).reshape(target.weight.shape)
            if adapted:
                self._pairs.append((module, target, weight.clone()))
            else:
                with torch.no_grad():
                    target.weight.copy_(weight)  # NF4 has rounded the layers without an adapter too
        self.refresh()

    def refresh(self):
        """Write W + B·A·scale for every adapted layer; returns the plain model."""
        import torch

        from ftlib.models import lora_delta

        with torch.no_grad():
            for module, target, weight in self._pairs:
                target.weight.copy_(weight.to(torch.float32) + lora_delta(module))
        return self.model


@contextmanager
def fast_rollouts(peft_model, merged: MergedCopy, tokenizer, *, seed: int, batch_size: int = 64):
    """Inside, `peft_model.generate(...)` samples with the loop of this module from the merged copy.

    TRL's GRPOTrainer calls `generate` for each turn of its rollouts; this keeps its tool loop and takes over the
    sampling alone. The copy is refreshed at each call: a fused optimiser changes weights without leaving a trace.
    """
    import torch

    calls = 0

    def generate(input_ids, attention_mask, generation_config, **_):
        nonlocal calls
        calls += 1
        merged.refresh()
        prompts = [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
        samples = sample(
            merged.model,
            tokenizer,
            prompts,
            max_new_tokens=generation_config.max_new_tokens,
            temperature=generation_config.temperature if generation_config.do_sample else 0.0,
            top_k=generation_config.top_k or len(tokenizer),
            top_p=generation_config.top_p or 1.0,
            seed=seed * 100_003 + calls,
            batch_size=batch_size,
        )
        width = max(len(s.token_ids) for s in samples)
        pad = tokenizer.pad_token_id
        new = torch.tensor([s.token_ids + [pad] * (width - len(s.token_ids)) for s in samples])
        return torch.cat([input_ids, new.to(input_ids.device)], dim=1)

    peft_model.generate = generate
    try:
        yield
    finally:
        del peft_model.generate


def logit_change(model, other, ids: list[int]) -> float:
    """The largest absolute difference of the next-token logits of two models on one prompt."""
    import torch

    with torch.inference_mode():
        one, two = (
            m(input_ids=torch.tensor([ids], device=m.device), logits_to_keep=1).logits.float() for m in (model, other)
        )
    return float((one - two.to(one.device)).abs().max())
