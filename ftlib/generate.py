"""Sample many texts from a causal LM: one plain call, faster than `model.generate` on a CPU.

What it saves: tokens that prompts share (system prompt, few-shot examples, tools) are read and held once, and prompts
that come several times are read once; no row is padded (see `ragged`); finished rows leave, and waiting ones take their
place; a conversation that goes on is not read again (`Memory`); a draw looks at the top-k tokens only. A row's random
numbers depend on the seed and its own key alone, so its text does not depend on its batch mates (but for rounding: a
batch of another shape rounds differently). In the model's place an engine may stand that does all this by itself
(`vllm_sampler`).

Left out on purpose: beam search, penalties, and any model that `ragged` does not know.
"""

import math
import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ftlib import ragged
from ftlib.machine import trim_heap
from ftlib.progress import bar as progress_bar

READ_TOKENS = 4096  # prompt tokens read in one pass: enough for matrix products at full speed
GROUP = 32  # rows that are read and stored together
STATE_MB = 2048  # MB (2**20 bytes) of key/value states in flight; on a GPU half of what is free
FAMILY_TOKENS, FAMILY_SAVES = 16, 512  # rows with so many tokens in common are a family if that spares so many
STOP_MARGIN = 8  # characters at both ends of a piece of text that may look otherwise in the whole: bytes of a cut one


@dataclass(frozen=True)
class Sample:
    """One sampled answer."""

    text: str  # decoded, special tokens left out; it ends before a stop string
    token_ids: list[int]  # all that were drawn: with the stop token, or those of the stop string, if it came
    logprobs: list[float]  # natural log-prob of each token under the untempered model
    stopped: bool  # a stop token or a stop string came within `max_new_tokens`


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
    stop: Sequence[str] = (),
    seed: int = 0,
    row_seeds: Sequence[int] | None = None,
    batch_size: int = 256,
    memory: "Memory | None" = None,
    progress: str = "",
) -> list[Sample]:
    """Continue each prompt until a stop token, a stop string or `max_new_tokens`.

    Args:
        model: a causal LM, or an engine with `answer_prompts` (`vllm_sampler.VllmSampler`), which has its own batches
            and memory.
        prompts: token ids, one list a row; rows may differ in length.
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_k: draw among the k most likely tokens (at least 1).
        top_p: of these, keep the smallest set whose probability reaches top_p (arXiv 1904.09751, section 3.1).
        stop: strings that end a row once its new text, special tokens left out, holds one. The text is cut before the
            earliest of them. Token ids and log-probs are cut after the token that completed it: all that was drawn, as
            with a stop token. A string may begin in the middle of a token, so no cut of the ids would give the text.
        seed: with the row's key it fixes the row's draws.
        row_seeds: the rows' keys, whole numbers from 0 on; by default their places in the list. With the same seed and
            key a prompt has the same draws in any list. Rows with one key have the same draws.
        batch_size: the most rows in flight; fewer where their states would take more than STATE_MB (on a GPU: half
            of the memory that is free).
        memory: what earlier calls have read of the same conversations; see `Memory`.
        progress: label of a progress bar; empty shows none.

    Returns:
        One Sample a prompt, in the order given.

    Raises:
        ValueError: an empty prompt, an option out of its range, or a model that `ragged` does not know.
    """
    import torch

    _check_options(prompts, max_new_tokens, temperature, top_k, top_p, batch_size)
    keys = _checked_keys(len(prompts), stop, row_seeds)
    if hasattr(model, "answer_prompts"):
        return model.answer_prompts(
            prompts, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, stop=stop,
            seed=seed, row_seeds=keys, progress=progress,
        )  # fmt: skip
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    draws = max_new_tokens if temperature > 0 else 0
    rows = [_Row(key, ids, seed, draws) for key, ids in zip(keys, prompts, strict=True)]
    stops, strings = set(stop_ids(model, tokenizer)), _StopStrings(tokenizer, stop)
    bar = progress_bar(
        total=len(prompts), desc=progress, unit="answer", disable=not progress, leave=False, mininterval=1.0
    )
    was_training = model.training
    model.eval()
    sizes, step = _sizes(model, batch_size), ragged.Steps(model)
    with torch.inference_mode(), ragged.attention(model), bar:
        waiting = _groups(model, rows, sizes, max_new_tokens, memory)
        flights: list[_Flight] = []
        while waiting or flights:
            while waiting and _has_room(flights, waiting[-1], sizes):
                flights.append(waiting.pop().start(model, sizes.read_tokens))
            logits = torch.cat([flight.logits for flight in flights]).float()
            tokens, logprobs = _choose(logits, [row for f in flights for row in f.rows], temperature, top_k, top_p)
            _record(flights, tokens, logprobs, stops, strings, max_new_tokens, bar)
            for flight in flights:
                flight.shrink(memory, sizes.going)
            flights = [flight for flight in flights if flight.rows]
            if flights:
                ids = [row.ids[-1] for flight in flights for row in flight.rows]
                logits = step([flight.pool for flight in flights], ids)
                for flight, part in zip(flights, logits.split([f.pool.rows for f in flights]), strict=True):
                    flight.logits = part
    model.train(was_training)
    trim_heap()  # the states were the largest thing in memory
    return [Sample(answer_text(tokenizer, row.ids, stop), row.ids, row.logprobs, row.stopped) for row in rows]


