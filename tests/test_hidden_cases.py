"""Hidden families: every case is decided again from message and record, and nothing of what is new is trained on."""

import re
from collections import Counter

import pytest

from ftlib import desk, hidden_cases
from ftlib.hidden_cases import FAMILIES, KNOWN, NEW, make_hidden
from ftlib.records import data_path

HURT = re.compile(
    r"hurt|cut my hand|burnt|stitches|accident|sprained|over the edge|rib|bled|bruised|crawled out|doctor"
)
THREAT = re.compile(
    r"lawyer|court|newspaper|solicitor|legal|journalist|consumer programme|attorney|summons|TV|suing|editors"
)
ABUSE = re.compile(r"idiots|moron|crooks|stupidest")
MONEY = re.compile(
    r"refund|money|cash|amount|pay me back|paid|reimbursed|sum|spent|credit me|pay me out|the price back"
)
PART = re.compile(r"missing|was not in the box")


def decide(case: desk.Case) -> tuple[str, str]:
    """(outcome, rule) by the policy book, from what a worker can see."""
    product, condition, _, _ = case.record().split("; ")
    if HURT.search(case.message):
        return "escalate", "R18"
    if THREAT.search(case.message) or ABUSE.search(case.message):
        return "escalate", "R30"
    if "missing" in condition:
        assert PART.search(case.message)
        return "exchange", "R7"
    if re.search("punctured by the user|washing machine|long use", condition):
        return "decline", "R17"
    if re.search("damaged|faulty|failed|broken on delivery|split|cracked", condition):
        return "exchange", "R15"
    if re.search("worn|washed|visibly used|muddy|campfire|laundered", condition):
        return "decline", "R10"
    money = bool(MONEY.search(case.message))
    if "final" in condition:
        return ("decline" if money else "exchange"), "R14"
    food = re.search("meals|bars|cartridge|fuel|pouches", product) and re.search(r"\bopened|broken", condition)
    if food or re.search("rope|harness|helmet|avalanche", product):
        return "decline", "R11"
    return ("refund", "R8") if money else ("exchange", "R12")


@pytest.mark.parametrize("seed", [3, 25])
def test_every_outcome_follows_from_the_rules(seed):
    cases = make_hidden(480, seed=seed)
    assert [(c.message, c.record(), c.rule) for c in cases if decide(c) != (c.outcome, c.rule)] == []
    assert all(case.days <= 28 and case.order_id in case.message and case.product in case.message for case in cases)
    book = data_path("policy.md").read_text(encoding="utf-8")
    short = " ".join(desk.POLICY.values())
    assert all(f"**{case.rule}**" in book and f"{case.rule}:" in short for case in cases)


def test_families_and_outcomes_are_balanced_and_mixed():
    cases = make_hidden(48, seed=17)
    assert Counter((c.family, c.outcome) for c in cases) == {(f, o): 4 for f in FAMILIES for o in desk.OUTCOMES}
    assert desk.best_constant(cases)[1] == 0.25
    assert [c.family for c in cases] != sorted(c.family for c in cases)
    assert cases == make_hidden(48, seed=17) != make_hidden(48, seed=18)
    with pytest.raises(ValueError, match="one case of each outcome, got 3"):
        make_hidden(3, seed=1)


def test_one_thing_is_new_in_each_family():
    known = desk.make_cases(1200, seed=5, held_out=True, max_level=2)
    hidden = make_hidden(480, seed=5)
    goods, rules, conditions = ({getattr(c, what) for c in known} for what in ("product", "rule", "condition"))
    for case in hidden:
        if case.family == "new goods":
            assert case.product not in goods and case.rule in rules and case.condition in conditions
        elif case.family == "new words":
            assert case.product in goods and case.rule in rules and case.condition not in conditions
        else:
            new = (
                case.rule not in rules,
                case.product not in goods,
                any(words in case.message for words in hidden_cases.ABUSE),
            )
            assert any(new)


def test_new_words_are_in_no_bank_of_the_desk():
    of = lambda words: {*words.refund, *words.exchange, *words.reasons, *words.hurt, *words.threat,
                        *(c for bank in words.conditions.values() for c in bank)}  # fmt: skip
    assert of(NEW) & of(KNOWN) == set()
    trained = " ".join(c.message for c in desk.make_cases(1000, seed=1)).lower()
    new = {*of(NEW), *hidden_cases.WISH_PART, *hidden_cases.ABUSE, *hidden_cases.GOODS, *hidden_cases.SAFETY_GOODS,
           *hidden_cases.FOOD_AND_FUEL}  # fmt: skip
    assert [text for text in new if text.lower() in trained] == []


def test_a_hidden_case_becomes_no_demonstration():
    case = make_hidden(4, seed=1)[0]
    with pytest.raises(ValueError, match=f"{case.id}: expected a case to train on, got one of the hidden family"):
        desk.demonstration(case, case.outcome)


def test_a_hidden_case_is_worked_as_any_other():
    case = make_hidden(4, seed=1)[0]
    look, act = (f'<tool_call>{{"name": "{tool}", "arguments": {{"order_id": "{case.order_id}"}}}}</tool_call>'
                 for tool in ("find_order", case.outcome))  # fmt: skip
    assert desk.play(case, [look, act, "Done."])[0].success
