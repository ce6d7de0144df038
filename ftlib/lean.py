"""What makes a TRL trainer faster on a CPU, without a trainer of our own: head, adapters, one stream of tokens.

TRL 1.16 multiplies hidden states by the vocabulary inside a fused head. On a GPU it takes the positions that carry
loss; elsewhere it takes all of them, in pieces that are computed again for the backward pass, in fp32. Here only the
positions that carry loss are taken, a few at a time, with their slope worked out on the way; LoRA adds in place; NF4
weights are unpacked once instead of in every pass: the same values, for the memory of the plain model; and a batch is
read as `tree` lays it out. Measured by `make bench ONLY=speed` against TRL's defaults, with the same losses.

Left out on purpose: devices other than the CPU, where TRL's own ways are the better ones, mixture-of-experts losses,
and gradients through the entropy (TRL logs it; `entropy_coef` must be 0).
"""

import functools
import types

from ftlib import tree

HEAD_ROWS = 128  # positions whose logits are there at a time; a block under 32 MB stays in the heap (`steady_heap`)
# A head that does more than a product has one of these set; it keeps TRL's way.
HEAD_SCALES = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


def speed_up(trainer) -> dict[str, int]:
    """Give a TRL trainer (SFT, DPO, GRPO) what this room and `tree` have, where it helps.

    Call it once, after the trainer is made. The numbers are TRL's up to rounding (tested); the trainer stays TRL's.

    Returns:
        What was set: {"head": …, "attention": …, "unpacked": layers whose NF4 weights were,
        "adapters": LoRA layers}; nothing on a GPU.

    Raises:
        ValueError: the trainer asks for a gradient through the entropy.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    if model.device.type != "cpu":
        return {"head": False, "attention": False, "unpacked": 0, "adapters": 0}
    if getattr(trainer.args, "entropy_coef", 0):
        raise ValueError("entropy_coef must be 0 with speed_up: the lean head's entropy carries no gradient")
    attention = tree.set_attention(model)
    head = _lean_head(model, getattr(trainer, "temperature", None) or 1.0, as_tree=attention)
    return {"head": head, "attention": attention, "unpacked": _unpack_nf4(model), "adapters": _lean_adapters(model)}


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


def _lean_adapters(model) -> int:
    """Give plain LoRA layers a forward pass that adds in place and scales the small factor; returns how many.

    PEFT multiplies and adds whole activations: x W' + (x A') B' s in four passes over them, and as many backward.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    found = 0
    for module in model.modules():
        if not isinstance(module, LoraLayer) or len(module.active_adapters) != 1:
            continue
        if (
            type(module).__name__ not in ("Linear", "Linear4bit")
            or type(module.get_base_layer()) is not torch.nn.Linear
        ):
            continue
        name = module.active_adapters[0]
        plain = name in module.lora_A and name not in module.lora_variant and not module.lora_bias.get(name)
        if plain and not getattr(module.lora_dropout[name], "p", 0):
            module.forward = types.MethodType(_adapted_forward, module)
            found += 1
    return found


def _adapted_forward(self, x):
    base = self.base_layer(x)
    name = self.active_adapters[0]
    if self.disable_adapters or self.merged:
        return base
    return _add_adapter()(base, x, self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name])


@functools.cache
def _add_adapter():
    """base + x A' B' s as one step of the graph; base (…, out) is changed in place (LoRA, arXiv 2106.09685, eq. 3)."""
    import torch

    class AddAdapter(torch.autograd.Function):
        @staticmethod
        def forward(ctx, base, x, a, b, scale):
            flat = x.flatten(0, -2).to(base.dtype)  # (N, in)
            inner = flat @ a.to(base.dtype).t()  # (N, r)
            base.flatten(0, -2).addmm_(inner, b.to(base.dtype).t(), alpha=scale)
            ctx.save_for_backward(flat, inner, a, b)
            ctx.scale, ctx.shape, ctx.dtype = scale, x.shape, x.dtype
            ctx.mark_dirty(base)
            return base

        @staticmethod
        def backward(ctx, grad):
            flat, inner, a, b = ctx.saved_tensors
            out = grad.flatten(0, -2)  # (N, out)
            of_inner = out @ b.to(out.dtype) * ctx.scale  # (N, r)
            of_x = (of_inner @ a.to(out.dtype)).view(ctx.shape).to(ctx.dtype) if ctx.needs_input_grad[1] else None
            of_a = (of_inner.t() @ flat).to(a.dtype) if ctx.needs_input_grad[2] else None
            of_b = (out.t() @ inner * ctx.scale).to(b.dtype) if ctx.needs_input_grad[3] else None
            return grad, of_x, of_a, of_b, None

    return AddAdapter.apply


