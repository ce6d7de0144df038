"""Families of desk cases that no training sees: new product lines, new clauses of the policy book, new phrasing.

Held-out cases of `desk.make_cases` share goods, rules and most wordings with the training. Whether a policy has learned
the task or its words shows on cases in which one thing is new: the goods (a ski helmet is a helmet), the clause (opened
food), or the words. They are decided by the same book, balanced over the four outcomes, and made by seed. A run writes
them to a file, seals it before it trains, and opens it once (`sealed`).

Left out on purpose: cases in which two things are new at once; a failure would not say which.
"""

from dataclasses import dataclass

import numpy as np

from ftlib import desk
from ftlib.desk import OUTCOMES, Case

FAMILIES = ("new goods", "new clauses", "new words")

GOODS = ("snowshoes", "ski poles", "kayak paddle", "dry bag", "bike pannier", "camp chair", "cool box", "hammock")
SAFETY_GOODS = ("half rope", "chest harness", "ski helmet", "avalanche probe", "avalanche airbag")  # R11, by their kind
FOOD_AND_FUEL = ("freeze-dried meals", "energy bars", "gas cartridge", "stove fuel", "porridge pouches")


@dataclass(frozen=True)
class Words:
    """What a message and a record are made of."""

    refund: tuple[str, ...]
    exchange: tuple[str, ...]
    small_talk: tuple[str, ...]
    reasons: tuple[str, ...]
    hurt: tuple[str, ...]
    threat: tuple[str, ...]
    conditions: dict[str, tuple[str, ...]]
    openings: tuple[str, ...]  # with {product} and {order}


KNOWN = Words(
    desk.WISH_REFUND, desk.WISH_EXCHANGE, desk.SMALL_TALK, desk.REASONS, desk.HURT, desk.THREAT, desk.CONDITIONS,
    ("About my {product} from {order}:",),
)  # fmt: skip
NEW = Words(
    refund=(
        "put the sum back on my account", "I want what I spent on it again", "credit me for it, would you",
        "undo the purchase and pay me out", "my account should see that sum again", "I claim the price back",
    ),
    exchange=(
        "the medium would suit me better, post that one in its place", "I need it two centimetres wider",
        "the green version in place of this one, please", "let me have the long model rather than this one",
        "could it be the narrow fit after all", "another length would do, post me that one",
    ),
    small_talk=("", "Evening all,", "To whom it may concern,", "Me again.", "Greetings from the hut.", "One question:"),
    reasons=(
        "we already own two of these", "the colour clashes with the rest", "the season is over before it began",
        "it weighs more than I carry", "nobody in the house wants it", "I misread the description",
    ),
    hurt=(
        "The buckle opened under load and I broke a rib.", "It tore and my brother landed on rocks and bled.",
        "A pole sprang out and bruised my eye.", "It collapsed at night and we only just crawled out in one piece.",
        "The strap gave and I fell two metres; the doctor has seen my back.",
    ),
    threat=(
        "My attorney has been told.", "You will get a summons.", "A TV reporter has my number.",
        "I am suing you, be warned.", "The editors of two magazines get a copy of this.",
    ),
    conditions={
        "unused": ("never taken out of the bag", "still sealed", "as new, label attached"),
        "worn": ("muddy, used on a hike", "smells of campfire", "laundered, creased"),
        "faulty": ("zip broken on delivery", "seam split on the second day", "delivered cracked"),
        "final": ("never used, last chance, marked final", "clearance, marked final"),
    },
    openings=("Order {order}, the {product}.", "It is the {product} ({order}).", "{order} here, {product}."),
)  # fmt: skip
WISH_PART = (
    "please send me the part that was not in the box", "kindly post the missing piece",
    "could you send what is missing", "I only need the missing part",
)  # fmt: skip
ABUSE = (
    "You people are thieves and idiots.", "Whoever reads this is a useless moron.", "You are a bunch of crooks.",
    "Your staff are the stupidest lot I ever met.",
)  # fmt: skip
CLAUSE_CONDITIONS = {
    "sealed": ("unopened", "seal intact"),
    "opened": ("opened", "seal broken", "opened, partly used up"),
    "incomplete": ("one pole missing from the parcel", "strap missing from the parcel", "pegs missing from the parcel"),
}
OWN_DOING = (
    ("boots", "sole worn down by long use"), ("mat", "punctured by the user"),
    ("jacket", "shrunk in the washing machine"), ("sleeping bag", "clumped in the washing machine"),
)  # fmt: skip


