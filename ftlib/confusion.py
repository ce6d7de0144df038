"""Which labels are taken for which: macro-F1 with its interval, paired between two models, and the confusion matrix.

Accuracy is carried by the frequent labels; macro-F1 is the plain mean of each label's F1, so a label that the model
never gives costs a full share. It is no mean over rows, so its interval comes from drawing rows anew and computing it
again each time; for two models the same rows are drawn for both.

Left out on purpose: micro and weighted means, which say what accuracy says, and intervals of single labels: with 17
rows each they would be too wide to read.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ftlib.gates import Interval, statistic_interval
from ftlib.records import INTENTS, SftRow, parse_target

NO_LABEL = "(none of them)"  # no JSON of the right form, or a label that is not on the list


def intents(rows: Sequence[SftRow], texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """(wanted, given) intents of the `classify` rows, in the rows' order; NO_LABEL where an answer gives none.

    Raises:
        ValueError: rows and texts differ in number, or no row is of that task.
    """
    pairs = [(row, parse_target(text)) for row, text in zip(rows, texts, strict=True) if row.task == "classify"]
    if not pairs:
        raise ValueError(f"expected rows of the task 'classify', got none among {len(rows)}; measure on rows with some")
    given = [found.intent if found and found.intent in INTENTS else NO_LABEL for _, found in pairs]
    return [row.output.intent for row, _ in pairs], given


def macro_f1(wanted: Sequence[str], given: Sequence[str], *, seed: int) -> tuple[float, Interval]:
    """Mean F1 over the labels that are wanted somewhere, and its bootstrap interval over rows.

    A label that no drawn row wants is left out of that draw. The value is scikit-learn's `f1_score` with
    average="macro", labels=the wanted ones.

    Raises:
        ValueError: lengths that differ, or no rows.

    Example:
        >>> round(macro_f1(["a", "a", "b"], ["a", "b", "b"], seed=1)[0], 4)  # F1 of a and of b: 2/3
        0.6667
    """
    return statistic_interval(_f1(wanted, given), len(wanted), seed=seed)


def macro_f1_difference(
    wanted: Sequence[str], baseline: Sequence[str], candidate: Sequence[str], *, seed: int
) -> tuple[float, Interval]:
    """Macro-F1 of the candidate minus the baseline's on the same rows, with its paired bootstrap interval.

    Raises:
        ValueError: lengths that differ, or no rows.
    """
    before, after = _f1(wanted, baseline), _f1(wanted, candidate)
    return statistic_interval(lambda places: after(places) - before(places), len(wanted), seed=seed)


def matrix(wanted: Sequence[str], given: Sequence[str]) -> tuple[list[str], list[str], np.ndarray]:
    """(wanted labels, given labels, counts of shape (wanted, given)); labels in the order of INTENTS, NO_LABEL last."""
    from sklearn.metrics import confusion_matrix

    order = [*INTENTS, NO_LABEL]
    columns = [label for label in order if label in {*wanted, *given}]
    rows = [label for label in columns if label in set(wanted)]
    counts = confusion_matrix(list(wanted), list(given), labels=columns)
    return rows, columns, counts[[columns.index(label) for label in rows]]


def _f1(wanted: Sequence[str], given: Sequence[str]) -> Callable[[np.ndarray], np.ndarray]:
    if len(wanted) != len(given) or not len(wanted):
        raise ValueError(
            f"expected one given label for each wanted one, got {len(wanted)} wanted and {len(given)} given; "
            "measure both on one list of rows"
        )
    labels = np.array(sorted(set(wanted)))
    wanted_NC, given_NC = (np.array(list(names))[:, None] == labels for names in (wanted, given))

    def statistic(places: np.ndarray) -> np.ndarray:
        w, g = wanted_NC[places], given_NC[places]  # (…, m, C)
        hits, size, there = (w & g).sum(-2), w.sum(-2) + g.sum(-2), w.any(-2)
        return np.where(there, 2 * hits / np.maximum(size, 1), 0.0).sum(-1) / there.sum(-1)

    return statistic
