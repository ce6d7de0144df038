"""vLLM in the model's place. No vLLM here: a stand-in keeps to its documented parameters and outputs, and writes what
the tiny model writes; so this shows what is asked of vLLM and what is made of its answer, not vLLM itself."""

import sys
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
from tiny import STOPS, TinyTokenizer, next_logits, tiny_model
from transformers import LlamaForCausalLM

from ftlib.generate import sample, sample_chats
from ftlib.vllm_sampler import VllmSampler, check_usable, chosen

TOKENIZER = TinyTokenizer()
PROMPTS = [[40, 41, 42], [50], [60, 61, 62, 63, 64], [70, 71]]


@dataclass(kw_only=True)
class SamplingParams:
    """The fields that are used, with vLLM's names and defaults; one that it does not have is an error."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    max_tokens: int = 16
    logprobs: int | None = None
    include_stop_str_in_output: bool = False


class LLM:
    """Greedy, by plain passes. `token_ids` hold the token that ended the row, `text` does not hold a stop string."""

    made = None

    def __init__(self, *, model: str, dtype: str = "auto", **options):
        self.model, self.options, self.asked = LlamaForCausalLM.from_pretrained(model).eval(), options, []
        self.folder, self.dtype = model, dtype
        LLM.made = self

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True):
        self.asked.append(SimpleNamespace(prompts=prompts, params=sampling_params, use_tqdm=use_tqdm))
        return [
            SimpleNamespace(request_id=str(n), prompt_token_ids=p["prompt_token_ids"], finished=True,
                            outputs=[self._answer(p["prompt_token_ids"], params)])
            for n, (p, params) in enumerate(zip(prompts, sampling_params, strict=True))
        ]  # fmt: skip

    def _answer(self, prompt: list[int], params: SamplingParams):
        ids, steps, why, reason = [], [], "length", None
        text = ""
        while len(ids) < params.max_tokens and why == "length":
            row = next_logits(self.model, [*prompt, *ids])[-1].log_softmax(-1)
            token = row.argmax().item()
            ids.append(token)
            steps.append({token: SimpleNamespace(logprob=row[token].item(), rank=1, decoded_token="…")})
            text = TOKENIZER.decode(ids, skip_special_tokens=True)
            found = next((one for one in params.stop if one in text), None)
            if token in params.stop_token_ids:
                why, reason = "stop", token
            elif found:
                why, reason, text = "stop", found, text[: text.index(found)]
        total = sum(step[token].logprob for token, step in zip(ids, steps, strict=True))
        return SimpleNamespace(
            index=0, text=text, token_ids=ids, cumulative_logprob=total, finish_reason=why, stop_reason=reason,
            logprobs=steps if params.logprobs is not None else None,
        )  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A saved model, and a package vllm that can be imported."""
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams, module.__spec__ = LLM, SamplingParams, ModuleSpec("vllm", None)
    monkeypatch.setitem(sys.modules, "vllm", module)
    tiny_model(stops=STOPS).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("cut", [False, True])
def test_it_answers_as_the_loop_does(cut, folder):
    """Greedy: texts, ids with what ended them, log-probs and whether a row was stopped; with stop strings too."""
    model, sampler = tiny_model(stops=STOPS), VllmSampler(folder, TOKENIZER, dtype="fp32")
    whole = TOKENIZER.decode(sample(model, TOKENIZER, PROMPTS[:1], max_new_tokens=20)[0].token_ids)
    options = {"max_new_tokens": 20, "stop": [whole[3:5]] if cut else []}
    expected, found = (sample(one, TOKENIZER, PROMPTS, **options) for one in (model, sampler))
    for one, other in zip(expected, found, strict=True):
        assert (other.text, other.token_ids, other.stopped) == (one.text, one.token_ids, one.stopped)
        assert other.logprobs == pytest.approx(one.logprobs, abs=1e-4)
    assert not cut or (found[0].stopped and len(found[0].token_ids) <= 5)
    assert sample(sampler, TOKENIZER, []) == []


