"""What makes a TRL trainer faster on a CPU, without a trainer of our own: head, attention, and prompts read once.

TRL 1.16 multiplies hidden states by the vocabulary inside a fused head. On a GPU it takes the positions that carry
loss; elsewhere it takes all of them, in pieces that are computed again for the backward pass, in fp32. And PyTorch's
fused attention has a slow backward pass on a CPU. Measured on two cores, SFT of the embedded model (8 rows of about 95
tokens, LoRA on all layers, bf16): 170-200 tokens/s as TRL comes, 350 with the lean head, 390-420 with both. What the
rows of a batch begin with (a system prompt; the prompt of a pair, or of a case's rollouts) is read once for all.
NF4 weights are unpacked once instead of in every pass: the same values, for the memory of the bf16 model.

Left out on purpose: devices other than the CPU, where TRL's own ways are the better ones, mixture-of-experts losses,
and gradients through the entropy (TRL logs it; `entropy_coef` must be 0).
"""

import os
import types
from dataclasses import dataclass

SHORT_ROWS = 320  # tokens; plain attention keeps (rows, heads, T, T) for the backward pass, so it is for short rows
SHORT_PREFIX = 8  # tokens; what all rows begin with is read once from this length on
# A head that does more than a product has one of these set; it keeps TRL's way.
_SCALES = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


