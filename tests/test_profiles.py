"""Profiles: what `auto` picks on which machine, what may be overridden, and errors that say what to do."""

from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import pytest
import torch

from ftlib import models
from ftlib.profiles import PROFILES, Profile, resolve


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a machine: a GPU of so many GB or none, with or without bf16."""

    def pretend(*, gpu_gb: float = 0, gpu_bf16: bool = True, cpu_bf16: bool = True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu_gb > 0)
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda i: SimpleNamespace(total_memory=int(gpu_gb * 2**30))
        )
        # A T4 computes bf16 by emulation, slowly: that does not count.
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: gpu_bf16 or including_emulation
        )
        monkeypatch.setattr(models, "cpu_has_bf16", lambda: cpu_bf16)

    return pretend


@pytest.mark.parametrize(
    ("gpu_gb", "gpu_bf16", "picked"),
    [(0, False, "cpu"), (15, False, "t4"), (22, True, "gpu24"), (40, True, "gpu24"), (79, True, "gpu80")],
)
def test_auto_picks_by_what_is_there(machine, gpu_gb, gpu_bf16, picked):
    machine(gpu_gb=gpu_gb, gpu_bf16=gpu_bf16)
    assert resolve("auto").name == picked


def test_formats_are_always_said(machine):
    """TRL turns bf16 on by itself, so both flags are set; never both on."""
    machine(gpu_gb=80)
    assert {n: (resolve(n).bf16, resolve(n).fp16, resolve(n).use_cpu) for n in PROFILES} == {
        "smoke": (True, False, True),
        "cpu": (True, False, True),
        "t4": (False, True, False),
        "gpu24": (True, False, False),
        "gpu80": (True, False, False),
    }


@pytest.mark.parametrize("name", ["cpu", "smoke"])
def test_a_cpu_without_bf16_computes_in_fp32(machine, name):
    machine(cpu_bf16=False)
    profile = resolve(name)
    assert profile.dtype == "fp32" and not profile.bf16 and not profile.fp16
    machine(cpu_bf16=True)
    assert resolve(name).dtype == "bf16"


@pytest.mark.parametrize("name", ["t4", "gpu24", "gpu80"])
def test_a_gpu_profile_without_a_gpu(machine, name):
    machine()
    with pytest.raises(ValueError, match=f"profile='{name}' needs a CUDA GPU and none is there; use cpu, smoke or"):
        resolve(name)


@pytest.mark.parametrize("name", ["", "CPU", "gpu", "laptop"])
def test_an_unknown_profile(name):
    with pytest.raises(ValueError, match=f"profile='{name}': expected one of smoke, cpu, t4, gpu24, gpu80 or auto"):
        resolve(name)


def test_a_notebooks_parameter_wins_where_it_is_not_zero(machine):
    machine()
    changed = resolve("cpu", sft_epochs=3.0, rft_steps=0)
    assert changed.sft_epochs == 3.0
    assert changed.rft_steps == PROFILES["cpu"].rft_steps
    assert PROFILES["cpu"].sft_epochs != 3.0  # the profile itself is not changed


def test_an_unknown_field(machine):
    machine()
    with pytest.raises(ValueError, match=r"unknown profile fields \['epoch'\]; known: \['name', 'device'"):
        resolve("cpu", epoch=3)


def test_profiles_cannot_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        PROFILES["cpu"].train_batch = 1


def test_only_smoke_is_no_evidence_and_it_is_the_smallest():
    assert [n for n, p in PROFILES.items() if p.is_smoke] == ["smoke"]
    assert all(p.name == n for n, p in PROFILES.items())
    smoke, cpu = PROFILES["smoke"], PROFILES["cpu"]
    for field in ("need_ram_mb", "need_disk_mb", "preference_prompts", "rft_demonstrations", "rft_steps"):
        assert getattr(smoke, field) < getattr(cpu, field)
    assert all(getattr(smoke, field) for field in ("eval_rows", "sft_rows", "dpo_pairs", "validate_prompts"))


def test_the_cpu_profile_measures_what_the_targets_ask():
    """Memory under 8 GB; every row and prompt evaluated; at least 150 desk cases, the four outcomes equally often."""
    cpu = PROFILES["cpu"]
    assert cpu.need_ram_mb <= 8_000
    assert cpu.eval_rows == cpu.validate_prompts == 0
    assert cpu.rft_eval_cases >= 150 and cpu.rft_eval_cases % 4 == 0


@pytest.mark.parametrize("name", PROFILES)
def test_a_grpo_step_is_whole_groups_and_whole_batches(name):
    p = PROFILES[name]
    rollouts = p.rft_prompts * p.rft_generations
    assert p.rft_generations >= 2  # one sample has no group to be compared with
    assert rollouts % min(p.train_batch, rollouts) == 0


def test_the_table_shows_every_field():
    shown = {row["field"]: row["value"] for row in Profile("mine").table()}
    assert shown["name"] == "mine" and shown["train_batch"] == Profile("x").train_batch
    assert set(shown) == set(Profile.__dataclass_fields__)
