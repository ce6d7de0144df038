"""A tiny random model and a byte-like tokenizer: tests of sampling and training need no weights.

Left out on purpose: sense. The model's texts are noise, but its logits are far apart, so that fp32 rounding does not
change a choice.
"""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

STOPS = [1, *range(20, 30)]  # with this many stop tokens some rows finish early, and some do not


class TinyTokenizer:
    """Id 0 pads, id 1 stops, id c - 29 is the printable ASCII character c; other ids are shown as "?"."""

    pad_token_id, eos_token_id = 0, 1
    pad_token, eos_token = "<pad>", "<end>"

    def __len__(self) -> int:
        return 100

    def encode(self, text: str) -> list[int]:
        return [ord(c) - 29 for c in text]

    def decode(self, ids, skip_special_tokens: bool = False) -> str:
        special = {0: self.pad_token, 1: self.eos_token}
        kept = [i for i in map(int, ids) if not (skip_special_tokens and i in special)]
        return "".join(special.get(i) or (chr(i + 29) if 3 <= i <= 97 else "?") for i in kept)

    def apply_chat_template(self, chats, *, tools=None, add_generation_prompt, tokenize, return_dict):
        assert add_generation_prompt and tokenize and return_dict
        tail = "".join(tool.__name__ for tool in tools or [])
        texts = ["|".join(f"{m['role']}:{m['content']}" for m in chat) + tail + "|>" for chat in chats]
        return {"input_ids": [self.encode(text) for text in texts]}


def tiny_model(seed: int = 0, *, stops: list[int] | int = 1, hidden: int = 32) -> LlamaForCausalLM:
    """Two layers, grouped heads, 100 tokens, fp32; the same seed gives the same weights. NF4 blocks want hidden=64."""
    config = LlamaConfig(
        vocab_size=100, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=None, eos_token_id=1, pad_token_id=0,
        initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = stops
    return model


def tiny_nf4_peft(folder, *, dtype: str = "fp32", not_nf4=(), **lora):
    """A QLoRA model over a tiny base that is saved to `folder`; the same adapter each time, its B not zero."""
    from peft import LoraConfig, get_peft_model

    from ftlib.models import load_model

    tiny_model(hidden=64).save_pretrained(folder)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **{"init_lora_weights": False, **lora})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return get_peft_model(load_model(str(folder), dtype=dtype, nf4=True, not_nf4=not_nf4), config).eval()


def tiny_peft(seed: int = 0, *, stops: list[int] | int = 1):
    """The same model with a LoRA adapter whose B is not zero, so that it changes the logits from the start."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = tiny_model(seed, stops=stops)
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        return get_peft_model(model, lora).eval()


def next_logits(model, ids: list[int]) -> torch.Tensor:
    """A plain forward pass over one row: logits of every position, (S, V)."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0]
