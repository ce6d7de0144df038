"""Where the answers that are rated come from: models and temperatures by name, and which of them meet on a prompt.

A source is written "MODEL at TEMPERATURE". MODEL is `base` (asked zero-shot), `few-shot` (the base with worked
examples, as 00_start_here asks it), `sft` (the adapter of 02), or a folder: a model, or an adapter over the base.
Adapters that were trained on top of it follow with " + ": "sft + runs/x/dpo/adapter at 0.7". Raters see no source: it
is kept with the item, and an item's id is made of its prompt and its texts alone.

Left out on purpose: models behind an API (their answers are rows of a `candidates.jsonl` as well), and other sampling
options: top-k and top-p are those of `generate`.
"""

import gc
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ftlib import models
from ftlib.pairs import is_authored
from ftlib.records import Candidate, SftRow, assistant_chat
from ftlib.tasks import HINTS, few_shot, pick_examples

NAMED = ("base", "few-shot", "sft")
SHOTS = 3  # worked replies in the few-shot prompt, as in 00_start_here
_FORM = "write each as MODEL at TEMPERATURE, for example 'sft at 0.0, base at 0.7'"


@dataclass(frozen=True)
class Source:
    """One way to get an answer.

    Attributes:
        name: as candidates.jsonl keeps it, e.g. "sft at 0.9".
        asks: how a message is put: "plain" as in training, "zero-shot" or "few-shot" as to a model that had none.
        temperature: 0 is greedy.
        model: a model folder; None: the run's `model_id`.
        adapters: merged into the model in this order.
        draw: how many sources before it draw at random; added to the seed, so that no two share their draws.
    """

    name: str
    asks: Literal["plain", "zero-shot", "few-shot"]
    temperature: float
    model: Path | None
    adapters: tuple[Path, ...]
    draw: int

    def chat(self, text: str, examples: Sequence[SftRow] = ()) -> list[dict[str, str]]:
        """The chat in which this source is asked a customer's message; `examples` count for "few-shot" only."""
        if self.asks == "plain":
            return assistant_chat(text)
        return few_shot(_Message(text), HINTS["reply"], examples if self.asks == "few-shot" else ())


@dataclass(frozen=True)
class _Message:
    text: str

    def prompt(self) -> list[dict[str, str]]:
        return assistant_chat(self.text)


def read_sources(text: str, *, sft: Path) -> list[Source]:
    """The sources of a parameter such as "sft at 0.0, sft at 0.9", in its order.

    Args:
        text: entries with commas between.
        sft: the adapter that `sft` stands for.

    Raises:
        ValueError: fewer than two entries, one that is not of that form or names no model, or one that is there twice.
    """
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    if len(entries) < 2:
        raise ValueError(
            f"sources={text!r}: expected two or more sources, for an answer is compared with another one, got "
            f"{len(entries)}; {_FORM}"
        )
    found: list[Source] = []
    for entry in entries:
        model, temperature = _model_and_temperature(entry)
        asks, folder, adapters = _resolve(entry, model, sft)
        name = f"{model} at {temperature}"
        if name in {source.name for source in found}:
            raise ValueError(
                f"sources: {name!r} is there twice, and each answer needs a name of its own; take another temperature"
            )
        found.append(Source(name, asks, temperature, folder, adapters, sum(one.temperature > 0 for one in found)))
    return found


def _model_and_temperature(entry: str) -> tuple[str, float]:
    model, at, number = entry.rpartition(" at ")
    try:
        temperature = float(number)
    except ValueError:
        temperature = math.nan
    if not at or not model.strip() or not 0 <= temperature < math.inf:
        raise ValueError(f"sources: expected a model and a temperature of 0 or more, got {entry!r}; {_FORM}")
    return re.sub(r"\s+", " ", model.strip()), temperature


def _resolve(entry: str, model: str, sft: Path) -> tuple[str, Path | None, tuple[Path, ...]]:
    first, *more = model.split(" + ")
    adapters = [Path(name).expanduser() for name in more]
    missing = [folder for folder in adapters if not models.has_trained(folder)]
    if missing or (more and first in ("base", "few-shot")):
        what = f"{str(missing[0])!r} holds no adapter" if missing else f"{first!r} is asked as a model without any"
        raise ValueError(
            f"sources: expected adapter folders after ' + ' in {entry!r}, but {what}; "
            "give the folder with adapter_config.json, over 'sft', a model folder or another adapter"
        )
    if first in ("base", "few-shot"):
        return {"base": "zero-shot", "few-shot": "few-shot"}[first], None, ()
    folder = sft if first == "sft" else Path(first).expanduser()
    if models.has_trained(folder):
        return "plain", None, (folder, *adapters)
    if (folder / "config.json").is_file():
        return "plain", folder, tuple(adapters)
    raise ValueError(
        f"sources: expected {', '.join(NAMED)}, or a folder with a model (config.json) or an adapter "
        f"(adapter_config.json), got {first!r} in {entry!r}; check its spelling, or the path"
    )


