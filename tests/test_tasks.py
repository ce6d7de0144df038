"""Scores of the three SFT tasks by hand, and the prompts of a model that was not trained."""

import numpy as np
import pytest

from ftlib import tasks
from ftlib.records import INTENTS, PRODUCTS, ROUTES, SftRow, Target, data_path, load_jsonl


def classify(n: int, intent: str = "exchange", **fields) -> SftRow:
    output = {"intent": intent, "order_id": "TH-12345", "product": "boots", "route": "returns", **fields}
    return SftRow(
        id=f"c{n}", task="classify", channel="mail", difficulty="easy", input=f"m{n}", output=Target(**output)
    )


def written(task: str, n: int, *facts: str) -> SftRow:
    return SftRow(
        id=f"{task}{n}", task=task, channel="chat", difficulty="hard", input=f"thread {n}", context="**R1** 3 days",
        output="By Friday.", facts=list(facts),
    )  # fmt: skip


RIGHT = '{"intent":"exchange","order_id":"TH-12345","product":"boots","route":"returns"}'


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        (RIGHT, (1, 1, 1, 1, 1)),
        (f"  {RIGHT}\n", (1, 1, 1, 1, 1)),
        (RIGHT.replace("boots", "tent"), (1, 1, 0, 1, 1)),
        (RIGHT.replace('"TH-12345"', "null"), (1, 0, 1, 1, 1)),
        (RIGHT.replace("exchange", "swap"), (0, 1, 1, 1, 1)),  # an unknown label is a wrong answer, but valid JSON
        (f"Here: {RIGHT}", (0, 0, 0, 0, 0)),
        (RIGHT[:-1], (0, 0, 0, 0, 0)),
        (RIGHT.replace("}", ',"note":"x"}'), (0, 0, 0, 0, 0)),
        ("", (0, 0, 0, 0, 0)),
    ],
)
def test_classify_by_field(text, scores):
    names = ("intent", "order_id", "product", "route", "json_valid")
    assert tasks.score(classify(1), text) == dict(zip(names, scores, strict=True))


def test_a_null_field_must_be_null():
    row = classify(1, order_id=None, product=None)
    nulls = RIGHT.replace('"TH-12345"', "null").replace('"boots"', "null")
    assert tasks.score(row, nulls)["order_id"] == tasks.score(row, nulls)["product"] == 1.0
    assert tasks.score(row, RIGHT)["order_id"] == 0.0
    assert tasks.score(row, nulls.replace("null", '"null"', 1))["order_id"] == 0.0


@pytest.mark.parametrize("task", ["reply", "summary"])
def test_facts_are_counted_whatever_their_case(task):
    row = written(task, 1, "30 days", "Voucher", "TH-12345", "refund")
    other = {"reply": "grounded", "summary": "coverage"}[task]
    assert tasks.score(row, "30 Days VOUCHER") == {"facts": 0.5, other: 0.5}
    assert tasks.score(row, "") == {"facts": 0.0, other: 0.0}
    assert tasks.score(written(task, 1), "anything") == {"facts": 1.0, other: 1.0}  # no fact was asked for


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("within 3 to 5 working days", [("3", "working day"), ("5", "working day")]),
        ("Two working days, not two days", [("2", "working day"), ("2", "day")]),
        ("3,90 or 3.90, once 3.9", [("3.9", "")]),
        ("5.00 and 60 and 100", [("5", ""), ("60", ""), ("100", "")]),
        ("before 14:00, a 30-day return", [("14:00", ""), ("30", "day")]),
        ("th-48213 by rule R7, one photo of the one you have", [("TH-48213", "")]),
        ("1. Send it.\n2) Wait 24 months.", [("24", "month")]),
        ("10 % or 10 percent of 1,000.50", [("10", "%"), ("1.000.50", "")]),
        ("nothing to count", []),
    ],
)
def test_the_figures_of_a_text(text, found):
    assert tasks.figures(text) == found


