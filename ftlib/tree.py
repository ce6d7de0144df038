"""A training batch as one stream of tokens: what rows begin with is read once, and nothing is padded.

A batch becomes segments that hang together like a tree: the tokens that all rows begin with, each distinct prompt, what
answers to it have in common, and the rest of each. All are read in one forward pass, (1, N); attention lets a segment
see the segments before it on its branch and itself, and gradients flow back the same way. It is put in place by
transformers' hook for attention functions. Texts that are only scored, such as logged rollouts, make a tree too.

Left out on purpose: sampling (see `ragged`: it keeps states, needs no gradient), and attention sinks.
"""

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ftlib.ragged import causal

ATTENTION = "ftlib_tree"  # name of the attention function in transformers' registry
SHORT_PREFIX = 8  # tokens; what all rows begin with is read once from this length on
# Scores of one head, queries x keys: up to here as products of matrices, which are kept for the backward pass; beyond
# it PyTorch's fused attention, which keeps nothing, but whose backward pass is slow on a CPU.
PLAIN_SCORES = 320 * 320


@dataclass(frozen=True)
class Tree:
    """A batch as segments. A row's last token is never read, because it predicts nothing."""

    segments: list[tuple[list[int], int | None]]  # token ids, and the number of the segment before
    scored: list[tuple[int, int]]  # of each label in turn: segment and column of the token that predicts it

    @classmethod
    def of(cls, *, labels, input_ids=None, attention_mask=None, use_cache=None, **others) -> "Tree | None":
        """The tree of a batch; None where it holds more than plain rows of a prompt and an answer.

        Args:
            labels, input_ids, attention_mask: (B, T), padded on either side; labels are -100 where there is no loss.
        """
        if input_ids is None or attention_mask is None or any(v is not None for v in others.values()):
            return None
        carries = labels != -100
        if attention_mask.dim() != 2 or not carries.any(1).all():
            return None
        first = carries.int().argmax(1).tolist()  # of each row: where its answer begins
        rows = []  # (prompt, answer without its last token)
        for row, (ids, seen) in enumerate(zip(input_ids.tolist(), attention_mask.tolist(), strict=True)):
            begin, end = seen.index(1), len(seen) - seen[::-1].index(1)
            if 0 in seen[begin:end] or first[row] <= begin:
                return None
            rows.append((tuple(ids[begin : first[row]]), ids[first[row] : end - 1]))
        scored = [(row, column - first[row]) for row, column in carries.nonzero().tolist()]
        return cls._of_rows(rows, scored)

    @classmethod
    def _of_rows(cls, rows: list[tuple[tuple[int, ...], list[int]]], scored: list[tuple[int, int]]) -> "Tree":
        """From prompts and answers; scored: row, and column counted from the start of its answer."""
        count = Counter(prompt for prompt, _ in rows)
        prompts = list(count)  # each once, in order
        alike = min(len(os.path.commonprefix(prompts)), min(map(len, prompts)) - 1) if len(prompts) > 1 else 0
        common = alike if alike >= SHORT_PREFIX else 0
        segments: list[tuple[list[int], int | None]] = [(list(prompts[0][:common]), None)] if common else []
        root = 0 if common else None
        answers: dict[tuple, list[tuple]] = {prompt: [] for prompt in prompts}
        for prompt, answer in rows:
            answers[prompt].append(tuple(answer))
        before, laid = {}, {}  # of each prompt: segment and column of its last token; branches of its answers
        for prompt in prompts:
            own = prompt[common:]
            if count[prompt] == 1:  # nothing to share but the start: a prompt and its answer are one segment
                segments.append(([*own, *answers[prompt][0]], root))
                laid[prompt] = {answers[prompt][0]: ((len(segments) - 1, -len(own)),)}
            else:
                segments.append((list(own), root))
                parent = len(segments) - 1
                laid[prompt] = _lay(segments, [answer for answer in answers[prompt] if answer], parent, SHORT_PREFIX)
            before[prompt] = (len(segments) - 1 if count[prompt] == 1 else parent, len(own) - 1)
        places = []
        for row, column in scored:
            prompt, answer = rows[row]
            places.append(_place(laid[prompt][tuple(answer)], column - 1) if column else before[prompt])
        return cls(segments, places)

    @classmethod
    def of_texts(cls, texts: Sequence[Sequence[int]], scored: Sequence[Sequence[int]]) -> "Tree":
        """The tree of whole texts: whatever several of them begin with is read once, however deep they part.

        Args:
            texts: token ids, one at least in each.
            scored: of each text, the columns whose next token is to be predicted.

        Returns:
            A tree whose `scored` runs through the texts in their order, and through each one's columns in theirs.

        Example:
            >>> tree = Tree.of_texts([[5, 6, 7], [5, 6, 8, 9]], [[2], [1, 3]])
            >>> tree.segments, tree.scored
            ([([5, 6], None), ([8, 9], 0), ([7], 0)], [(2, 0), (0, 1), (1, 1)])
        """
        segments: list[tuple[list[int], int | None]] = []
        branches = _lay(segments, [tuple(text) for text in texts], None, 1)
        places = [
            _place(branches[tuple(text)], column)
            for text, columns in zip(texts, scored, strict=True)
            for column in columns
        ]
        return cls(segments, places)

    def hidden(self, model):
        """The hidden states (S, H) that predict the S labels, in their order; `model` has this room's attention."""
        import torch

        chains: list[list[int]] = []  # of each segment: the segments on its branch, itself last
        first: list[int] = []  # of each segment: the position of its first token
        for number, (_, parent) in enumerate(self.segments):
            chains.append([number] if parent is None else [*chains[parent], number])
            first.append(0 if parent is None else first[parent] + len(self.segments[parent][0]))
        lengths = [len(ids) for ids, _ in self.segments]
        tensor = lambda values: torch.tensor(values, device=model.device)
        out = model(
            input_ids=tensor([[i for ids, _ in self.segments for i in ids]]),
            position_ids=tensor([[start + i for start, n in zip(first, lengths, strict=True) for i in range(n)]]),
            # A mask of four dimensions is taken as it is: no N x N mask is made for a function that needs none.
            attention_mask=torch.empty(1, 1, 0, 0, device=model.device),
            use_cache=False,
            chains=chains,
            lengths=lengths,
        )
        offsets = [sum(lengths[:number]) for number in range(len(lengths))]
        return out.last_hidden_state[0][tensor([offsets[segment] + column for segment, column in self.scored])]