class OneModel:
    """Loads the model of a source, and lets go of the one before: no two are in memory at once.

    Args:
        model_id: the run's model, that `base` and the adapters stand on.
        dtype, device: as in `models.load_merged`.

    Example:
        generate.sample_chats(*held.of(source), chats): no name keeps the model alive beyond the call.
    """

    def __init__(self, model_id: str, *, dtype: str, device: str):
        self._model_id, self.dtype, self._device = model_id, dtype, device
        self._key: tuple | None = None
        self._held: tuple | None = None

    def of(self, source: Source) -> tuple:
        """(model, tokenizer) of a source; loaded only when the last call was for another model."""
        key = self.parts(source)
        if key != self._key:
            self.close()
            model = models.load_merged(key[0], list(source.adapters), dtype=self.dtype, device=self._device)
            self._held, self._key = (model, models.load_tokenizer(key[0])), key
        return self._held

    def parts(self, source: Source) -> tuple[str, ...]:
        """What a source's model is made of: a folder or a name, then the folders of its adapters."""
        return (str(source.model or self._model_id), *map(str, source.adapters))

    def close(self) -> None:
        """Let go of the model."""
        self._key = self._held = None
        gc.collect()


def worked_examples(train: Sequence[SftRow], *, seed: int) -> list[SftRow]:
    """The worked replies of the few-shot prompt: those that 00_start_here draws with this seed, without their policy.

    A message of notebook 03 comes without the rules that decide it, so an example with rules would be another task.
    """
    drawn = pick_examples(list(train), per_task={"classify": 0, "reply": SHOTS}, seed=seed)["reply"]
    return [row.model_copy(update={"context": ""}) for row in drawn]


def pair_up(names: Sequence[str], prompts: Sequence[str], *, seed: int) -> dict[str, list[tuple[str, str]]]:
    """Which sources' answers are compared on each prompt, so that each two sources meet about equally often.

    Prompts come in drawn order. On each, the two sources that have met least so far are compared, then two of the
    others, until every answer has been compared; where one is left over, it meets the one that it has met least. Equal
    counts are decided by a draw. So k answers give k/2 items, rounded up, and with two sources one item.

    Args:
        names: of the sources, two or more.
        prompts: ids.
        seed: of the order and of the draws.

    Returns:
        Prompt id -> pairs of names, each in the order of `names`.

    Raises:
        ValueError: fewer than two names, or one that is there twice.

    Example:
        Three sources, three prompts: two items a prompt, and each of the three pairs of sources meets twice.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"expected two or more sources, each named once, got {list(names)}; correct the list")
    rng = np.random.default_rng([seed, len(names)])
    possible = list(itertools.combinations(names, 2))
    met: Counter[tuple[str, str]] = Counter()
    compared: dict[str, list[tuple[str, str]]] = {prompt: [] for prompt in prompts}
    for place in rng.permutation(len(prompts)):
        left = set(names)
        while left:
            fit = [pair for pair in possible if len(left.intersection(pair)) == min(2, len(left))]
            fewest = min(met[pair] for pair in fit)
            fit = [pair for pair in fit if met[pair] == fewest]
            pair = fit[rng.integers(len(fit))]
            met[pair] += 1
            left.difference_update(pair)
            compared[prompts[place]].append(pair)
    return compared


def source_table(items: Sequence[Candidate], *, fresh: Iterable[str] = ()) -> list[dict]:
    """How many items each two sources have, which share of their answers was sampled from a model; the last row is all.

    Args:
        items: to be rated.
        fresh: ids of the items made now; the others were recorded.

    Raises:
        ValueError: no items.
    """
    if not items:
        raise ValueError("source_table: expected at least one item, got none; sample or load candidates first")
    new = set(fresh)
    groups: dict[str, list[Candidate]] = {}
    for item in items:
        groups.setdefault(" · ".join(sorted((item.source_a, item.source_b))), []).append(item)
    groups = dict(sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))) | {"all": list(items)}
    return [
        {
            "answers of": name,
            "items": len(mine),
            "of these fresh": sum(item.id in new for item in mine),
            "answers sampled from a model": float(
                np.mean([not is_authored(source) for item in mine for source in (item.source_a, item.source_b)])
            ),
        }
        for name, mine in groups.items()
    ]
