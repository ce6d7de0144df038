"""Twins by shingles: numbers worked by hand.

"a b c d e" has the 3-shingles abc, bcd, cde; "a b c d f" has abc, bcd, cdf: 2 shared of 4, Jaccard 0.5.
"""

import itertools
import random

import pytest

from ftlib.quality import (
    Leak,
    Twin,
    all_leaks,
    draw_stratified,
    duplicate_rate,
    fold,
    keep_first,
    leakage,
    near_duplicates,
    shingles,
)


def test_shingles_ignore_case_and_punctuation():
    assert shingles("The TENT leaks, badly!") == {("the", "tent", "leaks"), ("tent", "leaks", "badly")}


def test_short_and_empty_texts_are_one_shingle():
    assert shingles("Hi there") == {("hi", "there")}
    assert shingles("?!") == {()}


def test_similarity_by_hand():
    assert near_duplicates(["a b c d e", "a b c d f"], threshold=0.5) == [Twin(0, 1, 0.5)]
    assert near_duplicates(["a b c d e", "a b c d f"], threshold=0.51) == []


def test_equal_empty_texts_are_twins_and_match_nothing_else():
    assert near_duplicates(["", "a b c", "..."]) == [Twin(0, 2, 1.0)]


def test_same_as_comparing_every_pair(monkeypatch):
    """The sparse product, cut in blocks, gives what two nested loops give."""
    monkeypatch.setattr("ftlib.quality.BLOCK", 7)
    rng = random.Random(3)
    texts = [" ".join(rng.choices("abc", k=rng.randint(0, 9))) for _ in range(60)]
    expected = []
    for i, j in itertools.combinations(range(len(texts)), 2):
        a, b = shingles(texts[i]), shingles(texts[j])
        similarity = len(a & b) / len(a | b)
        if similarity >= 0.5:
            expected.append((i, j, pytest.approx(similarity)))
    assert len(expected) > 20
    assert [(t.first, t.second, t.similarity) for t in near_duplicates(texts, 0.5)] == expected


def test_keep_first_keeps_the_ends_of_a_chain():
    """Jaccard of 0~1 and 1~2 is 3/5, of 0~2 is 2/6 (shingles of 6 letters in a row, moved on by one)."""
    chain = ["a b c d e f", "b c d e f g", "c d e f g h"]
    assert [(t.first, t.second) for t in near_duplicates(chain, 0.6)] == [(0, 1), (1, 2)]
    assert keep_first(chain, 0.6) == [0, 2]


def test_duplicate_rate_counts_the_later_rows_and_says_how():
    found = duplicate_rate(["one two three", "One two three!", "four five six", "one, two, three"])
    assert (found.duplicates, found.n, found.rate) == (2, 4, 0.5)
    assert "3-shingle Jaccard >= 0.7" in found.method


def test_duplicate_rate_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one text, got none"):
        duplicate_rate([])


def test_leakage_names_the_nearest_training_row():
    train = ["a b c d e f g", "x y z", "a b c d e f"]
    assert leakage(train, ["p q r", "a b c d e f"], 0.7) == [Leak(test=1, train=2, similarity=1.0)]
    assert leakage([], ["a b c"]) == []


def test_threshold_out_of_range_is_refused():
    with pytest.raises(ValueError, match="above 0 and at most 1, got 0; 0.7"):
        near_duplicates(["a"], threshold=0)


def test_strata_take_turns_and_clusters_come_first():
    """20 rows "a" in 4 clusters, 3 rows "b" in one: 10 drawn are 7 a and all 3 b; 4 a are of 4 clusters."""
    rows = [("a", f"a{n % 4}", n) for n in range(20)] + [("b", "b0", n) for n in range(3)]
    options = {"stratum": lambda row: row[0], "cluster": lambda row: row[1]}
    drawn = draw_stratified(rows, 10, seed=1, **options)
    assert [row[0] for row in drawn].count("b") == 3
    assert len({row[1] for row in [row for row in drawn if row[0] == "a"][:4]}) == 4
    assert len(set(drawn)) == 10
    assert drawn == draw_stratified(rows, 10, seed=1, **options)
    assert drawn != draw_stratified(rows, 10, seed=2, **options)
    assert sorted(draw_stratified(rows, 99, seed=1, **options)) == sorted(rows)


def test_sets_of_words_find_what_shingles_miss():
    """Eight words, one replaced: 7 shared of 9 words, but only 3 shared of 9 shingles (a b c, b c d, c d e)."""
    texts = ["a b c d e f g h", "a b c d e x g h"]
    assert near_duplicates(texts, 0.5) == []
    assert near_duplicates(texts, 0.5, n=1) == [Twin(0, 1, pytest.approx(7 / 9))]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 1.0])
def test_the_rarest_shingles_miss_no_pair(n, threshold):
    """The filter by prefix and size drops no pair, whatever the threshold."""
    rng = random.Random(5)
    texts = [" ".join(rng.choices("abcdef", k=rng.randint(0, 12))) for _ in range(80)]
    expected = set()
    for i, j in itertools.combinations(range(len(texts)), 2):
        a, b = shingles(texts[i], n), shingles(texts[j], n)
        if len(a & b) / len(a | b) >= threshold:
            expected.add((i, j))
    assert {(t.first, t.second) for t in near_duplicates(texts, threshold, n=n)} == expected


def test_every_leak_of_a_test_row_is_named():
    assert [(leak.test, leak.train) for leak in all_leaks(["a b c d", "x", "a b c d"], ["a b c d"])] == [(0, 0), (0, 2)]


@pytest.mark.parametrize(
    "copy",
    [
        "WHERE IS MY TENT?",
        "Where is my t\u0435nt?",  # a Cyrillic e
        "Where is my te\u200bnt?",  # a zero-width space
        "Wh\u00e9re is my tent?",
        "\uff37\uff48\uff45\uff52\uff45 is my tent?",  # wide letters
    ],
)
def test_folding_undoes_the_tricks_that_hide_a_copy(copy):
    assert fold(copy) == "where is my tent?"
