"""The row types of the playbook, and loading and writing them as JSON Lines.

A row is checked once, here, when its file is read; later code trusts it. Every fault names the file, the line, the
field, and what to do about it.

Left out on purpose: repair. A row that breaks its schema is refused, never coerced into something that merely fits.
Model output is different: `parse_target` checks its shape only, because a wrong label is a wrong answer to be
counted, not a broken file. For a shop of your own, change the label tuples below.
"""

import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ftlib.files import did_you_mean, write_atomic

# fmt: off
INTENTS = (
    "order_status", "change_or_cancel", "delivery_problem", "return_refund", "exchange",
    "damaged_item", "billing", "product_advice", "account_access", "privacy_request",
)
ROUTES = (
    "orders", "logistics", "returns", "warranty", "billing", "advice", "security", "privacy", "safety", "lead",
)
PRODUCTS = (
    "tent", "sleeping bag", "stove", "boots", "backpack", "rope", "harness", "helmet", "headlamp", "jacket",
    "water filter", "trekking poles", "sleeping mat", "cooler", "paddle", "knife", "gps watch", "gaiters",
    "hammock", "gloves", "socks", "bottle", "lantern", "trousers", "carabiner",
)
# fmt: on

# Where a message goes when nothing dangerous was reported (that is "safety") and nobody threatens (that is "lead").
ROUTE_OF_INTENT = {
    "order_status": "orders",
    "change_or_cancel": "orders",
    "delivery_problem": "logistics",
    "return_refund": "returns",
    "exchange": "returns",
    "damaged_item": "warranty",
    "billing": "billing",
    "product_advice": "advice",
    "account_access": "security",
    "privacy_request": "privacy",
}

# Short on purpose (<= 30 tokens each): a small model on a CPU reads them thousands of times.
# "assistant" says nothing about refusing, so that what DPO teaches is seen against a neutral baseline.
SYSTEM = {
    "classify": "Sort the customer's message. Answer with JSON only: intent, order_id, product, route.",
    "reply": "You answer for Tarnhollow Gear. Reply briefly and kindly, from the policy given.",
    "summary": "Sum up the thread for a colleague in one or two sentences.",
    "assistant": "You are the assistant of Tarnhollow Gear, a web shop for outdoor gear. Answer the customer briefly.",
}

Text = Annotated[str, StringConstraints(pattern=r"\S")]  # not blank
Split = Literal["train", "validation", "test"]
PromptKind = Literal["production", "harmful", "borderline"]
Mark = Literal[-1, 0, 1]
RowT = TypeVar("RowT", bound=BaseModel)

MAX_FAULTS = 5
_ADVICE = {
    "missing": "add the field",
    "extra_forbidden": "remove the field or correct its name",
    "literal_error": "use one of the values named",
    "string_pattern_mismatch": "fill it in; it is blank",
    "string_type": "put the value in quotes",
}


class Row(BaseModel):
    """A row: frozen, no unknown fields, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Target(Row):
    """What the shop's desk needs of a message. Field order is the order of the JSON that the model learns."""

    intent: Text
    order_id: Text | None
    product: Text | None
    route: Text


def _output_tag(value: object) -> str:
    return "text" if isinstance(value, str) else "target"


class SftRow(Row):
    """One supervised example: a customer's text and the answer that is wanted.

    `context` holds the policy rules a reply must follow; `facts` are strings that a good answer contains.
    """

    id: Text
    task: Literal["classify", "reply", "summary"]
    channel: Text
    difficulty: Literal["easy", "medium", "hard"]
    input: Text
    context: str = ""
    output: Annotated[Annotated[Target, Tag("target")] | Annotated[Text, Tag("text")], Discriminator(_output_tag)]
    facts: list[Text] = []

    @field_validator("output")
    @classmethod
    def _known_labels(cls, output: Target | str) -> Target | str:
        if isinstance(output, Target):
            for field, known in (("intent", INTENTS), ("product", PRODUCTS), ("route", ROUTES)):
                value = getattr(output, field)
                if value is not None and value not in known:
                    raise _custom(f"{field} is {value!r}, not a known {field}{did_you_mean(value, known)}")
        return output

    @model_validator(mode="after")
    def _output_fits_task(self) -> "SftRow":
        if (self.task == "classify") != isinstance(self.output, Target):
            wanted = "an object (intent, order_id, product, route)" if self.task == "classify" else "a text"
            raise _custom(f"task is {self.task!r}, so 'output' must be {wanted}; correct the task or the output")
        return self

    def prompt(self) -> list[dict[str, str]]:
        """The chat messages that the model reads: system, then user."""
        user = f"Policy:\n{self.context}\n\nCustomer:\n{self.input}" if self.context else self.input
        return [{"role": "system", "content": SYSTEM[self.task]}, {"role": "user", "content": user}]

    def answer(self) -> str:
        """The text that the model should write; compact JSON in field order for `classify`."""
        if isinstance(self.output, Target):
            return json.dumps(self.output.model_dump(), ensure_ascii=False, separators=(",", ":"))
        return self.output


