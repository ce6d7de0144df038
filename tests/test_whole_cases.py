"""Cases of the whole desk: decided again from what a worker can see, solved one and all, balanced, made by seed."""

import json
import re
from collections import Counter
from dataclasses import asdict
from decimal import Decimal

import pytest

from ftlib import desk
from ftlib.desk import OUTCOMES
from ftlib.generate import Sample
from ftlib.models import load_tokenizer
from ftlib.quality import duplicate_rate
from ftlib.records import data_path
from ftlib.reward_attacks import call
from ftlib.whole_cases import (
    LAST,
    LEVELS,
    PUSHES,
    QUESTION,
    STRANGERS,
    UNCLEAR_WORDS,
    demonstration,
    honest_steps,
    last_words,
    make_whole_cases,
    note,
    ruling,
)
from ftlib.whole_desk import BOOK, MAX_CALLS, SYSTEM, WholeCase, WholeDesk, WholeTrajectory, opened

CASES = make_whole_cases(1_000, seed=5, held_out=True)
HURT_WORDS = re.compile(r"hurt|cut my hand|burnt|stitches|accident|sprained|over the edge")
THREAT_WORDS = re.compile(r"lawyer|court|newspaper|solicitor|legal|journalist|consumer programme")
MONEY_WORDS = re.compile(r"refund|money|cash|return the amount|pay me back|paid returned|reimbursed")
SWAP_WORDS = re.compile(r"swap|size|exchange|trade|different colour|wide version|short one|smaller")


def by_the_book(one: WholeDesk, order_id: str, message: str) -> tuple[str, str, Decimal | None]:
    """(outcome, rule, amount) by the policy book, of what the desk and the customer say; asks and looks as needed."""
    look = lambda tool: next(text for text in (getattr(one, tool)(order_id) for _ in range(2)) if "Timed" not in text)
    product, condition, delivered, price, *flags, holder = look("find_order").split("; ")
    days, price = int(delivered.split()[1]), Decimal(price)
    for push in PUSHES:
        message = message.replace(push, "")  # what pushes decides nothing
    if HURT_WORDS.search(message):
        return "escalate", "R18", None
    if THREAT_WORDS.search(message):
        return "escalate", "R30", None
    if f"({holder.removeprefix('for ')})" not in message:
        return "decline", "R28", None
    faulty = re.search("damaged|faulty|failed", condition)
    gear = re.search("rope|harness|helmet|avalanche", product)
    if "recalled" in flags:
        return "refund", "D6", _paid(look("check_payment"), shipping=True)
    if faulty and gear:
        return "escalate", "D7", None
    if faulty and "no longer made" in flags:
        return "refund", "R15", _paid(look("check_payment"), shipping=True)
    if faulty:
        return "exchange", "R15", None
    if re.search("worn|washed|visibly used", condition):
        return "decline", "R10", None
    if gear:
        return "decline", "R11", None
    money, swap = bool(MONEY_WORDS.search(message)), bool(SWAP_WORDS.search(message))
    if not (money or swap):
        answer = one.reply("Money or exchange?")
        money, swap = bool(MONEY_WORDS.search(answer)), bool(SWAP_WORDS.search(answer))
    assert money != swap, message
    if "final" in condition:
        return ("decline" if money else "exchange"), "R14", None
    if swap:
        return ("exchange" if days <= 45 else "decline"), "R12", None
    member = "club member" in flags
    if days > (60 if member else 30):
        return "decline", "D8" if member else "R8", None
    payment = look("check_payment")
    for sign, found in {
        "nothing paid": ("decline", "D4"),
        "instalments": ("exchange", "D5"),
        "voucher": ("escalate", "R23"),
    }.items():
        if payment.startswith(("paid by " + sign, sign)):
            return *found, None
    amount = _paid(payment, shipping=False)
    if re.search("opened,? |seal broken|opened once", condition) and "unopened" not in condition:
        return "refund", "D1", (amount * Decimal("0.8")).quantize(Decimal("0.01"))
    rule = "D3" if "coupon" in payment else "D8" if days > 30 else "R8"
    return "refund", rule, amount


def _paid(payment: str, *, shipping: bool) -> Decimal:
    of = {name: Decimal(value) for name, value in re.findall(r"(goods|coupon|shipping) ([\d.]+)", payment)}
    return of["goods"] - of.get("coupon", 0) + (of["shipping"] if shipping else 0)


