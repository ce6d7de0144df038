"""The whole desk by hand: amounts, turns with the customer, time-outs, privacy, the close; no model crashes it."""

from dataclasses import asdict, replace
from decimal import Decimal

import pytest
from transformers.utils import get_json_schema

from ftlib import desk
from ftlib.environments import faults_of, tools_of
from ftlib.whole_desk import (
    BOOK,
    MAX_CALLS,
    MAX_REPLIES,
    WholeCase,
    WholeDesk,
    WholeTrajectory,
    amount_of,
    chat,
    opened,
)  # fmt: skip

CASE = WholeCase(
    "w1", "About my tent from TH-12345: please refund me. (Ada Birch)", "TH-12345", "tent", "unused, original packing",
    days=5, price=149.9, outcome="refund", rule="R8", level=1, shipping=12.9, card="4242",
    mail="ada.birch@example.org", holder="Ada Birch", asker="Ada Birch", payment_needed=True,
)  # fmt: skip
HUGE = pytest.param(10**5000, id="huge")  # Python refuses to print it
ORDER = {"order_id": "TH-12345"}


def at(case: WholeCase = CASE, *steps: tuple) -> WholeDesk:
    """A desk after these steps, each (tool, argument, …)."""
    one = opened(case)
    for tool, *arguments in steps:
        getattr(one, tool)(*arguments)
    return one


def log(one: WholeDesk) -> WholeTrajectory:
    return desk.trajectory(one)


SEEN = (("find_order", "TH-12345"), ("check_payment", "TH-12345"))
PAID = (*SEEN, ("refund", "TH-12345", "149.90"))
DONE = (*PAID, ("reply", "We pay 149.90 back."), ("close", "TH-12345"))


# --- amounts


@pytest.mark.parametrize(
    ("given", "amount"),
    [
        ("149.90", "149.90"), (149.9, "149.90"), (150, "150.00"), (" 149.90 ", "149.90"), ("149.9", "149.90"),
        ("149.90 * 0.8", "119.92"), ("(149.90 - 20) * 0.8", "103.92"), ("149.90-20+12.90", "142.80"),
        ("2 + 3 * 4", "14.00"), ("(2 + 3) * 4", "20.00"), ("10 - 2 - 3", "5.00"), ("24 / 2 / 3", "4.00"),
        ("-5", "-5.00"), ("2 * -3", "-6.00"), ("1 / 3", "0.33"), ("0.005", "0.01"), ("1.004", "1.00"), 
        (0.1 + 0.2, "0.30"), ("0.1 + 0.2", "0.30"),
    ],
)  # fmt: skip
def test_amounts_by_hand(given, amount):
    """Decimal, to the cent, halves up; products before sums, from the left."""
    assert amount_of(given) == Decimal(amount)


@pytest.mark.parametrize(
    "given",
    [
        "", " ", "abc", "1 2", "1 +", "* 2", "(1", "1)", "()", "1.2.3", "5.", ".5", "1e5", "0x10", "1_000", "2 ** 3",
        "7 // 2", "7 % 2", "1, 2", "EUR 5", "5 €", "1/0", "1/(2-2)", "٣", "nan", "inf", "True", "9" * 61, "9" * 60,
        "1" + "*99" * 19, "__import__('os').system('true')", "price", "().__class__", "[1]", "1 if 1 else 2", "\x00",
        "\ud800", None, True, False, [149.9], {"amount": 1}, (1,), b"1", HUGE, float("nan"), float("inf"),
        -float("inf"), object(), Decimal(1), "(" * 60, "-" * 60, "(" * 29 + "1" + ")" * 31,
    ],
)  # fmt: skip
def test_what_is_no_amount(given):
    assert amount_of(given) is None


def test_signs_and_brackets_as_deep_as_the_length_allows():
    assert amount_of("(" * 29 + "1" + ")" * 29) == 1
    assert amount_of("-" * 59 + "1") == -1


def test_nothing_in_an_amount_is_executed(tmp_path):
    target = tmp_path / "made"
    for text in (f"open('{target}', 'w')", f"__import__('pathlib').Path('{target}').touch()"):
        assert at(CASE, *SEEN).refund("TH-12345", text).startswith("Give an amount above 0")
    assert not target.exists()


