"""Random action sequences through the refund desks: wrong types, huge and strange texts, unknown tools, endless loops.

Each sequence works two desks in turn. Whatever comes: no exception, each desk's log is what it would be if it had been
alone, and what leaves the shop is the order once at most, and never more money than was paid. The small desk
(`RefundDesk`) and the whole one (`WholeDesk`) are put through the same.
"""

import json
import random
import re
from dataclasses import asdict
from decimal import Decimal

from ftlib import desk, rewards, whole_rewards
from ftlib.desk import Case, RefundDesk, Trajectory
from ftlib.whole_cases import honest_steps
from ftlib.whole_desk import WholeCase, WholeTrajectory

STRANGE = (
    None, True, 0, -1, 10**5000, 1.5, float("nan"), float("inf"), "", " ", "TH-00000", "x" * 20_000, "\x00\x07",
    "\ud800", "😀\u202egpj", "'; DROP TABLE orders; --", "{{7*7}}", "__import__('os').system('true')",
    [], {}, [[]], (1,), {"order_id": {"order_id": {"order_id": None}}}, b"TH-1", {1, 2}, object,
)  # fmt: skip
UNKNOWN = (
    "", "reset", "_act", "_log", "__init__", "_calls", "resolve", "refund ", "REFUND", "x" * 5_000, "\ud800", "💰",
)  # fmt: skip
AMOUNTS = (
    "79.90 * 0.8", 10, 0.01, "1 + 1", "(30 - 10) * 0.8", "1e9", "9" * 60, "-5", "1/0", "(" * 60, "2 ** 99", 10**30,
    "__import__('os').system('true')", "all of it",
)  # fmt: skip
REPLIES = (
    "What would you like?", "It is done.", "Card 4242, 1111, 5556, 4444 or 5100?", "x" * 240, "x" * 241,
)  # fmt: skip
NOT_A_CALL = ("", "Done.", "<tool_call>", "<tool_call>{}</tool_call>", "<tool_call>" + "[" * 3_000, "</tool_call>" * 99)

Step = tuple[str, str, dict]  # how it is done (text | tool | method), the tool's name or the text, the arguments


def random_steps(rng: random.Random, case: Case, tools: tuple[str, ...]) -> list[Step]:
    """Up to 16 steps, about half of them sound, so that money does move; at the whole desk a third of the sequences
    is honest work with up to three of its steps lost, doubled, changed or moved, so that whole cases are worked."""
    if isinstance(case, WholeCase) and rng.random() < 1 / 3:
        return _honest_and_changed(rng, case, tools)
    return [_random_step(rng, case, tools) for _ in range(rng.randint(0, 16))]


def _honest_and_changed(rng: random.Random, case: WholeCase, tools: tuple[str, ...]) -> list[Step]:
    steps: list[Step] = [("tool", tool, arguments) for tool, arguments in honest_steps(case)]
    for _ in range(rng.randint(0, 3)):
        place, change = rng.randrange(len(steps)), rng.choice(("lose", "double", "change", "move", "put in"))
        step = steps[place]
        if change in ("lose", "move", "change") and len(steps) > 1:
            del steps[place]
        if change in ("move", "double"):
            steps.insert(rng.randint(0, len(steps)), step)
        if change in ("change", "put in"):
            steps.insert(place, _random_step(rng, case, tools))
    return steps


def _random_step(rng: random.Random, case: Case, tools: tuple[str, ...]) -> Step:
    kind = rng.random()
    if kind < 0.5:
        name, arguments = rng.choice(tools), {"order_id": case.order_id}
        if name == "read_policy":
            arguments = {"topic": rng.choice(list(desk.POLICY))}
        elif name == "reply":
            arguments = {"text": rng.choice(REPLIES)}
        elif name == "close" and rng.random() < 0.7:  # or few sequences would come to an action
            name = "find_order"
        elif name == "refund" and "reply" in tools:
            amounts = (f"{case.price}", case.price, f"{case.price} * 0.8", f"{case.price} + 12.90", *AMOUNTS)
            arguments |= {"amount": rng.choice(amounts)}
    elif kind < 0.6:
        return "text", rng.choice(NOT_A_CALL), {}
    else:
        name = rng.choice(tools if rng.random() < 0.7 else UNKNOWN)
        value = _deep(rng.choice((3, 30, 300, 2_000))) if rng.random() < 0.1 else rng.choice(STRANGE)
        keys = ("order_id", "topic", "self", "note", "\ud800", "x" * 1_000)
        keys += ("amount", "text") if "reply" in tools else ()
        arguments = dict.fromkeys(rng.sample(keys, rng.randint(0, 3)), value)
        arguments = {"order_id": value} if rng.random() < 0.5 else arguments
    how = rng.choice(("text", "tool", "method"))
    if how == "method" and not (name in tools and len(arguments) == 1 + (name == "refund" and "reply" in tools)):
        how = "tool"  # TRL looks a method up by name and reports wrong arguments itself
    if how == "text":
        return how, _as_text(name, arguments), {}
    return how, name, arguments