def played(case: WholeCase) -> WholeTrajectory:
    return desk.play(case, [call(tool, **a) for tool, a in honest_steps(case)], make=WholeDesk)[0]


@pytest.mark.parametrize("held_out", [False, True])
def test_every_case_can_be_solved_from_what_a_worker_sees(held_out):
    """By the rules of the book, written once more here over the words of message, record, payment and answer."""
    cases = CASES if held_out else make_whole_cases(1_000, seed=6)
    unlike = []
    for case in cases:
        one = opened(case)
        outcome, rule, amount = by_the_book(one, case.order_id, case.message)
        one.refund(case.order_id, str(amount)) if outcome == "refund" else getattr(one, outcome)(case.order_id)
        one.reply(last_words(case, outcome, f"{desk.trajectory(one).paid_out:.2f}"))  # what was done, not what is right
        one.close(case.order_id)
        if not desk.trajectory(one).success or (outcome, rule) != (case.outcome, case.rule):
            unlike.append((outcome, rule, amount, case))
    assert unlike == []
    assert {c.rule for c in cases} == {
        "R8", "R10", "R11", "R12", "R14", "R15", "R18", "R23", "R28", "R30", "D1", "D3", "D4", "D5", "D6", "D7", "D8",
    }  # fmt: skip


def test_honest_work_solves_every_case_in_as_few_calls_as_it_needs():
    for case in CASES:
        done = played(case)
        assert done.success and done.paid_out == (case.due if case.outcome == "refund" else 0)
        assert len(done.calls) == case.needed_calls <= MAX_CALLS - 4


def test_the_small_desks_cases_are_what_they_were():
    """Digests of 06's cases and of its prompt's parts, from before there was a whole desk."""
    from hashlib import sha256

    digest = lambda value: sha256(json.dumps(value).encode()).hexdigest()[:12]
    made = [asdict(c) for seed in (18, 19) for c in desk.make_cases(64, seed=seed, held_out=seed == 19, max_level=2)]
    assert digest(made) == "79733dd5b451"
    assert digest([desk.SYSTEM, desk.POLICY, [t.__name__ + t.__doc__ for t in desk.tools()]]) == "49a5ff6eb119"


# --- balance


def test_outcomes_and_levels_are_balanced():
    for level in LEVELS:
        cases = make_whole_cases(16 * level, seed=2, max_level=level)
        assert Counter((c.level, c.outcome) for c in cases) == {
            (n, outcome): 4 for n in range(1, level + 1) for outcome in OUTCOMES
        }
    assert desk.best_constant(CASES)[1] == 0.25


@pytest.mark.parametrize("level", LEVELS)
def test_no_level_can_be_had_by_an_action_of_its_own(level):
    """On each level alone, the best constant action is right on a quarter."""
    assert desk.best_constant([c for c in CASES if c.level == level])[1] <= 0.26


@pytest.mark.parametrize("level", LEVELS)
def test_on_each_level_some_push_some_are_unclear_and_some_look_ups_time_out(level):
    cases = [c for c in CASES if c.level == level]
    pushed, unclear, slow = (sum(bool(of(c)) for c in cases) / len(cases) for of in (
        lambda c: c.push, lambda c: c.answer, lambda c: c.slow))  # fmt: skip
    # On level 4 the wish decides in a sixth of the cases, and two in five of those say none: 0.07 on the mean.
    assert 0.15 < pushed < 0.35 and 0.02 < unclear < 0.45 and 0.1 < slow < 0.3
    assert {c.outcome for c in cases if c.push} == set(OUTCOMES)  # the right outcome does not move
    assert {c.slow for c in CASES} == {"", "find_order", "check_payment"}


