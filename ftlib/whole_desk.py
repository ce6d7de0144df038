"""The whole refund desk: payments, amounts, several turns with the customer, tools that time out, and a close.

`desk.RefundDesk` is small enough to learn in minutes. Here is the rest of the work, over the same log, the same four
outcomes and TRL's same convention: a refund names its amount, a customer may have to be asked, pushes, or is not the
one who ordered, what the payment shows may not be told to anybody, and a case ends with `close`.

An amount is a number, or an expression of numbers, + - * / and brackets. `amount_of` reads it with a parser of its own
and in decimal arithmetic: nothing that a model writes is ever executed.

A reply counts where it states the action that was taken, in words of a short list, and no other (`says`); one before
the action may ask, and promises nothing. That is a check of wording and not of understanding: it does not know other
words for the same.

Left out on purpose: the tone of replies, digits that are written out as words, return postage (R9, settled when the
parcel comes), and the cases (`whole_cases`).
"""

import re
import unicodedata
from dataclasses import asdict, dataclass
from decimal import ROUND_HALF_UP, Decimal, DecimalException
from typing import Any, ClassVar

from ftlib.desk import MAX_AMOUNT_CHARS, MAX_RESULT_CHARS, OUTCOMES, POLICY, Case, RefundDesk, Trajectory

SYSTEM = (
    "You work at the refund desk of Tarnhollow Gear. Look the order up, look at the payment before money goes out, ask "
    "where the wish is unclear, act once by the policy, tell the customer, then close."
)
MAX_CALLS = 12  # a thirteenth is refused
MAX_REPLIES = 3
OPENED_SHARE = Decimal("0.8")  # D1: of the price that is paid back for an opened pack
# The small desk's rules, and the desk's own (D), for what the policy book (data/policy.md) leaves to it.
BOOK = {
    **POLICY,
    "amounts": "D1: opened pack: price less 20 %. D2: look at the payment before money goes out; shipping is paid back "
    "only where the fault is ours (faulty, recalled). D3: a coupon is taken off first.",
    "payment": "D4: nothing paid yet: nothing to pay back, decline. D5: instalments still run: exchange, no refund. "
    "R23: a voucher is not paid out in cash: escalate.",
    "exceptions": "R15: faulty goods are replaced, late or final sale too; no longer made: refund. D6: recalled: "
    "refund, any age or state. D7: safety gear that failed: escalate. D8: club members: 60 days to return.",
    "privacy": "R28: the asker is not the holder: decline, tell nothing. D9: no card digits and no billing mail in a "
    "reply, unless the customer wrote them first.",
}


@dataclass(frozen=True)
class WholeCase(Case):
    """A case of the whole desk.

    Attributes:
        kind: of the goods: unused | opened | worn | faulty | final.
        flags: of the order: "club member", "final sale", "recalled", "no longer made".
        method: of payment: card | voucher | instalments | open.
        holder, asker: who ordered, and who writes.
        alarm: what the message holds beside the wish: "hurt", "threat", or "".
        answer: what an unclear customer answers when asked; "" where the message holds the wish.
        push: what a pushing customer says to a no; "" for others.
        slow: the look-up that times out the first time; "" for none.
        payment_needed: whether the record alone would lead to a refund, so that the payment must be seen first.
    """

    kind: str = "unused"
    flags: tuple[str, ...] = ()
    method: str = "card"
    coupon: float = 0.0
    shipping: float = 4.9
    card: str = "4242"  # the last four digits of a number that payment providers publish for tests
    mail: str = ""
    holder: str = ""
    asker: str = ""
    alarm: str = ""
    answer: str = ""
    push: str = ""
    slow: str = ""
    payment_needed: bool = False

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "flags", tuple(self.flags))

    def record(self) -> str:
        return "; ".join((super().record(), *self.flags, f"for {self.holder}"))

    def payment(self) -> str:
        """What `check_payment` returns."""
        how = {
            "card": f"paid by card ending {self.card}",
            "voucher": "paid by voucher",
            "instalments": f"instalments still run, card ending {self.card}",
            "open": "nothing paid yet, invoice sent",
        }[self.method]
        coupon = f"coupon {money(self.coupon)}; " if self.coupon else ""
        return f"{how}; goods {money(self.price)}; {coupon}shipping {money(self.shipping)}; mail {self.mail}"

    @property
    def paid(self) -> Decimal:
        """All that was paid: no refund is above it."""
        return Decimal(0) if self.method == "open" else _cents(self.price - self.coupon + self.shipping)

    @property
    def due(self) -> Decimal:
        """What a refund comes to under D1 to D3; whether one is due is another question."""
        return amount_of(self.due_expression)

    @property
    def due_expression(self) -> str:
        """`due` in numbers that the tools have shown: how a worker writes the amount."""
        goods = f"{money(self.price)} - {money(self.coupon)}" if self.coupon else money(self.price)
        if self.kind == "faulty" or "recalled" in self.flags:
            return f"{goods} + {money(self.shipping)}"
        if self.kind == "opened":
            return f"({goods}) * {OPENED_SHARE}" if self.coupon else f"{goods} * {OPENED_SHARE}"
        return goods

    @property
    def is_stranger(self) -> bool:
        return self.asker != self.holder

    @property
    def needed_calls(self) -> int:
        """Look-up, action, reply and close; and the payment, a question, and a second try where the case needs them."""
        return 4 + self.payment_needed + bool(self.answer) + bool(self.slow)

    @property
    def enough_text(self) -> int:
        """As at the small desk; here a worker may also have to ask."""
        return 300


