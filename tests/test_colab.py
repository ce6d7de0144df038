"""The Colab installer, with a pip that only writes down what it was asked."""

import subprocess
from importlib import metadata

import pytest

from ftlib import colab


@pytest.fixture
def pip(monkeypatch):
    commands = []

    def run(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, pip.returncode, "", "ERROR: no network")

    pip = type("Pip", (), {"commands": commands, "returncode": 0})
    monkeypatch.setattr(colab.subprocess, "run", run)
    return pip


def test_torch_is_pinned_to_what_is_there(pip, tmp_path):
    wanted = tmp_path / "requirements.txt"
    wanted.write_text("# comment\ntorch==1.0\nTorchVision>=2\ntransformers==5.23.0  # why\n\n-e .\npydantic\n")
    colab.install_requirements(wanted)
    (command,) = pip.commands
    asked = command[command.index("--disable-pip-version-check") + 1 :]
    assert asked[:2] == ["transformers==5.23.0", "pydantic"]
    assert f"torch=={metadata.version('torch')}" in asked and "torch==1.0" not in asked


def test_failure_says_what_pip_said(pip, tmp_path):
    (tmp_path / "r.txt").write_text("pydantic\n")
    pip.returncode = 1
    with pytest.raises(RuntimeError, match=r"(?s)expected pip to install r\.txt beside torch==.*ERROR: no network"):
        colab.install_requirements(tmp_path / "r.txt")


def test_replaced_while_loaded_asks_for_a_restart(pip, tmp_path, monkeypatch):
    (tmp_path / "r.txt").write_text("pydantic\n")
    versions = iter(["1.0", "2.0", "2.0"])
    monkeypatch.setattr(colab, "_loaded", lambda: ["pydantic"])
    monkeypatch.setattr(colab, "KEPT", ())
    monkeypatch.setattr(colab, "_version", lambda name: next(versions))
    with pytest.raises(RuntimeError, match=r"replaced while .* loaded: pydantic 1\.0 -> 2\.0; restart the session"):
        colab.install_requirements(tmp_path / "r.txt")