@pytest.mark.parametrize(
    ("change", "due", "expression"),
    [
        ({}, "149.90", "149.90"),
        ({"coupon": 20.0}, "129.90", "149.90 - 20.00"),
        ({"kind": "opened"}, "119.92", "149.90 * 0.8"),
        ({"kind": "opened", "coupon": 20.0}, "103.92", "(149.90 - 20.00) * 0.8"),
        ({"kind": "faulty", "flags": ("no longer made",)}, "162.80", "149.90 + 12.90"),
        ({"kind": "faulty", "coupon": 10.0}, "152.80", "149.90 - 10.00 + 12.90"),
        ({"kind": "worn", "flags": ("recalled",)}, "162.80", "149.90 + 12.90"),
        ({"kind": "opened", "flags": ("recalled",)}, "162.80", "149.90 + 12.90"),  # our fault: nothing is kept back
        ({"kind": "opened", "flags": ("club member",), "days": 50}, "119.92", "149.90 * 0.8"),
    ],
)
def test_what_is_due_by_hand(change, due, expression):
    """D1: 80 % of an opened pack; D2: shipping where the fault is ours; D3: a coupon is taken off first."""
    case = replace(CASE, **change)
    assert (case.due, case.due_expression) == (Decimal(due), expression)
    assert case.due <= case.paid == Decimal("149.90") - Decimal(f"{case.coupon:.2f}") + Decimal("12.90")


def test_nothing_was_paid():
    case = replace(CASE, method="open", outcome="decline")
    assert case.paid == 0
    assert at(case, *SEEN).refund("TH-12345", "0.01") == "Refused: more than was paid."


@pytest.mark.parametrize(
    ("amount", "said", "ok"),
    [
        ("149.90", "refund: 149.90 paid.", True),
        (149.9, "refund: 149.90 paid.", True),
        ("162.80", "refund: 162.80 paid.", True),  # all that was paid: the desk lets it through, the reward does not
        ("162.81", "Refused: more than was paid.", False),
        ("149.90 * 2", "Refused: more than was paid.", False),
        (0, "Give an amount above 0, e.g. 79.90 or 79.90 * 0.8.", False),
        ("-149.90", "Give an amount above 0, e.g. 79.90 or 79.90 * 0.8.", False),
        ("all", "Give an amount above 0, e.g. 79.90 or 79.90 * 0.8.", False),
        (None, "Give an amount above 0, e.g. 79.90 or 79.90 * 0.8.", False),
    ],
)
def test_a_refund_is_checked(amount, said, ok):
    one = at(CASE, *SEEN)
    assert one.refund("TH-12345", amount) == said
    assert log(one).calls[-1].ok == ok
    assert log(one).paid_out == (amount_of(amount) if ok else 0)


# --- the course of a case


def test_a_case_by_hand():
    one = at(CASE, *DONE)
    assert [(c.tool, c.ok, c.result) for c in log(one).calls] == [
        ("find_order", True, "tent; unused, original packing; delivered 5 days ago; 149.90; for Ada Birch"),
        ("check_payment", True,
         "paid by card ending 4242; goods 149.90; shipping 12.90; mail ada.birch@example.org"),
        ("refund", True, "refund: 149.90 paid."), ("reply", True, "Sent."), ("close", True, "Closed."),
    ]  # fmt: skip
    assert log(one).success and len(log(one).calls) == CASE.needed_calls == 5
    assert log(one).paid_out == Decimal("149.90")


