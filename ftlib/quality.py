"""Are rows told twice, told again in the test set, or all of one sort? Near twins by token 3-shingles, even draws.

All pairs are compared exactly, through one sparse matrix product, block by block: no hashing, no seed, no misses.
Only pairs that share one of their rarest shingles are looked at: two sets with a Jaccard of t or more always do.
A few ten thousand texts take seconds, which is more than preference and SFT sets need.

Left out on purpose: MinHash and other sketches (worth it from millions of rows), and meaning: a paraphrase in other
words is no twin here. Split by cluster (see `pairs`) against those.
"""

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

THRESHOLD = 0.7  # Jaccard similarity from which two texts count as near twins
SHINGLE = 3  # tokens in a shingle
BLOCK = 2_000  # rows compared at once: bounds the memory of the product
PAIRS = 200_000  # pairs counted exactly at once, for the same reason

# Letters of other scripts that look like Latin ones, lower case: how a copied row slips past an exact comparison.
_LOOKALIKES = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u0501\u051b\u051d\u04bb\u043c\u0442\u043a\u0432\u043d"
    "\u03b1\u03b5\u03b9\u03ba\u03bd\u03bf\u03c1\u03c4\u03c5\u03c7\u0131\u0261\u0251\u217c\u0578\u0585\u057d",
    "aeopcyxijsdlwhmtkbhaeikvoptuxigalnou",
)

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


def fold(text: str) -> str:
    """A text without the tricks that hide a copy: case, accents, width, zero-width characters, look-alike letters.

    Digits that stand for letters ("l0st") and other words stay as they are.

    Example:
        >>> fold("Wh\u0435re is my T\u200bENT?")
        'where is my tent?'
    """
    plain = unicodedata.normalize("NFKD", text.casefold())
    kept = (character for character in plain if unicodedata.category(character) not in ("Mn", "Cf"))
    return "".join(kept).translate(_LOOKALIKES)


def words(text: str) -> list[str]:
    """The tokens of a text as shingles count them: runs of letters and digits, lower case."""
    return re.findall(r"\w+", text.lower())


def plain(text: str) -> str:
    """A text folded and without punctuation: its words with one space between."""
    return " ".join(words(fold(text)))


def shingles(text: str, n: int = SHINGLE) -> frozenset[tuple[str, ...]]:
    """The n-token sequences of a text, lower case, punctuation dropped; a shorter text is one shingle of its own.

    Example:
        >>> sorted(shingles("The tent leaks. The tent leaks!"))
        [('leaks', 'the', 'tent'), ('tent', 'leaks', 'the'), ('the', 'tent', 'leaks')]
    """
    tokens = words(text)
    if len(tokens) <= n:
        return frozenset([tuple(tokens)])
    return frozenset(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))


def near_duplicates(texts: Sequence[str], threshold: float = THRESHOLD, *, n: int = SHINGLE) -> list[Twin]:
    """All pairs of texts whose n-shingle Jaccard similarity is at least `threshold`, in order of their indices.

    Args:
        n: tokens in a shingle. 3 keeps the order of words; 1 compares sets of words, which finds short texts with one
            word changed, and takes two orders of the same words for one text.

    Raises:
        ValueError: the threshold is not in (0, 1].
    """
    return [Twin(*found) for found in _similar(texts, texts, threshold, n)]


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


def leakage(train: Sequence[str], test: Sequence[str], threshold: float = THRESHOLD, *, n: int = SHINGLE) -> list[Leak]:
    """Test rows that have a near twin in train, each with its nearest one, in the order of the test rows.

    Args:
        train, test: texts as the model reads them.
        threshold: Jaccard similarity from which a row counts as leaked.
        n: tokens in a shingle, as in `near_duplicates`.
    """
    nearest: dict[int, Leak] = {}
    for leak in all_leaks(train, test, threshold, n=n):
        if leak.test not in nearest or leak.similarity > nearest[leak.test].similarity:
            nearest[leak.test] = leak
    return [nearest[row] for row in sorted(nearest)]


