"""The desk: every case is decided again here, by the rules, from what a worker can see; tools survive any model."""

import re
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
from transformers.utils import get_json_schema

from ftlib import desk
from ftlib.generate import Sample
from ftlib.quality import duplicate_rate
from ftlib.records import data_path

HURT_WORDS = re.compile(r"hurt|cut my hand|burnt|stitches|accident|sprained|over the edge")
THREAT_WORDS = re.compile(r"lawyer|court|newspaper|solicitor|legal|journalist|consumer programme")
MONEY_WORDS = re.compile(r"refund|money|cash|amount|pay me back|paid returned|reimbursed")
SWAP_WORDS = re.compile(r"swap|size|exchange|trade|different colour|wide version|short one")


def decide(message: str, record: str) -> tuple[str, str]:
    """(outcome, rule) of a case by the policy book, read from its message and its record alone."""
    product, condition, delivered, _ = record.split("; ")
    days = int(delivered.split()[1])
    money, swap = bool(MONEY_WORDS.search(message)), bool(SWAP_WORDS.search(message))
    assert money != swap, message  # one wish, and a clear one
    if HURT_WORDS.search(message):
        return "escalate", "R18"
    if THREAT_WORDS.search(message):
        return "escalate", "R30"
    if re.search("damaged|faulty|failed", condition):
        return "exchange", "R15"
    if re.search("worn|washed|visibly used", condition):
        return "decline", "R10"
    if "final" in condition:
        return ("decline" if money else "exchange"), "R14"
    if re.search("rope|harness|helmet|avalanche", product):
        return "decline", "R11"
    if money:
        return ("refund" if days <= 30 else "decline"), "R8"
    return ("exchange" if days <= 45 else "decline"), "R12"


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("max_level", [1, 2])
def test_every_outcome_follows_from_the_rules(max_level, held_out):
    cases = desk.make_cases(1200, seed=5, held_out=held_out, max_level=max_level)
    wrong = [(c.message, c.record(), c.outcome, c.rule) for c in cases if decide(c.message, c.record())[0] != c.outcome]
    assert wrong == []
    assert [c.id for c in cases if decide(c.message, c.record())[1] != c.rule] == []
    assert {c.rule for c in cases} == {"R8", "R10", "R11", "R12", "R14", "R15", "R18", "R30"}
    assert {c.level for c in cases} == set(range(1, max_level + 1))


def test_the_rules_are_in_the_policy_book_and_in_the_desks_own_short_form():
    book = data_path("policy.md").read_text(encoding="utf-8")
    numbers = {c.rule for c in desk.make_cases(400, seed=1, max_level=2)}
    assert all(f"**{number}**" in book for number in numbers)
    assert numbers <= set(re.findall(r"R\d+", " ".join(desk.POLICY.values())))
    assert "within 30 days" in re.search(r"\*\*R8\*\*.*", book).group()
    assert "within 45 days" in re.search(r"\*\*R12\*\*.*", book).group()


def test_level_one_needs_no_counting():
    assert all(c.days <= 28 for c in desk.make_cases(400, seed=2))
    late = [c for c in desk.make_cases(400, seed=2, max_level=2) if c.days > 30]
    assert late and {(c.outcome, c.rule, c.level) for c in late} == {("decline", "R8", 2)}


def test_level_two_cannot_be_told_by_words():
    """Some declined cases have the words of a refund: only the days differ."""
    cases = desk.make_cases(400, seed=2, max_level=2)
    unused = [c for c in cases if c.rule == "R8"]
    assert {c.outcome for c in unused} == {"refund", "decline"}


def test_cases_are_the_same_by_seed():
    assert desk.make_cases(40, seed=3) == desk.make_cases(40, seed=3)
    assert desk.make_cases(40, seed=3) != desk.make_cases(40, seed=4)
    assert not {c.message for c in desk.make_cases(200, seed=3)} & {
        c.message for c in desk.make_cases(200, seed=3, held_out=True)
    }