def _lean_head(model, temperature: float, *, as_tree: bool) -> bool:
    config = model.config.get_text_config()
    odd = any(getattr(config, name, None) for name in HEAD_SCALES) or getattr(config, "num_experts", None)
    if odd or not hasattr(model, "model"):
        return False
    trl_forward = model.forward
    known = set(getattr(config, "layer_types", None) or ()) <= {"full_attention", "sliding_attention"}

    def forward(self, *args, fused_lm_head=False, labels=None, shift_labels=None, num_items_in_batch=None, **kwargs):
        if not fused_lm_head:
            given = {"labels": labels, "shift_labels": shift_labels, "num_items_in_batch": num_items_in_batch}
            return trl_forward(*args, **{k: v for k, v in given.items() if v is not None}, **kwargs)
        plain = as_tree and known and not args and shift_labels is None and not self.is_activation_checkpointing
        found = tree.Tree.of(labels=labels, **kwargs) if plain else None
        if found:
            hidden, labels = found.hidden(self.model), labels[:, 1:]
        else:
            hidden = self.model(*args, **{**kwargs, "use_cache": False}).last_hidden_state  # (B, T, H)
            hidden, labels = (hidden[:, :-1], labels[:, 1:]) if shift_labels is None else (hidden, shift_labels)
            hidden = hidden[labels != -100]
        return _score(self.get_output_embeddings(), hidden, labels, temperature, num_items_in_batch)

    forward.__wrapped__ = trl_forward.__func__  # `generate` reads the signature of the model's own forward
    model.forward = types.MethodType(forward, model)
    return True


def _score(head, hidden, labels, temperature: float, num_items_in_batch):
    """TRL's FusedCausalLMOutput from the hidden states (N, H) of the N positions where labels (B, T) are not -100."""
    from trl.trainer.utils import FusedCausalLMOutput

    mask = labels != -100
    frozen = type(head).__name__ == "Linear" and head.bias is None and not head.weight.requires_grad
    score = _score_frozen() if frozen else _score_plainly
    log_probs, *others = score(hidden, head.weight if frozen else head, labels[mask], temperature)
    spread = lambda values: values.new_zeros(mask.shape).masked_scatter(mask, values)
    per_token = spread(log_probs)
    return FusedCausalLMOutput(
        loss=-per_token.sum() / (mask.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch),
        log_probs=per_token,
        **{name: spread(values) for name, values in zip(("entropy", "mean_logits", "is_top1"), others, strict=True)},
        label_mask=mask,
    )


def _score_plainly(hidden, head, targets, temperature: float):
    """Log-probs of targets (N,), and without gradient entropy, mean logit and whether the target is the likeliest."""
    import torch

    logits = head(hidden).float() / temperature  # (N, V)
    log_z = logits.logsumexp(-1)
    log_probs = logits.gather(-1, targets[:, None])[:, 0] - log_z
    with torch.no_grad():
        entropy = log_z - (logits - log_z[:, None]).exp_().mul_(logits).sum(-1)
        return log_probs, entropy, logits.mean(-1), logits.argmax(-1) == targets


@functools.cache
def _score_frozen():
    """`_score_plainly` for a head (V, H) that does not train: a few rows at a time, and no logits are kept.

    A target's log-prob has the slope (W[target] - p W) / temperature in its hidden state, p the softmax over V; the
    backward pass multiplies it by one number a row. So it is computed on the way forward, while p is at hand.
    """
    import torch

    class Score(torch.autograd.Function):
        @staticmethod
        def forward(ctx, hidden, weight, targets, temperature):
            slope = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
            log_probs, entropy, mean = (hidden.new_empty(len(hidden), dtype=torch.float32) for _ in range(3))
            is_top1 = torch.empty_like(targets, dtype=torch.bool)
            fp32 = hidden.dtype == torch.float32
            room = [hidden.new_empty(min(len(hidden), HEAD_ROWS), len(weight), dtype=torch.float32) for _ in range(2)]
            for start in range(0, len(hidden), HEAD_ROWS):
                part = slice(start, start + HEAD_ROWS)
                logits, p = (block[: len(hidden[part])] for block in room)  # used again for each portion
                if fp32:
                    torch.mm(hidden[part], weight.t(), out=logits)
                else:
                    logits.copy_(hidden[part] @ weight.t())
                if temperature != 1:
                    logits /= temperature
                largest, at = logits.max(-1, keepdim=True)
                is_top1[part] = at[:, 0] == targets[part]
                mean[part] = logits.mean(-1)
                logits -= largest
                at_target = logits.gather(-1, targets[part, None])[:, 0]
                torch.exp(logits, out=p)
                z = p.sum(-1, keepdim=True)
                log_probs[part] = at_target - z[:, 0].log()
                entropy[part] = z[:, 0].log() - (p[:, None] @ logits[:, :, None])[:, 0, 0] / z[:, 0]
                if slope is not None:
                    p /= z
                    p.scatter_add_(1, targets[part, None], p.new_full((len(p), 1), -1.0))
                    slope[part] = (p.to(weight.dtype) @ weight) / -temperature
            ctx.save_for_backward(*([slope] if slope is not None else []))
            ctx.mark_non_differentiable(entropy, mean, is_top1)
            return log_probs, entropy, mean, is_top1

        @staticmethod
        def backward(ctx, grad, *_):
            (slope,) = ctx.saved_tensors
            return (grad[:, None] * slope).to(slope.dtype), None, None, None

    return Score.apply