def make_hidden(n: int, *, seed: int) -> list[Case]:
    """n cases, outcomes and families in turn, in an order drawn by seed; level 1, so words decide.

    Raises:
        ValueError: fewer cases than outcomes.

    Example:
        >>> [case.family for case in sorted(make_hidden(12, seed=1), key=lambda case: case.id)][:2]
        ['new goods', 'new goods']
    """
    if n < len(OUTCOMES):
        raise ValueError(f"expected n >= {len(OUTCOMES)}, one case of each outcome, got {n}")
    rng = np.random.default_rng([seed, 2])
    cases: list[Case] = []
    while len(cases) < n:
        index = len(cases)
        family = FAMILIES[index // len(OUTCOMES) % len(FAMILIES)]
        case = _make(rng, f"hidden-{seed}-{index:03d}", family, OUTCOMES[index % len(OUTCOMES)])
        if case.message not in {known.message for known in cases}:
            cases.append(case)
    return [cases[i] for i in rng.permutation(n)]


def _make(rng: np.random.Generator, id: str, family: str, outcome: str) -> Case:
    words = NEW if family == "new words" else KNOWN
    pick = lambda bank: str(rng.choice(bank))
    if family == "new clauses":
        wish, condition, product, rule, extra = _clause(rng, outcome)
    else:
        wish, kind, safety_gear, rule, alarm = desk.situation(rng, outcome)
        condition = pick(words.conditions[kind])
        plain, safe = (GOODS, SAFETY_GOODS) if family == "new goods" else (desk.PRODUCTS, desk.NO_RETURN)
        product = pick(safe if safety_gear else plain)
        wish = pick(words.refund if wish == "refund" else words.exchange)
        extra = pick(words.hurt if alarm == "hurt" else words.threat) if alarm else ""
    order_id = f"TH-{rng.integers(10000, 99999)}"
    opening = pick(words.openings).format(product=product, order=order_id)
    reason = rng.random() < 0.5 and product not in FOOD_AND_FUEL  # "the fit is wrong for me"
    aside = extra or (f"{pick(words.reasons)}." if reason else "")
    parts = [pick(words.small_talk), opening, *((f"{wish}.", aside) if rng.random() < 0.6 else (aside, f"{wish}."))]
    return Case(
        id=id,
        message=" ".join(part for part in parts if part),
        order_id=order_id,
        product=product,
        condition=condition,
        days=int(rng.integers(2, 28)),
        price=float(rng.integers(15, 300)) - 0.1,
        outcome=outcome,
        rule=rule,
        level=1,
        wish="exchange" if wish in (*words.exchange, *WISH_PART) else "refund",
        family=family,
    )


def _clause(rng: np.random.Generator, outcome: str) -> tuple[str, str, str, str, str]:
    """(wish, condition, product, rule, insult or "") under a clause that the trained cases never touch."""
    pick = lambda bank: str(rng.choice(bank))
    of = lambda kind: pick(CLAUSE_CONDITIONS[kind])
    refund, goods = pick(KNOWN.refund), pick(desk.PRODUCTS)
    options = {
        "refund": [(refund, of("sealed"), pick(FOOD_AND_FUEL), "R8", "")],
        "exchange": [(pick(WISH_PART), of("incomplete"), "tent", "R7", "")],
        "decline": [
            (refund, of("opened"), pick(FOOD_AND_FUEL), "R11", ""),
            (refund, *OWN_DOING[int(rng.integers(len(OWN_DOING)))][::-1], "R17", ""),
        ],
        "escalate": [
            (pick((*KNOWN.refund, *KNOWN.exchange)), pick(KNOWN.conditions["unused"]), goods, "R30", pick(ABUSE))
        ],
    }[outcome]
    return options[int(rng.integers(len(options)))]