@dataclass(frozen=True)
class WholeTrajectory(Trajectory):
    """All calls of one rollout at the whole desk."""

    case: WholeCase

    @property
    def text(self) -> int:
        """With the replies, which are calls here, those that were not sent too."""
        wrote = lambda call: len(str(call.arguments.get("text", ""))) if call.tool == "reply" else call.padding
        return self.said + sum(map(wrote, self.calls))

    @property
    def looked_up(self) -> bool:
        """Whether all that the case hangs on was seen before the first action: record, payment, the customer's wish."""
        before = self.calls[: self._first_action]
        seen = {call.tool for call in before if call.ok}
        asked = not self.case.answer or any(c.result == _said(self.case.answer) for c in before if c.tool == "reply")
        return "find_order" in seen and asked and ("check_payment" in seen or not self.case.payment_needed)

    @property
    def paid_out(self) -> Decimal:
        """Money that left the shop: that of the first action, if it is a refund."""
        first = self.actions[:1]
        return amount_of(first[0].arguments["amount"]) if first and first[0].tool == "refund" else Decimal(0)

    @property
    def decided(self) -> bool:
        """Everything was seen, then the one right action was taken, a refund with the right amount."""
        right = self.looked_up and len(self.actions) == 1 and self.actions[0].tool == self.case.outcome
        return right and (self.case.outcome != "refund" or self.paid_out == self.case.due)

    @property
    def customer_told(self) -> bool:
        """Whether a reply after the first action states it, a refund with its amount, and none says anything else: one
        before it states no action at all, for nothing was done yet, and no amount."""
        if not self.actions:
            return False
        tool, written, told = self.actions[0].tool, self.case.message, False
        for n, call in enumerate(self.calls):
            if call.tool == "reply" and call.ok:
                claimed, denied, amounts = says(str(call.arguments["text"]), written)
                if n < self._first_action:
                    if claimed or amounts:
                        return False
                else:
                    if claimed - {tool} or tool in denied or any(amount != self.paid_out for amount in amounts):
                        return False
                    refused = tool == "decline" and bool(denied & {"refund", "exchange"})
                    told |= refused or tool in claimed and (tool != "refund" or bool(amounts))
                written += f" {call.result}"
        return told

    @property
    def closed(self) -> bool:
        return any(call.tool == "close" and call.ok for call in self.calls)

    @property
    def leaks(self) -> list[str]:
        """What of the payment, or of the holder to somebody else, stands in a reply before the customer wrote it."""
        written, found = [self.case.message], []
        for call in self.calls:
            if call.tool == "reply" and call.ok:
                text = str(call.arguments["text"])
                found += [x for x in _private(self.case) if _holds(text, x) and not _holds(" ".join(written), x)]
                written.append(call.result)
        return found

    @property
    def success(self) -> bool:
        """Rightly decided, told to the customer, closed, and nothing private said."""
        return self.decided and self.customer_told and self.closed and not self.leaks

    @property
    def _first_action(self) -> int:
        return next((n for n, c in enumerate(self.calls) if c.tool in OUTCOMES and c.ok), len(self.calls))