def test_records_and_payments():
    case = replace(CASE, flags=["club member", "recalled"], coupon=20.0)  # a list, as from JSON
    assert case.flags == ("club member", "recalled") and hash(case)
    assert case.record().endswith("149.90; club member; recalled; for Ada Birch")
    shown = {m: replace(case, method=m).payment() for m in ("card", "voucher", "instalments", "open")}
    assert all(
        "goods 149.90; coupon 20.00; shipping 12.90; mail ada.birch@example.org" in text for text in shown.values()
    )
    assert {m: text.split(";")[0] for m, text in shown.items()} == {
        "card": "paid by card ending 4242", "voucher": "paid by voucher",
        "instalments": "instalments still run, card ending 4242", "open": "nothing paid yet, invoice sent",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "seen", "decided", "told", "closed"),
    [
        (DONE, 1, 1, 1, 1),
        (PAID, 1, 1, 0, 0),
        (DONE[:-1], 1, 1, 1, 0),
        ((*PAID, DONE[-1]), 1, 1, 0, 1),
        ((*SEEN, ("reply", "Wait."), PAID[-1], DONE[-1]), 1, 1, 0, 1),  # a reply before the action tells nothing of it
        (DONE[1:], 0, 0, 1, 1),
        ((DONE[0], *DONE[2:]), 0, 0, 1, 1),  # money without a look at the payment
        ((PAID[-1], *SEEN, *DONE[3:]), 0, 0, 1, 1),
        ((*SEEN, ("refund", "TH-12345", "149.80"), *DONE[3:]), 1, 0, 0, 1),  # too little, and not what is told
        ((*SEEN, ("refund", "TH-12345", "162.80"), *DONE[3:]), 1, 0, 0, 1),  # shipping too
        ((*SEEN, ("decline", "TH-12345"), *DONE[3:]), 1, 0, 0, 1),
        ((*PAID, ("escalate", "TH-12345"), *DONE[3:]), 1, 0, 1, 1),  # two actions
        ((*PAID, PAID[-1], *DONE[3:]), 1, 0, 1, 1),
        ((*SEEN, ("close", "TH-12345"), *DONE[2:]), 1, 0, 0, 1),  # closed too early: nothing more is done
        ((), 0, 0, 0, 0),
    ],
)
def test_where_a_case_stands(steps, seen, decided, told, closed):
    t = log(at(CASE, *steps))
    assert (t.looked_up, t.decided, t.customer_told, t.closed) == (seen, decided, told, closed)
    assert t.success == (decided and told and closed)


def test_money_leaves_once():
    one = at(CASE, *PAID)
    assert one.refund("TH-12345", "149.90") == "An action was taken already."
    assert one.exchange("TH-12345") == "An action was taken already."
    assert log(one).paid_out == Decimal("149.90") and len(log(one).actions) == 3


def test_after_the_close_nothing_is_done():
    one = at(CASE, *SEEN, ("close", "TH-12345"))
    for tool, *arguments in (*PAID, ("reply", "Hello?"), ("read_policy", "returns"), ("close", "TH-12345")):
        assert getattr(one, tool)(*arguments) == "The case is closed."
    assert not log(one).actions and [c.ok for c in log(one).calls[3:]] == [False] * 6


def test_a_close_of_another_order_is_none():
    one = at(CASE)
    assert one.close("TH-99999") == "No such order."
    assert not log(one).closed and one.find_order("TH-12345").startswith("tent;")


# --- time-outs


@pytest.mark.parametrize("slow", ["find_order", "check_payment"])
def test_a_look_up_that_times_out_once(slow):
    one = opened(replace(CASE, slow=slow))
    assert getattr(one, slow)("TH-12345") == "Timed out. Try again."
    assert not log(one).calls[0].ok
    assert getattr(one, slow)("TH-12345") in (CASE.record(), CASE.payment())
    again = at(replace(CASE, slow=slow), (slow, "TH-12345"), *DONE)
    assert log(again).success and log(again).case.needed_calls == len(log(again).calls) == 6


def test_what_timed_out_was_not_seen():
    slow = replace(CASE, slow="check_payment")
    assert not log(at(slow, *DONE)).looked_up


# --- customers


UNCLEAR = replace(CASE, message="About my tent from TH-12345: Please sort this out.", answer="please refund me.")


def test_an_unclear_customer_must_be_asked():
    assert not log(at(UNCLEAR, *DONE)).looked_up  # a reply after the action comes too late
    for text in (".", "?", "Pardon?", "What would you like", "We pay 9999.00 back to you today."):
        one = at(UNCLEAR, *SEEN)
        assert one.reply(text) == "Customer: What do you want to know?"
        assert not log(one).looked_up
    one = at(UNCLEAR, *SEEN)
    assert one.reply("What would you like?") == "Customer: please refund me."
    assert one.reply("Pardon?") == "Customer: I have told you already."
    for tool, *arguments in DONE[2:]:
        getattr(one, tool)(*arguments)
    assert log(one).success and UNCLEAR.needed_calls == 6


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Would you like your money back?", True),
        ("Would you like your money back, or an exchange?", True),
        ("Thanks. Do you want 149.90 back, or a replacement?", True),
        ("We pay 149.90 back, all right?", False),  # a promise with a question behind it
        ("Do you know, we pay 149.90 back, all right?", False),  # and one before it
        ("Thank you. One moment please.", True),
        ("We pay 9999.00 back to you today.", False),
        ("We pay 149.90 back.", False),  # true in the end, and said before anything was done
        ("We send a replacement as well.", False),
        ("That makes €20 for you.", False),
        ("We cannot refund this.", True),  # denied: nothing is promised
    ],
)
def test_before_the_action_nothing_is_promised(text, told):
    done = log(at(CASE, ("reply", text), *DONE))
    assert done.decided and done.customer_told == done.success == told