def answer_text(tokenizer, ids: list[int], stop: Sequence[str] = ()) -> str:
    """The text of sampled tokens: special tokens left out, cut before the earliest stop string, no space around it."""
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return text[: min((text.find(one) for one in stop if one in text), default=len(text))].strip()


def _check_options(prompts, max_new_tokens, temperature, top_k, top_p, batch_size) -> None:
    empty = [i for i, ids in enumerate(prompts) if not len(ids)]
    if empty:
        raise ValueError(f"prompt {empty[0]} is empty: expected at least one token; drop the row or fix its template")
    if max_new_tokens < 1 or temperature < 0 or top_k < 1 or not 0 < top_p <= 1 or batch_size < 1:
        raise ValueError(
            "expected max_new_tokens >= 1, temperature >= 0, top_k >= 1, 0 < top_p <= 1, batch_size >= 1; got "
            f"{max_new_tokens}, {temperature}, {top_k}, {top_p}, {batch_size}"
        )


def _checked_keys(rows: int, stop: Sequence[str], row_seeds: Sequence[int] | None) -> list[int]:
    """The key of each row; `stop` is checked on the way."""
    if isinstance(stop, str) or not all(isinstance(one, str) and one for one in stop):
        raise ValueError(f"stop: expected a list of strings that are not empty, got {stop!r}; for one, give [one]")
    keys = list(range(rows) if row_seeds is None else row_seeds)
    if len(keys) != rows or not all(isinstance(key, (int, np.integer)) and key >= 0 for key in keys):
        raise ValueError(
            f"row_seeds: expected a whole number >= 0 for each of {rows} rows, got {len(keys)}, the first {keys[:3]}"
        )
    return [int(key) for key in keys]


def turn_options(options: dict, turn: int, rows: Sequence[int]) -> dict:
    """Options of `sample` for a later turn of rollouts: its draws hang on seed, turn and a row's own key.

    Args:
        options: those of the first turn, of all rows.
        turn: from 0 on.
        rows: places, in the first turn, of the rows that go on.
    """
    keys = options.get("row_seeds")
    own = [keys[row] for row in rows] if keys else list(rows)
    return {**options, "seed": options.get("seed", 0) + turn, "row_seeds": own}


def stop_ids(model, tokenizer) -> list[int]:
    """Token ids that end an answer: the model's and the tokenizer's."""
    stops = model.generation_config.eos_token_id
    stops = list(stops) if isinstance(stops, (list, tuple)) else [stops]
    return sorted({i for i in [*stops, tokenizer.eos_token_id] if i is not None})


@dataclass(frozen=True)
class _Sizes:
    """How many rows and tokens are taken at a time on a device."""

    rows: int  # in flight
    group: int  # read and stored together
    state_bytes: int  # of key/value states in flight
    read_tokens: int
    going: float  # a group is made smaller when no more than this share of its rows goes on
    group_tokens: float = math.inf  # the most that a group may hold
    shorter: float = 0.75  # the shortest prompt of a group, as a share of the longest


