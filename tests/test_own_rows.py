"""Rows of one's own: labels or texts, the held-out part, the prompt and the scores, each worked by hand."""

import pytest

from ftlib import data_gates, gates, own_rows, tasks
from ftlib.confusion import NO_LABEL
from ftlib.intake import Example

THINGS = ["boots", "a stove", "two mats", "my tent", "the rope", "socks", "gaiters", "one lamp", "a cooler", "the tarp"]
ASKS = ["Where is the parcel with {}?", "I want to send back {} I never used", "Is there a discount on {} today"]
TEAMS = ["orders", "returns", "billing"]


def example(number: int, text: str, answer: str, system: str = "") -> Example:
    messages = [{"role": "system", "content": system}] if system else []
    return Example(f"r{number}", (*messages, {"role": "user", "content": text}), answer, f"line {number}")


def labelled() -> list[Example]:
    texts = [(ask.format(thing), team) for thing in THINGS for ask, team in zip(ASKS, TEAMS, strict=True)]
    return [example(number, *pair) for number, pair in enumerate(texts)]


def test_answers_that_come_again_are_labels_and_others_are_texts():
    assert own_rows.labels_of(labelled()) == sorted(TEAMS)
    assert own_rows.labels_of([example(n, f"question {n}", f"answer {n}") for n in range(20)]) == []


def test_a_blank_answer_is_no_label_and_an_empty_text_is_no_right_answer():
    """A CSV line "x y," has the answer "": it is a fault of the row, not a class."""
    rows = [example(n, f"text {n}", ("a", "b", "")[n % 3]) for n in range(15)]
    assert own_rows.labels_of(rows) == ["a", "b"]
    assert own_rows.labels_in(["", "A."], ["a", "b"]) == [NO_LABEL, "a"]


def test_a_label_of_rows_at_fault_only_is_none():
    broken = "caf\u00c3\u00a9"  # UTF-8 read as Latin-1
    rows = [example(n, f"text {n}", ("a", "b", broken)[n % 3]) for n in range(15)]
    assert own_rows.labels_of(rows) == ["a", "b"]


def test_held_out_rows_pass_gates_of_their_own():
    rows = [example(0, "fine", "a"), example(1, "fine too", ""), example(2, "caf\u00c3\u00a9", "b")]
    found = {finding.id: finding for finding in own_rows.look_at_held_out(rows)}
    assert {name: [hit.row for hit in finding.hits] for name, finding in found.items()} == {
        "own.held_out_empty_text": [1],
        "own.held_out_encoding": [2],
    }
    assert all(finding.gate("02b").verdict == "FAIL" for finding in found.values())
    assert "3 held-out rows" in found["own.held_out_encoding"].span
    kept, log = data_gates.clean(rows, found.values())
    assert [row.id for row in kept] == ["r0"] and [line["place"] for line in log] == ["line 1", "line 2"]


def test_a_held_out_label_that_nobody_can_learn_is_named_with_its_line():
    rows = [example(0, "fine", "a"), example(1, "blank", ""), example(2, "new", "c")]
    own_rows.check_known(rows[:2], ["a", "b"])  # the blank one is the gate's
    own_rows.check_known(rows, [])  # texts
    with pytest.raises(ValueError, match="line 2: the label 'c' is in no sound training row; give rows of it"):
        own_rows.check_known(rows, ["a", "b"])


def test_labels_that_differ_in_case_only_are_refused():
    rows = [example(n, f"text {n}", ("Orders", "orders")[n % 2]) for n in range(12)]
    with pytest.raises(ValueError, match="'Orders' and 'orders' differ in case or punctuation only"):
        own_rows.labels_of(rows)


def test_what_is_set_aside_has_no_twin_among_the_rows_to_train_on():
    rows = labelled()
    copies = [example(100 + n, row.input.upper() + "!", row.answer()) for n, row in enumerate(rows)]
    train, test, twins = own_rows.set_aside([*rows, *copies], 0.2, seed=3)
    assert len(test) == 12 and len(train) + len(test) + twins == 60
    fold = lambda row: row.input.lower().strip("?!")
    assert {fold(row) for row in train} & {fold(row) for row in test} == set()
    assert data_gates.leakage(data_gates.items_of(train), data_gates.items_of(test)).hits == ()
    copied = {fold(row) for row in test}
    assert twins >= sum(fold(row) in copied for row in [*rows, *copies] if row not in test) > 0
    again = own_rows.set_aside([*rows, *copies], 0.2, seed=3)
    assert again == (train, test, twins) and own_rows.set_aside([*rows, *copies], 0.2, seed=4)[1] != test


