"""Rollouts on disk: a notebook that was killed goes on with those it has made.

Sampling is the dear part of working with a log. The file holds what was done, what was said and the token ids, so that
rewards, training rows and likelihoods can be worked out from it again.

Left out on purpose: adding to a file (the settings would differ), and likelihoods, which belong to a model.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ftlib.desk import Call, RefundDesk, Trajectory, trajectory
from ftlib.files import read_json, write_atomic

Turns = Sequence[tuple[Sequence[int], Sequence[int]]]  # of one rollout: token ids of each prompt and its answer


@dataclass(frozen=True)
class Rollouts:
    """Rollouts of one policy, three lists in one order; see `desk.rollouts`."""

    trajectories: list[Trajectory]
    chats: list[list[dict[str, Any]]]
    turns: list[Turns]

    def __post_init__(self):
        lengths = {len(self.trajectories), len(self.chats), len(self.turns)}
        if len(lengths) != 1:
            raise ValueError(
                f"expected a trajectory, a chat and turns for each rollout, got {len(self.trajectories)}, "
                f"{len(self.chats)} and {len(self.turns)}"
            )


def kept(
    path: str | Path,
    *,
    key: str,
    make: Callable[[], tuple[list, list, list]],
    desk: Callable[[], RefundDesk] = RefundDesk,
) -> Rollouts:
    """The rollouts of a file if it has this key; else they are made, and kept there whole.

    Args:
        key: all that they depend on, as text: policy, cases, seed, sampling.
        make: returns trajectories, chats and turns.
        desk: where they were worked; it reads its own cases and logs back.

    Raises:
        ValueError: lists of several lengths, or a file that holds something else.
    """
    path = Path(path)
    if path.exists():
        known = read_json(path)
        if known.get("key") == key:
            return _read(known, path, desk)
    made = Rollouts(*make())
    rows = [
        {"trajectory": asdict(done), "chat": chat, "turns": [[list(p), list(a)] for p, a in turns]}
        for done, chat, turns in zip(made.trajectories, made.chats, made.turns, strict=True)
    ]
    write_atomic(path, json.dumps({"key": key, "rows": rows}))
    return made


def _read(known: dict[str, Any], path: Path, desk: Callable[[], RefundDesk]) -> Rollouts:
    found: tuple[list, list, list] = ([], [], [])
    for number, row in enumerate(known.get("rows", ())):
        try:
            one = desk()
            one.reset(row["trajectory"]["case"])
            one._calls = [Call(**call) for call in row["trajectory"]["calls"]]
            found[0].append(trajectory(one, row["chat"]))
            found[1].append(row["chat"])
            found[2].append([(prompt, answer) for prompt, answer in row["turns"]])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} rollout {number}: not as it was kept ({error}); remove the file") from None
    return Rollouts(*found)