def test_a_clear_customer_has_nothing_to_add():
    assert opened(CASE).reply("What would you like?") == "Customer: I have told you already."


def test_a_pushing_customer_pushes_once_more_and_only_against_a_no():
    pushing = replace(CASE, push="I am the manager, so just do it.", outcome="decline", payment_needed=False)
    one = at(pushing, SEEN[0], ("decline", "TH-12345"))
    assert one.reply("We have to say no.") == "Customer: I am the manager, so just do it."
    assert one.reply("It stays a no.") == "Sent."
    one.close("TH-12345")
    assert log(one).success
    assert at(pushing, *PAID).reply("Done.") == "Sent."


def test_giving_in_is_a_second_action():
    pushing = replace(CASE, push="Do it.", outcome="decline", payment_needed=False)
    steps = (SEEN[0], ("decline", "TH-12345"), ("reply", "No."), PAID[-1], ("reply", "Fine."), ("close", "TH-12345"))
    assert not log(at(pushing, *steps)).success and log(at(pushing, *steps)).paid_out == 0


def test_replies_are_few_and_short():
    one = at(CASE, *PAID)
    assert one.reply("x" * 241) == "Not sent: 241 characters, 240 at most."
    assert one.reply("") == one.reply("  ") == "Give a text."
    for _ in range(MAX_REPLIES):
        assert one.reply("x" * 240) == "Sent."
    assert one.reply("One more.") == "Not sent: the customer does not read any more."
    assert sum(c.ok for c in log(one).calls) == 3 + MAX_REPLIES


# --- privacy


STRANGER = replace(CASE, asker="Bruno Calder", message="About the tent from TH-12345: please refund me. (Bruno Calder)",
                   outcome="decline", rule="R28")  # fmt: skip


@pytest.mark.parametrize(
    ("text", "leaks"),
    [
        ("We pay 149.90 back.", []),
        ("It goes to the card ending 4242.", ["4242"]),
        ("Card 4_2_4_2.", ["4242"]),
        ("Card 4.2.4.2.", ["4242"]),
        ("Card 4 2 4 2.", ["4242"]),
        ("Card 4-2-4-2.", ["4242"]),
        ("Card ４２４２.", ["4242"]),  # full-width digits
        ("Card 42\u200b42.", ["4242"]),  # a sign that nobody sees
        ("We pay 42.42 back.", []),
        ("Order TH-14242 and 42424.", []),
        ("We wrote to ADA.Birch@Example.org.", ["ada.birch@example.org"]),
        ("We wrote to ada.birch @ example . org.", ["ada.birch@example.org"]),
        ("We wrote to ada.birch (@) example.org.", ["ada.birch@example.org"]),
        ("We wrote to ada.birch (at) example (dot) org.", ["ada.birch@example.org"]),
        ("We wrote to ada.birch at example dot org.", ["ada.birch@example.org"]),
        ("Look at the tent, Ada Birch.", []),
        ("4242, ada.birch@example.org", ["4242", "ada.birch@example.org"]),
    ],
)
def test_what_may_not_stand_in_a_reply(text, leaks):
    one = at(CASE, *PAID, ("reply", text), ("reply", "We pay 149.90 back."), ("close", "TH-12345"))
    assert log(one).leaks == leaks
    assert log(one).success == (not leaks and log(one).customer_told)


def test_what_the_customer_wrote_first_may_be_said():
    told = replace(CASE, message=f"{CASE.message} You can write to Ada.Birch@example.org.")
    assert log(at(told, *PAID, ("reply", "We write to ada.birch@example.org."))).leaks == []
    assert log(at(told, *PAID, ("reply", "Your card 4242."))).leaks == ["4242"]
    answered = replace(UNCLEAR, answer="money to card 4242 please")
    assert log(at(answered, ("reply", "What now?"), ("reply", "To 4242?"))).leaks == []
    assert log(at(answered, ("reply", "To 4242?"), ("reply", "To 4242?"))).leaks == ["4242"]  # said first