Branch = tuple[tuple[int, int], ...]  # the segments of a text, and the column of the text where each begins


def _lay(segments: list, texts: list[tuple], above: int | None, least: int) -> dict[tuple, Branch]:
    """Append texts below a segment; what several of them begin with becomes one, from `least` tokens on."""
    branches: dict[tuple, Branch] = {}
    groups = [(sorted(set(texts)), 0, ())] if texts else []  # texts that agree up to a column; their branch
    while groups:
        group, start, branch = groups.pop()
        end = len(os.path.commonprefix([group[0], group[-1]]))  # sorted: what these two share, all do
        if len(group) == 1 or end - start >= least:
            segments.append((list(group[0][start:end]), branch[-1][0] if branch else above))
            start, branch = end, (*branch, (len(segments) - 1, start))
            if len(group[0]) == end:  # the shortest comes first
                branches[group[0]] = branch
                group = group[1:]
        by_next = itertools.groupby(group, key=lambda text, at=end: text[at : at + 1])
        groups += [(list(part), start, branch) for _, part in by_next]
    return branches


def _place(branch: Branch, column: int) -> tuple[int, int]:
    """Segment and column there of a text's column."""
    segment, begin = [part for part in branch if part[1] <= column][-1]
    return segment, column - begin


def set_attention(model) -> bool:
    """Give a model this room's attention; False for one whose attention cannot be set, or that has attention sinks."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    if not model._can_set_attn_implementation() or any(name.endswith("sinks") for name, _ in model.named_parameters()):
        return False
    AttentionInterface.register(ATTENTION, _attend)
    AttentionMaskInterface.register(ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    model.set_attn_implementation(ATTENTION)
    return True


@contextmanager
def attention(model) -> Iterator[None]:
    """Inside, the model has this room's attention; afterwards the one that it had.

    Raises:
        ValueError: a model whose attention cannot be set, or that has attention sinks.
    """
    before = model.config._attn_implementation
    if not set_attention(model):
        raise ValueError(
            f"{type(model).__name__}: expected attention that can be set and has no sinks; score its texts with the "
            "model's own forward pass"
        )
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attend(
    module, query, key, value, attention_mask, *, scaling, dropout=0.0, sliding_window=None, softcap=None,
    chains=None, lengths=None, **_,
):  # fmt: skip
    """The attention function: query (B, H, T, D), key and value (B, Hkv, T, D) -> (B, T, H, D), None."""
    import torch

    options = {"scaling": scaling, "softcap": softcap, "dropout": dropout if module.training else 0.0}
    if chains is None:
        return _rows(query, key, value, attention_mask, **options).transpose(1, 2).contiguous(), None
    queries, keys, values = (states.split(lengths, 2) for states in (query, key, value))
    joined = lambda parts, chain: torch.cat([parts[n] for n in chain], 2) if len(chain) > 1 else parts[chain[0]]
    out = []
    for number, chain in enumerate(chains):
        k = joined(keys, chain)
        bias = _causal(lengths[number], k.shape[2], sliding_window, query)
        out.append(_rows(queries[number], k, joined(values, chain), bias, **options))
    return torch.cat(out, 2).transpose(1, 2).contiguous(), None


def _causal(t: int, seen: int, window: int | None, like):
    """(1, 1, t, seen): minus infinity where a query, the last t of the tokens seen, may not look."""
    import torch

    allowed = causal(t, seen, window, like.device)
    return torch.zeros(1, 1, t, seen, dtype=like.dtype, device=like.device).masked_fill_(~allowed, float("-inf"))


def _rows(query, key, value, bias, *, scaling: float, softcap: float | None, dropout: float):
    """(B, H, T, D): attention of rows, heads that share a key side by side; bias (B or 1, 1, T, S) or None."""
    import torch

    b, heads, t, dim = query.shape
    groups = heads // key.shape[1]
    grouped = query.reshape(b, key.shape[1], groups * t, dim)
    bias = bias if bias is None else bias.repeat(1, 1, groups, 1)
    if softcap is None and t * key.shape[2] > PLAIN_SCORES:
        out = torch.nn.functional.scaled_dot_product_attention(
            grouped, key, value, attn_mask=bias, dropout_p=dropout, scale=scaling
        )
        return out.reshape(b, heads, t, -1)
    grouped, keys = (grouped * scaling).flatten(0, 1), key.flatten(0, 1).transpose(1, 2)
    bias = bias if bias is None else bias.expand(b, key.shape[1], -1, -1).flatten(0, 1)
    if softcap is None and bias is not None:
        scores = torch.baddbmm(bias, grouped, keys)
    else:
        scores = grouped @ keys
        scores = scores if softcap is None else torch.tanh(scores / softcap) * softcap
        scores = scores if bias is None else scores + bias
    weights = torch.nn.functional.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
    weights = torch.nn.functional.dropout(weights, p=dropout) if dropout else weights
    return (weights @ value.flatten(0, 1)).view(b, heads, t, -1)