def test_what_vllm_is_asked(folder):
    """The folder, its stop tokens and the tokenizer's, one set of parameters a row, log-probs of the drawn token of the
    model itself. A row's seed hangs on the seed and the row's key."""
    sampler = VllmSampler(folder, TOKENIZER, dtype="bf16", gpu_memory_utilization=0.4)
    options = {"max_new_tokens": 3, "temperature": 0.7, "top_k": 9, "top_p": 0.8, "stop": ["ab"], "seed": 5}
    sample(sampler, TOKENIZER, PROMPTS, progress="answering", **options)
    sample(sampler, TOKENIZER, PROMPTS[::-1], row_seeds=[3, 2, 1, 9], **options)
    sample(sampler, TOKENIZER, PROMPTS, **{**options, "seed": 6})
    llm = LLM.made
    assert (llm.folder, llm.dtype) == (str(folder), "bfloat16")
    assert llm.options == {"logprobs_mode": "raw_logprobs", "gpu_memory_utilization": 0.4}
    first, turned, other = llm.asked
    assert first.prompts == [{"prompt_token_ids": ids} for ids in PROMPTS]
    assert (first.use_tqdm, turned.use_tqdm) == (True, False)
    seeds = [[one.seed for one in call.params] for call in llm.asked]
    assert turned.params[0].seed == first.params[3].seed and seeds[1][:3] == seeds[0][:0:-1]
    assert len({seed for call in seeds for seed in call}) == 9 and all(0 <= seed < 2**63 for seed in seeds[0])
    expected = SamplingParams(
        temperature=0.7,
        top_k=9,
        top_p=0.8,
        max_tokens=3,
        stop=["ab"],
        stop_token_ids=STOPS,
        seed=seeds[0][2],
        logprobs=0,
    )
    assert first.params[2] == expected and len(other.params) == 4


def test_it_stands_wherever_a_model_is_sampled_from(folder):
    chats = [[{"role": "user", "content": text}] for text in ("hi", "the boots")]
    expected, found = (
        [s.text for s in sample_chats(one, TOKENIZER, chats, max_new_tokens=6)]
        for one in (tiny_model(stops=STOPS), VllmSampler(folder, TOKENIZER))
    )
    assert found == expected


def test_stop_tokens_of_a_folder_without_a_generation_config(folder):
    """Those of the model's own config then: 1."""
    (folder / "generation_config.json").unlink()
    sample(VllmSampler(folder, TOKENIZER), TOKENIZER, [[40]], max_new_tokens=1)
    assert LLM.made.asked[0].params[0].stop_token_ids == [1]


def test_vllm_is_taken_on_a_gpu_where_it_is_installed(folder, monkeypatch):
    assert isinstance(chosen(folder, TOKENIZER, device="cuda", dtype="bf16", max_model_len=64), VllmSampler)
    assert LLM.made.options["max_model_len"] == 64
    assert isinstance(chosen(folder, TOKENIZER, device="cuda", dtype="bf16", engine="vllm"), VllmSampler)
    loop = chosen(folder, TOKENIZER, device="cpu", dtype="fp32")
    assert isinstance(loop, LlamaForCausalLM) and not loop.training
    loaded = []
    monkeypatch.setattr("ftlib.vllm_sampler.load_model", lambda path, **how: loaded.append((path, how)) or loop)
    assert chosen(folder, TOKENIZER, device="cuda", dtype="bf16", engine="loop") is loop
    monkeypatch.setitem(sys.modules, "vllm", None)  # Python's own way to say: not installed
    assert chosen(folder, TOKENIZER, device="cuda", dtype="bf16") is loop
    assert loaded == [(str(folder), {"dtype": "bf16", "device": "cuda"})] * 2


def test_what_is_said_where_vllm_is_not(folder, monkeypatch):
    with pytest.raises(ValueError, match=r"engine: expected one of \['auto', 'vllm', 'loop'\], got 'vlm'"):
        chosen(folder, TOKENIZER, device="cuda", dtype="bf16", engine="vlm")
    with pytest.raises(ValueError, match=r"vLLM: expected a profile on a GPU \(device cuda\), got 'cpu'"):
        chosen(folder, TOKENIZER, device="cpu", dtype="bf16", engine="vllm")
    check_usable("cuda")
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ModuleNotFoundError, match="expected the package vllm, .*; run `pip install vllm`"):
        check_usable("cuda")
    with pytest.raises(ModuleNotFoundError, match="expected the package vllm, .* the model itself"):
        VllmSampler(folder, TOKENIZER)