def speed_up(trainer) -> dict[str, int]:
    """Give a TRL trainer (SFT, DPO, GRPO) the lean head, plain attention and unpacked NF4 weights where they help.

    Call it once, after the trainer is made. The numbers are TRL's up to rounding (tested); the trainer stays TRL's.

    Returns:
        What was set: {"head": …, "attention": …, "unpacked": layers whose NF4 weights were}; nothing on a GPU.

    Raises:
        ValueError: the trainer asks for a gradient through the entropy.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    if model.device.type != "cpu":
        return {"head": False, "attention": False, "unpacked": 0}
    if getattr(trainer.args, "entropy_coef", 0):
        raise ValueError("entropy_coef must be 0 with speed_up: the lean head's entropy carries no gradient")
    short = _longest_row(trainer) <= SHORT_ROWS
    if short:
        model.set_attn_implementation("eager")
    head = _lean_head(model, getattr(trainer, "temperature", None) or 1.0)
    return {"head": head, "attention": short, "unpacked": _unpack_nf4(model)}


def _unpack_nf4(model) -> int:
    """Put plain layers that hold the values of the NF4 weights in the place of the packed ones; returns how many.

    bitsandbytes computes x @ W with the same values of W, unpacked anew in each forward and each backward pass.
    """
    import torch

    from ftlib.models import unpacked_weight

    packed = [name for name, m in model.named_modules() if hasattr(m, "quant_state") and hasattr(m, "compute_dtype")]
    for name in packed:
        old = model.get_submodule(name)
        plain = torch.nn.Linear(old.in_features, old.out_features, bias=old.bias is not None, device="meta")
        values = unpacked_weight(name, old)
        plain.weight = torch.nn.Parameter(values.to(old.compute_dtype or values.dtype), requires_grad=False)
        plain.bias = old.bias
        model.set_submodule(name, plain)
    return len(packed)


def _longest_row(trainer) -> int:
    """Tokens of the longest training row; what a rollout may grow to is taken from the config."""
    columns = getattr(trainer.train_dataset, "column_names", None) or []
    if "input_ids" in columns:
        return max(map(len, trainer.train_dataset["input_ids"]))
    sides = [name for name in ("prompt_ids", "chosen_ids", "rejected_ids") if name in columns]
    if sides:
        return max(sum(len(row[name]) for name in sides) for row in trainer.train_dataset)
    return getattr(trainer.args, "max_completion_length", None) or SHORT_ROWS + 1


def _lean_head(model, temperature: float) -> bool:
    config = model.config.get_text_config()
    odd = any(getattr(config, name, None) for name in _SCALES) or getattr(config, "num_experts", None)
    if odd or not hasattr(model, "model"):
        return False
    trl_forward = model.forward
    may_share = set(getattr(config, "layer_types", None) or ()) <= {"full_attention"}  # its cache keeps every token

    def forward(self, *args, fused_lm_head=False, labels=None, shift_labels=None, num_items_in_batch=None, **kwargs):
        if not fused_lm_head:
            given = {"labels": labels, "shift_labels": shift_labels, "num_items_in_batch": num_items_in_batch}
            return trl_forward(*args, **{k: v for k, v in given.items() if v is not None}, **kwargs)
        plain = may_share and not args and shift_labels is None and not self.is_activation_checkpointing
        shared = _SharedPrompts.find(labels=labels, **kwargs) if plain else None
        if shared:
            hidden, labels = shared.hidden(self.model), labels[:, 1:]
        else:
            hidden = self.model(*args, **{**kwargs, "use_cache": False}).last_hidden_state  # (B, T, H)
            hidden, labels = (hidden[:, :-1], labels[:, 1:]) if shift_labels is None else (hidden, shift_labels)
            hidden = hidden[labels != -100]
        return _score(self.get_output_embeddings(), hidden, labels, temperature, num_items_in_batch)

    forward.__wrapped__ = trl_forward.__func__  # `generate` reads the signature of the model's own forward
    model.forward = types.MethodType(forward, model)
    return True


@dataclass(frozen=True)
class _SharedPrompts:
    """A batch whose rows begin alike, read in up to three passes: the common start, prompts, answers.

    A pass attends to the keys and values of the one before it, and gradients flow through them. A row's last token is
    never read, because it predicts nothing; so an answer of one token costs no more than its prompt.
    """

    passes: list[tuple[list[list[int]], list[int]]]  # (token ids of each row, for each row its row of the pass before)
    scored: list[tuple[int, int, int]]  # N: pass, row and column of the token that predicts each scored one

    @classmethod
    def find(cls, *, labels, input_ids=None, attention_mask=None, use_cache=None, **others):
        """What the rows of a batch share; None where that is too little or the batch holds more than plain rows."""
        if input_ids is None or attention_mask is None or any(v is not None for v in others.values()):
            return None
        carries = labels != -100
        if attention_mask.dim() != 2 or not carries.any(1).all():
            return None
        first = carries.int().argmax(1).tolist()  # of each row: where its answer begins
        rows = []  # (prompt, answer without its last token, first column of the answer)
        for row, (ids, seen) in enumerate(zip(input_ids.tolist(), attention_mask.tolist(), strict=True)):
            begin, end = seen.index(1), len(seen) - seen[::-1].index(1)
            if 0 in seen[begin:end] or first[row] <= begin:
                return None
            rows.append((tuple(ids[begin : first[row]]), ids[first[row] : end - 1], first[row]))
        index = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompt for prompt, _, _ in rows))}
        alike = min(len(os.path.commonprefix(list(index))), min(map(len, index)) - 1) if len(index) > 1 else 0
        common = alike if alike >= SHORT_PREFIX else 0
        passes = [([list(rows[0][0][:common])], [0])] if common else []
        if len(index) == len(rows):  # nothing to share but the start: a prompt and its answer go in one pass
            passes.append(([[*prompt[common:], *answer] for prompt, answer, _ in rows], [0] * len(rows)))
            place = lambda row, column: (row, column - rows[row][2] + len(rows[row][0]) - common)
            scored = [(len(passes) - 1, *place(row, column - 1)) for row, column in carries.nonzero().tolist()]
            return cls(passes, scored) if common else None
        passes.append(([list(prompt[common:]) for prompt in index], [0] * len(index)))
        long = {row: number for number, row in enumerate(row for row, (_, answer, _) in enumerate(rows) if answer)}
        if long:
            passes.append(([rows[row][1] for row in long], [index[rows[row][0]] for row in long]))
        scored = []
        for row, column in carries.nonzero().tolist():
            prompt, _, start = rows[row]
            in_prompt, in_answer = (index[prompt], len(prompt) - common - 1), (long.get(row), column - 1 - start)
            number = int(bool(common))
            scored.append((number, *in_prompt) if column == start else (number + 1, *in_answer))
        return cls(passes, scored)

    def hidden(self, model):
        """The hidden states (N, H) that predict the N scored tokens, in the order of the flattened labels."""
        import torch
        from transformers import DynamicCache

        device = model.device
        cache = DynamicCache(config=model.config)
        seen, read = torch.ones(1, 0, dtype=torch.long, device=device), [0]  # mask and true length of what was read
        states, offsets, widths = [], [0], []
        for number, (rows, parents) in enumerate(self.passes):
            if number:
                cache.batch_select_indices(torch.tensor(parents, device=device))
            ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row, device=device) for row in rows], batch_first=True)
            places = torch.arange(ids.shape[1], device=device)  # padded on the right
            own = (places < torch.tensor([len(row) for row in rows], device=device)[:, None]).long()
            seen = torch.cat([seen[parents], own], 1)
            before = torch.tensor([read[parent] for parent in parents], device=device)
            out = model(
                input_ids=ids,
                attention_mask=seen,
                position_ids=before[:, None] + places,
                past_key_values=cache,
                use_cache=True,
            )
            read = [read[parent] + len(row) for row, parent in zip(rows, parents, strict=True)]
            states.append(out.last_hidden_state.flatten(0, 1))
            offsets.append(offsets[-1] + ids.numel())
            widths.append(ids.shape[1])
        at = [offsets[number] + row * widths[number] + column for number, row, column in self.scored]
        return torch.cat(states)[torch.tensor(at, device=device)]


def _score(head, hidden, labels, temperature: float, num_items_in_batch):
    """TRL's FusedCausalLMOutput from the hidden states (N, H) of the N positions where labels (B, T) are not -100."""
    import torch
    from trl.trainer.utils import FusedCausalLMOutput

    mask = labels != -100
    targets = labels[mask]  # (N,)
    logits = head(hidden).float() / temperature  # (N, V)
    log_z = logits.logsumexp(-1)
    log_probs = logits.gather(-1, targets[:, None])[:, 0] - log_z
    with torch.no_grad():
        entropy = log_z - (logits - log_z[:, None]).exp_().mul_(logits).sum(-1)
        is_top1 = logits.argmax(-1) == targets
        mean_logits = logits.mean(-1)
    spread = lambda values: values.new_zeros(mask.shape).masked_scatter(mask, values)
    per_token = spread(log_probs)
    return FusedCausalLMOutput(
        loss=-per_token.sum() / (mask.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch),
        log_probs=per_token,
        entropy=spread(entropy),
        mean_logits=spread(mean_logits),
        is_top1=spread(is_top1),
        label_mask=mask,
    )
