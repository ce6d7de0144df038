"""Environments of your own for RFT: what TRL expects of one, a check of it, and a second one in twenty lines.

TRL (1.16, `environment_factory`) keeps a pool of instances from `factory()`, one for each rollout of a batch, and uses
them again: `reset(**row)` before each case is all that parts one rollout from the next. It appends what `reset` returns
to the customer's message (None: nothing), offers every other public method as a tool, and asks `get_reward()`, where
there is one, at the end. The template:

    class MyDesk:
        def reset(self, case: dict, **_):            # every column of the row comes by name
            self._case, self._done = case, []        # all state is the instance's; names with _ are no tools

        def look_up(self, number: str) -> str:
            \"\"\"Show an order.

            Args:
                number: The order's number.
            \"\"\"
            self._done.append(("look_up", number))
            return "…"                               # an error is a text too: a tool never raises

        def get_reward(self) -> float:               # or a reward function over `environments`, as in notebook 06
            return float(self._done == [("look_up", self._case["number"])])

    faults_of(MyDesk, {"case": {"number": "TH-1"}})  # [] when it keeps to all of this

`Puzzle` below is a working one over any tasks with a verifier. Those of the package reasoning_gym fit as they are:
`partial(Puzzle, tasks_of("chain_sum", size=100, seed=17))` is a factory.

Left out on purpose: reasoning_gym itself (it brings eleven packages along), and environments that live on a server.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from ftlib.desk import put_answer, write_in_turn


class Tasks(Protocol):
    """Questions with a verifier; reasoning_gym's datasets are such."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Any]: ...  # with "question"
    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float: ...  # in [0, 1]


class Puzzle:
    """One question, one answer, scored by the tasks' own verifier.

    Rows for it: {"prompt": [{"role": "user", "content": ""}], "index": 3}; TRL puts the question into the prompt.
    """

    def __init__(self, tasks: Tasks):
        self._tasks = tasks

    def reset(self, index: int = 0, **_: Any) -> str:
        self._entry, self._given = self._tasks[index], []
        return self._entry["question"]

    def answer(self, text: str) -> str:
        """Give the answer. Only the first one counts.

        Args:
            text: The answer and nothing else.
        """
        self._given.append(str(text)[:200])
        return "Taken." if len(self._given) == 1 else "An answer was given already."

    def get_reward(self) -> float:
        return float(self._tasks.score_answer(self._given[0], self._entry)) if self._given else 0.0


class Totals:
    """Tasks that need no package: what an order comes to.

    Args:
        size: tasks.
        seed: of the numbers.
    """

    def __init__(self, size: int, *, seed: int):
        self._rows = np.random.default_rng(seed).integers(1, 50, size=(size, 3)).tolist()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        tent, mats, mat = self._rows[index]
        question = f"A tent costs {tent} and {mats} mats cost {mat} each. What is the total?"
        return {"question": question, "answer": str(tent + mats * mat)}

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        return float(answer is not None and answer.strip() == entry["answer"])


def tasks_of(name: str, *, size: int, seed: int) -> Tasks:
    """Tasks with a verifier by name: "" for `Totals`, else a data set of the package reasoning_gym.

    Raises:
        ModuleNotFoundError: reasoning_gym is asked for and not installed.
        ValueError: reasoning_gym has no task of that name.
    """
    if not name:
        return Totals(size, seed=seed)
    try:
        import reasoning_gym
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"task {name!r}: expected the package reasoning_gym, which is not installed; run `pip install "
            'reasoning-gym`, or give "" for the built-in tasks'
        ) from error
    try:
        return reasoning_gym.create_dataset(name, size=size, seed=seed)
    except ValueError as error:
        raise ValueError(
            f"task {name!r}: expected the name of a reasoning_gym data set, e.g. chain_sum, and it says: {error}"
        ) from error


def tools_of(environment: Any) -> list[Callable]:
    """The tools that TRL finds on an environment, in its order."""
    members = inspect.getmembers(type(environment), predicate=inspect.isfunction)  # on the class, as TRL does
    names = [name for name, _ in members if name not in ("reset", "get_reward") and not name.startswith("_")]
    return [getattr(environment, name) for name in names]