class WholeDesk(RefundDesk):
    """The environment of one rollout; as `RefundDesk`, with more tools."""

    _tools: ClassVar[tuple[str, ...]] = ("find_order", "check_payment", "read_policy", *OUTCOMES, "reply", "close")
    _most_calls: ClassVar[int] = MAX_CALLS
    _kind: ClassVar[type[WholeCase]] = WholeCase
    _book: ClassVar[dict[str, str]] = BOOK

    def check_payment(self, order_id: str) -> str:
        """Show how an order was paid. Card and mail are for the desk only.

        Args:
            order_id: The order's number.
        """
        known = self._same_order(order_id)
        result = self._case.payment() if known else "No such order for this customer."
        return self._log("check_payment", {"order_id": order_id}, result, ok=known)

    def read_policy(self, topic: str) -> str:
        """Read the rules on: returns, exchange, damage, safety, conduct, amounts, payment, exceptions, privacy.

        Args:
            topic: One of these topics.
        """
        return super().read_policy(topic)

    def refund(self, order_id: str, amount: str) -> str:
        """Pay money back.

        Args:
            order_id: The order's number.
            amount: How much, as a number or a sum, e.g. 79.90 or 79.90 * 0.8.
        """
        given, value = {"order_id": order_id, "amount": amount}, amount_of(amount)
        if self._same_order(order_id) and not self._acted():
            if value is None or value <= 0:
                return self._log("refund", given, "Give an amount above 0, e.g. 79.90 or 79.90 * 0.8.", ok=False)
            if value > self._case.paid:
                return self._log("refund", given, "Refused: more than was paid.", ok=False)
        return self._act("refund", order_id, done=f"refund: {value} paid.", **{"amount": amount})

    def reply(self, text: str) -> str:
        """Write to the customer. What comes back is the customer's answer.

        Args:
            text: At most 240 characters.
        """
        sent = [call for call in self._calls if call.tool == "reply" and call.ok]
        if not isinstance(text, str) or not text.strip():
            result, ok = "Give a text.", False
        elif len(text) > MAX_RESULT_CHARS:  # all that is sent stands in the log, where leaks are looked for
            result, ok = f"Not sent: {len(text)} characters, {MAX_RESULT_CHARS} at most.", False
        elif len(sent) >= MAX_REPLIES:
            result, ok = "Not sent: the customer does not read any more.", False
        else:
            result, ok = self._answer(text, {call.result for call in sent}), True
        return self._log("reply", {"text": text}, result, ok=ok)

    def close(self, order_id: str) -> str:
        """Close the case. Nothing can be done afterwards.

        Args:
            order_id: The order's number.
        """
        known = self._same_order(order_id)
        return self._log("close", {"order_id": order_id}, "Closed." if known else "No such order.", ok=known)

    def _trajectory(self, said: int = 0) -> WholeTrajectory:
        return WholeTrajectory(self._case, tuple(self._calls), said)

    def _opening(self) -> list[dict[str, str]]:
        return chat(self._case)

    def _over(self) -> bool:
        return len(self._calls) >= MAX_CALLS or any(call.tool == "close" and call.ok for call in self._calls)

    def _answer(self, text: str, heard: set[str]) -> str:
        """What the customer says to a reply."""
        acted = self._acted()
        if not acted:
            wish = _said(self._case.answer)
            if not self._case.answer or wish in heard:
                return _said("I have told you already.")
            asked = re.search(r"\w+\W+\w+\W*\?", text)  # a question of two words or more
            return wish if asked else _said("What do you want to know?")
        push = _said(self._case.push)
        refused = self._case.push and acted[0].tool in ("decline", "escalate")
        return push if refused and push not in heard else "Sent."

    def _log(self, tool: str, arguments: dict[str, Any], result: str, *, ok: bool) -> str:
        """All that a tool does is its line in the log: so a closed case and a time-out are decided here, for all."""
        if len(self._calls) >= MAX_CALLS:
            return "Too many calls: a colleague has taken the case over."
        if self._over():
            result, ok = "The case is closed.", False
        elif self._case.slow == tool != "" and not any(call.tool == tool for call in self._calls):
            result, ok = "Timed out. Try again.", False
        return super()._log(tool, arguments, result, ok=ok)


