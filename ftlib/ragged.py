"""One forward pass over rows of different lengths, laid end to end: no padding, and shared tokens are held once.

The linear layers see one stream of tokens, (1, N), whatever the rows' lengths are; attention alone knows about rows. It
is put in place by transformers' own hook for attention functions, so the model's code stays as it is. Rows of about one
length live in one `Pool`; what they all begin with is a `Prefix`, read and stored once. On a GPU, where starting a
kernel costs more than its work, the rows of a pool are read together and steps are recorded (`Steps`).

Left out on purpose: models whose layers keep another state than keys and values (Mamba and its like), attention sinks,
and paged memory. A sliding window and a soft cap are kept.
"""

import itertools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

NAME = "ftlib_ragged"  # of the attention function, in transformers' registry
_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class Prefix:
    """Tokens that several rows begin with. P tokens, Hkv key/value heads, D dimensions a head."""

    ids: tuple[int, ...]
    keys: Sequence  # of each layer: (Hkv, P, D)
    values: Sequence


@dataclass
class Pool:
    """Key/value states of R rows that were read together, in one block a layer. C: the most tokens a row may get."""

    prefix: Prefix | None
    rows: int
    capacity: int
    held: list[int] = field(default_factory=list)  # of each row: its own tokens, the prefix not counted
    keys: dict = field(default_factory=dict)  # layer -> (R, Hkv, C, D)
    values: dict = field(default_factory=dict)

    def __post_init__(self):
        self.held = self.held or [0] * self.rows

    @property
    def prefix_length(self) -> int:
        """Tokens of the prefix; 0 without one."""
        return len(self.prefix.ids) if self.prefix else 0

    @property
    def bytes_a_token(self) -> int:
        """Memory of one token's states in all layers; 0 before the first is read."""
        blocks = [*self.keys.values(), *self.values.values()]
        return sum(block.shape[1] * block.shape[3] * block.element_size() for block in blocks)

    def blocks(self, layer: int, key, value):
        """The layer's blocks; made at the first use, when the shape of its states is known."""
        if layer not in self.keys:  # zeros: what a shorter row does not hold is weighted by 0, and 0 x NaN is NaN
            heads, _, dim = key.shape
            self.keys[layer] = key.new_zeros(self.rows, heads, self.capacity, dim)
            self.values[layer] = value.new_zeros(self.rows, heads, self.capacity, value.shape[-1])
        return self.keys[layer], self.values[layer]

    def select(self, indices: list[int]) -> None:
        """Go on with these rows: without those that have finished, or with one of them several times."""
        import torch

        at = torch.tensor(indices, device=next(iter(self.keys.values())).device)
        for blocks in (self.keys, self.values):
            for layer, block in blocks.items():
                if len(indices) > self.rows:
                    blocks[layer] = block[at]
                else:  # in place: a smaller block beside the old one, at each of many steps, would tear the heap
                    block[: len(indices)] = block[at]
                    blocks[layer] = block[: len(indices)]
        self.held = [self.held[i] for i in indices]
        self.rows = len(indices)

    def copy_of(self, row: int) -> "Pool":
        """A pool of that row alone, without room for more."""
        n = self.held[row]
        take = lambda blocks: {layer: block[row : row + 1, :, :n].clone() for layer, block in blocks.items()}
        return Pool(self.prefix, 1, n, [n], take(self.keys), take(self.values))


