"""Answers on disk: a notebook that was killed while it sampled goes on with those it has.

The answers of thousands of prompts are the dear part of collecting preferences. They are sampled some at a time, and
each lot is in a file before the next one is begun. A row's draws hang on its place in the whole list (`row_seeds`), so
it does not matter in how many lots, or sittings, a list was sampled; batches of another shape round differently, as
ever.

Left out on purpose: a key inside the file. Its name is the digest of all that the answers depend on (`answers_of`).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from ftlib.files import append_line, digest, mend_tail, whole_lines
from ftlib.generate import Sample, sample_chats
from ftlib.sealed import digest_of
from ftlib.sources import OneModel, Source

LOT = 1024  # answers that a kill may cost; smaller lots leave more batches half empty at their ends


def answers_of(
    source: Source,
    held: OneModel,
    chats: Sequence[list[dict]],
    *,
    folder: str | Path,
    batch_size: int,
    progress: str,
    **options: int | float,
) -> list[Sample]:
    """A source's answers to chats, in their order; those of another sitting with the same weights are read, not made.

    Args:
        held: loads the model, where there is something left to answer.
        folder: of the files with answers.
        options: of `generate.sample`; they are part of what the answers depend on, `batch_size` is not.

    Raises:
        ValueError: as `kept_answers`.
    """
    weights = [digest_of(part) if Path(part).is_dir() else part for part in held.parts(source)]
    name = digest([weights, held.dtype, chats, options], "answers")[:16]

    def make(some: Sequence[list[dict]], places: Sequence[int]) -> list[Sample]:
        return sample_chats(
            *held.of(source), list(some), row_seeds=places, batch_size=batch_size, progress=progress, **options
        )

    return kept_answers(Path(folder) / f"answers-{name}.jsonl", chats, make)


def kept_answers(
    path: str | Path,
    chats: Sequence[list[dict]],
    make: Callable[[Sequence[list[dict]], Sequence[int]], Sequence[Sample]],
    *,
    lot: int = LOT,
) -> list[Sample]:
    """The answers to chats, in their order: those that the file has, and the rest made and kept there.

    Args:
        path: its name tells models, chats and options, for the file is believed.
        make: (chats, their places in the list) -> answers.
        lot: chats handed to `make` at once.

    Raises:
        ValueError: a lot below 1, a file that holds something else, or not one answer a chat.
    """
    path = Path(path)
    if lot < 1:
        raise ValueError(f"lot: expected 1 or more, got {lot}")
    path.parent.mkdir(parents=True, exist_ok=True)
    mend_tail(path)
    answers = _read(path, len(chats))
    for start in range(len(answers), len(chats), lot):
        places = range(start, min(start + lot, len(chats)))
        made = make([chats[n] for n in places], places)
        if len(made) != len(places):
            raise ValueError(f"expected an answer to each of {len(places)} chats, got {len(made)}")
        append_line(path, "\n".join(json.dumps(asdict(one)) for one in made))
        answers += made
    return answers


def _read(path: Path, most: int) -> list[Sample]:
    found = []
    lines, _ = whole_lines(path)
    for number, line in enumerate(lines, start=1):
        try:
            found.append(Sample(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} line {number}: expected an answer ({error}); remove the file") from None
    if len(found) > most:
        raise ValueError(f"{path}: expected at most {most} answers, got {len(found)}; remove the file")
    return found
