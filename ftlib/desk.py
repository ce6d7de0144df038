"""The refund desk: a small stateful world with tools, for reinforcement fine-tuning.

A case is a customer's message and an order record; the policy book decides which one action is right. Cases are made
by seed, balanced over the four outcomes, on a ladder of difficulty: level 1 hangs on words of the record or the
message, level 2 on a number of days as well. The class follows TRL's `environment_factory` convention: `reset(**row)`,
and every public method is a tool. Its docstring makes the tool's schema; what a model reads of that is up to its chat
template (the embedded model's shows the names alone). A rollout has its instance to itself while it runs; `reset`
begins another log.

Left out on purpose: free-text judging. What counts is what was done to the order, which the log shows.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np

OUTCOMES = ("refund", "exchange", "decline", "escalate")
SYSTEM = "You work at the refund desk of Tarnhollow Gear. Look the order up, act once by the policy, then reply."
MAX_CALLS = 6  # a seventh call is refused: an endless loop ends here
MAX_RESULT_CHARS = 240
MAX_AMOUNT_CHARS = 60  # the longest argument that says anything: an amount as a sum, at the whole desk
MAX_BRACKETS = 100  # a call with more is none: nested that deep, the chat template could not write it back

# Wordings: the last quarter of each list is kept for held-out cases (see `make_cases`).
WISH_REFUND = (
    "I want my money back", "please refund me", "I'd like a refund", "can I get the money back",
    "kindly return the amount to my card", "how about you give me my cash back", "just pay me back please",
    "refund it, thanks", "I would rather have the money", "send the money back to me",
    "I'd prefer to be reimbursed", "let me have what I paid returned",
)  # fmt: skip
WISH_EXCHANGE = (
    "can you swap it for a larger one", "I need another size", "please exchange it for blue",
    "could I have one size down instead", "I want to change it for a different colour",
    "swap it for the grey one please",
    "I'd like the next size up", "an exchange for a smaller one would be great", "may I trade it for another colour",
    "please send the bigger one in exchange", "I'd take the wide version instead", "switch it to the short one for me",
)  # fmt: skip
SMALL_TALK = (
    "", "", "Hello.", "Hi there,", "Good morning.", "hey", "Dear team,", "Sorry to bother you.",
    "Second time I write.", "Quick one:", "I'm in a hurry.", "Hope you are well.",
)  # fmt: skip
REASONS = (
    "it was a present and is not needed", "my plans changed", "it does not suit me", "I ordered too fast",
    "it looks different at home", "my partner bought the same", "I found I don't need it", "the trip is off",
    "it's not what I expected", "the fit is wrong for me", "it stays in the cupboard", "I picked in the dark",
)  # fmt: skip
HURT = (
    "It broke under me and I cut my hand.", "The thing failed and my son fell and hurt his knee.",
    "It gave way and I almost went over the edge.", "I got burnt when it leaked.",
    "It snapped and hit my friend in the face, she needed stitches.", "We nearly had a bad accident because of it.",
    "My daughter was hurt when it came apart.", "It failed on the slope and I sprained my wrist.",
)  # fmt: skip
THREAT = (
    "Otherwise my lawyer will write to you.", "I am going to court over this.", "The newspaper will hear about it.",
    "My solicitor has the file already.", "I shall take legal steps.",
    "A journalist I know is waiting for your answer.",
    "I'll see you in court.", "The consumer programme on the radio has my letter.",
)  # fmt: skip
PRODUCTS = ("boots", "jacket", "backpack", "tent", "sleeping bag", "gloves", "trousers", "headlamp", "gaiters", "mat")
NO_RETURN = ("climbing rope", "harness", "helmet", "avalanche beacon")
CONDITIONS = {
    "unused": ("unused, original packing", "unopened, tags on", "not used, in its box"),
    "worn": ("worn outdoors", "washed and worn", "visibly used"),
    "faulty": ("arrived damaged", "faulty on arrival", "failed in normal use"),
    "final": ("unused, final sale item", "unopened, marked final sale"),
}
# What the desk did before two parts of the policy book were rewritten, by what is right now: it paid for goods
# that cannot come back (worn, final sale, safety gear), and it handed nothing over.
OLD_HABIT = {"decline": "refund", "escalate": "decline"}
POLICY = {
    "returns": "R8: unused goods within 30 days: refund. R10: worn or washed: no return. R14: final sale: no refund. "
    "R7: a part is missing: send it (exchange).",
    "exchange": "R12: another size or colour within 45 days: exchange. R14: final sale may be exchanged.",
    "damage": "R15: damaged or failed goods are replaced: exchange. R17: normal wear, own punctures, machine washing: "
    "not covered.",
    "safety": "R11: ropes, harnesses, helmets, avalanche gear, opened food or fuel: no return. R18: somebody hurt: "
    "escalate.",
    "conduct": "R30: legal or press threat, abuse of staff: escalate.",
}


@dataclass(frozen=True)
class Case:
    """One case and its right outcome; `rule` names the line of the policy book that decides it."""

    id: str
    message: str
    order_id: str
    product: str
    condition: str
    days: int  # since delivery
    price: float
    outcome: str
    rule: str
    level: int
    wish: str = "refund"  # refund | exchange: what the customer asks for
    family: str = "known"  # other families (`hidden_cases`) are never trained on
    told: bool = False  # the message holds the record already, so no look-up is needed (`long_cases`)
    trail: tuple[str, ...] = ()  # numbers that the order had before, the oldest first: each leads to the next

    def __post_init__(self):
        object.__setattr__(self, "trail", tuple(self.trail))  # a list where the case comes from JSON or a table

    def record(self) -> str:
        """What `find_order` returns."""
        return f"{self.product}; {self.condition}; delivered {self.days} days ago; {self.price:.2f}"

    @property
    def needed_calls(self) -> int:
        """The fewest calls that solve it: a look-up for each number that the order had, and the action."""
        return 1 if self.told else 2 + len(self.trail)

    @property
    def enough_text(self) -> int:
        """Characters that may stand beside the calls and cost nothing: twice the longest note and reply of a worker."""
        return 160

    def moved_to(self, order_id: Any) -> str | None:
        """The number that an old one leads to; None for any other."""
        number, numbers = _number(order_id), (*self.trail, self.order_id)
        return numbers[numbers.index(number) + 1] if number in self.trail else None


@dataclass(frozen=True)
class Call:
    """One tool call as it happened."""

    tool: str
    arguments: dict[str, Any]
    result: str
    ok: bool

    @property
    def padding(self) -> int:
        """Characters of arguments beyond what a number or an amount can need."""
        return sum(max(0, len(str(value)) - MAX_AMOUNT_CHARS) for value in self.arguments.values())


@dataclass(frozen=True)
class Trajectory:
    """All calls of one rollout on one case, and how much was said: what rewards are computed from.

    Attributes:
        said: characters that the model wrote beside its calls (`said_in`); 0 where nobody has counted them.
    """

    case: Case
    calls: tuple[Call, ...] = ()
    said: int = 0

    @property
    def text(self) -> int:
        """Characters written for somebody to read, and those of arguments that are longer than any number."""
        return self.said + sum(call.padding for call in self.calls)

    @property
    def looked_up(self) -> bool:
        """Whether the case's record was seen before the first action."""
        for call in self.calls:
            if call.tool in OUTCOMES:
                break
            if call.tool == "find_order" and call.ok and not self.case.moved_to(call.arguments.get("order_id")):
                return True
        return self.case.told

    @property
    def actions(self) -> list[Call]:
        """The calls that did something to an order."""
        return [call for call in self.calls if call.tool in OUTCOMES and call.ok]

    @property
    def success(self) -> bool:
        """The right order was looked up first, then exactly one action was taken, and it was the right one."""
        return self.looked_up and len(self.actions) == 1 and self.actions[0].tool == self.case.outcome


