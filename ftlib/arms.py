"""Trainings that are compared: whether each is done, and what it has cost, kept where a killed notebook finds it.

"On the same budget" is a claim until it is counted: so an arm ends with its seconds, the tokens that its policy wrote
to learn from, and the tokens that carried loss.

`Results` keeps less: what was measured, where the trained weights are not needed again.

Left out on purpose: memory (`methods.PeakMemory`), and how an arm is trained, which is read in the notebook.
"""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ftlib.files import digest, read_json, write_atomic


@dataclass(frozen=True)
class Cost:
    """What a training has used.

    Attributes:
        seconds: from loading the model to saving the adapter, its sampling included.
        rollouts: worked cases that it learned from: sampled ones, or rows of a log.
        sampled: tokens that the policy wrote for it.
        trained: tokens that carried loss, each time that they did.
    """

    seconds: float = 0.0
    rollouts: int = 0
    sampled: int = 0
    trained: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(one + two for one, two in zip(asdict(self).values(), asdict(other).values(), strict=True)))


class Arm:
    """One training of a comparison, in a folder of its own.

    Args:
        folder: for the adapter and the mark that it is whole.
        key: all that the training depends on, as text. What was done under another key counts as not done.

    Attributes:
        adapter: the folder for what is trained.
        cost: of the finished training; zero before.
        notes: what else it left, e.g. its rewards by step; empty before.
    """

    def __init__(self, folder: Path, *, key: str):
        self.folder, self.key = Path(folder), key
        self.adapter = self.folder / "adapter"
        self._mark = self.folder / "done.json"
        known = read_json(self._mark) if self._mark.exists() else {}
        self.done = known.get("key") == key
        self.cost = Cost(**known["cost"]) if self.done else Cost()
        self.notes: dict[str, Any] = known["notes"] if self.done else {}
        self._began = time.perf_counter()

    def finish(self, *, rollouts: int, sampled: int, trained: int, notes: Mapping[str, Any] | None = None) -> None:
        """Mark the arm as done, after its adapter is on disk. Its seconds run from when the arm was made.

        Raises:
            FileNotFoundError: no adapter folder: the mark would promise what is not there.
        """
        if not self.adapter.is_dir():
            raise FileNotFoundError(
                f"{self.adapter}: expected what was trained, found nothing; save it before finish()"
            )
        self.cost = Cost(round(time.perf_counter() - self._began, 1), int(rollouts), int(sampled), int(trained))
        self.notes = dict(notes or {})
        write_atomic(self._mark, json.dumps({"key": self.key, "cost": asdict(self.cost), "notes": self.notes}))
        self.done = True


class Results:
    """What was measured of each training of a comparison, by name; kept, so that a killed notebook trains none twice.

    Looked up like a dict. A list of numbers comes back as an array, whether it was measured now or before.

    Args:
        folder: for a file of each training.
        key: all that the trainings depend on, in values that JSON takes. What was measured under another key counts as
            not there.

    Attributes:
        key: its sha256.

    Example:
        >>> from tempfile import mkdtemp
        >>> results = Results(Path(mkdtemp()), key=["these pairs", "this model"])
        >>> if "beta 0.1" not in results:
        ...     results["beta 0.1"] = {"wins": [1.0, 0.5], "texts": ["No.", "Yes."]}
        >>> float(results["beta 0.1"]["wins"].mean())
        0.75
    """

    def __init__(self, folder: Path, *, key: Any):
        self.folder = Path(folder)
        self.key = digest(key, "key")

    def __contains__(self, name: str) -> bool:
        path = self._path(name)
        return path.exists() and {"key": self.key, "name": name}.items() <= read_json(path).items()

    def __getitem__(self, name: str) -> dict[str, Any]:
        if name not in self:
            raise KeyError(f"{name}: not measured under this key; train it first")
        found = read_json(self._path(name))["found"]
        numbers = lambda value: isinstance(value, list) and all(isinstance(x, int | float) for x in value)
        return {what: np.array(value, dtype=float) if numbers(value) else value for what, value in found.items()}

    def __setitem__(self, name: str, found: Mapping[str, Any]) -> None:
        plain = {what: value.tolist() if isinstance(value, np.ndarray) else value for what, value in found.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path(name), json.dumps({"key": self.key, "name": name, "found": plain}))

    def _path(self, name: str) -> Path:
        return self.folder / (re.sub(r"[^\w.+-]+", "_", name) + ".json")