def _sizes(model, batch_size: int) -> _Sizes:
    if model.device.type != "cuda":
        return _Sizes(batch_size, min(GROUP, batch_size), STATE_MB * 2**20, READ_TOKENS, going=0.8)
    import torch

    # Few large groups: there, time goes by kernels, hardly by what is in them; and a group that has become smaller is
    # recorded anew (`ragged.Steps`).
    unused = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    half = (torch.cuda.mem_get_info(model.device)[0] + unused) // 2
    tokens = half / ragged.state_bytes(model)
    return _Sizes(batch_size, batch_size, half, 4 * READ_TOKENS, going=0.5, group_tokens=tokens, shorter=0.0)


class _Row:
    """One answer in the making."""

    def __init__(self, key: int, prompt: list[int], seed: int, draws: int):
        self.prompt = list(prompt)
        self.draws = np.random.default_rng([seed, key]).random(draws) if draws else None
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.stopped = self.done = False
        self.tail = 0  # where the piece begins that is searched for stop strings


class _StopStrings:
    """Looks for strings in the ends of what rows have written: a step decodes a few tokens of a row, not all of them.

    A piece of text may begin with half a character, or lack the space that the tokenizer puts before a word, so it is
    kept longer than the longest string, and what is found there is looked for in the whole text too.
    """

    def __init__(self, tokenizer, strings: Sequence[str]):
        self._decode = lambda ids: tokenizer.decode(ids, skip_special_tokens=True)
        self._strings = list(strings)
        self._enough = max(map(len, self._strings), default=0) + STOP_MARGIN

    def complete(self, row: _Row) -> bool:
        """Does the row's text hold one of the strings? Called after each of its tokens."""
        if not self._strings:
            return False
        text, middle = self._decode(row.ids[row.tail :]), (row.tail + len(row.ids)) // 2
        if len(text) >= 2 * self._enough and len(self._decode(row.ids[middle:])) >= self._enough:
            row.tail = middle
        return self._in(text) and self._in(self._decode(row.ids))

    def _in(self, text: str) -> bool:
        return any(one in text for one in self._strings)


class Memory:
    """What was read of conversations that go on: a prompt that begins with an earlier one is read from there on.

    For rollouts of several turns: each call's prompts are the last call's prompts, the answers, and something new. It
    holds for one model with the weights that it has: `clear` it when they change.
    """

    def __init__(self):
        self._held: dict[tuple[int, ...], list[tuple[list[int], ragged.Pool]]] = {}  # by prompt: answers, their states
        self._prefixes: dict[tuple[int, ...], ragged.Prefix] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()
        self._prefixes.clear()

    def keep(self, prompt: list[int], answer: list[int], pool: ragged.Pool, row: int) -> None:
        """Keep the states of a row of a pool; it has read the prompt and these tokens of its answer."""
        pool.held[row] = len(prompt) + len(answer) - pool.prefix_length  # a finished row may have been fed some more
        self._held.setdefault(tuple(prompt), []).append((answer, pool.copy_of(row)))

    def take(self, prompt: list[int]) -> ragged.Pool | None:
        """The states of an earlier prompt that this one begins with, and of as much of an answer as comes next in it.

        They are given away, and leave at least one token to read.
        """
        for length in sorted({len(earlier) for earlier in self._held}, reverse=True):
            answers = self._held.get(tuple(prompt[:length])) if length < len(prompt) else None
            if answers:
                same = [len(os.path.commonprefix([answer, prompt[length:-1]])) for answer, _ in answers]
                n, best = max((n, -i) for i, n in enumerate(same))
                _, pool = answers.pop(-best)
                pool.held[0] = length + n - pool.prefix_length
                return pool
        return None

    def prefix(self, model, ids: list[int]) -> ragged.Prefix:
        """The states of tokens that all rows of a call share; read once."""
        if tuple(ids) not in self._prefixes:
            self._prefixes[tuple(ids)] = ragged.read_prefix(model, ids)
        return self._prefixes[tuple(ids)]