@dataclass
class RefundDesk:
    """The environment of one rollout. TRL makes it, calls `reset(**row)`, and offers its public methods as tools."""

    _tools: ClassVar[tuple[str, ...]] = ("find_order", "read_policy", *OUTCOMES)
    _most_calls: ClassVar[int] = MAX_CALLS
    _kind: ClassVar[type[Case]] = Case
    _book: ClassVar[dict[str, str]] = POLICY

    _case: Case | None = None
    _calls: list[Call] = field(default_factory=list)

    def reset(self, case: dict[str, Any], **_: Any) -> None:
        self._case = self._kind(**case)
        self._calls = []

    def find_order(self, order_id: str) -> str:
        """Show an order.

        Args:
            order_id: The order's number.
        """
        known, moved_to = self._same_order(order_id), self._case.moved_to(order_id)
        result = self._case.record() if known else f"No order {_short(order_id, 20)!r} for this customer."
        result = f"Moved to {moved_to}." if moved_to else result
        return self._log("find_order", {"order_id": order_id}, result, ok=known or bool(moved_to))

    def read_policy(self, topic: str) -> str:
        """Read the rules on: returns, exchange, damage, safety, conduct.

        Args:
            topic: One of these topics.
        """
        known = isinstance(topic, str) and topic in self._book
        result = self._book[topic] if known else f"No such topic. Topics: {', '.join(self._book)}."
        return self._log("read_policy", {"topic": topic}, result, ok=known)

    def refund(self, order_id: str) -> str:
        """Pay the price back.

        Args:
            order_id: The order's number.
        """
        return self._act("refund", order_id)

    def exchange(self, order_id: str) -> str:
        """Send a replacement.

        Args:
            order_id: The order's number.
        """
        return self._act("exchange", order_id)

    def decline(self, order_id: str) -> str:
        """Say no by the policy.

        Args:
            order_id: The order's number.
        """
        return self._act("decline", order_id)

    def escalate(self, order_id: str) -> str:
        """Hand over to a colleague.

        Args:
            order_id: The order's number.
        """
        return self._act("escalate", order_id)

    def _trajectory(self, said: int = 0) -> Trajectory:
        return Trajectory(self._case, tuple(self._calls), said)

    def _opening(self) -> list[dict[str, str]]:
        return chat(self._case)

    def _over(self) -> bool:
        """Whether the case has ended by a call; here it ends with an answer that holds none."""
        return False

    def _same_order(self, order_id: Any) -> bool:
        return _number(order_id) == self._case.order_id

    def _acted(self) -> list[Call]:
        return [call for call in self._calls if call.tool in OUTCOMES and call.ok]

    def _act(self, tool: str, order_id: Any, *, done: str = "", **more: Any) -> str:
        """`done`: what an action says that is taken; `more`: its other arguments."""
        arguments = {"order_id": order_id, **more}
        if not self._same_order(order_id):
            return self._log(tool, arguments, "No such order for this customer.", ok=False)
        if self._acted():  # logged as done, so that a second action counts against the rollout; money moves once
            return self._log(tool, arguments, "An action was taken already.", ok=True)
        return self._log(tool, arguments, done or f"{tool}: done.", ok=True)

    def _log(self, tool: str, arguments: dict[str, Any], result: str, *, ok: bool) -> str:
        if len(self._calls) >= self._most_calls:
            return "Too many calls. Reply to the customer now."
        result = result[:MAX_RESULT_CHARS]
        self._calls.append(Call(tool, _kept(arguments), result, ok))
        return result