def test_outcomes_are_balanced_and_mixed():
    assert Counter(c.outcome for c in desk.make_cases(160, seed=17, held_out=True)) == dict.fromkeys(desk.OUTCOMES, 40)
    assert Counter(c.outcome for c in desk.make_cases(10, seed=17)) == {
        "refund": 3, "exchange": 3, "decline": 2, "escalate": 2,
    }  # fmt: skip
    first = [c.outcome for c in desk.make_cases(160, seed=17)][:40]
    assert first != [desk.OUTCOMES[i % 4] for i in range(40)]


def test_the_best_constant_action():
    cases = desk.make_cases(10, seed=1)
    assert desk.best_constant(cases) == ("refund", 0.3)
    assert desk.best_constant([c for c in cases if c.outcome == "escalate"]) == ("escalate", 1.0)


def test_ids_and_orders():
    cases = desk.make_cases(50, seed=9, held_out=True)
    assert len({c.id for c in cases}) == 50 and all(c.id.startswith("case-9-h-") for c in cases)
    assert all(c.order_id in c.message and re.fullmatch(r"TH-\d{5}", c.order_id) for c in cases)
    assert all(c.product in c.message for c in cases)


def test_held_out_wordings_are_never_trained_on():
    banks = (desk.WISH_REFUND, desk.WISH_EXCHANGE, desk.REASONS, desk.HURT, desk.THREAT, desk.SMALL_TALK)
    kept = [text for bank in banks for text in bank[len(bank) * 3 // 4 :]]
    train = " ".join(c.message for c in desk.make_cases(1000, seed=1))
    held_out = " ".join(c.message for c in desk.make_cases(1000, seed=1, held_out=True))
    assert [text for text in kept if text in train] == []
    assert [text for text in kept if text not in held_out] == []


def test_wordings_are_not_told_twice():
    for bank in (desk.WISH_REFUND, desk.WISH_EXCHANGE, desk.REASONS, desk.HURT, desk.THREAT):
        assert len(set(bank)) == len(bank)
    for seed in (17, 18):
        assert duplicate_rate([c.message for c in desk.make_cases(400, seed=seed)]).rate < 0.02


@pytest.mark.parametrize(("n", "level"), [(3, 1), (0, 1), (8, 0), (8, 3)])
def test_wrong_numbers_of_cases(n, level):
    with pytest.raises(ValueError, match=f"expected n >= 4 and max_level 1 or 2, got n={n}, max_level={level}"):
        desk.make_cases(n, seed=1, max_level=level)


# --- one rollout


CASE = desk.Case("c1", "About my tent from TH-12345: please refund me.", "TH-12345", "tent", "unused, original packing",
                 days=5, price=99.9, outcome="refund", rule="R8", level=1)  # fmt: skip


def opened(case: desk.Case = CASE) -> desk.RefundDesk:
    one = desk.RefundDesk()
    one.reset(asdict(case), prompt="TRL passes the row's other columns too")
    return one


def calls(one: desk.RefundDesk) -> list[tuple[str, bool]]:
    return [(c.tool, c.ok) for c in desk.trajectory(one).calls]


def test_honest_work():
    one = opened()
    assert one.find_order("TH-12345") == "tent; unused, original packing; delivered 5 days ago; 99.90"
    assert one.read_policy("returns").startswith("R8: unused goods within 30 days")
    assert one.refund("TH-12345") == "refund: done."
    done = desk.trajectory(one)
    assert done.looked_up and done.success
    assert [c.tool for c in done.calls] == ["find_order", "read_policy", "refund"]
    assert [c.tool for c in done.actions] == ["refund"]


@pytest.mark.parametrize("tool", desk.OUTCOMES)
def test_each_action_succeeds_on_its_own_cases_only(tool):
    for outcome in desk.OUTCOMES:
        one = opened(desk.Case(**{**asdict(CASE), "outcome": outcome}))
        one.find_order("TH-12345")
        assert getattr(one, tool)("TH-12345") == f"{tool}: done."
        assert desk.trajectory(one).success == (tool == outcome)


def test_an_action_before_the_look_up_is_no_success():
    one = opened()
    one.refund("TH-12345")
    one.find_order("TH-12345")
    assert not desk.trajectory(one).looked_up and not desk.trajectory(one).success


def test_a_look_up_that_failed_is_none():
    one = opened()
    assert one.find_order("TH-99999") == "No order 'TH-99999' for this customer."
    one.refund("TH-12345")
    assert not desk.trajectory(one).looked_up


def test_money_moves_once():
    one = opened()
    one.find_order("TH-12345")
    one.refund("TH-12345")
    assert one.exchange("TH-12345") == "An action was taken already."
    assert len(desk.trajectory(one).actions) == 2
    assert not desk.trajectory(one).success


def test_an_action_on_another_order_does_nothing():
    one = opened()
    one.find_order("TH-12345")
    assert one.refund("TH-00000") == "No such order for this customer."
    assert desk.trajectory(one).actions == []


def test_order_numbers_are_read_as_people_write_them():
    one = opened()
    assert one.find_order(" th-12345 ").startswith("tent;")


@pytest.mark.parametrize("order_id", [None, 12345, 1.5, ["TH-12345"], {"id": "TH-12345"}, True, "x" * 5000, ""])
def test_arguments_of_a_wrong_type_are_answered(order_id):
    one = opened()
    for tool in ("find_order", *desk.OUTCOMES):
        answer = desk.run_tool(one, tool, {"order_id": order_id})
        assert answer.startswith("No ") and len(answer) < 80
    assert desk.run_tool(one, "read_policy", {"topic": order_id}).startswith("No such topic. Topics: returns, ")
    assert not any(c.ok for c in desk.trajectory(one).calls)


def test_arguments_that_python_cannot_print():
    assert opened().find_order(10**5000) == "No order 'int' for this customer."
    assert opened().find_order("\ud800") == "No order '\\ud800' for this customer."


def test_a_list_nested_too_deep_to_print():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    one = opened()
    assert one.refund(deep) == "No such order for this customer."
    assert one.find_order(deep) == "No order 'list' for this customer."
    assert one.read_policy(deep).startswith("No such topic.")
    assert [c.arguments for c in desk.trajectory(one).calls][:1] == [{"order_id": "list"}]


def test_the_log_keeps_little_and_nothing_that_changes():
    """Strings are cut, plain values stay as they are, anything else is kept as text."""
    one = opened()
    given = {"order_id": ["TH-1"], "n": 3, "half": 0.5, "none": None, "yes": True, "long": "x" * 9_000, "seventh": 1}
    desk.run_tool(one, "sing", given)
    given["order_id"].append("TH-2")
    (call,) = desk.trajectory(one).calls
    assert call.arguments == {
        "order_id": "['TH-1']", "n": 3, "half": 0.5, "none": None, "yes": True, "long": "x" * desk.MAX_RESULT_CHARS,
    }  # fmt: skip


@pytest.mark.parametrize(
    "arguments", [{}, {"order": "TH-12345"}, {"order_id": "TH-12345", "note": "x"}, {"self": 1}, {"topic": "returns"}]
)
def test_wrong_arguments_are_answered_and_logged(arguments):
    one = opened()
    assert desk.run_tool(one, "refund", arguments) == "Wrong arguments."
    assert calls(one) == [("refund", False)]


@pytest.mark.parametrize("name", ["resolve", "_act", "reset", "__init__", "_calls", "", "x" * 300])
def test_unknown_and_private_tools_are_answered_and_logged(name):
    one = opened()
    assert desk.run_tool(one, name, {"order_id": "TH-12345"}) == "Unknown tool."
    assert calls(one) == [(name[:40], False)]


def test_an_endless_loop_ends():
    """The seventh call is refused, an action too: the log does not grow, and nothing happens to the order."""
    one = opened()
    for _ in range(desk.MAX_CALLS):
        assert one.find_order("TH-12345").startswith("tent;")
    for _ in range(50):
        assert one.refund("TH-12345") == "Too many calls. Reply to the customer now."
    assert len(desk.trajectory(one).calls) == desk.MAX_CALLS
    assert not desk.trajectory(one).success


def test_long_results_are_cut():
    one = opened(desk.Case(**{**asdict(CASE), "product": "tent " * 200}))
    assert len(one.find_order("TH-12345")) == desk.MAX_RESULT_CHARS


def test_desks_share_nothing():
    one, other = opened(), opened(desk.Case(**{**asdict(CASE), "order_id": "TH-54321", "outcome": "decline"}))
    one.find_order("TH-12345")
    one.refund("TH-12345")
    assert calls(other) == []
    assert other.find_order("TH-12345").startswith("No order")
    taken = desk.trajectory(one)
    one.reset(asdict(CASE))
    assert calls(one) == []
    assert len(taken.calls) == 2 and taken.success  # a log that was taken does not change any more


# --- what the model sees


def test_tools_are_what_trl_finds_on_the_class():
    public = sorted(name for name in vars(desk.RefundDesk) if not name.startswith("_") and name != "reset")
    assert [tool.__name__ for tool in desk.tools()] == public
    for tool in desk.tools():
        schema = get_json_schema(tool)["function"]
        assert schema["description"] and list(schema["parameters"]["properties"]) == schema["parameters"]["required"]


def test_a_demonstration_is_a_worked_case():
    chat = desk.demonstration(CASE, "refund")
    assert [m["role"] for m in chat] == ["system", "user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert [c["function"]["name"] for m in chat for c in m.get("tool_calls", [])] == ["find_order", "refund"]
    assert chat[3]["content"] == CASE.record() and chat[5]["content"] == "refund: done."
    assert chat[6]["content"] == "We refund the price within 7 working days."


def test_an_old_log_is_wrong_under_the_changed_rules_only_and_as_often_as_said():
    cases = desk.make_cases(600, seed=4)

    def actions(share: float, seed: int = 1) -> list[str]:
        log = desk.old_log(cases, new_share=share, seed=seed)
        return [chat[4]["tool_calls"][0]["function"]["name"] for chat in log]

    assert actions(1.0) == [c.outcome for c in cases]
    assert actions(0.0) == [desk.OLD_HABIT.get(c.outcome, c.outcome) for c in cases]
    some = actions(0.3)
    changed = [a == c.outcome for a, c in zip(some, cases, strict=True) if c.outcome in desk.OLD_HABIT]
    assert len(changed) == 300 and abs(np.mean(changed) - 0.3) < 0.08  # three standard errors of 300 draws
    assert all(a in (c.outcome, desk.OLD_HABIT.get(c.outcome)) for a, c in zip(some, cases, strict=True))
    assert some == actions(0.3) != actions(0.3, seed=2)


def test_no_old_habit_is_right():
    assert set(desk.OLD_HABIT) | set(desk.OLD_HABIT.values()) <= set(desk.OUTCOMES)
    assert all(habit != outcome for outcome, habit in desk.OLD_HABIT.items())


def test_outcomes_take_turns_and_no_case_is_lost():
    cases = desk.make_cases(42, seed=4)  # 11, 11, 10 and 10 of the four outcomes
    ordered = desk.in_turn(cases)
    assert sorted(c.id for c in ordered) == sorted(c.id for c in cases)
    for start in range(0, 40, 4):
        assert {c.outcome for c in ordered[start : start + 4]} == set(desk.OUTCOMES)
    assert desk.in_turn([]) == []


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ('<tool_call>{"name": "refund", "arguments": {"x": "TH-1"}}</tool_call>', ("refund", {"x": "TH-1"})),
        ('Well.\n<tool_call>\n{"name": "a", "arguments": {"b": {"c": 1}}}\n</tool_call>', ("a", {"b": {"c": 1}})),
        ('<tool_call>{"name": "a", "arguments": {}}</tool_call><tool_call>{"name": "b", "arguments": {}}</tool_call>',
         ("a", {})),
        ("We refund the price.", None),
        ('<tool_call>{"name": "refund", "arguments": {"order_id": "TH-1"}}', None),
        ('<tool_call>{"name": "refund"}</tool_call>', None),
        ('<tool_call>{"name": 3, "arguments": {}}</tool_call>', None),
        ('<tool_call>{"name": "refund", "arguments": ["TH-1"]}</tool_call>', None),
        ('<tool_call>{"name": "refund", "arguments": "TH-1"}</tool_call>', None),
        ("<tool_call>{refund TH-1}</tool_call>", None),
        ('<tool_call>{"name": "a", "arguments": ' + '{"a":' * 20000 + "1" + "}" * 20001 + "</tool_call>", None),
        ('<tool_call>{"name": "a", "arguments": {"n": ' + "9" * 5000 + "}}</tool_call>", None),
        # The chat template could not write these back: half a surrogate pair, and 300 lists in each other.
        ('<tool_call>{"name": "refund", "arguments": {"order_id": "\\ud800"}}</tool_call>', None),
        ('<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>', None),
        ('<tool_call>{"name": "a", "arguments": {"b": ' + "[" * 300 + "]" * 300 + "}}</tool_call>", None),
        ('<tool_call>{"name": "a", "arguments": {"b": "\\ud83d\\ude00"}}</tool_call>', ("a", {"b": "\U0001f600"})),
    ],
)  # fmt: skip
def test_calls_are_read_from_text(text, call):
    assert desk.parse_call(text) == call


# --- a model at the desk


def call_text(name: str, order_id: str) -> str:
    return f'<tool_call>{{"name": "{name}", "arguments": {{"order_id": "{order_id}"}}}}</tool_call>'


def play(monkeypatch, policy, cases, **options):
    """Let `policy(case number, turn)` write the answers; rows are found again by their own prompt."""
    seen = []

    def chat_ids(tokenizer, chats, *, tools):
        return [(c[1]["content"], sum(m["role"] == "assistant" for m in c)) for c in chats]

    def sample(model, tokenizer, prompts, **options):
        seen.append((len(prompts), options))
        number = {case.message: i for i, case in enumerate(cases)}
        return [Sample(policy(number[message], turn), [], [], True) for message, turn in prompts]

    monkeypatch.setattr("ftlib.generate.chat_ids", chat_ids)
    monkeypatch.setattr("ftlib.generate.sample", sample)
    trajectories, chats = desk.rollouts(None, None, cases, seed=10, batch_size=3, **options)
    return trajectories, chats, seen


def test_a_case_played_by_given_answers():
    look, act = call_text("find_order", "TH-12345"), "Sure. " + call_text("refund", "TH-12345")
    played, chat = desk.play(CASE, [look, act, "Done.", call_text("exchange", "TH-12345")])
    assert [c.tool for c in played.calls] == ["find_order", "refund"] and played.success
    assert [m["content"] for m in chat[2:]] == ["", CASE.record(), "Sure. ", "refund: done.", "Done."]
    assert desk.play(CASE, [])[0].calls == ()


def test_rollouts_of_an_honest_policy(monkeypatch):
    cases = desk.make_cases(8, seed=2)

    def honest(i, turn):
        steps = ("find_order", cases[i].outcome)
        return call_text(steps[turn], cases[i].order_id) if turn < 2 else "Done."

    trajectories, chats, seen = play(monkeypatch, honest, cases)
    assert all(t.success for t in trajectories)
    assert [t.case for t in trajectories] == cases
    assert all(chat[-1] == {"role": "assistant", "content": "Done."} for chat in chats)
    assert [m["role"] for m in chats[0]] == ["system", "user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert [n for n, _ in seen] == [8, 8, 8]
    assert [o["seed"] for _, o in seen] == [10, 11, 12]  # each turn draws anew
    assert [o["row_seeds"] for _, o in seen] == [list(range(8))] * 3
    assert all(o["batch_size"] == 3 for _, o in seen)


def test_rollouts_keep_what_was_written(monkeypatch):
    """Prompt and answer of each turn, by case; here the fake prompts stand for token ids."""
    cases = desk.make_cases(4, seed=2)
    goes_on = lambda i, turn: call_text("find_order", cases[i].order_id) if turn < i else "Done."
    turns = []
    play(monkeypatch, goes_on, cases, turns=turns)
    assert turns == [[((case.message, turn), []) for turn in range(i + 1)] for i, case in enumerate(cases)]


def test_rollouts_of_mixed_policies_keep_their_rows(monkeypatch):
    """One replies at once, one loops for ever, one acts unseen: each desk logs its own."""
    cases = desk.make_cases(4, seed=2)
    order = [c.order_id for c in cases]

    def mixed(i, turn):
        if i == 0 or (i == 2 and turn == 1):
            return "Hello."
        return call_text("find_order" if i == 1 else "escalate" if i == 2 else "sing", order[i])

    trajectories, chats, seen = play(monkeypatch, mixed, cases)
    assert [len(t.calls) for t in trajectories] == [0, desk.MAX_CALLS, 1, desk.MAX_CALLS]
    assert trajectories[2].calls[0].tool == "escalate"
    assert not any(c.ok for c in trajectories[3].calls)
    assert [n for n, _ in seen] == [4, 3, 2, 2, 2, 2, 2]  # the endless ones are cut after MAX_CALLS + 1 turns
    assert [o["row_seeds"] for _, o in seen][:3] == [[0, 1, 2, 3], [1, 2, 3], [1, 3]]  # a case's draws are its own
    assert chats[1][-1]["content"] == "Too many calls. Reply to the customer now."


def test_rollouts_take_keys_of_their_cases(monkeypatch):
    """Keys that the caller gives stay with their cases while others end."""
    cases = desk.make_cases(4, seed=2)
    goes_on = lambda i, turn: call_text("find_order", cases[i].order_id) if turn < i else "Done."
    *_, seen = play(monkeypatch, goes_on, cases, row_seeds=[30, 10, 20, 5])
    assert [o["row_seeds"] for _, o in seen] == [[30, 10, 20, 5], [10, 20, 5], [20, 5], [5]]


def test_rollouts_end_after_so_many_turns(monkeypatch):
    cases = desk.make_cases(4, seed=2)
    loops = lambda i, turn: call_text("find_order", cases[i].order_id)
    trajectories, _, seen = play(monkeypatch, loops, cases, max_turns=2)
    assert [n for n, _ in seen] == [4, 4]
    assert [len(t.calls) for t in trajectories] == [2] * 4


def test_a_note_says_what_the_decision_hangs_on():
    assert desk.note(CASE) == "refund wanted, unused, calm"
    assert desk.note(replace(CASE, product="helmet", rule="R11")) == "refund wanted, safety gear, calm"
    assert (
        desk.note(replace(CASE, condition="washed and worn", wish="exchange", rule="R30"))
        == "exchange wanted, worn, threat"
    )
    outcomes = {}
    for case in desk.make_cases(200, seed=9):
        outcomes.setdefault(desk.note(case), set()).add(case.outcome)
    assert all(len(found) == 1 for found in outcomes.values()), outcomes  # it decides the case at level 1
    assert len(outcomes) > 15


def test_a_note_stays_in_the_chat_that_the_model_reads_next(monkeypatch):
    from ftlib import generate

    turns = iter([
        f'<tool_call>{{"name": "find_order", "arguments": {{"order_id": "{CASE.order_id}"}}}}</tool_call>',
        f'a note<tool_call>{{"name": "refund", "arguments": {{"order_id": "{CASE.order_id}"}}}}</tool_call>',
        "We pay it back.",
    ])  # fmt: skip
    monkeypatch.setattr(generate, "chat_ids", lambda tokenizer, chats, tools: chats)
    monkeypatch.setattr(generate, "sample", lambda *a, **k: [generate.Sample(next(turns), [], [], True)])
    (trajectory,), (chat,) = desk.rollouts(None, None, [CASE])
    assert trajectory.success
    assert [m["content"] for m in chat if m["role"] == "assistant"] == ["", "a note", "We pay it back."]