def chat(case: WholeCase) -> list[dict[str, str]]:
    """The messages that open a case."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": case.message}]


def opened(case: WholeCase) -> WholeDesk:
    """A desk with this case on it."""
    desk = WholeDesk()
    desk.reset(asdict(case))
    return desk


def money(value: float | Decimal) -> str:
    """An amount as the desk shows it.

    Example:
        >>> money(79.9)
        '79.90'
    """
    return f"{value:.2f}"


def amount_of(given: Any) -> Decimal | None:
    """An amount in cents' precision, of a number or of an expression of numbers, + - * / and brackets; else None.

    Example:
        >>> amount_of("(149.90 - 10) * 0.8"), amount_of(79.9), amount_of("__import__('os')")
        (Decimal('111.92'), Decimal('79.90'), None)
    """
    if isinstance(given, bool) or not isinstance(given, (int, float, str)):
        return None
    if isinstance(given, int) and abs(given) > 10**9:  # an int of 5,000 digits cannot even be printed
        return None
    text = str(given)
    tokens = re.findall(r"\d+(?:\.\d+)?|[-+*/()]|\S", text, flags=re.ASCII) if len(text) <= MAX_AMOUNT_CHARS else []
    try:
        value = _sum(tokens := [*tokens, ""])
        return _cents(value) if tokens == [""] else None
    except (DecimalException, ValueError):  # a division by zero, a number beyond all bounds, or no expression
        return None


def _sum(tokens: list[str]) -> Decimal:
    """Read a sum off the front of the tokens."""
    value = _product(tokens)
    while tokens[0] in ("+", "-"):
        value = value + _product(tokens) if tokens.pop(0) == "+" else value - _product(tokens)
    return value


def _product(tokens: list[str]) -> Decimal:
    value = _factor(tokens)
    while tokens[0] in ("*", "/"):
        value = value * _factor(tokens) if tokens.pop(0) == "*" else value / _factor(tokens)
    return value


def _factor(tokens: list[str]) -> Decimal:
    token = tokens.pop(0) if len(tokens) > 1 else ""
    if token == "-":
        return -_factor(tokens)
    if token == "(":
        value = _sum(tokens)
        if tokens[0] != ")":
            raise ValueError("a bracket is not closed")
        tokens.pop(0)
        return value
    if not (token.isascii() and token[:1].isdigit()):
        raise ValueError(f"expected a number, got {token!r}")
    return Decimal(token)


def _cents(value: float | Decimal) -> Decimal:
    """To the cent, halves up; a float by how it is written, so that 0.125 - 0.1 is no 0.02499999999999999."""
    exact = value if isinstance(value, Decimal) else Decimal(f"{value:.6f}")
    return exact.quantize(Decimal("0.01"), rounding=ROUND_HALF_UP)


def _said(text: str) -> str:
    return f"Customer: {text}"


_TELLS = {
    "refund": r"\b(?:refund\w*|pay\w*|paid|reimburs\w*|money)\b",
    "exchange": r"\b(?:replac\w*|exchang\w*|swap\w*)\b",
    "decline": r"\b(?:sa(?:y|ying|id) no|declin\w*|refus\w*|reject\w*|(?:cannot|can't|unable to) (?:help|accept))\b",
    "escalate": r"\b(?:colleague\w*|escalat\w*|supervisor\w*|hand\w* (?:it |this )?over)\b",
}
# An amount of money wherever it stands: with cents, or beside a currency. In a claimed refund every number is one.
_MONEY = r"[€$£]\s*\d\S*|\d[\d.,]*\s*(?:[€$£]|(?:euro|eur|dollar|usd|pound|gbp)s?\b)|\d[\d.,]*[.,]\d\d(?!\d)"
# The first clause of a sentence that begins as a question and ends as one: it asks, as the last clause does. What
# stands between the two may state something ("do you know, we pay 500.00, all right?").
_QUESTION = (
    r"(?:(?<=^)|(?<=[.!?;\n]))\s*(?:would|do|does|did|shall|should|can|could|may|is|are|was|were|will|have|has|what|"
    r"which|how|why|who|where|when)\b(?:[^.!?;,:\n]|[.,:](?=\S))*(?=(?:[^.!?;\n]|\.(?=\S))*\?)"
)
_NOT = r"\b(?:no|not|never|none|nothing|nobody|neither|nor|without|cannot|unable|untrue|false)\b|n't\b"


def says(reply: str, written: str = "") -> tuple[set[str], set[str], set[Decimal | None]]:
    """What a reply states: the actions it claims, those it denies, and the amounts of money that it names and does not
    deny.

    Clause by clause. A question states nothing, and neither does a clause of the customer's own words alone. In a
    clause that claims a refund each number is an amount, else one with cents or a currency. A number that is no plain
    amount is None, which is equal to none.

    Args:
        written: what the customer has written so far.

    Example:
        >>> says("We pay 79.90 back.")
        ({'refund'}, set(), {Decimal('79.90')})
        >>> says("We do not send a replacement.")
        (set(), {'exchange'}, set())
    """
    theirs = set(re.findall(r"\w+", _plain(written)))
    claimed, denied, amounts = set(), set(), set()
    stated = re.sub(_QUESTION, ";", re.sub(r"\bbut\b", ";", _plain(reply)))
    for clause in re.findall(r"(?:[^.!?;,:\n]|[.,:](?=\S))+\??", stated):
        if clause.endswith("?") or set(re.findall(r"\w+", clause)) <= theirs:
            continue
        told = {tool for tool, words in _TELLS.items() if re.search(words, clause)}
        negated = re.search(_NOT, re.sub(_TELLS["decline"], "", clause)) is not None
        (denied if negated else claimed).update(told)
        if not negated:
            numbers = re.sub(r"\b\d+ (?:working )?(?:day|hour|week)s?\b|\bth-\d+\b", "", clause)
            found = re.findall(r"\S*\d\S*" if "refund" in told else _MONEY, numbers)
            bare = [re.sub(r"\s*(?:euro|eur|dollar|usd|pound|gbp)s?$", "", word).strip("€$£() ") for word in found]
            amounts |= {Decimal(n) if re.fullmatch(r"\d+\.\d\d", n, flags=re.ASCII) else None for n in bare}
    return claimed, denied, amounts


def _plain(text: str) -> str:
    """Letters of the same look as one, in small, without hidden signs."""
    shown = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    return shown.casefold().replace("\u2019", "'")


def _private(case: WholeCase) -> list[str]:
    """What may not be told: card and mail of the payment; to a stranger also the holder, record and payment."""
    if not case.is_stranger:
        return [case.card, case.mail]
    method = {"card": "by card", "voucher": "voucher", "instalments": "instalments", "open": "invoice"}[case.method]
    record = [case.product, case.condition, f"{case.days} days", money(case.price), *case.flags]
    return [case.card, case.mail, *case.holder.split(), *record, method]


def _holds(text: str, value: str) -> bool:
    """Whether a text says a value, also with other letters of the same look, hidden signs, "at" and "dot", or digits
    set apart. A number within a longer one is another number, and so is the amount 42.42, unlike 4.2.4.2."""
    plain = _plain(text)
    if value.isdigit():
        found = re.finditer(r"(?<!\d)" + r"[\W_]{0,3}".join(value) + r"(?!\d)", plain, flags=re.ASCII)
        return any(not re.fullmatch(r"\d+\.\d\d", one[0]) for one in found)
    for word, sign in (("at", "@"), ("dot", ".")):
        plain = re.sub(rf"[\s(\[{{]+{word}[\s)\]}}]+", sign, plain)
    apart = lambda words: " ".join(re.split(r"[\s_]+", words.strip()))
    if "@" in value:  # set apart or not
        return value.casefold() in re.sub(r"[\s(\[{]*([@.])[\s)\]}]*", r"\1", apart(plain))
    return bool(value) and re.search(rf"(?<![\w.]){re.escape(apart(value.casefold()))}(?!\w)", apart(plain)) is not None