class RedTeamPrompt(Row):
    """A message that must be refused (harmful), or only sounds so (borderline). Splits never share a cluster."""

    id: Text
    text: Text
    kind: Literal["harmful", "borderline"]
    category: Text
    cluster: Text
    split: Split
    answer: Text | None


# Of `data/prompts/`, without .jsonl. Only the first holds validation and test rows.
RED_TEAM_FILES = ("redteam", "redteam_twins", "redteam_wordings", "redteam_scenes")


class ProductionPrompt(Row):
    """A message as real customers write it, with what a good answer must contain (`key_points`) and obey (`rules`)."""

    id: Text
    text: Text
    intent: Literal[INTENTS]
    key_points: list[Text]
    rules: list[Text]
    cluster: Text
    channel: Text
    split: Split


class GoldItem(Row):
    """A comparison with a known verdict: `training` items are explained to raters, `hidden` ones check them."""

    id: Text
    prompt: Text
    kind: PromptKind
    answer_a: Text
    answer_b: Text
    gold: Literal["A", "B", "tie"]
    explanation: Text
    round: Literal["training", "hidden"]


class Candidate(Row):
    """Two answers to one prompt, to be rated. Answers are kept as sampled, so they may be empty or equal."""

    id: Text
    prompt_id: Text
    prompt: Text
    kind: PromptKind
    answer_a: str
    source_a: Text
    answer_b: str
    source_b: Text
    cluster: Text


ADJUDICATOR = "adjudicator:"  # before a name: the vote settles what the raters disputed


class Rating(Row):
    """One rater's verdict. Marks: 1 where A is better, -1 where B is, 0 for a tie. `left` is the answer shown left.

    A rater named "adjudicator:ann" is Ann as adjudicator. Her vote is kept, exported and withdrawn as every vote is,
    beside the one that she may have given as a rater.
    """

    item_id: Text
    rater: Text
    choice: Literal["A", "B", "tie", "both_bad", "skip"]
    helpfulness: Mark | None
    harmlessness: Mark | None
    task_fit: Mark | None
    reason: str = ""
    seconds: float = Field(ge=0)
    left: Literal["A", "B"]
    simulated: bool
    created_at: Text

    @property
    def by_adjudicator(self) -> bool:
        """Whether an adjudicator gave it: it decides the item, and says nothing about agreement among raters."""
        return self.rater.startswith(ADJUDICATOR)


class PreferencePair(Row):
    """What DPO trains on. `basis` says what the preference rests on, e.g. "simulated raters".

    `votes` are those that decided, "item/rater=choice"; where that is an adjudicator's, it is the only one that did.
    """

    id: Text
    prompt: Text
    chosen: Text
    rejected: Text
    kind: PromptKind
    cluster: Text
    chosen_source: Text
    rejected_source: Text
    votes: list[str] = []
    basis: Text
    synthetic: bool
    split: Literal["train", "validation"]

    @model_validator(mode="after")
    def _answers_differ(self) -> "PreferencePair":
        if self.chosen.strip() == self.rejected.strip():
            raise _custom("'chosen' equals 'rejected'; drop the row or rate it again")
        return self


class AuditVerdict(Row):
    """What one auditor says to one training row. `digest` is of the text that was judged: a changed row is open again.

    `settles` marks the last word on a row that was not plainly right; `simulated` that a program gave the verdict.
    """

    row_id: Text
    digest: Text
    auditor: Text
    verdict: Literal["correct", "wrong", "unsure"]
    reason: str = ""
    settles: bool = False
    seconds: float = Field(ge=0)
    simulated: bool
    created_at: Text


class EverydayQuestion(Row):
    """A question that has nothing to do with the shop; an answer is right when it holds one of `accept` as words."""

    id: Text
    prompt: Text
    answer: Text
    accept: Annotated[list[Text], Field(min_length=1)]


class RefreshRow(Row):
    """A message that went wrong in a rollout, and what would mend it; 07 writes it for the 03 of the next round."""

    id: Text
    kind: PromptKind
    prompt: Text
    split: Split
    remedy: Literal["more data", "DPO refresh", "RFT"]


class NotFinite(ValueError):
    """Numbers that are none (NaN or infinite) where a measurement was expected."""


class GateResult(Row):
    """A gate's number beside its threshold. `evidence` is false where the number proves nothing (a smoke run).

    `clusters`: in how many groups of alike items the n come (wordings of one request); None: each stands for itself.
    """

    id: Text
    notebook: Text
    value: float | None
    threshold: float
    op: Literal[">=", "<="]
    n: int = Field(ge=0)
    ci95: Annotated[list[float], Field(min_length=2, max_length=2, strict=False)] | None
    verdict: Literal["PASS", "FAIL", "ABSTAIN"]
    note: str = ""
    evidence: bool = True
    clusters: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _verdict_has_value(self) -> "GateResult":
        if self.value is None and self.verdict != "ABSTAIN":
            raise _custom(f"verdict is {self.verdict} without a value; a gate that was not measured must ABSTAIN")
        return self


def parse_target(text: str) -> Target | None:
    """Read a model's answer strictly: one JSON object, just the four fields, of the right types; else None.

    Labels outside the known lists are kept: they are wrong answers, and are counted as such.
    """
    try:
        return Target.model_validate(loads_strict(text))
    except (ValueError, RecursionError):
        return None