@dataclass
class _Group:
    """Rows that wait to be read together: one prefix, about one length."""

    rows: list[_Row]
    pools: list[ragged.Pool] | None  # of each row: what was read of it before
    prefix: ragged.Prefix | None
    room: int  # tokens a row may add

    @property
    def capacity(self) -> int:
        """The most tokens of its own that a row of the group will hold."""
        return max(len(row.prompt) for row in self.rows) - (len(self.prefix.ids) if self.prefix else 0) + self.room

    def start(self, model, read_tokens: int) -> "_Flight":
        """Read the rows; equal prompts once."""
        distinct = list(dict.fromkeys(tuple(row.prompt) for row in self.rows)) if self.pools is None else None
        prompts = distinct or [tuple(row.prompt) for row in self.rows]
        fresh = lambda: ragged.Pool(self.prefix, len(prompts), self.capacity)
        pool = ragged.joined(self.pools, self.capacity) if self.pools else fresh()
        p, logits = pool.prefix_length, []
        new = [len(prompt) - p - n for prompt, n in zip(prompts, pool.held, strict=True)]
        for part in _portions(new, read_tokens):
            logits.append(ragged.read(model, [(pool, r, list(prompts[r][p + pool.held[r] :])) for r in part]))
        flight = _Flight(pool, self.rows, _cat(logits))
        if distinct and len(distinct) < len(self.rows):
            place = {prompt: r for r, prompt in enumerate(distinct)}
            flight.take([place[tuple(row.prompt)] for row in self.rows])
        return flight


@dataclass
class _Flight:
    """Rows that are being answered: their pool, and the logits (R, V) of what each says next."""

    pool: ragged.Pool
    rows: list[_Row]
    logits: object

    def take(self, indices: list[int]) -> None:
        """Go on with these rows of the pool."""
        self.pool.select(indices)
        self.logits = self.logits[indices]

    def shrink(self, memory: Memory | None, share: float) -> None:
        """Drop rows that are done, once there are enough of them: copying the states costs about a step."""
        going = [i for i, row in enumerate(self.rows) if not row.done]
        if len(going) > share * len(self.rows):
            return
        for i, row in enumerate(self.rows) if memory is not None else ():
            if row.done:
                memory.keep(row.prompt, row.ids[:-1], self.pool, i)
        if going:
            self.take(going)
        self.rows = [self.rows[i] for i in going]


def _has_room(flights: list[_Flight], group: _Group, sizes: _Sizes) -> bool:
    """May the group start beside these? A group alone always may."""
    if not flights:
        return True
    rows = sum(flight.pool.rows for flight in flights) + len(group.rows)
    largest = max(flight.pool.bytes_a_token for flight in flights)
    tokens = sum(flight.pool.rows * flight.pool.capacity for flight in flights) + len(group.rows) * group.capacity
    return rows <= sizes.rows and tokens * largest <= sizes.state_bytes


def _cat(parts: list):
    import torch

    return torch.cat(parts)


def _portions(lengths: list[int], most: int) -> list[list[int]]:
    """Indices in order, in portions of at most `most` tokens, or of one row that is longer."""
    portions, tokens = [[]], 0
    for i, length in enumerate(lengths):
        if portions[-1] and tokens + length > most:
            portions.append([])
            tokens = 0
        portions[-1].append(i)
        tokens += length
    return portions


def _groups(model, rows: list[_Row], sizes: _Sizes, room: int, memory: Memory | None) -> list[_Group]:
    """All rows in groups, in reverse of the order in which they start (the last one is taken first)."""
    held = {id(row): memory.take(row.prompt) for row in rows} if memory is not None else {}
    groups = []
    known: dict[int, list[_Row]] = {}
    for row in rows:
        if held.get(id(row)):
            known.setdefault(id(held[id(row)].prefix), []).append(row)
    for family in known.values():
        for part in _of_one_length(family, sizes, room):
            pools = [held[id(row)] for row in part]
            groups.append(_Group(part, pools, pools[0].prefix, room))
    for prefix_ids, family in _families([row for row in rows if not held.get(id(row))]):
        read = memory.prefix if memory is not None else ragged.read_prefix
        prefix = read(model, prefix_ids) if prefix_ids else None
        groups += [_Group(part, None, prefix, room) for part in _of_one_length(family, sizes, room)]
    return sorted(groups, key=lambda group: max(len(row.prompt) for row in group.rows))