RULE = SftRow(
    id="r1", task="reply", channel="chat", difficulty="easy", input="bought 2 tents, one broke after 20 days",
    context="R8: 30 days for a full refund. R9: postage is 3.90.", output="Send them within 30 days; it costs 3.90.",
    facts=["30 days", "3.90", "full refund"],
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "counts", "score"),
    [
        ("A full refund within 30 days, less 3.90.", (3, 0, 0), 1.0),
        ("A full refund within 30 days.", (2, 0, 1), 2 / 3),
        ("A full refund within 14 days, less 3.90.", (2, 1, 0), 2 / 3),  # 14 days stands in for 30 days
        ("A full refund within 30 days, less 3.90, in 7 months.", (3, 1, 0), 3 / 4),  # a figure that nobody gave
        ("The 2 tents after 20 days: 30.", (0, 0, 3), 0.0),  # the message's figures, and a bare number of the rule's
        ("30 months", (0, 1, 3), 0.0),  # a number of the rule's, but not with this unit
        ("", (0, 0, 3), 0.0),
        ("R8: 30 days for a full refund. R9: postage is 3.90.", (0, 0, 3), 0.0),  # the rules, read out
        ("R8: 30 days for a full refund. R9: postage is 3.90. 7 months.", (0, 1, 3), 0.0),  # 12 words of 14
        ("30 days for a full refund. R9: postage is 3.90. In 7 months.", (3, 1, 0), 3 / 4),  # 11 of 14, and of their 12
        ("Dear customer, our rules say this. R8: 30 days for a full refund. R9: postage is 3.90.", (0, 0, 3), 0.0),
        ("You have 30 days for a full refund; we take off 3.90.", (3, 0, 0), 1.0),  # 6 words of 13 are the rules'
    ],
)
def test_facts_stated_right_wrong_and_left_out(text, counts, score):
    assert tasks.grounding(RULE, text) == counts
    assert tasks.score(RULE, text)["grounded"] == pytest.approx(score)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_copy_of_what_was_given_scores_nothing_and_no_authored_answer_is_one(part):
    """The best that can be had without a model must not beat one: a copied thread holds 0.86 of the points."""
    rows = [row for row in load_jsonl(data_path(f"sft/{part}.jsonl"), SftRow) if row.task != "classify" and row.facts]
    both = [(row.answer(), row.context or row.input) for row in rows]
    assert len(rows) >= 60 and max(tasks.taken_over(said, given) for said, given in both) < 0.72 < tasks.RECITED
    assert max(tasks.taken_over(given, said) for said, given in both) < tasks.REPEATED
    for greeting in ("", "Thank you for writing to us. We are sorry for the trouble, and here is what our rules say. "):
        copies = tasks.score_all(rows, [greeting + (row.context or row.input) for row in rows])
        assert copies["reply.grounded"].max() == copies["summary.coverage"].max() == 0, greeting
        assert copies["reply.facts"].mean() > 0.85 and copies["summary.facts"].mean() > 0.85  # the facts are there


def test_one_wrong_figure_contradicts_one_fact():
    row = RULE.model_copy(update={"facts": ["30 days", "60 days"]})
    assert tasks.grounding(row, "9 days") == (0, 1, 1)
    assert tasks.grounding(row, "9 days or 8 days") == (0, 2, 0)


def test_a_summary_that_copies_the_thread_covers_only_what_is_in_its_first_words():
    """The authored summary has two words, so three count: the third is the last."""
    row = written("summary", 1, "tent", "TH-12345")
    assert row.answer() == "By Friday."
    assert tasks.score(row, "a tent TH-12345") == {"facts": 1.0, "coverage": 1.0}
    assert tasks.score(row, "a new tent TH-12345") == {"facts": 1.0, "coverage": 0.5}