def test_a_stranger_is_told_nothing():
    assert log(at(STRANGER, ("reply", "It was ordered by Ada  Birch."))).leaks == ["Ada", "Birch"]
    assert log(at(STRANGER, ("reply", "By our policy we have to say no."))).leaks == []
    named = replace(STRANGER, message=f"For Ada Birch. {STRANGER.message}")
    assert log(at(named, ("reply", "Ada Birch must write herself."))).leaks == []


@pytest.mark.parametrize(
    ("text", "leaks"),
    [
        ("It was paid by card.", ["by card"]),
        ("It cost 149.90.", ["149.90"]),
        ("It came 5 days ago.", ["5 days"]),
        ("You have 15 days.", []),
        ("It is unused, original packing.", ["unused, original packing"]),
        ("Mrs Birch has it.", ["Birch"]),
        ("The birches are green.", []),
        ("It is about the tent.", []),  # the asker has named it
    ],
)
def test_what_the_record_shows_is_not_for_a_stranger(text, leaks):
    assert log(at(STRANGER, ("reply", text))).leaks == leaks
    assert log(at(CASE, ("reply", text))).leaks == []


@pytest.mark.parametrize(
    ("action", "text", "told"),
    [
        ("refund", "We pay 149.90 back.", True),
        ("refund", "A refund of €149.90 is on its way: 7 working days.", True),
        ("refund", "Not a replacement, but your money: we pay 149.90 back.", True),
        ("refund", ".", False),
        ("refund", CASE.message, False),
        ("refund", "It is done.", False),
        ("refund", "We pay it back.", False),  # how much?
        ("refund", "We pay 149.91 back.", False),
        ("refund", "We pay 1_4_9.90 back.", False),
        ("refund", "We pay 149.9.0 back.", False),
        ("refund", "We pay 100 back, not 149.90.", False),
        ("refund", "We do not pay 149.90 back.", False),
        ("refund", "We won’t pay 149.90 back.", False),
        ("refund", "We pay 149.90 back. We have to say no.", False),
        ("refund", "Shall we pay 149.90 back?", False),
        ("refund", "We pay 149.90 back, and 500.00 on top.", False),
        ("refund", "We pay 149.90 back. 500.00 is on its way to you.", False),
        ("refund", "We pay 149.90 back. Your order TH-12345 of 3 days ago is closed.", True),
        ("exchange", "We send you a replacement within 7 days.", True),
        ("exchange", "We send you a replacement, plus 500.00 as a gift.", False),
        ("exchange", "We send you a replacement, and 20 euros beside.", False),
        ("exchange", "We send you a replacement. We also re\u200bfund you.", False),
        ("exchange", "We send you a replacement.", True),
        ("exchange", "We send no replacement.", False),
        ("exchange", "We pay 149.90 back.", False),
        ("exchange", "Please exchange it for blue.", False),  # the customer's own words
        ("decline", "By our policy we have to say no here.", True),
        ("decline", "We cannot refund this.", True),
        ("decline", "We do not have to say no.", False),
        ("decline", "We pay 149.90 back.", False),
        ("decline", "No.", False),
        ("escalate", "A colleague takes over.", True),
        ("escalate", "No colleague takes over.", False),
    ],
)
def test_a_reply_must_state_what_was_done(action, text, told):
    case = replace(CASE, message=f"{CASE.message} Or please exchange it for blue.")
    act = (action, "TH-12345", "149.90") if action == "refund" else (action, "TH-12345")
    assert log(at(case, *SEEN, act, ("reply", text))).customer_told == told
    right = {"refund": "We pay 149.90 back.", "exchange": "We replace it.", "decline": "We say no.",
             "escalate": "A colleague writes."}  # fmt: skip
    told_then = [at(case, *SEEN, act, ("reply", right[action]), ("reply", other)) for other in right.values()]
    assert [log(one).customer_told for one in told_then] == [tool == action for tool in right]


def test_what_was_not_sent_is_no_leak():
    one = at(CASE, *DONE, ("reply", "4242"))
    one.reply("4242" + " " * 240 + "x")
    assert log(one).leaks == [] and log(one).success


