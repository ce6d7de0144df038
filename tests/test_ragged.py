"""Rows laid end to end give what each gives alone, for every kind of attention that the room says it knows."""

import numpy as np
import pytest
import torch
from tiny import tiny_model
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)  # fmt: skip

from ftlib import ragged

SIZES = {
    "vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": None, "eos_token_id": 1,
    "pad_token_id": 0, "initializer_range": 0.3, "head_dim": 8,
}  # fmt: skip
FAMILIES = {
    "Llama": lambda: tiny_model(),
    "Qwen2, biases": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "Qwen3, norms of heads": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES)),
    "Mistral, sliding window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=5)),
    "Gemma 2, soft cap, window in every other layer": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SIZES, sliding_window=5, query_pre_attn_scalar=8, attn_logit_softcapping=2.0)
    ),
}


def made(name: str):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FAMILIES[name]().eval()


def rows(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [rng.integers(2, 100, n).tolist() for n in lengths]


def alone(model, ids: list[int]) -> torch.Tensor:
    """The next token's logits from a plain eager pass over one row, (V,)."""
    model.set_attn_implementation("eager")
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix", [0, 7])
@pytest.mark.parametrize("together", [False, True])
def test_reading_and_stepping_give_the_logits_of_each_row_alone(family, prefix, together, monkeypatch):
    """Three rows of 1, 4 and 9 tokens in one pool and one of 12 in another, then two steps of all of them.

    Together: the way in which a GPU reads them.
    """
    monkeypatch.setattr(ragged, "_starts_are_dear", lambda model: together)
    model = made(family)
    shared, own = rows(prefix)[0], rows(1, 4, 9, 12)
    follow = rows(4, 4)
    expected = [torch.stack([alone(model, shared + row) for row in own])]
    for n in (1, 2):
        expected.append(torch.stack([alone(model, shared + r + [f[i] for f in follow[:n]]) for i, r in enumerate(own)]))
    with ragged.attention(model):
        start = ragged.read_prefix(model, shared) if prefix else None
        pools = [ragged.Pool(start, 3, 11), ragged.Pool(start, 1, 14)]
        placed = [(pools[0], i, row) for i, row in enumerate(own[:3])] + [(pools[1], 0, own[3])]
        got = [ragged.read(model, placed), *(ragged.step(model, pools, f) for f in follow)]
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("together", [False, True])
def test_rows_are_read_in_parts(together, monkeypatch):
    """Six and two tokens, then four and five more; the second call names the rows the other way round."""
    monkeypatch.setattr(ragged, "_starts_are_dear", lambda model: together)
    model = made("Mistral, sliding window")
    one, two = rows(10, 7)
    expected = [alone(model, ids) for ids in (two, one)]
    with ragged.attention(model):
        pool = ragged.Pool(None, 3, 10)
        ragged.read(model, [(pool, 0, one[:6]), (pool, 2, two[:2])])
        got = ragged.read(model, [(pool, 2, two[2:]), (pool, 0, one[6:])])
    assert pool.held == [10, 0, 7]
    torch.testing.assert_close(got, torch.stack(expected), atol=2e-4, rtol=1e-3)


@torch.no_grad()
@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA the steps are recorded: tests/test_gpu.py")
def test_steps_that_cannot_be_recorded_are_plain_ones(monkeypatch):
    """Without CUDA the recording, at the second step, fails: a warning, and the logits of plain steps."""
    model, own, follow = made("Llama"), rows(3, 6), rows(2, 2, 2)
    expected = [torch.stack([alone(model, r + [f[i] for f in follow]) for i, r in enumerate(own)])]
    with ragged.attention(model):
        pool = ragged.Pool(None, 2, 12)
        ragged.read(model, [(pool, i, row) for i, row in enumerate(own)])
        monkeypatch.setattr(ragged, "_starts_are_dear", lambda model: True)
        steps = ragged.Steps(model)
        steps([pool], follow[0])
        with pytest.warns(UserWarning, match="steps are not recorded"):
            steps([pool], follow[1])
        got = steps([pool], follow[2])
    assert pool.held == [6, 9]
    torch.testing.assert_close(got, expected[0], atol=2e-4, rtol=1e-3)


@torch.no_grad()
def test_rows_are_chosen_repeated_and_joined():
    """Rows 1 and 1 of a pool of two, joined with a copy of row 0: three rows, each goes on as its own."""
    model = made("Llama")
    first, second = rows(3, 5)
    expected = [alone(model, [*ids, 40]) for ids in (second, second, first)]
    with ragged.attention(model):
        pool = ragged.Pool(None, 2, 5)
        ragged.read(model, [(pool, 0, first), (pool, 1, second)])
        copy = pool.copy_of(0)
        pool.select([1, 1, 1])
        pool.select([0, 2])
        whole = ragged.joined([pool, copy], 6)
        got = ragged.step(model, [whole], [40, 40, 40])
    assert whole.held == [6, 6, 4] and whole.rows == 3
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)


def test_bytes_of_a_token_by_hand():
    """2 layers x (keys + values) x 2 heads x 8 dimensions x 4 bytes."""
    model = made("Llama")
    pool = ragged.Pool(None, 1, 3)
    assert pool.bytes_a_token == 0
    with torch.no_grad(), ragged.attention(model):
        ragged.read(model, [(pool, 0, [40])])
    assert pool.bytes_a_token == 2 * 2 * 2 * 8 * 4


def test_attention_is_put_back_after_an_error():
    model = made("Llama")
    before = model.config._attn_implementation
    with pytest.raises(KeyError), ragged.attention(model):
        assert model.config._attn_implementation == ragged.NAME
        raise KeyError("sampling failed")
    assert model.config._attn_implementation == before


def test_models_with_another_state_are_refused():
    model = MambaForCausalLM(MambaConfig(vocab_size=100, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(
        ValueError, match="MambaForCausalLM has .*: generate.sample knows decoders with full or sliding"
    ):
        ragged.attention(model).__enter__()


def test_attention_sinks_are_refused():
    config = {**SIZES, "num_local_experts": 2, "num_experts_per_tok": 1}
    model = GptOssForCausalLM(GptOssConfig(**config)).eval()
    with torch.no_grad(), pytest.raises(ValueError, match="attention sinks"), ragged.attention(model):
        ragged.read_prefix(model, [40, 41])
