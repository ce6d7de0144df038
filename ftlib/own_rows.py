"""Rows of your own, measured: labels or texts, a held-out part without twins, examples for a prompt, scores.

A file of prompts and answers (`intake`) is enough. Where the answers are few and come again and again they are labels,
and an answer is right or wrong; else they are texts, and words are counted.

Left out on purpose: several labels a row, judging texts by meaning (that takes people or a judge, see `judges`), and
splits by time or by customer: if your rows have them, split the file yourself and give both parts.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ftlib import data_gates, quality, tasks
from ftlib.confusion import NO_LABEL


def labels_of(rows: Sequence[Any]) -> list[str]:
    """The labels of the rows in order of the alphabet; empty where the answers are texts (`data_gates.items_of`).

    Ask all rows, not a part: in a few rows of many labels none comes again. What stands in rows that are empty or in a
    broken encoding only is no label, but a fault of these rows.

    Raises:
        ValueError: two labels differ in case or punctuation only.
    """
    items = data_gates.items_of(rows)
    at_fault = {hit.row for finding in _unsound(items) for hit in finding.hits}
    sound = [item for row, item in enumerate(items) if row not in at_fault]
    labels = sorted({item.label for item in sound if item.label is not None})
    known: dict[str, str] = {}
    for label in labels:
        other = known.setdefault(_plain(label), label)
        if other != label:
            raise ValueError(
                f"labels {other!r} and {label!r} differ in case or punctuation only; write one of them throughout"
            )
    return labels


def set_aside(rows: Sequence[Any], share: float, *, seed: int) -> tuple[list[Any], list[Any], int]:
    """A share of the rows, drawn by seed, to measure on; their twins (`data_gates.leakage`) are in neither part.

    Returns:
        (rows to train on, rows to measure on, rows left out as twins), the rows in their order.

    Raises:
        ValueError: a share outside (0, 1), or a part without rows.
    """
    if not 0 < share < 1:
        raise ValueError(f"share: expected more than 0 and less than 1, got {share!r}; e.g. 0.2")
    order = np.random.default_rng([seed, 31]).permutation(len(rows))
    aside = set(order[: round(share * len(rows))].tolist())
    test = [row for place, row in enumerate(rows) if place in aside]
    rest = [row for place, row in enumerate(rows) if place not in aside]
    found = data_gates.leakage(data_gates.items_of(rest), data_gates.items_of(test))
    twins = {hit.row for hit in found.hits}
    train = [row for place, row in enumerate(rest) if place not in twins]
    if not train or not test:
        raise ValueError(
            f"{len(rows)} rows at a share of {share:g} leave {len(train)} to train on and {len(test)} to measure on; "
            "give more rows, or the two parts yourself"
        )
    return train, test, len(twins)


def look_at_held_out(rows: Sequence[Any]) -> list[data_gates.Finding]:
    """What the gates for empty texts and broken encodings find in the rows that are measured on.

    A blank answer there would be right for a model that says nothing.
    """
    return [
        dataclasses.replace(
            finding,
            id=f"own.held_out_{finding.id}",
            span=finding.span.replace("training", "held-out"),
            fix=f"{finding.fix}, or take drop_faults=True",
        )
        for finding in _unsound(data_gates.items_of(rows))
    ]


def _unsound(items: Sequence[data_gates.Item]) -> tuple[data_gates.Finding, ...]:
    return data_gates.empty(items), data_gates.encoding(items)


def check_known(rows: Sequence[Any], labels: Sequence[str]) -> None:
    """Each held-out row's answer is a label that can be learned; rows that are empty are left to their gate.

    Raises:
        ValueError: an answer is none of the labels; the first such row is named by file and line.
    """
    empty = {hit.row for hit in data_gates.empty(data_gates.items_of(rows)).hits}
    for place, row in enumerate(rows):
        if labels and place not in empty and row.answer() not in labels:
            raise ValueError(
                f"{getattr(row, 'place', row.id)}: the label {row.answer()!r} is in no sound training row; give "
                "rows of it, or take it out"
            )


def pick(rows: Sequence[Any], k: int, *, seed: int) -> list[Any]:
    """k worked examples for a prompt, drawn by seed; no answer comes twice before each came once."""
    order = np.random.default_rng([seed, 32]).permutation(len(rows))
    drawn = [rows[place] for place in order]
    return tasks.each_once(drawn, [row.answer() for row in drawn])[:k]


def labels_in(texts: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The label that each answer is, case and punctuation put aside; NO_LABEL for anything else, also for a sentence.

    Example:
        >>> labels_in(["Card arrival.", "It is lost_card"], ["card_arrival", "lost_card"])
        ['card_arrival', '(none of them)']
    """
    known = {_plain(label): label for label in labels}
    return [known.get(_plain(text), NO_LABEL) for text in texts]


def token_f1(wanted: str, given: str) -> float:
    """Harmonic mean of precision and recall over words, each as often as it comes; two texts without a word are alike.

    Source: Rajpurkar et al. 2016 (SQuAD), section 6.1; articles count here.

    Example:
        >>> round(token_f1("within 30 days of delivery", "You have 30 days."), 3)  # 2 words shared, of 5 and of 4
        0.444
    """
    one, two = Counter(quality.words(wanted)), Counter(quality.words(given))
    if not one and not two:
        return 1.0
    return 2 * (one & two).total() / (one.total() + two.total())


def score_all(rows: Sequence[Any], texts: Sequence[str], labels: Sequence[str]) -> dict[str, np.ndarray]:
    """Scores in [0, 1], an array over the rows for each: "exact", and for texts "token_f1" (the main one, first).

    Args:
        labels: of `labels_of`; empty for texts. Then "exact" puts case and punctuation aside.
    """
    pairs = [(row.answer(), text) for row, text in zip(rows, texts, strict=True)]
    if labels:
        named = labels_in(texts, labels)
        return {"exact": np.array([float(label == wanted) for label, (wanted, _) in zip(named, pairs, strict=True)])}
    return {
        "token_f1": np.array([token_f1(wanted, text) for wanted, text in pairs]),
        "exact": np.array([float(_plain(wanted) == _plain(text)) for wanted, text in pairs]),
    }


def strongest(scores: Mapping[str, ArrayLike], *, but: str = "SFT") -> str:
    """Whose scores have the highest mean, `but` for one: what a trained model must beat; the first of several alike."""
    return max((who for who in scores if who != but), key=lambda who: float(np.mean(scores[who])))


def most_mixed_up(wanted: Sequence[str], given: Sequence[str], k: int = 10) -> list[dict[str, object]]:
    """The k commonest confusions: {"wanted", "given", "rows", "of"}; `of` counts the rows that wanted that label."""
    every = Counter(wanted)
    wrong = Counter((w, g) for w, g in zip(wanted, given, strict=True) if w != g)
    return [{"wanted": w, "given": g, "rows": n, "of": every[w]} for (w, g), n in wrong.most_common(k)]


def _plain(text: str) -> str:
    return quality.plain(text.replace("_", " "))