def all_leaks(
    train: Sequence[str], test: Sequence[str], threshold: float = THRESHOLD, *, n: int = SHINGLE
) -> list[Leak]:
    """As `leakage`, but every twin in train of every test row: all of them have to go."""
    return [Leak(*found) for found in _similar(test, train, threshold, n)]


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


def _similar(rows: Sequence[str], others: Sequence[str], threshold: float, n: int) -> Iterator[tuple[int, int, float]]:
    """(row, other, Jaccard) at or above the threshold; |a & b| comes from products of 0/1 matrices.

    Given one list twice, each pair comes once, with row < other.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"expected a threshold above 0 and at most 1, got {threshold}; 0.7 is the playbook's")
    if not rows or not others:
        return
    same = rows is others
    rows_RS, others_OS = _matrices(rows, others, n)
    sizes_R, sizes_O = np.diff(rows_RS.indptr), np.diff(others_OS.indptr)
    rare_RS, rare_SO = _prefixes(rows_RS, threshold), _prefixes(others_OS, threshold).T.tocsc()
    for start in range(0, len(rows), BLOCK):
        met = (rare_RS[start : start + BLOCK] @ rare_SO).tocoo()
        row, other = met.row + start, met.col
        if same:
            keep = row < other
            row, other = row[keep], other[keep]
        # No pair beyond these sizes can reach the threshold, so most are spared the exact count.
        small, large = np.minimum(sizes_R[row], sizes_O[other]), np.maximum(sizes_R[row], sizes_O[other])
        keep = small >= threshold * large - 1e-9
        row, other = row[keep], other[keep]
        both = _shared(rows_RS, others_OS, row, other)
        jaccard = both / (sizes_R[row] + sizes_O[other] - both)
        hits = np.flatnonzero(jaccard >= threshold)
        for hit in hits[np.lexsort((other[hits], row[hits]))]:
            yield int(row[hit]), int(other[hit]), float(jaccard[hit])


def _prefixes(matrix, threshold: float):
    """Each row's rarest shingles only: of s, all but ceil(t * s) - 1. Columns come in order of rarity.

    Two sets with Jaccard t or more share at least ceil(t * s) elements, so they meet in these.
    """
    from scipy.sparse import csr_matrix

    sizes = np.diff(matrix.indptr)
    lengths = sizes - np.ceil(threshold * sizes - 1e-9).astype(int) + 1
    place = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], sizes)
    kept = place < np.repeat(lengths, sizes)
    ends = np.concatenate([[0], np.cumsum(np.minimum(lengths, sizes))])
    return csr_matrix((matrix.data[kept], matrix.indices[kept], ends), shape=matrix.shape)


def _shared(rows_RS, others_OS, row: np.ndarray, other: np.ndarray) -> np.ndarray:
    """|a & b| of the pairs (row[i], other[i])."""
    both = np.zeros(len(row), dtype=np.int64)
    for start in range(0, len(row), PAIRS):
        part = slice(start, start + PAIRS)
        both[part] = np.asarray(rows_RS[row[part]].multiply(others_OS[other[part]]).sum(axis=1)).ravel()
    return both


def _matrices(rows: Sequence[str], others: Sequence[str], n: int):
    """0/1 matrices texts x shingles over one vocabulary, shapes (R, S) and (O, S); columns from rare to frequent."""
    from scipy.sparse import csr_matrix

    column: dict[tuple[str, ...], int] = {}

    def indices(texts: Sequence[str]) -> tuple[np.ndarray, list[int]]:
        columns, ends = [], [0]
        for text in texts:
            columns += [column.setdefault(shingle, len(column)) for shingle in shingles(text, n)]
            ends.append(len(columns))
        return np.array(columns, dtype=np.int64), ends

    parts = [indices(texts) for texts in ((rows,) if rows is others else (rows, others))]
    seen = sum(np.bincount(columns, minlength=len(column)) for columns, _ in parts)
    rank = np.empty(len(column), dtype=np.int64)
    rank[np.argsort(seen, kind="stable")] = np.arange(len(column))
    made = []
    for columns, ends in parts:
        ones = np.ones(len(columns), dtype=np.int32)
        made.append(csr_matrix((ones, rank[columns], ends), shape=(len(ends) - 1, len(column))))
        made[-1].sort_indices()
    return made[0], made[-1]
