"""vLLM in the model's place: the same call and the same answers' form as `generate.sample`, for weights in a folder.

On a GPU with vLLM installed it answers many prompts faster than the loop of `generate`. It takes a model that is done
(merged and saved, `models.save_model`), loads its weights a second time, and keeps most of the GPU's free memory:

    writer = chosen(folder, tokenizer, device=p.device, dtype=p.dtype)  # vLLM where it can be, else the model itself
    samples = generate.sample_chats(writer, tokenizer, chats, temperature=0.7, seed=17)

It has been tested with a stand-in that keeps to vLLM's documentation (0.22 to 0.31, what TRL 1.16 takes), not with vLLM
and not on a GPU.

Left out on purpose: weights that change while they are sampled from (in GRPO that is TRL's own `use_vllm`), adapters
beside the base (merge them first), and giving the memory back before the process ends.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ftlib.generate import Sample, answer_text, stop_ids
from ftlib.models import load_model, resolve

ENGINES = ("auto", "vllm", "loop")
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def is_installed() -> bool:
    """Is the package vllm there? It is not imported by this."""
    return importlib.util.find_spec("vllm") is not None


def check_usable(device: str) -> None:
    """Say early that vLLM cannot be used here.

    Raises:
        ModuleNotFoundError: it is not installed.
        ValueError: the device is no GPU.
    """
    if device != "cuda":
        raise ValueError(f"vLLM: expected a profile on a GPU (device cuda), got {device!r}; sample without it here")
    if not is_installed():
        raise ModuleNotFoundError(
            "vLLM: expected the package vllm, which is not installed; run `pip install vllm`, or sample without it"
        )


def chosen(folder: str | Path, tokenizer, *, device: str, dtype: str, engine: str = "auto", **options: Any):
    """What to give to `generate.sample` in the model's place: a `VllmSampler`, or the model for the loop of `generate`.

    Args:
        folder: of a whole model, without adapters; or what else `models.load_model` takes.
        device, dtype: of the profile.
        engine: "vllm", "loop", or "auto": vLLM on a GPU where it is installed, else the loop.
        options: for vLLM, as `VllmSampler` takes them; the loop needs none.

    Raises:
        ValueError: no such engine; or "vllm" without a GPU.
        ModuleNotFoundError: "vllm", and it is not installed.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine: expected one of {list(ENGINES)}, got {engine!r}")
    if engine == "vllm":
        check_usable(device)
    if engine == "vllm" or (engine == "auto" and device == "cuda" and is_installed()):
        return VllmSampler(folder, tokenizer, dtype=dtype, **options)
    return load_model(str(folder), dtype=dtype, device=device).eval()


class VllmSampler:
    """A model folder behind vLLM's `LLM`; give it to `generate.sample` (and what calls that) in the model's place.

    Greedy texts are the loop's but for rounding. Draws come from vLLM's own generator, so they are others than the
    loop's for the same seed; they hang on the seed and the row's key as there. Log-probs are of the untempered model.
    `batch_size` and `memory` of `sample` have no meaning here: vLLM forms its batches and keeps shared prefixes itself.

    Args:
        folder: of a whole model, without adapters, and its tokenizer; or what else `models.load_model` takes.
        tokenizer: the same one, for stop tokens and texts.
        dtype: fp32, bf16 or fp16.
        options: further ones for `vllm.LLM`, e.g. gpu_memory_utilization=0.4 beside another model, max_model_len.

    Raises:
        ModuleNotFoundError: vLLM is not installed.
    """

    def __init__(self, folder: str | Path, tokenizer, *, dtype: str = "bf16", **options: Any):
        if not is_installed():
            raise ModuleNotFoundError(
                f"{folder}: expected the package vllm, which is not installed; run `pip install vllm`, or give "
                "`generate.sample` the model itself"
            )
        from vllm import LLM

        path = resolve(str(folder))
        self._tokenizer, self._stops = tokenizer, _stops_of(path, tokenizer)
        # Raw, as `generate.sample` has them: the model's own log-probs, before temperature and top-k.
        self._llm = LLM(model=path, dtype=DTYPES[dtype], logprobs_mode="raw_logprobs", **options)

    def answer_prompts(
        self,
        prompts: list[list[int]],
        *,
        max_new_tokens: int,
        temperature: float,
        top_k: int,
        top_p: float,
        stop: Sequence[str],
        seed: int,
        row_seeds: Sequence[int],
        progress: str,
    ) -> list[Sample]:
        """What `generate.sample` calls; it has checked the options."""
        from vllm import SamplingParams

        if not prompts:
            return []
        of_row = [
            SamplingParams(
                temperature=temperature, top_k=top_k, top_p=top_p, max_tokens=max_new_tokens, stop=list(stop),
                stop_token_ids=self._stops, seed=_row_seed(seed, key), logprobs=0,  # 0: of the drawn token alone
            )
            for key in row_seeds
        ]  # fmt: skip
        asked = [{"prompt_token_ids": list(ids)} for ids in prompts]
        found = self._llm.generate(asked, of_row, use_tqdm=bool(progress))
        return [self._sample(request.outputs[0], stop) for request in found]

    def _sample(self, output: Any, stop: Sequence[str]) -> Sample:
        """vLLM's ids hold the stop token, or those of the stop string; its `text` leaves out both."""
        ids = list(output.token_ids)
        logprobs = [float(of_token[token].logprob) for token, of_token in zip(ids, output.logprobs, strict=True)]
        # The text by our own tokenizer: equal ids give equal texts, whichever engine wrote them.
        return Sample(answer_text(self._tokenizer, ids, stop), ids, logprobs, output.finish_reason == "stop")


def _row_seed(seed: int, key: int) -> int:
    """One number below 2**63 of two: vLLM takes one seed a request."""
    return int(np.random.SeedSequence([seed, key]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _stops_of(path: str, tokenizer) -> list[int]:
    """The stop tokens that `generate.sample` would take from the loaded model."""
    from transformers import AutoConfig, GenerationConfig

    try:
        config = GenerationConfig.from_pretrained(path)
    except OSError:  # no generation_config.json
        config = GenerationConfig.from_model_config(AutoConfig.from_pretrained(path))
    return stop_ids(SimpleNamespace(generation_config=config), tokenizer)