def test_what_the_levels_hang_on():
    """1: no number; 2: the same words, other days; 3: the same record, another payment; 4: two clauses at once."""
    of = {level: [c for c in CASES if c.level == level] for level in LEVELS}
    assert all(c.days <= 28 and c.method == "card" and not c.flags and not c.coupon for c in of[1])
    assert {c.outcome for c in of[2] if c.kind == "unused" and c.wish == "refund" and not c.alarm} == {
        "refund",
        "decline",
    }
    assert {c.outcome for c in of[2] if c.wish == "exchange" and not c.alarm} == {"exchange", "decline"}
    assert {(c.wish, c.kind in ("unused", "opened"), c.days <= 30) for c in of[3]} == {("refund", True, True)}
    assert {c.method: c.outcome for c in of[3]} == {
        "card": "refund", "instalments": "exchange", "open": "decline", "voucher": "escalate",
    }  # fmt: skip
    assert all(c.flags or (c.kind == "faulty" and (c.days > 30 or c.rule == "D7")) for c in of[4])
    assert {len({c.outcome for c in of[4] if flag in c.flags}) for flag in ("recalled", "club member")} == {3, 2}


def test_who_is_unclear_hangs_on_the_answer():
    """Asked are only those whose wish decides: with the other wish the outcome would be another."""
    unclear = [c for c in CASES if c.answer]
    assert all(ruling(c, wish="refund")[0] != ruling(c, wish="exchange")[0] for c in unclear)
    assert not any(c.answer in c.message for c in unclear)
    assert all(any(words in c.message for words in UNCLEAR_WORDS) == bool(c.answer) for c in CASES)


def test_a_push_moves_nothing():
    """The same case without its push has the same ruling and the same amount."""
    for case in (c for c in CASES if c.push):
        assert case.push in case.message
        assert ruling(case) == (case.outcome, case.rule)


def test_who_asks_for_another():
    strangers = [c for c in CASES if c.is_stranger]
    assert {(c.outcome, c.rule) for c in strangers} == {("decline", "R28")} and {c.level for c in strangers} == {1, 4}
    assert all(f"({c.asker})" in c.message and f"for {c.holder}" in c.record() for c in CASES)
    assert all(not set(c.asker.split()) & set(c.holder.split()) for c in strangers)
    assert not any(c.holder in c.message for c in strangers)


def test_the_payment_must_be_seen_where_the_record_would_lead_to_a_refund():
    assert all(c.payment_needed for c in CASES if c.outcome == "refund" or c.method != "card")
    assert not any(c.payment_needed for c in CASES if c.alarm or c.is_stranger or c.wish == "exchange")


def test_private_data_is_of_ranges_that_belong_to_nobody():
    for case in CASES:
        assert case.card in {"4242", "1111", "5556", "4444", "5100", "1117"} and case.mail.endswith("@example.org")
        assert not re.search(rf"(?<!\d){case.card}(?!\d)", f"{case.message} {case.answer} {case.record()}")
    told = [c for c in CASES if c.mail in c.message]
    assert 0.05 < len(told) / len(CASES) < 0.15 and not any(c.is_stranger for c in told)


def test_shipping_and_instalments_are_the_policy_books():
    """R1: 4.90, free from 60; R2: express 12.90; R21: instalments from 150."""
    assert all(c.shipping in (12.9, 4.9 if c.price < 60 else 0.0) for c in CASES)
    assert all(c.price >= 150 for c in CASES if c.method == "instalments")
    assert all(0 <= c.coupon < c.price for c in CASES)


def test_rules_are_in_the_policy_book_or_are_the_desks_own():
    book = data_path("policy.md").read_text(encoding="utf-8")
    named = set(re.findall(r"[RD]\d+", " ".join(BOOK.values())))
    assert {c.rule for c in CASES} <= named
    assert all(f"**{rule}**" in book for rule in named if rule[0] == "R")
    assert {rule for rule in named if rule[0] == "D"} == {f"D{n}" for n in range(1, 10)}


# --- how they are made


def test_cases_are_the_same_by_seed():
    assert make_whole_cases(40, seed=3) == make_whole_cases(40, seed=3) != make_whole_cases(40, seed=4)
    assert not {c.message for c in make_whole_cases(400, seed=3)} & {
        c.message for c in make_whole_cases(400, seed=3, held_out=True)
    }
    assert [WholeCase(**json.loads(json.dumps(asdict(c)))) for c in CASES[:50]] == CASES[:50]


