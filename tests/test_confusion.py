"""Macro-F1 by hand and beside scikit-learn, its paired interval, and the matrix of what is taken for what."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from ftlib import confusion
from ftlib.records import INTENTS, SftRow, data_path, load_jsonl


def test_macro_f1_by_hand():
    """a: precision 1/2, recall 1/1, F1 2/3. b: 1/1, 1/2, 2/3. c: never given, 0. "d" is never wanted: no F1."""
    wanted, given = ["a", "b", "b", "c"], ["a", "a", "b", "d"]
    value, (low, high) = confusion.macro_f1(wanted, given, seed=1)
    assert value == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert 0 <= low < value < high <= 1


def test_macro_f1_is_that_of_scikit_learn():
    rng = np.random.default_rng(5)
    for _ in range(20):
        wanted, given = rng.choice(list("abcde"), 40).tolist(), rng.choice(list("abcdef"), 40).tolist()
        by_sklearn = f1_score(wanted, given, labels=sorted(set(wanted)), average="macro", zero_division=0)
        assert confusion._f1(wanted, given)(np.arange(40)) == pytest.approx(by_sklearn)


def test_each_draw_is_scored_as_if_it_were_the_data():
    wanted, given = list("aabbc"), list("abbbc")
    statistic = confusion._f1(wanted, given)
    places = np.array([[0, 0, 1, 2, 4], [0, 1, 1, 1, 0], [2, 2, 3, 3, 2]])
    for draw, found in zip(places, statistic(places), strict=True):
        w, g = [wanted[i] for i in draw], [given[i] for i in draw]
        assert found == pytest.approx(f1_score(w, g, labels=sorted(set(w)), average="macro", zero_division=0))


def test_the_difference_is_paired():
    """The same answers twice: exactly no difference, whatever rows are drawn, though each F1 alone is uncertain."""
    wanted, given = list("aabbcc") * 5, list("abbbca") * 5
    assert confusion.macro_f1_difference(wanted, given, given, seed=1) == (0.0, (0.0, 0.0))
    difference, (low, high) = confusion.macro_f1_difference(wanted, given, wanted, seed=1)
    assert difference == pytest.approx(1 - confusion.macro_f1(wanted, given, seed=1)[0])
    assert 0 < low < difference < high


def test_a_constant_answer_has_the_accuracy_of_its_label_and_a_tenth_of_the_macro_f1():
    """60 of 105 rows want the constant label: accuracy 0.571, F1 2·60/(60+105) = 0.727 there and 0 elsewhere."""
    wanted = [INTENTS[0]] * 60 + [label for label in INTENTS[1:] for _ in range(5)]
    value, _ = confusion.macro_f1(wanted, [INTENTS[0]] * 105, seed=1)
    assert value == pytest.approx((120 / 165) / 10)


ROWS = [row for row in load_jsonl(data_path("sft/test.jsonl"), SftRow)][:60]


def test_intents_of_answers():
    classify = [row for row in ROWS if row.task == "classify"]
    wanted, given = confusion.intents(ROWS, [row.answer() for row in ROWS])
    assert wanted == given == [row.output.intent for row in classify]
    texts = [row.answer().replace(row.output.intent, "party") if row.task == "classify" else "" for row in ROWS]
    assert set(confusion.intents(ROWS, texts)[1]) == {confusion.NO_LABEL}
    assert set(confusion.intents(ROWS, ["no JSON"] * 60)[1]) == {confusion.NO_LABEL}
    with pytest.raises(ValueError, match="none among 1"):
        confusion.intents([row for row in ROWS if row.task == "reply"][:1], [""])


def test_the_matrix_keeps_the_order_of_the_intents_and_counts_every_row():
    wanted = ["exchange", "order_status", "exchange", "billing"]
    given = ["exchange", "billing", confusion.NO_LABEL, "billing"]
    rows, columns, counts = confusion.matrix(wanted, given)
    assert rows == ["order_status", "exchange", "billing"]
    assert columns == ["order_status", "exchange", "billing", confusion.NO_LABEL]
    assert counts.tolist() == [[0, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]]


@pytest.mark.parametrize(("wanted", "given"), [(["a"], []), ([], [])])
def test_lists_that_do_not_fit_are_refused(wanted, given):
    with pytest.raises(ValueError, match="one given label for each wanted one"):
        confusion.macro_f1(wanted, given, seed=1)
