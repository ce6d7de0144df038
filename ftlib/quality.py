"""Are rows told twice, told again in the test set, or all of one sort? Near twins by token 3-shingles, even draws.

All pairs are compared exactly, through one sparse matrix product, block by block: no hashing, no seed, no misses.
A few ten thousand texts take seconds, which is more than preference and SFT sets need.

Left out on purpose: MinHash and other sketches (worth it from millions of rows), and meaning: a paraphrase in other
words is no twin here. Split by cluster (see `pairs`) against those.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

THRESHOLD = 0.7  # Jaccard similarity from which two texts count as near twins
SHINGLE = 3  # tokens in a shingle
BLOCK = 2_000  # rows compared at once: bounds the memory of the product

RowT = TypeVar("RowT")


@dataclass(frozen=True)
class Twin:
    """Two texts that are nearly the same. `first` and `second` are indices; `similarity` is Jaccard, in [0, 1]."""

    first: int
    second: int
    similarity: float


@dataclass(frozen=True)
class Leak:
    """A test row and its nearest twin in the training set, as indices."""

    test: int
    train: int
    similarity: float


@dataclass(frozen=True)
class DuplicateRate:
    """How much of a set is told twice.

    Attributes:
        rate: `duplicates` / `n`, a fraction.
        duplicates: rows that have a near twin earlier in the list; dropping them leaves no twins.
        n: rows in all.
        method: how that was measured, for a gate's note or a data card.
    """

    rate: float
    duplicates: int
    n: int
    method: str


def shingles(text: str, n: int = SHINGLE) -> frozenset[tuple[str, ...]]:
    """The n-token sequences of a text, lower case, punctuation dropped; a shorter text is one shingle of its own.

    Example:
        >>> sorted(shingles("The tent leaks. The tent leaks!"))
        [('leaks', 'the', 'tent'), ('tent', 'leaks', 'the'), ('the', 'tent', 'leaks')]
    """
    tokens = re.findall(r"\w+", text.lower())
    if len(tokens) <= n:
        return frozenset([tuple(tokens)])
    return frozenset(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))


def near_duplicates(texts: Sequence[str], threshold: float = THRESHOLD) -> list[Twin]:
    """All pairs of texts whose 3-shingle Jaccard similarity is at least `threshold`, in order of their indices.

    Raises:
        ValueError: the threshold is not in (0, 1].
    """
    return [Twin(*found) for found in _similar(texts, texts, threshold)]


def keep_first(texts: Sequence[str], threshold: float = THRESHOLD) -> list[int]:
    """Indices of the texts to keep so that no two near twins are left: the first of each chain of twins stays.

    A text goes only if a *kept* text is its twin; of A ~ B ~ C with A unlike C, A and C stay.
    """
    earlier: dict[int, list[int]] = {}
    for twin in near_duplicates(texts, threshold):
        earlier.setdefault(twin.second, []).append(twin.first)
    kept: set[int] = set()
    for index in range(len(texts)):
        if kept.isdisjoint(earlier.get(index, ())):
            kept.add(index)
    return sorted(kept)


def duplicate_rate(texts: Sequence[str], threshold: float = THRESHOLD) -> DuplicateRate:
    """Share of rows that have a near twin earlier in the list (exact repeats included).

    Raises:
        ValueError: there are no texts; a rate of nothing is not 0.
    """
    if not texts:
        raise ValueError("duplicate_rate: expected at least one text, got none; load the rows first")
    late = {twin.second for twin in near_duplicates(texts, threshold)}
    return DuplicateRate(len(late) / len(texts), len(late), len(texts), _method(threshold))


def leakage(train: Sequence[str], test: Sequence[str], threshold: float = THRESHOLD) -> list[Leak]:
    """Test rows that have a near twin in train, each with its nearest one, in the order of the test rows.

    Args:
        train, test: texts as the model reads them.
        threshold: Jaccard similarity from which a row counts as leaked.
    """
    nearest: dict[int, Leak] = {}
    for row, twin, similarity in _similar(test, train, threshold):
        if row not in nearest or similarity > nearest[row].similarity:
            nearest[row] = Leak(row, twin, similarity)
    return [nearest[row] for row in sorted(nearest)]


def draw_stratified(
    rows: Sequence[RowT], n: int, *, stratum: Callable[[RowT], str], cluster: Callable[[RowT], str], seed: int
) -> list[RowT]:
    """Draw n rows, the same number from each stratum as far as they last, and from as many clusters as there are.

    Args:
        rows: what to draw from.
        n: how many; all rows where there are fewer.
        stratum: e.g. a prompt's intent; strata take turns.
        cluster: rows that are variants of one another; a cluster gives a second row only when the others gave one.
        seed: of the order inside each stratum.
    """
    rng = np.random.default_rng(seed)
    queues: dict[str, list[tuple[int, int]]] = {}
    given: Counter[str] = Counter()
    for place in rng.permutation(len(rows)):
        name = cluster(rows[place])
        queues.setdefault(stratum(rows[place]), []).append((given[name], int(place)))
        given[name] += 1
    turns = itertools.zip_longest(*(sorted(queues[name], key=lambda pair: pair[0]) for name in sorted(queues)))
    drawn = [place for turn in turns for _, place in filter(None, turn)]
    return [rows[place] for place in drawn[: max(0, n)]]


def _method(threshold: float) -> str:
    return f"token {SHINGLE}-shingle Jaccard >= {threshold:g}, all pairs, exact; rows with an earlier twin are counted"


def _similar(rows: Sequence[str], others: Sequence[str], threshold: float) -> Iterator[tuple[int, int, float]]:
    """(row, other, Jaccard) at or above the threshold; |a & b| comes from a product of 0/1 matrices.

    Given one list twice, each pair comes once, with row < other.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"expected a threshold above 0 and at most 1, got {threshold}; 0.7 is the playbook's")
    if not rows or not others:
        return
    same = rows is others
    rows_RS, others_OS = _matrices(rows, others)
    sizes_R, sizes_O = np.diff(rows_RS.indptr), np.diff(others_OS.indptr)
    others_SO = others_OS.T.tocsc()
    for start in range(0, len(rows), BLOCK):
        shared = (rows_RS[start : start + BLOCK] @ others_SO).tocoo()
        row, other, both = shared.row + start, shared.col, shared.data
        if same:
            keep = row < other
            row, other, both = row[keep], other[keep], both[keep]
        jaccard = both / (sizes_R[row] + sizes_O[other] - both)
        hits = np.flatnonzero(jaccard >= threshold)
        for hit in hits[np.lexsort((other[hits], row[hits]))]:
            yield int(row[hit]), int(other[hit]), float(jaccard[hit])


def _matrices(rows: Sequence[str], others: Sequence[str]):
    """0/1 matrices texts x shingles over one vocabulary, shapes (R, S) and (O, S)."""
    from scipy.sparse import csr_matrix

    column: dict[tuple[str, ...], int] = {}

    def indices(texts: Sequence[str]) -> tuple[list[int], list[int]]:
        columns, ends = [], [0]
        for text in texts:
            columns += [column.setdefault(shingle, len(column)) for shingle in shingles(text)]
            ends.append(len(columns))
        return columns, ends

    parts = [indices(texts) for texts in ((rows,) if rows is others else (rows, others))]
    made = [
        csr_matrix((np.ones(len(columns), dtype=np.int32), columns, ends), shape=(len(ends) - 1, len(column)))
        for columns, ends in parts
    ]
    return made[0], made[-1]
