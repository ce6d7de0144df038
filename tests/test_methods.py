"""Training methods by name: what trains, in which format, what is saved, and that it comes back as the same model."""

import json
import re

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_lean import FIELDS, batch, run, trainer_of
from tiny import next_logits, tiny_model

from ftlib import lean, methods, models

LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
IDS = [40, 41, 42, 43]
LAYER = 64 * (2 * 64 + 2 * 32 + 3 * 128) + 2 * 64  # q, o; k, v; gate, up, down; two norms


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny saved model: 2 layers, hidden 64, 100 tokens, head and embedding apart."""
    path = tmp_path_factory.mktemp("tiny")
    tiny_model(hidden=64).save_pretrained(path)
    return path


def load(method, folder, dtype="bf16", **more):
    return methods.load_for(method, str(folder), dtype=dtype, device="cpu", **more)


@pytest.mark.parametrize("method", ["", "LoRA", "later", "dora"])
def test_an_unknown_method_is_refused_and_the_known_ones_are_named(method, folder):
    for call in (methods.check_method, lambda name: load(name, folder), lambda name: methods.adapter_config(name, 1)):
        with pytest.raises(ValueError, match=r"expected one of lora, qlora, full, later_layers"):
            call(method)


def trained(model) -> int:
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def test_which_weights_train():
    assert set(methods.METHODS) == {"lora", "qlora", "full", "later_layers"}
    assert methods.adapter_config("lora", LORA) is methods.adapter_config("qlora", LORA) is LORA
    assert methods.adapter_config("full", LORA) is methods.adapter_config("later_layers", LORA) is None


@pytest.mark.parametrize(
    ("share", "count"),
    [(0.01, LAYER), (0.5, LAYER), (0.75, 2 * LAYER), (1.0, 2 * LAYER)],  # of two layers; at least one
)
def test_later_layers_by_hand(share, count, folder):
    model = load("later_layers", folder, later_share=share)
    assert trained(model) == count
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert all(".layers." in name for name in names) and any(".layers.1." in name for name in names)


@pytest.mark.parametrize(
    ("n_layers", "share", "excluded"),
    [(30, 0.75, 8), (30, 1.0, 0), (2, 0.5, 1), (12, 0.01, 11)],  # 22.5 is rounded to 22; one layer at least
)
def test_adapters_on_the_upper_layers_only(n_layers, share, excluded):
    pattern = methods.below_upper(n_layers, share)
    names = [f"model.layers.{n}.mlp.up_proj" for n in range(n_layers)]
    kept = [name for name in names if pattern is None or not re.fullmatch(pattern, name)]
    assert kept == names[excluded:] and methods.n_upper(n_layers, share) == n_layers - excluded


@pytest.mark.parametrize("share", [0.0, -0.5, 1.1])
def test_a_share_of_no_layers_is_refused(share, folder):
    with pytest.raises(ValueError, match="share of layers: expected more than 0 and at most 1"):
        load("later_layers", folder, later_share=share)
    with pytest.raises(ValueError, match="got " + str(share)):
        methods.below_upper(30, share)


def test_full_trains_every_weight_in_fp32(folder):
    model = load("full", folder)
    assert trained(model) == 2 * LAYER + 2 * 100 * 64 + 64
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_an_adapter_is_trained_in_fp32_over_a_base_in_16_bits(folder):
    for method in ("lora", "qlora"):
        model = get_peft_model(load(method, folder), LORA).to(torch.bfloat16)
        assert methods.train_in_fp32(model) == 28  # A and B of seven matrices in two layers
        assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}
        assert methods.train_in_fp32(model) == 0


def trained_model(method, folder):
    """A model of this method whose weights that train have moved."""
    model = load(method, folder, dtype="fp32")
    if method in methods.WITH_ADAPTER:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return get_peft_model(model, LORA).eval()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn_like(weight)
    return model.eval()


@pytest.mark.parametrize("method", methods.METHODS)
def test_what_is_saved_comes_back_as_the_trained_model(method, folder, tmp_path):
    model = trained_model(method, folder)
    base = models.load_model(str(folder), dtype="fp32")
    methods.save_for(method, model, tmp_path / "adapter", dtype="fp32")
    assert models.has_trained(tmp_path / "adapter")
    again = models.load_merged(str(folder), [tmp_path / "adapter"], dtype="fp32")
    wanted, got, plain = (next_logits(m, IDS) for m in (model, again, base))
    assert (wanted - got).abs().max() < 1e-3 * (wanted - plain).abs().max()
    assert (wanted - plain).abs().max() > 0.1


def test_a_folder_that_is_written_again_holds_nothing_of_the_method_before(folder, tmp_path):
    for before, after in (("full", "lora"), ("qlora", "lora"), ("lora", "later_layers")):
        for method in (before, after):
            methods.save_for(method, trained_model(method, folder), tmp_path / "a", dtype="fp32")
        names = {file.name for file in (tmp_path / "a").iterdir()}
        assert ("adapter_config.json" in names) == (after == "lora")
        assert (models.TRAINED in names) == (after == "later_layers")
        assert models.BASE_MARK not in names


def test_only_what_trained_is_written_in_the_format_asked_for(folder, tmp_path):
    from safetensors.torch import load_file

    methods.save_for("later_layers", load("later_layers", folder), tmp_path, dtype="bf16")
    kept = load_file(tmp_path / models.TRAINED)
    assert sum(weight.numel() for weight in kept.values()) == LAYER
    assert {weight.dtype for weight in kept.values()} == {torch.bfloat16}
    assert [file.name for file in tmp_path.iterdir()] == [models.TRAINED]


def test_weights_of_another_model_are_refused(folder, tmp_path):
    tiny_model(hidden=32).save_pretrained(tmp_path / "smaller")
    methods.save_for("later_layers", load("later_layers", folder), tmp_path / "trained", dtype="fp32")
    with pytest.raises(ValueError, match="the model has shape .*give the model_id that it was trained from"):
        models.load_merged(str(tmp_path / "smaller"), [tmp_path / "trained"])
    with pytest.raises(FileNotFoundError, match="neither is there"):
        models.load_merged(str(folder), [tmp_path / "empty"])


def test_an_adapter_may_stand_on_weights_that_were_trained_whole(folder, tmp_path):
    """As DPO's does on SFT's: the chain is applied in order."""
    whole = trained_model("full", folder)
    methods.save_for("full", whole, tmp_path / "sft", dtype="fp32")
    adapted = get_peft_model(models.load_merged(str(folder), [tmp_path / "sft"], dtype="fp32"), LORA).eval()
    adapted.save_pretrained(str(tmp_path / "dpo"))
    again = models.load_merged(str(folder), [tmp_path / "sft", tmp_path / "dpo"], dtype="fp32")
    assert (next_logits(adapted, IDS) - next_logits(again, IDS)).abs().max() < 1e-3


@pytest.mark.parametrize("method", ["full", "later_layers"])
@pytest.mark.parametrize("bf16", [False, True])
def test_the_lean_head_gives_trls_numbers_without_an_adapter_too(method, bf16, folder):
    """Weights in fp32, products in fp32 or (as the trainer's `bf16` has it) in bf16."""
    trl, ours = load(method, folder), load(method, folder)
    trainer_of(trl)
    assert lean.speed_up(trainer_of(ours))["head"]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        (expected, expected_grads), (got, grads) = run(trl, batch()), run(ours, batch())
    slack = {"atol": 0.05, "rtol": 0.05} if bf16 else {"atol": 1e-5, "rtol": 1e-3}
    for name in FIELDS if not bf16 else ("loss", "log_probs"):
        torch.testing.assert_close(getattr(got, name), getattr(expected, name), **slack, msg=name)
    assert grads.keys() == expected_grads.keys() and len(grads) >= 9
    for name, grad in grads.items():
        assert (grad - expected_grads[name]).norm() <= (0.05 if bf16 else 1e-3) * expected_grads[name].norm(), name


def test_peak_memory_sees_what_was_held_for_a_moment():
    with methods.PeakMemory() as small:
        pass
    with methods.PeakMemory() as large:
        block = np.ones(40 * 2**20)  # 320 MB
        for _ in range(5):
            block += 1
        del block
    assert 50 < small.mb < large.mb - 250


def test_the_base_of_a_qlora_is_marked(folder, tmp_path):
    methods.save_for("qlora", trained_model("qlora", folder), tmp_path / "a", dtype="bf16")
    mark = json.loads((tmp_path / "a" / models.BASE_MARK).read_text(encoding="utf-8"))
    assert mark == {"from": "bf16", "not_nf4": []}


def test_adapters_on_chosen_layers_only():
    """Of four layers, 1 and 3; where none is chosen, the upper share; all of them leave none out."""
    assert methods.left_out(4, share=0.75, chosen=[3, 1]) == r".*\.layers\.(0|2)\..*"
    assert methods.left_out(4, share=0.5) == methods.below_upper(4, 0.5)
    assert methods.left_out(2, share=0.5, chosen=[0, 1]) is None
    for wrong in ([4], [-1], [1, 1], [True], ["1"], [1.0]):
        with pytest.raises(ValueError, match=r"chosen layers: expected different whole numbers in 0\.\.3"):
            methods.left_out(4, share=0.75, chosen=wrong)


def test_a_notebook_may_know_fewer_methods():
    assert methods.check_method("lora", methods.WITH_ADAPTER) == "lora"
    with pytest.raises(ValueError, match="method='full': expected one of lora, qlora"):
        methods.check_method("full", methods.WITH_ADAPTER)


def test_the_mark_of_a_qlora_names_what_was_not_quantised(folder, tmp_path):
    model = trained_model("qlora", folder)
    methods.save_for("qlora", model, tmp_path / "a", dtype="bf16", not_nf4=["k_proj"])
    mark = json.loads((tmp_path / "a" / models.BASE_MARK).read_text(encoding="utf-8"))
    assert mark == {"from": "bf16", "not_nf4": ["k_proj"]}