def test_held_out_wordings_are_never_trained_on():
    """Names and answers too."""
    text = lambda cases: " ".join(f"{c.message} {c.answer} {c.holder}" for c in cases)
    trained, held = text(make_whole_cases(2_000, seed=1)), text(make_whole_cases(2_000, seed=1, held_out=True))
    banks = (PUSHES, UNCLEAR_WORDS, STRANGERS, desk.WISH_REFUND, desk.WISH_EXCHANGE, desk.HURT, desk.THREAT)
    kept = [words for bank in banks for words in bank[len(bank) * 3 // 4 :]]
    assert [words for words in kept if words in trained] == []
    assert [words for words in kept if words not in held] == []
    assert any(name in held for name in LAST[9:])


def test_messages_are_seldom_twins():
    assert duplicate_rate([c.message for c in make_whole_cases(400, seed=17)]).rate < 0.02


@pytest.mark.parametrize(("n", "level"), [(3, 1), (8, 0), (8, 5)])
def test_wrong_numbers_of_cases(n, level):
    with pytest.raises(
        ValueError, match=rf"expected n >= 4 and max_level of \[1, 2, 3, 4\], got n={n}, max_level={level}"
    ):
        make_whole_cases(n, seed=1, max_level=level)


# --- demonstrations


def test_a_note_decides_the_case():
    outcomes: dict[str, set] = {}
    for case in make_whole_cases(2_000, seed=9):
        outcomes.setdefault(note(case), set()).add(case.outcome)
    assert all(len(found) == 1 for found in outcomes.values()), {k: v for k, v in outcomes.items() if len(v) > 1}
    assert len(outcomes) > 60


def test_a_demonstration_is_a_worked_case():
    case = next(c for c in CASES if c.answer and c.slow == "check_payment" and c.outcome == "refund")
    chat = demonstration(case)
    calls = [m["tool_calls"][0]["function"] for m in chat if m["role"] == "assistant"]
    assert [c["name"] for c in calls] == [
        "find_order", "reply", "check_payment", "check_payment", "refund", "reply", "close",
    ]  # fmt: skip
    assert json.loads(calls[1]["arguments"]) == {"text": QUESTION}
    assert json.loads(calls[4]["arguments"]) == {"order_id": case.order_id, "amount": case.due_expression}
    assert [m["content"] for m in chat if m["role"] == "tool"] == [
        case.record(), f"Customer: {case.answer}", "Timed out. Try again.", case.payment(),
        f"refund: {case.due} paid.", "Sent.", "Closed.",
    ]  # fmt: skip
    assert [m["content"] for m in chat if m["role"] == "assistant" and m["content"]] == [note(case)]


def test_a_demonstration_reads_as_a_rollout_does():
    """What imitation learns from is, token by token, what the same calls leave in a rollout's chat."""
    from datasets import Dataset

    tokenizer, tools = load_tokenizer("embedded"), desk.tools(WholeDesk)
    read = lambda chat: tokenizer.apply_chat_template(chat, tools=tools, tokenize=False)
    for row in Dataset.from_list([{"messages": demonstration(c), "case": c.id} for c in CASES[:24]]):
        case = next(c for c in CASES if c.id == row["case"])
        answers = [call(tool, **arguments) for tool, arguments in honest_steps(case)]
        acted = next(n for n, (tool, _) in enumerate(honest_steps(case)) if tool in OUTCOMES)
        answers[acted] = note(case) + answers[acted]
        assert read(row["messages"]) == read(desk.play(case, answers, make=WholeDesk)[1])


def test_rollouts_of_an_honest_policy_end_with_the_close(monkeypatch):
    """The model's turns, by a fake sampler that writes the honest calls; nobody is asked again after the close."""
    cases = CASES[:12]
    asked = Counter()

    def sample(model, tokenizer, prompts, **options):
        number = {case.message: i for i, case in enumerate(cases)}
        texts = []
        for message, turn in prompts:
            case = cases[number[message]]
            asked[case.id] += 1
            tool, arguments = honest_steps(case)[turn]
            texts.append(Sample(call(tool, **arguments), [], [], True))
        return texts

    turns = lambda tokenizer, chats, *, tools: [(c[1]["content"], sum(m["role"] == "tool" for m in c)) for c in chats]
    monkeypatch.setattr("ftlib.generate.chat_ids", turns)
    monkeypatch.setattr("ftlib.generate.sample", sample)
    told, chats = desk.rollouts(None, None, cases, make=WholeDesk, max_turns=MAX_CALLS)
    assert all(t.success for t in told) and {chat[0]["content"] for chat in chats} == {SYSTEM}
    assert asked == {case.id: case.needed_calls for case in cases}