def state_bytes(model) -> int:
    """Memory of the states of one token in all layers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * dim * model.dtype.itemsize


def joined(pools: list[Pool], capacity: int) -> Pool:
    """One pool of the rows of several with the same prefix, with room for `capacity` tokens a row."""
    whole = Pool(pools[0].prefix, sum(pool.rows for pool in pools), capacity)
    whole.held = [n for pool in pools for n in pool.held]
    for layer, like in pools[0].keys.items():
        keys, values = whole.blocks(layer, like[0], pools[0].values[layer][0])
        start = 0
        for pool in pools:
            stop, n = start + pool.rows, max(pool.held)
            keys[start:stop, :, :n], values[start:stop, :, :n] = (
                pool.keys[layer][:, :, :n],
                pool.values[layer][:, :, :n],
            )
            start = stop
    return whole


@dataclass
class _Read:
    """Several new tokens of one row, at `start` of the stream."""

    pool: Pool
    row: int
    start: int
    length: int

    def positions(self) -> list[int]:
        first = self.pool.prefix_length + self.pool.held[self.row]
        return list(range(first, first + self.length))

    def attend(self, layer: int, query, key, value, *, scaling: float, window: int | None, softcap: float | None):
        """(H, n, D) of the stream's n tokens that are this row's: causal within the row, all of its prefix seen."""
        import torch

        pool, before = self.pool, self.pool.held[self.row]
        part = slice(self.start, self.start + self.length)
        keys, values = pool.blocks(layer, key, value)
        keys[self.row, :, before : before + self.length] = key[:, part]
        values[self.row, :, before : before + self.length] = value[:, part]
        keys, values = keys[self.row, :, : before + self.length], values[self.row, :, : before + self.length]
        if pool.prefix:
            keys = torch.cat([pool.prefix.keys[layer], keys], 1)  # (Hkv, P + T, D)
            values = torch.cat([pool.prefix.values[layer], values], 1)
        heads, dim = keys.shape[0], query.shape[-1]
        groups = query.shape[0] // heads
        seen = causal(self.length, keys.shape[1], window, keys.device)
        grouped = query[:, part].reshape(1, heads, groups * self.length, dim)  # heads of one key side by side
        given = {"attn_mask": seen.repeat(groups, 1), "scale": scaling}
        if softcap:
            out = _capped(grouped, keys[None], values[None], softcap=softcap, **given)
        else:
            out = torch.nn.functional.scaled_dot_product_attention(grouped, keys[None], values[None], **given)
        return out.reshape(heads * groups, self.length, -1)


def causal(t: int, seen: int, window: int | None, device):
    """(t, seen), True where a query may look: queries are the last t of the tokens seen; at most `window` of them."""
    import torch

    allowed = torch.ones(t, seen, dtype=torch.bool, device=device).tril(seen - t)
    return allowed.triu(seen - t - window + 1) if window else allowed


def _capped(query, keys, values, *, attn_mask, scale: float, softcap: float):
    import torch

    scores = torch.tanh(query @ keys.transpose(-1, -2) * (scale / softcap)) * softcap
    return scores.masked_fill(~attn_mask, float("-inf")).float().softmax(-1).to(query.dtype) @ values


class _ReadTogether:
    """Several new tokens of several rows of a pool, padded within the attention: as many kernels as for one row."""

    def __init__(self, pool: Pool, rows: list[int], lengths: list[int], start: int, device):
        import torch

        tensor = lambda values: torch.tensor(values, device=device)
        self.pool, self.start, self.length = pool, start, sum(lengths)
        before = [pool.held[row] for row in rows]
        self.before = tensor(before)  # (R,)
        self.longest = max(lengths)
        self.width = max(b + n for b, n in zip(before, lengths, strict=True))
        self._places = [b + t for b, n in zip(before, lengths, strict=True) for t in range(n)]
        self.rows = tensor(rows)  # (R,)
        self.line = tensor([r for r, n in enumerate(lengths) for _ in range(n)])  # (N,): which of the rows, of a token
        self.offset = tensor([t for n in lengths for t in range(n)])  # (N,): which of the row's new tokens
        self.at = self.rows[self.line], tensor(self._places)  # (N,) each: row of the pool, place among its own tokens
        self._seen: dict = {}

    def positions(self) -> list[int]:
        return [self.pool.prefix_length + place for place in self._places]

    def seen(self, groups: int, window: int | None, device):
        """(R, 1, G·T, P + W), True where a query may look."""
        import torch

        if window not in self._seen:
            place = torch.arange(-self.pool.prefix_length, self.width, device=device)
            query = (self.before[:, None] + torch.arange(self.longest, device=device))[..., None]  # (R, T, 1)
            allowed = place <= query
            if window:
                allowed &= place > query - window
            self._seen[window] = allowed[:, None].repeat(1, 1, groups, 1)
        return self._seen[window]

    def attend(self, layer: int, query, key, value, *, scaling: float, window: int | None, softcap: float | None):
        """(H, N, D) of the stream's N tokens that are these rows': causal within a row, all of its prefix seen."""
        import torch

        pool, part = self.pool, slice(self.start, self.start + self.length)
        keys, values = pool.blocks(layer, key, value)
        row, place = self.at
        keys[row, :, place] = key[:, part].transpose(0, 1)
        values[row, :, place] = value[:, part].transpose(0, 1)
        keys, values = keys[self.rows, :, : self.width], values[self.rows, :, : self.width]  # (R, Hkv, W, D)
        if pool.prefix:
            all_rows = lambda block: block.expand(len(self.before), *block.shape)
            keys = torch.cat([all_rows(pool.prefix.keys[layer]), keys], 2)
            values = torch.cat([all_rows(pool.prefix.values[layer]), values], 2)
        heads, dim = keys.shape[1], query.shape[-1]
        groups = query.shape[0] // heads
        padded = query.new_zeros(len(self.before), self.longest, query.shape[0], dim)
        padded[self.line, self.offset] = query[:, part].transpose(0, 1)
        grouped = padded.transpose(1, 2).reshape(len(self.before), heads, groups * self.longest, dim)
        given = {"attn_mask": self.seen(groups, window, query.device), "scale": scaling}
        if softcap:
            out = _capped(grouped, keys, values, softcap=softcap, **given)
        else:
            out = torch.nn.functional.scaled_dot_product_attention(grouped, keys, values, **given)
        out = out.reshape(len(self.before), query.shape[0], self.longest, -1).transpose(1, 2)
        return out[self.line, self.offset].transpose(0, 1)


class _Step:
    """One new token of each row of a pool, at `start` of the stream; `held` (R,) is what each row holds before it."""

    def __init__(self, pool: Pool, start: int, held, width: int):
        import torch

        self.pool, self.start, self.length = pool, start, pool.rows
        self.held, self.width = held, width
        self.rows = torch.arange(pool.rows, device=held.device)
        self._bias: dict = {}

    def bias(self, like, window: int | None):
        """Added to scores, (R, 1, 1, P + T): minus infinity where there is no token of the row, or it is too old."""
        import torch

        if window not in self._bias:
            own = torch.arange(self.width, device=like.device)
            prefix = torch.arange(-self.pool.prefix_length, 0, device=like.device)
            place = torch.cat([prefix, own])  # counted from the row's first own token
            hidden = place > self.held[:, None]
            if window:
                hidden |= place <= self.held[:, None] - window
            bias = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))
            self._bias[window] = bias[:, None, None]
        return self._bias[window]

    def attend(self, layer: int, query, key, value, *, scaling: float, window: int | None, softcap: float | None):
        """(H, R, D): each row's token sees the prefix, the row's own tokens, and itself."""
        import torch

        part = slice(self.start, self.start + self.length)
        keys, values = self.pool.blocks(layer, key, value)
        keys[self.rows, :, self.held] = key[:, part].transpose(0, 1)
        values[self.rows, :, self.held] = value[:, part].transpose(0, 1)
        keys, values = keys[:, :, : self.width], values[:, :, : self.width]  # (R, Hkv, T, D)
        heads, dim = keys.shape[1], query.shape[-1]
        grouped = query[:, part].transpose(0, 1).reshape(self.length, heads, -1, dim)  # (R, Hkv, G, D)
        scores = grouped @ keys.transpose(-1, -2)
        prefix, p = self.pool.prefix, self.pool.prefix_length
        if prefix:  # all rows against the one copy: a product of matrices instead of one a row
            side = grouped.transpose(0, 1).reshape(heads, -1, dim)
            of_prefix = side @ prefix.keys[layer].transpose(-1, -2)  # (Hkv, R·G, P)
            of_prefix = of_prefix.view(heads, self.length, -1, p).transpose(0, 1)
            scores = torch.cat([of_prefix, scores], -1)
        scores = scores.float() * scaling
        if softcap:
            scores = torch.tanh(scores / softcap) * softcap
        weights = scores.add_(self.bias(scores, window)).softmax(-1).to(values.dtype)
        out = weights[..., p:] @ values
        if prefix:
            side = weights[..., :p].transpose(0, 1).reshape(heads, -1, p)
            side = (side @ prefix.values[layer]).view(heads, self.length, -1, values.shape[-1])
            out = out + side.transpose(0, 1)
        return out.reshape(self.length, -1, values.shape[-1]).transpose(0, 1)


def _attend(
    module, query, key, value, attention_mask, *, scaling, parts, sliding_window=None, softcap=None, s_aux=None, **_
):
    """The attention function: query (1, H, N, D), key and value (1, Hkv, N, D) -> (1, N, H, D)."""
    if s_aux is not None:
        raise ValueError("generate.sample does not know attention sinks (s_aux); sample this model with its `generate`")
    out = query.new_empty(query.shape[1], query.shape[2], value.shape[-1])  # (H, N, D)
    for part in parts:
        out[:, part.start : part.start + part.length] = part.attend(
            module.layer_idx, query[0], key[0], value[0], scaling=scaling, window=sliding_window, softcap=softcap
        )
    return out.transpose(0, 1)[None], None


@contextmanager
def attention(model) -> Iterator[None]:
    """Inside, the model's attention is the one of this module, and only `read` and `step` may call it.

    Raises:
        ValueError: the model has layers whose state is not keys and values, or no hook for attention functions.
    """
    from transformers import AttentionInterface

    config = model.config.get_text_config()
    odd = set(getattr(config, "layer_types", None) or ()) - _LAYERS
    if odd or getattr(model, "_is_stateful", False) or not model._can_set_attn_implementation():
        what = f"layers of type {sorted(odd)}" if odd else "no attention that can be set"
        raise ValueError(
            f"{type(model).__name__} has {what}: generate.sample knows decoders with full or sliding attention; sample "
            "this model with its own `generate`"
        )
    AttentionInterface.register(NAME, _attend)
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _starts_are_dear(model) -> bool:
    """Does starting a kernel cost more than a small kernel's work?"""
    return model.device.type == "cuda"