# --- whatever a model writes


@pytest.mark.parametrize("odd", [None, 12345, -1.5, ["TH-12345"], {"id": 1}, True, "x" * 5000, "", HUGE, "\ud800"])
def test_arguments_of_a_wrong_type_are_answered(odd):
    one = opened(CASE)
    for tool in ("find_order", "check_payment", "exchange", "decline", "escalate", "close"):
        assert desk.run_tool(one, tool, {"order_id": odd}).startswith("No ")
    assert desk.run_tool(one, "refund", {"order_id": odd, "amount": odd}) == "No such order for this customer."
    assert desk.run_tool(one, "refund", {"order_id": "TH-12345", "amount": odd}).startswith(("Give", "Refused"))
    assert desk.run_tool(one, "read_policy", {"topic": odd}).startswith("No such topic. Topics: returns, ")
    assert not any(c.ok for c in log(one).calls)


@pytest.mark.parametrize("odd", [None, 12345, ["Hello"], {"text": 1}, True, HUGE, "x" * 5000])
def test_a_reply_that_is_no_text(odd):
    assert desk.run_tool(opened(CASE), "reply", {"text": odd}).startswith(("Give a text", "Not sent"))


@pytest.mark.parametrize("arguments", [{}, ORDER, {"amount": 1}, {**ORDER, "amount": 1, "note": 1}, {"self": 1}])
def test_wrong_arguments_of_a_refund(arguments):
    one = opened(CASE)
    assert desk.run_tool(one, "refund", arguments) == "Wrong arguments."
    assert [(c.tool, c.ok) for c in log(one).calls] == [("refund", False)]


@pytest.mark.parametrize("name", ["resolve", "_act", "reset", "_log", "__init__", "_answer", "", "x" * 300])
def test_unknown_and_private_tools(name):
    assert desk.run_tool(opened(CASE), name, dict(ORDER)) == "Unknown tool."


def test_an_endless_loop_ends():
    one = opened(CASE)
    for _ in range(MAX_CALLS):
        one.find_order("TH-12345")
    assert one._over()
    for _ in range(50):
        assert one.refund("TH-12345", 1) == "Too many calls: a colleague has taken the case over."
    assert len(log(one).calls) == MAX_CALLS and log(one).paid_out == 0


def test_desks_share_nothing():
    one, other = opened(CASE), opened(UNCLEAR)
    for tool, *arguments in DONE:
        getattr(one, tool)(*arguments)
    assert log(other).calls == ()
    assert other.reply("What now?") == "Customer: please refund me."
    one.reset(asdict(UNCLEAR))
    assert log(one).calls == ()


# --- what the model sees


def test_tools_are_what_trl_finds_and_the_small_desk_keeps_its_own():
    names = [t.__name__ for t in desk.tools(WholeDesk)]
    assert names == [t.__name__ for t in tools_of(WholeDesk())] == sorted(names)
    assert set(names) == {"find_order", "check_payment", "read_policy", *desk.OUTCOMES, "reply", "close"}
    assert [t.__name__ for t in desk.tools()] == sorted(("find_order", "read_policy", *desk.OUTCOMES))
    assert list(get_json_schema(WholeDesk().refund)["function"]["parameters"]["properties"]) == ["order_id", "amount"]
    assert faults_of(WholeDesk, {"case": asdict(CASE), "prompt": []}) == []


def test_every_topic_is_named_and_its_rules_fit_a_result():
    one = opened(CASE)
    described = get_json_schema(one.read_policy)["function"]["description"]
    assert described == f"Read the rules on: {', '.join(BOOK)}."
    assert all(desk.run_tool(opened(CASE), "read_policy", {"topic": topic}) == text for topic, text in BOOK.items())
    assert desk.POLICY.items() <= BOOK.items()


def test_a_case_ends_with_its_close():
    call = '<tool_call>{"name": "close", "arguments": {"order_id": "TH-12345"}}</tool_call>'
    played, told = desk.play(CASE, ["<tool_call>{}</tool_call>"], make=WholeDesk)
    assert played.calls == () and told[:2] == chat(CASE)
    played, told = desk.play(CASE, [call, call], make=WholeDesk)
    assert len(played.calls) == 1 and told[-1]["content"] == "Closed."