def _of_one_length(rows: list[_Row], sizes: _Sizes, room: int) -> list[list[_Row]]:
    """Longest first, in parts whose rows differ by little: little room is left empty. Equal prompts come together."""
    parts: list[list[_Row]] = []
    for row in sorted(rows, key=lambda row: (-len(row.prompt), row.prompt)):
        longest = len(parts[-1][0].prompt) if parts else 0
        full = not parts or len(parts[-1]) == sizes.group
        full = full or (len(parts[-1]) + 1) * (longest + room) > sizes.group_tokens
        if full or len(row.prompt) < sizes.shorter * longest - 32:
            parts.append([])
        parts[-1].append(row)
    return parts


def _families(rows: list[_Row]) -> list[tuple[list[int], list[_Row]]]:
    """(tokens that they begin with, rows): rows that share more than all rows do are a family, where it is worth it."""
    shared = _shared_prefix([row.prompt for row in rows])
    by_start: dict[tuple, list[_Row]] = {}
    for row in rows:
        by_start.setdefault(tuple(row.prompt[len(shared) : len(shared) + FAMILY_TOKENS]), []).append(row)
    families, rest = [], []
    for family in by_start.values():
        own = _shared_prefix([row.prompt for row in family])
        if (len(family) - 1) * (len(own) - len(shared)) >= FAMILY_SAVES:
            families.append((own, family))
        else:
            rest += family
    return [*families, *([(_shared_prefix([row.prompt for row in rest]), rest)] if rest else [])]


def _shared_prefix(prompts: list[list[int]]) -> list[int]:
    """The tokens that all prompts begin with; each keeps at least one token of its own."""
    if len(prompts) < 2:
        return []
    low, high = min(prompts), max(prompts)
    n = 0
    while n < min(len(low), len(high)) and low[n] == high[n]:
        n += 1
    return list(low[: min(n, min(map(len, prompts)) - 1)])


def _choose(logits, rows: list[_Row], temperature: float, top_k: int, top_p: float):
    """The next token of each row and its log-prob under the untempered model; logits (R, V) in fp32."""
    import torch

    if temperature == 0:
        tokens = logits.argmax(-1)
    else:
        u = [row.draws[min(len(row.ids), len(row.draws) - 1)] for row in rows]  # a row that is done may lag behind
        u = torch.tensor(u, device=logits.device, dtype=torch.float32)
        tokens = _draw(logits / temperature, u, top_k, top_p)
    return tokens.tolist(), (logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)).tolist()


def _record(
    flights: list[_Flight],
    tokens: list[int],
    logprobs: list[float],
    stops: set,
    strings: _StopStrings,
    limit: int,
    bar,
) -> None:
    """Append the tokens; a finished row may stay a few steps until its flight is made smaller, and gets no more."""
    for row, token, logprob in zip([row for f in flights for row in f.rows], tokens, logprobs, strict=True):
        if row.done:
            continue
        row.ids.append(token)
        row.logprobs.append(logprob)
        row.stopped = token in stops or strings.complete(row)
        row.done = row.stopped or len(row.ids) == limit
        bar.update(int(row.done))


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
        self._merged: list = []
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

    def is_stale(self) -> bool:
        """Has the adapter changed since the last `refresh`? (A fused optimiser leaves no other trace of its steps.)"""
        import torch

        return not all(map(torch.equal, self._adapter(), self._merged))

    def _adapter(self) -> list:
        name = lambda module: module.active_adapters[0]
        parts = [(m.lora_A[name(m)], m.lora_B[name(m)]) for m, _, _ in self._pairs]
        return [part.weight.detach() for both in parts for part in both]

    def refresh(self):
        """Write W + B·A·scale for every adapted layer; returns the plain model."""
        import torch

        from ftlib.models import lora_delta

        self._merged = [weight.clone() for weight in self._adapter()]
        with torch.no_grad():
            for module, target, weight in self._pairs:
                target.weight.copy_(weight.to(torch.float32) + lora_delta(module))
        return self.model