def read(model, rows: list[tuple[Pool, int, list[int]]]):
    """Read new tokens of rows: (pool, row of the pool, token ids) each; the logits (rows, V) after the last of each."""
    import torch

    parts, start = [], 0
    ends = list(itertools.accumulate(len(ids) for _, _, ids in rows))
    if _starts_are_dear(model):
        for _, together in itertools.groupby(rows, key=lambda row: id(row[0])):
            pools, places, new = zip(*together, strict=True)
            parts.append(_ReadTogether(pools[0], list(places), list(map(len, new)), start, model.device))
            start += parts[-1].length
    else:
        for pool, row, ids in rows:
            parts.append(_Read(pool, row, start, len(ids)))
            start += len(ids)
    tensor = lambda values: torch.tensor(values, device=model.device)
    stream = tensor([[i for _, _, ids in rows for i in ids]])
    positions = tensor([[place for part in parts for place in part.positions()]])
    logits = _forward(model, stream, positions, parts, tensor([end - 1 for end in ends]))
    for pool, row, ids in rows:
        pool.held[row] += len(ids)
    return logits


class Steps:
    """Feed one token to each row of each pool, again and again.

    On a GPU the kernels of a step are recorded once and played back while the rows stay the same: a step of a small
    model is otherwise some thousand starts of kernels that each have little to do. A model that cannot be recorded (one
    that waits for the device in its forward pass) goes on with plain steps, with a warning.
    """

    def __init__(self, model):
        self.model = model
        self._pools: list[Pool] = []  # kept, so that no other pool takes the place of one that is gone
        self._shapes: list[tuple] = []
        self._recorded: _Recorded | None = None
        self._plain = not _starts_are_dear(model)

    def __call__(self, pools: list[Pool], ids: list[int]):
        """One token a row, in the pools' order; the next logits (rows of all pools, V), to be read before the next."""
        if self._plain:
            return step(self.model, pools, ids)
        shapes = [(id(pool), pool.rows, _blocked_width(pool)) for pool in pools]
        if shapes != self._shapes:  # perhaps for one step only: not worth a recording
            self._pools, self._shapes, self._recorded = list(pools), shapes, None
            return step(self.model, pools, ids)
        if self._recorded is None:
            try:
                self._recorded = _Recorded(self.model, pools, ids)
            except RuntimeError as error:  # nothing of the step is done yet, or only what the next one does again
                warnings.warn(f"steps are not recorded, so sampling is slower: {error}", stacklevel=2)
                self._plain = True
                return step(self.model, pools, ids)
        return self._recorded(pools, ids)


