"""Preference pairs in the forms that TRL trains on, and back (huggingface.co/docs/trl/dataset_formats).

The preference form loses nothing of a pair: what TRL does not use goes along as more columns. The unpaired form (KTO)
loses which answer was compared with which, except by id.

Left out on purpose: other chats than one question and one answer, which is all that a pair holds.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from ftlib.exchange import Placed, checked, repeats
from ftlib.intake import numbered_records
from ftlib.records import SYSTEM, Candidate, PreferencePair, assistant_chat, refuse_faults

_MESSAGES = ("prompt", "chosen", "rejected")


def trl_rows(pairs: Iterable[PreferencePair]) -> list[dict]:
    """Pairs in TRL's conversational "Preference" form.

    prompt, chosen and rejected are lists of chat messages; the pair's other fields are columns beside them, which
    trainers ignore. For `write_jsonl`, or `datasets.Dataset.from_list`.
    """
    rows = []
    for pair in pairs:
        answers = {side: [{"role": "assistant", "content": getattr(pair, side)}] for side in ("chosen", "rejected")}
        rows.append({"prompt": assistant_chat(pair.prompt)} | answers | pair.model_dump(exclude=set(_MESSAGES)))
    return rows


def unpaired_rows(pairs: Iterable[PreferencePair], both_bad: Iterable[Candidate] = ()) -> list[dict]:
    """Single answers with a label, TRL's "Unpaired preference", which KTO trains on.

    A chosen answer is labelled true, a rejected one false, and both answers of an item that raters called "both bad"
    false: votes that give no pair. Being worse than another answer is not being bad: an answer that won one comparison
    and lost another has no label, and is left out.

    Args:
        both_bad: items whose verdict was "both bad".
    """
    said: dict[tuple[str, str], set[bool]] = {}
    names: dict[tuple[str, str], str] = {}
    labelled = [(pair.id, pair.prompt, {True: pair.chosen, False: pair.rejected}.items()) for pair in pairs]
    labelled += [(item.id, item.prompt, [(False, item.answer_a), (False, item.answer_b)]) for item in both_bad]
    for item_id, prompt, answers in labelled:
        for label, text in answers:
            said.setdefault((prompt, text), set()).add(label)
            names.setdefault((prompt, text), item_id)
    return [
        {
            "id": names[prompt, text],
            "prompt": assistant_chat(prompt),
            "completion": [{"role": "assistant", "content": text}],
            "label": next(iter(labels)),
        }
        for (prompt, text), labels in said.items()
        if len(labels) == 1 and text.strip()
    ]


def read_trl(path: str | Path, *, fill: Mapping[str, object] | None = None) -> list[PreferencePair]:
    """Read a .jsonl or .json file in TRL's preference form, with chat messages or plain texts.

    Args:
        fill: values for fields that the file does not have, e.g. {"kind": "production", "basis": "labels of the set",
            "chosen_source": "unknown", "rejected_source": "unknown", "synthetic": True, "split": "train"}. A missing id
            is made of file and line, and a missing cluster is the pair's own.

    Raises:
        FileNotFoundError: no such file.
        ValueError: rows at fault, with file and line. A prompt of more than one user's message is one, and so is a
            system message other than this playbook's: a pair has no place for either.
    """
    path = Path(path)
    rows: list[Placed[PreferencePair]] = []
    faults: list[str] = []
    for line, record in numbered_records(path):
        place = f"{path.name} line {line}"
        own_id = record.get("id", f"{path.stem}-{line}")
        try:
            texts = {side: _said(record[side], side) for side in _MESSAGES if side in record}
        except ValueError as error:
            faults.append(f"{place}: {error}")
            continue
        defaults = {"cluster": own_id} | dict(fill or {}) | {"id": own_id}
        found = checked(defaults | record | texts, PreferencePair, place)
        if isinstance(found, list):
            faults += found
        else:
            rows.append(Placed(place, found))
    refuse_faults(path, faults + repeats(rows))
    return [one.row for one in rows]


def _said(value: object, side: str) -> object:
    """The one text of a list of messages; what is no list as it is, for the row's check."""
    if not isinstance(value, list):
        return value
    speaker = "user" if side == "prompt" else "assistant"
    said = [(message.get("role"), message.get("content")) for message in value if isinstance(message, dict)]
    if side == "prompt" and said[:1] == [("system", SYSTEM["assistant"])]:
        said = said[1:]
    if len(said) != 1 or said[0][0] != speaker:
        roles = ", ".join(str(role) for role, _ in said) or "no messages"
        raise ValueError(
            f"{side}: expected one message of the {speaker} (before it, at most this playbook's system message), got "
            f"{roles}; a pair has no place for more, so leave the row out"
        )
    return said[0][1]