def _deep(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


def _as_text(name: str, arguments: dict) -> str:
    try:
        return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"
    except (TypeError, ValueError, RecursionError):  # JSON has no word for it: then the model cannot write it either
        return f"<tool_call>{name}</tool_call>"


def do(one: RefundDesk, chat: list[dict], step: Step) -> None:
    """One step, by the way a model's text goes, by name, or as TRL calls a method."""
    how, name, arguments = step
    if how == "text":
        desk.take_turn(one, chat, name)
    elif how == "tool":
        desk.run_tool(one, name, arguments)
    else:
        getattr(one, name)(*arguments.values())


def left_the_shop(trajectory: Trajectory) -> tuple[float, int]:
    """(money, goods) that the desk says it sent out."""
    done = [call.result for call in trajectory.calls]
    named = [Decimal(found[1]) for result in done if (found := re.fullmatch(r"refund: ([\d.]+) paid\.", result))]
    return trajectory.case.price * done.count("refund: done.") + float(sum(named)), done.count("exchange: done.")


def faults(seed: int, cases: list[Case], make: type[RefundDesk] = RefundDesk) -> tuple[set[str], list[Trajectory]]:
    """What went wrong in one sequence over two desks, by name; and the logs of both."""
    rng = random.Random(seed)
    two = rng.sample(cases, 2)
    steps = [random_steps(rng, case, make._tools) for case in two]
    found = set()
    try:
        together = _work(two, steps, make)
        alone = [_work([case], [mine], make)[0] for case, mine in zip(two, steps, strict=True)]
    except Exception as error:  # whatever it is, it is the finding
        return {f"exception: {type(error).__name__}"}, []
    if [_shown(t) for t in together] != [_shown(t) for t in alone]:
        found.add("shared state")
    for case, trajectory in zip(two, together, strict=True):
        money, goods = left_the_shop(trajectory)
        whole = isinstance(trajectory, WholeTrajectory)
        cents = Decimal(f"{money:.2f}")
        right = trajectory.paid_out == cents <= case.paid if whole else money in (0, case.price)
        payments = sum(bool(re.fullmatch(r"refund: .* paid\.|refund: done\.", c.result)) for c in trajectory.calls)
        if not right or payments + goods > 1:
            found.add("money not conserved")
        if len(trajectory.calls) > make._most_calls or len(_shown(trajectory)) > 10_000:
            found.add("log without bounds")
        parts = (whole_rewards if whole else rewards).decompose(trajectory)
        if not all(0 <= part <= 1 for part in parts.values()):
            found.add("reward out of bounds")
    return found, together


def _shown(trajectory: Trajectory) -> str:
    """A log as text, for a nan in it is not equal to itself."""
    try:
        return repr(trajectory.calls)
    except (RecursionError, ValueError):  # only a desk that keeps what it is given gets here
        return "x" * 10_001


def _work(cases: list[Case], steps: list[list[Step]], make: type[RefundDesk]) -> list[Trajectory]:
    """The desks take turns, a step each."""
    desks, chats = [make() for _ in cases], [desk.chat(case) for case in cases]  # what opens a chat plays no part here
    for one, case in zip(desks, cases, strict=True):
        one.reset(asdict(case))
    for turn in range(max(map(len, steps))):
        for one, chat, mine in zip(desks, chats, steps, strict=True):
            if turn < len(mine):
                do(one, chat, mine[turn])
    return [desk.trajectory(one) for one in desks]
