"""What makes a TRL trainer faster on a CPU, without a trainer of our own: the output head and the attention.

TRL 1.16 multiplies hidden states by the vocabulary inside a fused head. On a GPU it takes the positions that carry
loss; elsewhere it takes all of them, in pieces that are computed again for the backward pass, in fp32. And PyTorch's
fused attention has a slow backward pass on a CPU. Measured on two cores, SFT of the embedded model (8 rows of about 95
tokens, LoRA on all layers, bf16): 170-200 tokens/s as TRL comes, 350 with the lean head, 390-420 with both.

Left out on purpose: devices other than the CPU, where TRL's own ways are the better ones, mixture-of-experts losses,
and gradients through the entropy (TRL logs it; `entropy_coef` must be 0).
"""

import types

SHORT_ROWS = 320  # tokens; plain attention keeps (rows, heads, T, T) for the backward pass, so it is for short rows
# A head that does more than a product has one of these set; it keeps TRL's way.
_SCALES = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


def speed_up(trainer) -> dict[str, bool]:
    """Give a TRL trainer (SFT, DPO, GRPO) the lean head and plain attention where they help.

    Call it once, after the trainer is made. The numbers are TRL's up to rounding (tested); the trainer stays TRL's.

    Returns:
        What was set: {"head": …, "attention": …}; both False on a GPU.

    Raises:
        ValueError: the trainer asks for a gradient through the entropy.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    if model.device.type != "cpu":
        return {"head": False, "attention": False}
    if getattr(trainer.args, "entropy_coef", 0):
        raise ValueError("entropy_coef must be 0 with speed_up: the lean head's entropy carries no gradient")
    short = _longest_row(trainer) <= SHORT_ROWS
    if short:
        model.set_attn_implementation("eager")
    return {"head": _lean_head(model, getattr(trainer, "temperature", None) or 1.0), "attention": short}


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

    def forward(self, *args, fused_lm_head=False, labels=None, shift_labels=None, num_items_in_batch=None, **kwargs):
        if not fused_lm_head:
            given = {"labels": labels, "shift_labels": shift_labels, "num_items_in_batch": num_items_in_batch}
            return trl_forward(*args, **{k: v for k, v in given.items() if v is not None}, **kwargs)
        hidden = self.model(*args, **{**kwargs, "use_cache": False}).last_hidden_state  # (B, T, H)
        if shift_labels is None:
            hidden, labels = hidden[:, :-1], labels[:, 1:]
        else:
            labels = shift_labels
        return _score(self.get_output_embeddings(), hidden, labels, temperature, num_items_in_batch)

    forward.__wrapped__ = trl_forward.__func__  # `generate` reads the signature of the model's own forward
    model.forward = types.MethodType(forward, model)
    return True


def _score(head, hidden, labels, temperature: float, num_items_in_batch):
    """TRL's FusedCausalLMOutput from hidden states (B, T, H) and labels (B, T), -100 where there is no loss."""
    import torch
    from trl.trainer.utils import FusedCausalLMOutput

    mask = labels != -100
    targets = labels[mask]  # (N,)
    logits = head(hidden[mask]).float() / temperature  # (N, V)
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
