"""A small finished run, packed, and single bytes of it changed: does `verify` find each one?"""

import random
from collections.abc import Callable
from pathlib import Path

from ftlib import cards, pack
from ftlib.evidence import verify_run
from ftlib.profiles import resolve
from ftlib.records import GateResult, data_path
from ftlib.runs import open_run

CARD = "artifacts/governance/model_card.md"


def small_run(folder: Path) -> Path:
    """A run as 02 and 08 leave one, with made-up numbers: a metric, a gate, lineage from a data file, a model card."""

    def start(notebook: str):
        return open_run(notebook, folder, profile=resolve("cpu"), seed=17, model_id="embedded")

    sft = start("02_sft")
    sft.uses(data_path("sft/test.jsonl"))
    sft.metric("sft.intent_accuracy", baseline=0.15, candidate=0.9, n=170, ci95=(0.68, 0.81))
    sft.gate(GateResult(id="sft.intent_accuracy", notebook="02_sft", value=0.9, threshold=0.85, op=">=", n=170,
                        ci95=None, verdict="PASS"))  # fmt: skip
    sft.write_json("scores.json", {"sft": 0.9})
    sft.finish()
    govern = start("08_govern")
    govern.upstream("02_sft", "scores.json")
    govern.write_text("model_card.md", cards.model_card(folder))
    govern.finish()
    return folder


def missed(folder: Path, *, changes: int, seed: int) -> dict[str, list[int]]:
    """Change single bytes, one at a time: a quarter each in the pack, the ledger, the lineage and the model card.

    Returns:
        File -> the places whose change `verify` did not find.
    """
    run, rng = small_run(folder / "run"), random.Random(seed)
    packed = pack.build_pack(run, out=folder / "run.zip")
    targets: dict[Path, Callable[[], list[str]]] = {packed: lambda: pack.verify_pack(packed)}
    targets |= {run / name: lambda: verify_run(run) for name in ("gates.jsonl", "lineage.jsonl", CARD)}
    if any(check() for check in targets.values()):
        raise RuntimeError("expected an unchanged run to verify, got faults; run the tests of pack and evidence")
    found: dict[str, list[int]] = {}
    for number, (path, check) in enumerate(targets.items()):
        data = path.read_bytes()
        draws = changes // 4 + (number < changes % 4)
        places = rng.sample(range(len(data)), min(draws, len(data)))
        places += rng.choices(range(len(data)), k=draws - len(places))
        found[path.name] = [place for place in places if not _is_found(path, data, place, rng.randint(1, 255), check)]
        path.write_bytes(data)
    return found


def _is_found(path: Path, data: bytes, place: int, flip: int, check: Callable[[], list[str]]) -> bool:
    changed = bytearray(data)
    changed[place] ^= flip
    path.write_bytes(changed)
    return bool(check())
