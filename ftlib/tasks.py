"""The shop's three SFT tasks: prompts for an untrained model, and scores of an answer against its row.

Left out on purpose: anything that needs a judge. What is scored here is exact (fields of a JSON object), a literal
string that a right answer must hold (a fact of the policy, a point of the thread), or a figure that nobody gave it.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ftlib.quality import shingles, words
from ftlib.records import INTENTS, PRODUCTS, ROUTES, SftRow, parse_target

MAX_NEW_TOKENS = 72  # the longest authored answer has 66
HINTS = {
    "classify": f"Intents: {', '.join(INTENTS)}.\nRoutes: {', '.join(ROUTES)}.\nProducts: {', '.join(PRODUCTS)}, or "
    'null.\nForm: {"intent":"…","order_id":"TH-12345" or null,"product":"…" or null,"route":"…"}',
    "reply": "Two to four short sentences, with the numbers of the policy.",
    "summary": "Name the order, the product and what was agreed.",
}
METRICS = {
    "classify": ("intent", "order_id", "product", "route", "json_valid"),
    "reply": ("facts", "grounded"),
    "summary": ("facts", "coverage"),
}
RUN = 5  # words in a row that an answer has from what it was given, to count as taken over
RECITED = 0.8  # of an answer's words taken over: above it, rules or thread were read out; authored: 0.71 at most
REPEATED = 0.95  # of the rules' or the thread's words: above it too, greeting or not; authored: 0.94 at most
SUMMARY_ROOM = 1.5  # times the words of the authored summary: a copy of the thread would hold every point
_WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_NUMBER = r"\d+(?:[.,:]\d+)*"
_UNIT = r"(%|percent|(?:working|business) days?|minutes?|hours?|days?|weeks?|months?|years?)"
_FIGURE = re.compile(
    rf"(TH-\d+)|(?<![\w-])(?:({_NUMBER})\s*(?:to|or|and|-|–)\s*)?({_NUMBER})[\s-]*{_UNIT}?(?!\w)"
    rf"|\b({'|'.join(_WORDS)})[\s-]+{_UNIT}\b",
    re.IGNORECASE,
)
_LIST_MARK = re.compile(r"^\s*\d+[.)]\s", re.MULTILINE)


class Grounding(NamedTuple):
    """Facts of the policy that a reply states right, states wrong, and leaves out."""

    right: int
    wrong: int
    missing: int

    @property
    def score(self) -> float:
        """Share stated right, of all that had to be said and all that was said wrong; 1 where there was nothing."""
        return self.right / sum(self) if sum(self) else 1.0


def pick_examples(train: list[SftRow], *, per_task: dict[str, int], seed: int) -> dict[str, list[SftRow]]:
    """Few-shot examples of each task, drawn by seed; for `classify` one of each intent before any comes twice."""
    rng = np.random.default_rng([seed, 3])
    examples = {}
    for task, k in per_task.items():
        rows = [train[i] for i in rng.permutation(len(train)) if train[i].task == task]
        if task == "classify":
            rows = each_once(rows, [row.output.intent for row in rows])
        examples[task] = rows[:k]
    return examples


def each_once(rows: Sequence[Any], keys: Sequence[str]) -> list[Any]:
    """The rows so that no key comes twice before each came once, nor a third time before each came twice, if it can."""
    turn: Counter[str] = Counter()
    rounds = []
    for key in keys:
        turn[key] += 1
        rounds.append(turn[key])
    return [row for _, row in sorted(zip(rounds, rows, strict=True), key=lambda pair: pair[0])]


def prompted(row: SftRow, examples: list[SftRow] = ()) -> list[dict[str, str]]:
    """The chat for a model that was not trained: the task's labels and form spelled out, then worked examples."""
    return few_shot(row, HINTS[row.task], examples)


def few_shot(row: Any, instruction: str, examples: Sequence[Any] = ()) -> list[dict[str, str]]:
    """The chat for a model that was not trained: the instruction in the system message, worked examples, the row.

    A row's own system message stays, before the instruction; those of the examples are left out.

    Args:
        row, examples: `SftRow`, or anything with prompt() and answer() (`intake.Example`).
    """
    own, asked = _system_and_rest(row)
    system = "\n".join(text for text in (*own, instruction) if text)
    chat = [{"role": "system", "content": system}] if system else []
    for example in examples:
        chat += [*_system_and_rest(example)[1], {"role": "assistant", "content": example.answer()}]
    return [*chat, *asked]


def _system_and_rest(row: Any) -> tuple[list[str], list[dict[str, str]]]:
    prompt = row.prompt()
    own = [message["content"] for message in prompt if message["role"] == "system"]
    return own, [message for message in prompt if message["role"] != "system"]


def score(row: SftRow, text: str) -> dict[str, float]:
    """Scores in [0, 1] of one answer, by name; which names depends on the row's task (see METRICS).

    For `classify`: each field right or wrong, and whether the answer is one JSON object of just those fields.
    For `reply` and `summary`: `facts` is the share of the row's literal facts that the answer holds, case ignored.
    `grounded` of a reply takes wrong figures off it (see `grounding`); `coverage` of a summary looks for the facts in
    its first words only, SUMMARY_ROOM times as many as the authored summary has. Both are 0 where rules or thread were
    read out (`read_out`): a copy holds the facts, and answers or sums up nothing.
    """
    if row.task == "classify":
        target = parse_target(text)
        fields = ("intent", "order_id", "product", "route")
        got = {f: float(target is not None and getattr(target, f) == getattr(row.output, f)) for f in fields}
        return {**got, "json_valid": float(target is not None)}
    if row.task == "reply":
        return {"facts": _share_held(row, text), "grounded": grounding(row, text).score}
    room = math.ceil(SUMMARY_ROOM * len(row.answer().split()))
    begun = "" if read_out(row, text) else " ".join(text.split()[:room])
    return {"facts": _share_held(row, text), "coverage": _share_held(row, begun)}