def load_jsonl(path: str | Path, model: type[RowT], *, encoding: str = "utf-8") -> list[RowT]:
    """Read and check a JSON Lines file; blank lines are skipped, a byte order mark is tolerated.

    Args:
        path: the file.
        model: the row type, e.g. `SftRow`. Its `id`, where it has one, must be unique in the file.
        encoding: of the file, where it is not UTF-8 (`intake.sniff_encoding` tells UTF-16).

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not in that encoding or holds no rows, or rows are at fault: up to five faults, each
            with file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected a JSON Lines file of {model.__name__} rows, found no file; check the path, "
            "or restore the file from the repository"
        )
    rows: list[RowT] = []
    faults: list[str] = []
    first_line: dict[str, int] = {}
    # Split at \n only: str.splitlines would cut inside a text that holds U+2028 or a form feed.
    for number, raw in enumerate(_utf8_bytes(path, encoding).removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not raw.strip():
            continue
        where = f"{path.name} line {number}"
        try:
            row = model.model_validate(loads_strict(raw.decode("utf-8")))
        except ValidationError as error:
            faults += [f"{where}: {fault}" for fault in row_faults(error, model)]
        except UnicodeDecodeError as error:
            faults.append(f"{where}: not UTF-8 at byte {error.start}; save the file as UTF-8")
        except (ValueError, RecursionError) as error:
            faults.append(f"{where}: not a JSON object ({error}); write one object a line")
        else:
            row_id = getattr(row, "id", None)
            if row_id is not None and row_id in first_line:
                faults.append(
                    f"{where}: id: {row_id!r} was used in line {first_line[row_id]}; give each row its own id"
                )
            first_line.setdefault(row_id, number)
            rows.append(row)
    refuse_faults(path, faults)
    if not rows:
        raise ValueError(f"{path}: expected {model.__name__} rows, found none; write one JSON object a line")
    return rows


def _utf8_bytes(path: Path, encoding: str) -> bytes:
    """A file's bytes as UTF-8; those of a UTF-8 file as they are, so that a broken byte is told with its line."""
    data = path.read_bytes()
    if encoding in ("utf-8", "utf-8-sig"):
        return data
    try:
        return data.decode(encoding).encode("utf-8")
    except LookupError:
        raise ValueError(f"{path}: expected an encoding that Python knows, got {encoding!r}; e.g. cp1252") from None
    except UnicodeError as error:
        raise ValueError(f"{path}: not {encoding} ({error}); save the file as UTF-8, or name its encoding") from None


def write_jsonl(path: str | Path, rows: Iterable[BaseModel | dict]) -> Path:
    """Write rows as JSON Lines, atomically: a reader sees the old file or the new one, never half of it."""
    lines = [
        json.dumps(row.model_dump(mode="json") if isinstance(row, BaseModel) else row, ensure_ascii=False) + "\n"
        for row in rows
    ]
    return write_atomic(path, "".join(lines))


def assistant_chat(text: str) -> list[dict[str, str]]:
    """The chat in which the shop's assistant is asked an open question."""
    return [{"role": "system", "content": SYSTEM["assistant"]}, {"role": "user", "content": text}]


def data_path(name: str) -> Path:
    """A file of the repository's `data/`, wherever the caller's working directory is."""
    return Path(__file__).resolve().parent.parent / "data" / name


def _custom(message: str) -> PydanticCustomError:
    # Not ValueError: pydantic would put "Value error, " before the message.
    return PydanticCustomError("row", message)


def loads_strict(text: str) -> object:
    """`json.loads` without the leniency: a repeated key or NaN is an error, not a silent choice."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key is there twice")
        return found

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)


def refuse_faults(path: str | Path, faults: list[str]) -> None:
    """Raise one ValueError for a file's faults, the first five in full; nothing where there are none."""
    if faults:
        more = f"\n… and {len(faults) - MAX_FAULTS} more" if len(faults) > MAX_FAULTS else ""
        raise ValueError(f"{path}: {len(faults)} fault(s)\n" + "\n".join(faults[:MAX_FAULTS]) + more)


def row_faults(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """What is wrong with one row: a line for each fault, with its field and what to do."""
    found = []
    for fault in error.errors(include_url=False):
        if fault["type"] in ("model_type", "model_attributes_type") and not fault["loc"]:
            found.append("not a JSON object; write one object a line")
            continue
        # Behind "output" pydantic puts the tag of the union's branch, which no user knows.
        parts = [str(part) for place, part in enumerate(fault["loc"]) if place == 0 or part not in ("target", "text")]
        field = ".".join(parts)
        message = fault["msg"]
        if fault["type"] in _ADVICE:
            message += f"; {_ADVICE[fault['type']]}"
        if fault["type"] == "extra_forbidden":
            close = difflib.get_close_matches(field, list(model.model_fields), n=1)
            message += f" (did you mean {close[0]!r}?)" if close else ""
        found.append(f"{field}: {message}" if field else message)
    return found