def test_a_thread_that_is_read_out_is_no_summary():
    """Of ten words eight are the thread's, in one run: not above four fifths. The ninth is one more."""
    thread = "the tent leaks at the seam since Monday so we send a new one by Friday"
    row = written("summary", 1, "tent").model_copy(update={"input": thread, "output": thread})
    assert tasks.taken_over("they say the tent leaks at the seam since Monday", thread) == 0.8
    assert tasks.score(row, "they say the tent leaks at the seam since Monday")["coverage"] == 1.0
    assert tasks.score(row, "they say the tent leaks at the seam since Monday so")["coverage"] == 0.0
    assert tasks.score(row, "the tent, at the seam, leaks")["coverage"] == 1.0  # its words, in no run of five


def test_an_authored_answer_has_full_marks():
    rows = load_jsonl(data_path("sft/test.jsonl"), SftRow)
    means = {name: values.mean() for name, values in tasks.score_all(rows, [r.answer() for r in rows]).items()}
    assert means == dict.fromkeys([f"{task}.{m}" for task, names in tasks.METRICS.items() for m in names], 1.0)


def test_score_all_keeps_the_rows_order():
    rows = [classify(1), written("reply", 1, "x"), classify(2), written("reply", 2, "x", "y")]
    found = tasks.score_all(rows, [RIGHT, "x", "no", "y"])
    assert found["classify.intent"].tolist() == found["classify.json_valid"].tolist() == [1.0, 0.0]
    assert found["reply.facts"].tolist() == [1.0, 0.5]
    assert "summary.facts" not in found
    assert all(isinstance(v, np.ndarray) for v in found.values())
    with pytest.raises(ValueError, match="shorter"):
        tasks.score_all(rows, ["one text"])


TRAIN = [classify(i, INTENTS[i % 3]) for i in range(30)] + [written("reply", i) for i in range(5)]


def test_examples_show_each_intent_before_any_twice():
    found = tasks.pick_examples(TRAIN, per_task={"classify": 5, "reply": 2, "summary": 3}, seed=1)
    intents = [row.output.intent for row in found["classify"]]
    assert sorted(intents[:3]) == sorted(INTENTS[:3])
    assert len(set(intents[3:])) == 2
    assert [row.task for row in found["reply"]] == ["reply"] * 2
    assert found["summary"] == []


def test_examples_are_drawn_by_seed():
    def ids(seed):
        return [r.id for r in tasks.pick_examples(TRAIN, per_task={"classify": 6}, seed=seed)["classify"]]

    assert ids(1) == ids(1) != ids(2)
    assert len(set(ids(1))) == 6


def test_the_prompt_of_an_untrained_model():
    row, example = classify(1), classify(2)
    chat = tasks.prompted(row, [example])
    assert [m["role"] for m in chat] == ["system", "user", "assistant", "user"]
    assert chat[1]["content"] == "m2" and chat[2]["content"] == example.answer() and chat[3]["content"] == "m1"
    system = chat[0]["content"]
    assert system.startswith(row.prompt()[0]["content"])
    assert all(label in system for label in (*INTENTS, *ROUTES, *PRODUCTS))
    assert [m["role"] for m in tasks.prompted(written("reply", 1))] == ["system", "user"]
    assert "**R1** 3 days" in tasks.prompted(written("reply", 1))[1]["content"]


def test_every_task_has_a_hint_and_metrics():
    assert set(tasks.HINTS) == set(tasks.METRICS) == {"classify", "reply", "summary"}


def test_a_file_without_one_of_the_tasks_is_named():
    rows = load_jsonl(data_path("sft/test.jsonl"), SftRow)
    tasks.check_each_task(rows, "test.jsonl")
    left = [row for row in rows if row.task == "classify"]
    with pytest.raises(ValueError, match=r"mine.jsonl: .* got 170 rows and none of reply, summary; add some"):
        tasks.check_each_task(left, "mine.jsonl")


def test_head_of_each_task():
    rows = [classify(1), written("reply", 1), classify(2), written("summary", 1), classify(3), written("reply", 2)]
    assert [r.id for r in tasks.head_of_each_task(rows, 1)] == ["c1", "reply1", "summary1"]
    assert [r.id for r in tasks.head_of_each_task(rows, 2)] == ["c1", "reply1", "c2", "summary1", "reply2"]
    assert tasks.head_of_each_task(rows, 0) == rows