def figures(text: str) -> list[tuple[str, str]]:
    """The figures of a text, each once: (number, unit), e.g. ("3.9", ""), ("2", "working day"), ("TH-48213", "").

    A number in words counts where a unit of time follows; the marks of a numbered list do not.
    """
    found = []
    for order, first, number, unit, word, word_unit in _FIGURE.findall(_LIST_MARK.sub(" ", text)):
        unit = (unit or word_unit).lower().removesuffix("s").replace("business", "working").replace("percent", "%")
        number = order.upper() or number or str(_WORDS.index(word.lower()) + 1)
        found += [(_plain(n), unit) for n in (first, number) if n]
    return list(dict.fromkeys(found))


def grounding(row: SftRow, text: str) -> Grounding:
    """Facts that a reply states right, wrong, or not at all.

    Right: the reply holds the fact's words, and does not just read the rules out (`read_out`). Wrong: a figure that
    neither the rules given, the message nor the authored answer has; it takes the place of a missing fact whose figure
    has that unit ("14 days" for "30 days"), and counts on its own otherwise. Missing: the rest. A false
    statement without a figure is not seen.
    """
    known = set(figures("\n".join([row.context, row.input, row.answer(), *row.facts])))
    numbers = {number for number, _ in known}
    wrong = [(n, unit) for n, unit in figures(text) if (n, unit) not in known and (unit or n not in numbers)]
    copied = read_out(row, text)
    left_out = [fact for fact in row.facts if copied or fact.lower() not in text.lower()]
    units = [unit for _, unit in wrong]
    missing = 0
    for fact in left_out:
        contradicted = [unit for _, unit in figures(fact) if unit in units][:1]
        if contradicted:
            units.remove(contradicted[0])
        else:
            missing += 1
    return Grounding(len(row.facts) - len(left_out), len(wrong), missing)


def read_out(row: SftRow, text: str) -> bool:
    """Whether an answer is a copy of the rules (reply) or the thread (summary), a greeting before it or not.

    It is where more than RECITED of its words, or more than REPEATED of theirs, stand in runs of RUN words or more that
    both have. Not seen: a copy that leaves out a few words behind a greeting.

    Example:
        >>> row = SftRow(id="r", task="reply", channel="chat", difficulty="easy", input="How long?",
        ...              context="R1: A voucher is valid for 3 years.", output="For 3 years.", facts=["3 years"])
        >>> read_out(row, "R1: A voucher is valid for 3 years."), read_out(row, "It is valid for 3 years, we think.")
        (True, False)
    """
    given = row.context if row.task == "reply" else row.input
    return taken_over(text, given) > RECITED or taken_over(given, text) > REPEATED


def taken_over(text: str, given: str) -> float:
    """The share of a text's words that stand in runs of RUN words or more which the text given has too.

    Example:
        >>> taken_over("Yes, it is valid for 3 years, we think.", "A voucher is valid for 3 years.")
        0.5555555555555556
    """
    said, runs = words(text), shingles(given, RUN)
    starts = [n for n in range(len(said) - RUN + 1) if tuple(said[n : n + RUN]) in runs]
    return len({n + k for n in starts for k in range(RUN)}) / max(1, len(said))


def _share_held(row: SftRow, text: str) -> float:
    held = [fact.lower() in text.lower() for fact in row.facts]
    return sum(held) / len(held) if held else 1.0


def _plain(number: str) -> str:
    """3,90 and 3.90 are 3.9; 14:00 and an order number stay."""
    if ":" in number or not number[0].isdigit():
        return number
    number = number.replace(",", ".")
    return number.rstrip("0").rstrip(".") if number.count(".") == 1 else number


def score_all(rows: list[SftRow], texts: list[str]) -> dict[str, np.ndarray]:
    """Scores of all rows by "<task>.<metric>", each an array over the rows of that task, in the rows' order."""
    found: dict[str, list[float]] = {}
    for row, text in zip(rows, texts, strict=True):
        for name, value in score(row, text).items():
            found.setdefault(f"{row.task}.{name}", []).append(value)
    return {name: np.array(values) for name, values in found.items()}


def check_each_task(rows: Sequence[SftRow], source: object) -> None:
    """Rows of all three tasks are there; the notebooks show, train and measure each of them.

    Args:
        source: the file, for the error.

    Raises:
        ValueError: a task has no row.
    """
    counts = Counter(row.task for row in rows)
    missing = [task for task in METRICS if not counts[task]]
    if missing:
        raise ValueError(
            f"{source}: expected rows of {', '.join(METRICS)}, got {len(rows)} rows and none of {', '.join(missing)}; "
            "add some, or take 02b_your_own_rows for a task of your own"
        )


def head_of_each_task(rows: list[SftRow], n: int) -> list[SftRow]:
    """The first n rows of each task (all of them for n = 0), in the rows' order."""
    if not n:
        return rows
    seen: dict[str, int] = {}
    kept = []
    for row in rows:
        seen[row.task] = seen.get(row.task, 0) + 1
        if seen[row.task] <= n:
            kept.append(row)
    return kept