def faults_of(factory: Callable[[], Any], row: Mapping[str, Any]) -> list[str]:
    """What TRL, or a model with odd arguments, would trip over in an environment; [] if nothing was found.

    Args:
        factory: as `environment_factory` takes it.
        row: of the training set; its columns go to `reset`.
    """
    from transformers.utils import get_json_schema

    one, other = factory(), factory()
    if not callable(getattr(one, "reset", None)):
        return ["no method reset"]
    faults = []
    for environment in (one, other):
        if not isinstance(environment.reset(**row), (str, type(None))):
            faults.append("reset returns neither a text nor None")
    before, shared = _state(other), _shared(type(one))
    tools = tools_of(one)
    if not tools:
        faults.append("no public method, so no tool")
    for tool in tools:
        try:
            parameters = get_json_schema(tool)["function"]["parameters"]["properties"]
        except Exception as error:  # transformers has its own kinds; each says what the docstring lacks
            faults.append(f"{tool.__name__}: no schema ({error})")
            continue
        for odd in ("", None, -1, [], {"a": 1}, "x" * 10_000):
            try:
                answered = tool(**dict.fromkeys(parameters, odd))
            except Exception as error:  # whatever a tool raises is the finding
                faults.append(f"{tool.__name__}({str(odd)[:10]!r}) raises {type(error).__name__}")
                break
            if not isinstance(answered, str):
                faults.append(f"{tool.__name__} returns {type(answered).__name__}, not a text")
                break
    if _state(other) != before or _shared(type(one)) != shared:
        faults.append("two instances share state")
    earned = one.get_reward() if hasattr(one, "get_reward") else 0
    for environment in (one, other):  # one is used, other is as it was: TRL gives both out again
        environment.reset(**row)
    if _state(one) != _state(other):
        faults.append("a second reset leaves state of the rollout before")
    if not 0 <= earned <= 1:
        faults.append("get_reward is outside [0, 1]")
    return faults


def _state(environment: Any) -> str:
    """What an instance holds, as text; without the addresses in memory of what has no text of its own."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(vars(environment)))


def _shared(kind: type) -> str:
    """The plain state that a class and its parents hold for all instances."""
    plain = (list, dict, set, bytearray, int, float, str, tuple)
    held = [vars(k).items() for k in kind.__mro__ if k is not object]
    return repr([(name, v) for of in held for name, v in of if isinstance(v, plain) and not name.startswith("__")])


def attempts(
    model,
    tokenizer,
    factory: Callable[[], Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    max_turns: int = 2,
    **options: Any,
) -> tuple[list[float], list[list[dict[str, Any]]]]:
    """Let a model work rows in an environment of your own, as TRL does; sampling options as in `generate.sample`.

    A row's draws hang on the seed, the turn and the row's place in the list (or its `row_seeds`), not on which other
    rows are still at work.

    Args:
        factory: as `environment_factory` takes it; with `get_reward`.
        rows: of the training set: `prompt`, a list of messages, and what `reset` takes.
        max_turns: answers of the model a row; a row ends before with an answer that holds no call.

    Returns:
        The reward and the chat of each row.
    """
    from transformers.utils import get_json_schema

    made, chats = [factory() for _ in rows], []
    for environment, row in zip(made, rows, strict=True):
        said = environment.reset(**row)
        *before, last = row["prompt"]
        chats.append([*before, {**last, "content": last["content"] + (said or "")}])
    schemas = [get_json_schema(tool) for tool in tools_of(made[0])] if made else []
    take = lambda i, text: put_answer(chats[i], text, partial(_run, made[i]))
    write_in_turn(model, tokenizer, chats, take, tools=schemas, max_turns=max_turns, **options)
    return [float(environment.get_reward()) for environment in made], chats


def _run(environment: Any, name: str, arguments: dict[str, Any]) -> str:
    tools = {tool.__name__: tool for tool in tools_of(environment)}
    try:
        return tools[name](**arguments)
    except (KeyError, TypeError):  # an unknown tool or argument is the model's, and it is told so
        return "Unknown tool or wrong arguments."