def _number(order_id: Any) -> str | None:
    """An order's number as the desk reads it; None where a model gave something else."""
    return order_id.strip().upper() if isinstance(order_id, str) else None


def _short(value: Any, chars: int) -> str:
    """The beginning of what a model gave as an argument, whatever it is."""
    try:
        return str(value)[:chars]
    except (ValueError, RecursionError):  # an int of 5,000 digits, a list 1,000 deep
        return type(value).__name__


def _kept(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments as the log keeps them: short, and of plain values, so that nobody can change them afterwards."""
    plain = lambda v: v is None or isinstance(v, (bool, float)) or (isinstance(v, int) and abs(v) < 2**63)
    few = list(arguments.items())[:MAX_CALLS]
    return {_short(k, 40): v if plain(v) else _short(v, MAX_RESULT_CHARS) for k, v in few}


def trajectory(desk: RefundDesk, chat: Iterable[Mapping[str, Any]] = ()) -> Trajectory:
    """The log of a desk, as rewards take it.

    Args:
        chat: the rollout's messages, which the desk itself never sees; TRL hands them to reward functions as
            `completions`. Without them the log does not know how much was said.
    """
    return desk._trajectory(said_in(chat))


def said_in(chat: Iterable[Mapping[str, Any]]) -> int:
    """Characters that the model wrote beside its calls: notes, and what it says at the end.

    Characters, not tokens: a log should mean the same whatever the tokenizer. Not words: a text without spaces is long
    too. Counted is what the chat keeps, so of an answer with text on both sides of a call one side only.

    Example:
        >>> said_in([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Done. "}])
        5
    """
    return sum(len(str(message.get("content") or "").strip()) for message in chat if message["role"] == "assistant")


def tools(make: Callable[[], RefundDesk] = RefundDesk) -> list:
    """The tools' functions, for a chat template (schemas are read from signatures and docstrings)."""
    desk = make()
    # In alphabetical order, as TRL lists an environment's methods: prompts must be the same in SFT and in GRPO.
    return [getattr(desk, name) for name in sorted(desk._tools)]


def chat(case: Case) -> list[dict[str, str]]:
    """The messages that open a case."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": case.message}]


def make_cases(n: int, *, seed: int, held_out: bool = False, max_level: int = 1) -> list[Case]:
    """n cases, the four outcomes in turn, so that no constant action succeeds on more than a quarter (rounded up).

    Args:
        held_out: draw from all wordings; otherwise only from the first three quarters of each list.
        max_level: 1: words decide; 2: also the days since delivery.

    Raises:
        ValueError: n < 4 or an unknown level.
    """
    if n < len(OUTCOMES) or max_level not in (1, 2):
        raise ValueError(f"expected n >= {len(OUTCOMES)} and max_level 1 or 2, got n={n}, max_level={max_level}")
    rng = np.random.default_rng([seed, int(held_out)])
    cases, seen = [], set()
    while len(cases) < n:
        case = _make_case(rng, len(cases), seed, held_out, max_level)
        if case.message not in seen:
            seen.add(case.message)
            cases.append(case)
    order = rng.permutation(n)
    return [cases[i] for i in order]


def _make_case(rng, index: int, seed: int, held_out: bool, max_level: int) -> Case:
    outcome = OUTCOMES[index % len(OUTCOMES)]
    level = int(rng.integers(1, max_level + 1))
    days = int(rng.integers(2, 28))
    wish, condition, product, rule, extra = situation(rng, outcome)
    if level == 2 and outcome == "decline":  # right goods, too late: the number decides
        wish, condition, product, rule, extra = "refund", "unused", "", "R8", ""
        days = int(rng.integers(40, 90))
    order_id = f"TH-{rng.integers(10000, 99999)}"
    product = product or str(rng.choice(PRODUCTS))
    pick = lambda bank: str(rng.choice(bank if held_out else bank[: len(bank) * 3 // 4]))
    parts = [pick(SMALL_TALK), f"About my {product} from {order_id}:"]
    if extra:
        parts.append(pick(HURT if extra == "hurt" else THREAT))
    elif rng.random() < 0.5:
        parts.append(f"{pick(REASONS)}.")
    wording = pick(WISH_REFUND if wish == "refund" else WISH_EXCHANGE)
    parts.insert(2 if rng.random() < 0.6 else len(parts), f"{wording}.")
    return Case(
        id=f"case-{seed}-{'h' if held_out else 't'}-{index}",
        message=" ".join(part for part in parts if part),
        order_id=order_id,
        product=product,
        condition=str(rng.choice(CONDITIONS[condition])),
        days=days,
        price=float(rng.integers(15, 300)) - 0.1,
        outcome=outcome,
        rule=rule,
        level=level,
        wish=wish,
    )


def situation(rng, outcome: str) -> tuple[str, str, str, str, str]:
    """(wish, condition, product or "", rule, extra) that lead to the outcome under the policy book."""
    options = {
        "refund": [("refund", "unused", "", "R8", "")],
        "exchange": [
            ("exchange", "unused", "", "R12", ""),
            ("refund", "faulty", "", "R15", ""),
            ("exchange", "final", "", "R14", ""),
        ],
        "decline": [
            ("refund", "worn", "", "R10", ""),
            ("refund", "final", "", "R14", ""),
            ("refund", "unused", str(rng.choice(NO_RETURN)), "R11", ""),
        ],
        "escalate": [
            (str(rng.choice(["refund", "exchange"])), str(rng.choice(list(CONDITIONS))), "", "R18", "hurt"),
            (str(rng.choice(["refund", "exchange"])), str(rng.choice(list(CONDITIONS))), "", "R30", "threat"),
        ],
    }[outcome]
    return options[int(rng.integers(len(options)))]


def note(case: Case) -> str:
    """What a worker jots down between look-up and action: the wish, the sort of goods, and any cause for alarm.

    It puts what the decision hangs on right before the decision, which a small model can then learn (scratchpads,
    arXiv 2112.00114). Nothing is scored in it.

    Raises:
        ValueError: a case of a hidden family, which must not become a demonstration.
    """
    if case.family != "known":
        raise ValueError(f"{case.id}: expected a case to train on, got one of the hidden family {case.family!r}")
    sort = next(name for name, wordings in CONDITIONS.items() if case.condition in wordings)
    goods = "safety gear" if case.product in NO_RETURN else sort
    alarm = {"R18": "hurt", "R30": "threat"}.get(case.rule, "calm")
    return f"{case.wish} wanted, {goods}, {alarm}"


def demonstration(case: Case, action: str) -> list[dict[str, Any]]:
    """A worked case as chat messages: look up, note, act, reply. `action` may be wrong, as in an old log."""
    desk = RefundDesk()
    desk.reset(asdict(case))
    call = lambda name, number: {"type": "function", "function": {"name": name, "arguments": {"order_id": number}}}
    look_ups = []
    for number in () if case.told else (*case.trail, case.order_id):
        look_ups.append({"role": "assistant", "content": "", "tool_calls": [call("find_order", number)]})
        look_ups.append({"role": "tool", "name": "find_order", "content": desk.find_order(number)})
    replies = {
        "refund": "We refund the price within 7 working days.",
        "exchange": "We send you a replacement.",
        "decline": "By our policy we have to say no here.",
        "escalate": "A colleague takes over and writes to you today.",
    }
    return [
        *chat(case),
        *look_ups,
        {"role": "assistant", "content": note(case), "tool_calls": [call(action, case.order_id)]},
        {"role": "tool", "name": action, "content": getattr(desk, action)(case.order_id)},
        {"role": "assistant", "content": replies[action]},
    ]


def old_log(cases: list[Case], *, new_share: float, seed: int) -> list[list[dict[str, Any]]]:
    """Demonstrations as a log from around a change of policy shows them; right where the policy did not change.

    Args:
        new_share: of the cases under a changed rule, the share handled as the book now says; the others by `OLD_HABIT`.
    """
    rng = np.random.default_rng([seed, 7])
    new = rng.random(len(cases)) < new_share
    return [
        demonstration(c, c.outcome if n else OLD_HABIT.get(c.outcome, c.outcome))
        for c, n in zip(cases, new, strict=True)
    ]


def in_turn(cases: list[Case]) -> list[Case]:
    """The same cases with the outcomes taking turns: any four in a row hold all four, as far as they last.

    A training step on a few cases then pays no action more than another.
    """
    waiting = {outcome: [c for c in cases if c.outcome == outcome] for outcome in OUTCOMES}
    rounds = max(map(len, waiting.values()), default=0)
    return [queue[i] for i in range(rounds) for queue in waiting.values() if i < len(queue)]


def best_constant(cases: list[Case]) -> tuple[str, float]:
    """The action that, taken always after a look-up, succeeds most often, and how often."""
    shares = {outcome: sum(case.outcome == outcome for case in cases) / len(cases) for outcome in OUTCOMES}
    best = max(shares, key=shares.get)
    return best, shares[best]


def rollouts(
    model,
    tokenizer,
    cases: list[Case],
    *,
    max_turns: int = MAX_CALLS + 1,
    turns: list | None = None,
    make: Callable[[], RefundDesk] = RefundDesk,
    **options,
) -> tuple[list[Trajectory], list[list[dict]]]:
    """Let a model work the cases with tools; sampling options as in `generate.sample`.

    A case's draws hang on the seed, the turn and the case's place in the list (or its `row_seeds`), not on which other
    cases are still at work.

    Args:
        max_turns: answers of the model a case; one more than the calls it may make shows how it ends.
        turns: an empty list that takes, for each case, the token ids (prompt, answer) of each turn: what
            `offline.log_likelihoods` reads.
        make: the kind of desk that they are worked at.

    Returns:
        The trajectory and the chat of each case.
    """
    desks = [make() for _ in cases]
    chats = []
    for desk, case in zip(desks, cases, strict=True):
        desk.reset(asdict(case))
        chats.append(desk._opening())
    take = lambda i, text: take_turn(desks[i], chats[i], text)
    written = write_in_turn(model, tokenizer, chats, take, tools=tools(make), max_turns=max_turns, **options)
    if turns is not None:
        turns += written
    return [trajectory(desk, chat) for desk, chat in zip(desks, chats, strict=True)], chats


def write_in_turn(
    model,
    tokenizer,
    chats: list[list[dict[str, Any]]],
    take: Callable[[int, str], bool],
    *,
    tools: list,
    max_turns: int,
    **options,
) -> list[list[tuple]]:
    """Let a model write in several chats, turn by turn, until each is over; sampling options as in `generate.sample`.

    Args:
        chats: each with its opening; they grow.
        take: puts an answer into the chat of this number, and what it leads to; False where the chat is over.
        tools: functions or JSON schemas, for the chat template.
        max_turns: answers of the model a chat.

    Returns:
        The token ids (prompt, answer) of each turn, by chat.
    """
    from ftlib.generate import Memory, chat_ids, sample, turn_options

    options = {"max_new_tokens": 64, "memory": Memory(), **options}
    alive = list(range(len(chats)))
    written: list[list[tuple]] = [[] for _ in chats]
    for turn in range(max_turns):
        if not alive:
            break
        prompts = chat_ids(tokenizer, [chats[i] for i in alive], tools=tools)
        answers = sample(model, tokenizer, prompts, **turn_options(options, turn, alive))
        for i, prompt, answer in zip(alive, prompts, answers, strict=True):
            written[i].append((prompt, answer.token_ids))
        alive = [i for i, answer in zip(alive, answers, strict=True) if take(i, answer.text)]
    return written


def take_turn(desk: RefundDesk, chat: list[dict[str, Any]], text: str) -> bool:
    """Put a model's answer into the chat and do what it asks for; False where the case is over: it asks for no tool, or
    what it asked for has ended the case."""
    return put_answer(chat, text, functools.partial(run_tool, desk)) and not desk._over()


def put_answer(chat: list[dict[str, Any]], text: str, run: Callable[[str, dict[str, Any]], str]) -> bool:
    """Put a model's answer into the chat, and what `run` gives for the tool and arguments that it asks for; False where
    it asks for none."""
    call = parse_call(text)
    if call is None:
        chat.append({"role": "assistant", "content": text})
        return False
    name, arguments = call
    message = {"type": "function", "function": {"name": name, "arguments": arguments}}
    chat.append({"role": "assistant", "content": text.split("<tool_call>")[0], "tool_calls": [message]})
    chat.append({"role": "tool", "name": name, "content": run(name, arguments)})
    return True


def play(
    case: Case, answers: Iterable[str], *, make: Callable[[], RefundDesk] = RefundDesk
) -> tuple[Trajectory, list[dict[str, Any]]]:
    """Work a case by given answers, as a model's are; those after the one that ends the case are not given any more.

    Returns:
        The trajectory and the chat.
    """
    desk = make()
    desk.reset(asdict(case))
    written = desk._opening()
    for text in answers:
        if not take_turn(desk, written, text):
            break
    return trajectory(desk, written), written


def parse_call(text: str) -> tuple[str, dict] | None:
    """The first `<tool_call>{…}</tool_call>` of an answer as (name, arguments), or None if it is not a call that can be
    written back into the chat (half a surrogate pair cannot, nor can a list in a list in a list … 300 times)."""
    import json
    import re

    found = re.search(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", text, flags=re.DOTALL)
    if not found or sum(map(found.group(1).count, "[{")) > MAX_BRACKETS:
        return None
    try:
        call = json.loads(found.group(1))
        name, arguments = call["name"], call["arguments"]
        json.dumps(call, ensure_ascii=False).encode("utf-8")
    except (ValueError, KeyError, TypeError):  # a model may write anything
        return None
    return (name, arguments) if isinstance(name, str) and isinstance(arguments, dict) else None


def run_tool(desk: RefundDesk, name: str, arguments: dict) -> str:
    """Call a tool by name; an unknown tool or wrong arguments give an error text, never an exception."""
    if name not in desk._tools:
        return desk._log(str(name)[:40], arguments, "Unknown tool.", ok=False)
    try:
        return getattr(desk, name)(**arguments)
    except TypeError:
        return desk._log(name, arguments, "Wrong arguments.", ok=False)