WIDTH_BLOCK = 256  # a recorded step looks at so many places more than it must, so that it is good for many steps


def _blocked_width(pool: Pool) -> int:
    return min(pool.capacity, -(-(max(pool.held) + 1) // WIDTH_BLOCK) * WIDTH_BLOCK)


class _Recorded:
    """A step as a CUDA graph: what it reads and writes stays in place; token ids and lengths are put there first."""

    def __init__(self, model, pools: list[Pool], ids: list[int]):
        import torch

        self._ids = torch.zeros(1, len(ids), dtype=torch.long, device=model.device)
        self._held = [torch.zeros(pool.rows, dtype=torch.long, device=model.device) for pool in pools]
        self._put(pools, ids)
        widths = [_blocked_width(pool) for pool in pools]
        run = lambda: _step(model, pools, self._ids, self._held, widths)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            run()  # first calls make what may not be made while recording; it writes what the first replay writes again
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = run()

    def _put(self, pools: list[Pool], ids: list[int]) -> None:
        import torch

        self._ids.copy_(torch.tensor([ids]))
        for held, pool in zip(self._held, pools, strict=True):
            held.copy_(torch.tensor(pool.held))

    def __call__(self, pools: list[Pool], ids: list[int]):
        self._put(pools, ids)
        self._graph.replay()
        for pool in pools:
            pool.held = [n + 1 for n in pool.held]
        return self._logits


def step(model, pools: list[Pool], ids: list[int]):
    """Feed one token to each row of each pool, in their order; the next logits (rows of all pools, V)."""
    import torch

    tensor = lambda values: torch.tensor(values, device=model.device)
    held, widths = [tensor(pool.held) for pool in pools], [max(pool.held) + 1 for pool in pools]
    logits = _step(model, pools, tensor([ids]), held, widths)
    for pool in pools:
        pool.held = [n + 1 for n in pool.held]
    return logits


def _step(model, pools: list[Pool], ids, held: list, widths: list[int]):
    """ids (1, N); held (R,) of each pool; logits (N, V). Nothing in here waits for the device."""
    import torch

    starts = itertools.accumulate((pool.rows for pool in pools), initial=0)
    parts = [_Step(pool, start, n, width) for pool, start, n, width in zip(pools, starts, held, widths, strict=False)]
    positions = torch.cat([pool.prefix_length + n for pool, n in zip(pools, held, strict=True)])[None]
    return _forward(model, ids, positions, parts, torch.arange(ids.shape[1], device=ids.device))


def _forward(model, ids, positions, parts: list, wanted):
    return model(
        input_ids=ids,
        position_ids=positions,
        use_cache=False,
        # As an index, not as a number: the slice that a number gives is not contiguous, and for frozen weights PyTorch
        # then copies the whole vocabulary matrix once a row.
        logits_to_keep=wanted,
        parts=parts,
    ).logits[0]


def read_prefix(model, ids: Sequence[int]) -> Prefix:
    """Read tokens that rows share."""
    pool = Pool(None, 1, len(ids))
    read(model, [(pool, 0, list(ids))])
    layers = sorted(pool.keys)
    assert layers == list(range(len(layers))), f"layers are numbered from 0, got {layers}"
    return Prefix(tuple(ids), [pool.keys[n][0] for n in layers], [pool.values[n][0] for n in layers])
