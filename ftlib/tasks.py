"""The shop's three SFT tasks: prompts for an untrained model, and scores of an answer against its row.

Left out on purpose: anything that needs a judge. What is scored here is exact (fields of a JSON object) or a literal
string that a right answer must hold (a fact of the policy, a point of the thread).
"""

import numpy as np

from ftlib.records import INTENTS, PRODUCTS, ROUTES, SftRow, parse_target

MAX_NEW_TOKENS = 72  # the longest authored answer has 66
HINTS = {
    "classify": f"\nIntents: {', '.join(INTENTS)}.\nRoutes: {', '.join(ROUTES)}.\nProducts: {', '.join(PRODUCTS)}, or "
    'null.\nForm: {"intent":"…","order_id":"TH-12345" or null,"product":"…" or null,"route":"…"}',
    "reply": "\nTwo to four short sentences, with the numbers of the policy.",
    "summary": "\nName the order, the product and what was agreed.",
}
METRICS = {
    "classify": ("intent", "order_id", "product", "route", "json_valid"),
    "reply": ("facts",),
    "summary": ("facts",),
}


def pick_examples(train: list[SftRow], *, per_task: dict[str, int], seed: int) -> dict[str, list[SftRow]]:
    """Few-shot examples of each task, drawn by seed; for `classify` one of each intent before any comes twice."""
    rng = np.random.default_rng([seed, 3])
    examples = {}
    for task, k in per_task.items():
        rows = [train[i] for i in rng.permutation(len(train)) if train[i].task == task]
        if task == "classify":
            turn: dict[str, int] = {}
            keyed = []
            for row in rows:
                turn[row.output.intent] = turn.get(row.output.intent, 0) + 1
                keyed.append((turn[row.output.intent], row))
            rows = [row for _, row in sorted(keyed, key=lambda pair: pair[0])]
        examples[task] = rows[:k]
    return examples


def prompted(row: SftRow, examples: list[SftRow] = ()) -> list[dict[str, str]]:
    """The chat for a model that was not trained: the task's labels and form spelled out, then worked examples."""
    system, user = row.prompt()
    chat = [{"role": "system", "content": system["content"] + HINTS[row.task]}]
    for example in examples:
        chat += [example.prompt()[1], {"role": "assistant", "content": example.answer()}]
    return [*chat, user]


def score(row: SftRow, text: str) -> dict[str, float]:
    """Scores in [0, 1] of one answer, by name; which names depends on the row's task (see METRICS).

    For `classify`: each field right or wrong, and whether the answer is one JSON object of just those fields.
    For `reply` and `summary`: the share of the row's literal facts that the answer holds, case ignored.
    """
    if row.task == "classify":
        target = parse_target(text)
        fields = ("intent", "order_id", "product", "route")
        got = {f: float(target is not None and getattr(target, f) == getattr(row.output, f)) for f in fields}
        return {**got, "json_valid": float(target is not None)}
    held = [fact.lower() in text.lower() for fact in row.facts]
    return {"facts": sum(held) / len(held) if held else 1.0}


def score_all(rows: list[SftRow], texts: list[str]) -> dict[str, np.ndarray]:
    """Scores of all rows by "<task>.<metric>", each an array over the rows of that task, in the rows' order."""
    found: dict[str, list[float]] = {}
    for row, text in zip(rows, texts, strict=True):
        for name, value in score(row, text).items():
            found.setdefault(f"{row.task}.{name}", []).append(value)
    return {name: np.array(values) for name, values in found.items()}


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