@pytest.mark.parametrize(
    ("rows", "share", "message"),
    [(10, 0.0, "more than 0 and less than 1"), (10, 1.0, "more than 0"), (2, 0.1, "2 rows at a share of 0.1 leave 2")],
)
def test_parts_without_rows_are_refused(rows, share, message):
    with pytest.raises(ValueError, match=message):
        own_rows.set_aside(labelled()[:rows], share, seed=1)


def test_examples_show_each_answer_before_any_comes_twice():
    drawn = own_rows.pick(labelled(), 7, seed=5)
    assert sorted(row.answer() for row in drawn[:3]) == sorted(row.answer() for row in drawn[3:6]) == sorted(TEAMS)
    assert own_rows.pick(labelled(), 4, seed=5) == drawn[:4]  # nested: more of them are the same ones and some more
    assert own_rows.pick(labelled(), 0, seed=5) == []


def test_the_prompt_holds_the_instruction_the_examples_and_the_row():
    shown = example(1, "Where is my tent?", "orders", system="You work for the desk.")
    row = example(2, "Money back?", "returns", system="You work for the shop.")
    assert tasks.few_shot(row, "One label.", [shown]) == [
        {"role": "system", "content": "You work for the shop.\nOne label."},
        {"role": "user", "content": "Where is my tent?"},
        {"role": "assistant", "content": "orders"},
        {"role": "user", "content": "Money back?"},
    ]
    assert tasks.few_shot(example(3, "Hi", "x"), "") == [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("text", "label"),
    [("card_arrival", "card_arrival"), (' "Card arrival". ', "card_arrival"), ("arrival", NO_LABEL), ("", NO_LABEL),
     ("card_arrival or card_linking", NO_LABEL)],
)  # fmt: skip
def test_an_answer_is_a_label_or_none(text, label):
    assert own_rows.labels_in([text], ["card_arrival", "card_linking"]) == [label]


@pytest.mark.parametrize(
    ("wanted", "given", "f1"),
    [("a b c", "a b c", 1.0), ("a b c", "c, b. A", 1.0), ("a a b", "a b b", 2 / 3), ("a b", "c d", 0.0),
     ("a b", "", 0.0), ("", "", 1.0), ("a b c d", "a", 0.4)],
)  # fmt: skip
def test_words_shared(wanted, given, f1):
    assert own_rows.token_f1(wanted, given) == pytest.approx(f1)
    assert own_rows.token_f1(given, wanted) == pytest.approx(f1)


def test_scores_of_labels_and_of_texts():
    rows = labelled()[:3]
    assert own_rows.score_all(rows, ["Orders", "billing", "Billing."], TEAMS)["exact"].tolist() == [1, 0, 1]
    scores = own_rows.score_all(rows, ["orders", "no returns", ""], [])
    assert list(scores) == ["token_f1", "exact"]  # the main one first
    assert scores["token_f1"] == pytest.approx([1, 2 / 3, 0]) and scores["exact"].tolist() == [1, 0, 0]


def test_a_model_that_learned_one_constant_answer_gains_nothing():
    """60 of 100 rows are "other". Prompts get 5 and 10 right; a model that always says "other" gets 60 and gains 0."""
    rows = [example(n, f"text {n}", "other" if n < 60 else "billing") for n in range(100)]
    said = {
        "commonest answer": ["other"] * 100,
        "zero-shot": ["other"] * 5 + ["no idea"] * 95,
        "few-shot": ["other"] * 10 + ["no idea"] * 90,
        "SFT": ["Other"] * 100,
    }
    scores = {who: own_rows.score_all(rows, texts, ["billing", "other"])["exact"] for who, texts in said.items()}
    best = own_rows.strongest(scores)
    assert best == "commonest answer"
    gain, ends = gates.paired_difference(scores[best], scores["SFT"], seed=1)
    assert (gain, ends) == (0.0, (0.0, 0.0))
    judged = gates.judge_gate("g", "02b", value=ends.low, threshold=gates.LEAST_GAIN, op=">=", n=100)
    assert judged.verdict == "FAIL"
    assert gates.paired_difference(scores["few-shot"], scores["SFT"], seed=1)[1].low > 0.3  # against prompts alone


def test_what_is_mixed_up_most_comes_first():
    wanted, given = ["a", "a", "a", "b", "b", "c"], ["b", "b", "a", "a", "b", NO_LABEL]
    assert own_rows.most_mixed_up(wanted, given, 2) == [
        {"wanted": "a", "given": "b", "rows": 2, "of": 3},
        {"wanted": "b", "given": "a", "rows": 1, "of": 2},
    ]