class _Conversations:
    """Which row of a batch's first turn each prompt of a later turn goes on with: what was read and written tells."""

    def __init__(self):
        self._keys: dict[tuple[int, ...], list[int]] = {}  # prompt and answer -> rows that stand there
        self._rows = 0

    def keys(self, prompts: list[list[int]]) -> list[int]:
        """Of each prompt: the key of the row that it goes on with. Rows of one history are taken in their order.

        Where no prompt goes on with anything, a new batch begins, and keys are places; a prompt that alone goes on with
        nothing gets a new key.
        """
        found = [self._take(prompt) for prompt in prompts]
        self._keys.clear()
        if all(key is None for key in found):
            self._rows, found = len(prompts), list(range(len(prompts)))
        for place, key in enumerate(found):
            if key is None:
                found[place], self._rows = self._rows, self._rows + 1
        return found

    def said(self, keys: list[int], prompts: list[list[int]], answers: list[list[int]]) -> None:
        """Where the rows stand now."""
        for key, prompt, answer in zip(keys, prompts, answers, strict=True):
            self._keys.setdefault((*prompt, *answer), []).append(key)

    def _take(self, prompt: list[int]) -> int | None:
        for length in sorted({len(history) for history in self._keys if len(history) < len(prompt)}, reverse=True):
            keys = self._keys.get(tuple(prompt[:length]))
            if keys:
                return keys.pop(0)
        return None


@contextmanager
def fast_rollouts(
    peft_model, merged: MergedCopy, tokenizer, *, seed: int, step: Callable[[], int], batch_size: int = 256
):
    """Inside, `peft_model.generate(...)` samples with the loop of this module from the merged copy.

    TRL's GRPOTrainer calls `generate` for each turn of its rollouts; this keeps its tool loop and takes over the
    sampling alone. A turn reads what is new since the turn before. The copy is refreshed, and what was read forgotten,
    when the adapter has changed; a pass of the trained model itself (scoring, training) frees that memory.

    Args:
        step: the trainer's steps done, e.g. `lambda: trainer.state.global_step`. The draws hang on seed, step, turn and
            the rollout's place in its batch, so that a training which goes on from a checkpoint draws what it would
            have drawn, and a rollout draws the same whether or not others have ended.
    """
    import torch

    calls, last_step = 0, -1
    memory, conversations = Memory(), _Conversations()

    def generate(input_ids, attention_mask, generation_config, **_):
        nonlocal calls, last_step
        calls, last_step = (calls + 1 if step() == last_step else 1), step()
        if merged.is_stale():
            merged.refresh()
            memory.clear()
        prompts = [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
        keys = conversations.keys(prompts)
        samples = sample(
            merged.model,
            tokenizer,
            prompts,
            max_new_tokens=generation_config.max_new_tokens,
            temperature=generation_config.temperature if generation_config.do_sample else 0.0,
            top_k=generation_config.top_k or len(tokenizer),
            top_p=generation_config.top_p or 1.0,
            seed=seed * 100_003 + last_step * 1_009 + calls,
            row_seeds=keys,
            batch_size=batch_size,
            memory=memory,
        )
        conversations.said(keys, prompts, [s.token_ids for s in samples])
        width = max(len(s.token_ids) for s in samples)
        pad = tokenizer.pad_token_id
        new = torch.tensor([s.token_ids + [pad] * (width - len(s.token_ids)) for s in samples])
        return torch.cat([input_ids, new.to(input_ids.device)], dim=1)

    peft_model.generate = generate
    hook = peft_model.register_forward_pre_hook(lambda *_: memory.clear())
    try:
        yield
    finally:
        hook.remove()
        del peft_model.generate


def logit_change(model, other, ids: list[int]) -> float:
    """The largest absolute difference of the next-token logits of two models on one prompt."""
    import torch

    with torch.inference_mode():
        one, two = (
            m(input_ids=torch.tensor([ids], device=m.device), logits_to_keep=1).logits.float() for m in (model, other)
        )
    return float((one - two.to(one.device)).abs().max())
