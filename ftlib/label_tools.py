"""Rating in Argilla or Label Studio: items out as records or tasks, votes back in, checked as any import is.

Raters stay blind: the tool gets an item's id, its prompt, and the two answers as left and right; which one is left is
drawn from the seed, once for all raters of an item (our own session draws it for each). Sort, cluster and sources stay
here, so votes are read back against the items. A vote names a side there and an answer here.

| form | loses on the way out | and what reading back gives instead |
|---|---|---|
| both | prompt id, sort, cluster, sources; the side on which a vote given here saw A | the item's; the tool's side |
| Argilla | seconds, time of the vote | 0 (so give `flag_raters` floors of 0), the time of reading |
| Label Studio | the marks and the reason of a skipped item | none |

Left out on purpose: the tools' servers and clients (send the file with theirs), and raters who have no account there.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from ftlib.exchange import Placed, repeats, text_faults
from ftlib.files import utc_now, write_atomic
from ftlib.intake import numbered_records
from ftlib.ratings import left_answer
from ftlib.records import Candidate, Rating, refuse_faults, row_faults

MARKS = ("helpfulness", "harmlessness", "task_fit")
CHOICES = ("left", "right", "tie", "both_bad", "skip")
SAME = "same"
SIMULATED = "simulated_raters"  # which raters of a record are programs: a tool takes every vote for a person's

# The labelling interface of a Label Studio project (labelstud.io/tags/choices, /tags/text, /tags/textarea).
LABEL_STUDIO_CONFIG = (
    '<View><Text name="prompt" value="$prompt"/>'
    '<Text name="left" value="$left"/><Text name="right" value="$right"/>'
    '<Choices name="choice" toName="prompt" choice="single" required="true">'
    + "".join(f'<Choice value="{choice}"/>' for choice in CHOICES[:-1])
    + "</Choices>"
    + "".join(
        f'<Choices name="{mark}" toName="prompt" choice="single">'
        + "".join(f'<Choice value="{side}"/>' for side in ("left", "right", SAME))
        + "</Choices>"
        for mark in MARKS
    )
    + '<TextArea name="reason" toName="prompt"/></View>'
)


def argilla_records(
    items: Iterable[Candidate],
    votes: Iterable[Rating] = (),
    *,
    seed: int,
    users: Mapping[str, str] | None = None,
) -> list[dict]:
    """Records as `rg.Record.from_dict` and `Dataset.records.from_json` read them (docs.argilla.io, reference, Records).

    The data set needs text fields prompt, left, right; label questions choice (left, right, tie, both_bad, skip),
    helpfulness, harmlessness, task_fit (left, right, same); a text question reason; a terms metadata property
    simulated_raters. Make it with those names.

    Args:
        items: what to rate.
        votes: votes that are there already; each becomes responses.
        seed: of the sides.
        users: rater -> the user's id in Argilla, a UUID as text; for votes.

    Raises:
        ValueError: a vote on another item, or of a rater without an id.
    """
    return [
        {
            "id": item.id,
            "fields": _fields(item, left),
            "metadata": {SIMULATED: simulated} if simulated else {},
            "suggestions": {},
            "responses": _responses([(user, _answers(vote, left)) for user, vote in said]),
            "vectors": {},
        }
        for item, left, said, simulated in _with_votes(items, votes, seed, users or {}, "Argilla")
    ]


def label_studio_tasks(
    items: Iterable[Candidate],
    votes: Iterable[Rating] = (),
    *,
    seed: int,
    users: Mapping[str, int] | None = None,
) -> list[dict]:
    """Tasks in Label Studio's JSON (labelstud.io/guide/task_format), for a project with `LABEL_STUDIO_CONFIG`.

    Args and errors: as `argilla_records`; `users` maps a rater to the number of the user there.
    """
    return [
        {
            "data": {"id": item.id} | _fields(item, left) | ({SIMULATED: simulated} if simulated else {}),
            "annotations": [_annotation(user, vote, left) for user, vote in said],
        }
        for item, left, said, simulated in _with_votes(items, votes, seed, users or {}, "Label Studio")
    ]


def write_tasks(path: str | Path, rows: Sequence[dict]) -> Path:
    """Write records or tasks as the JSON array that both tools take, one a line, as a whole or not at all."""
    return write_atomic(path, "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n")


def read_argilla(
    path: str | Path, items: Iterable[Candidate], *, users: Mapping[str, str] | None = None
) -> list[Placed[Rating]]:
    """Votes of a file that `Dataset.records.to_json` wrote, for `import_rows`.

    Args:
        items: those that were sent there.
        users: rater -> the user's id, as it was given on the way out; other users keep their id as their name.

    Raises:
        FileNotFoundError: no such file.
        ValueError: records at fault, with file and line: an unknown item, other texts, an answer that is none of ours.
    """
    return _read(path, items, users or {}, _argilla_votes)


def read_label_studio(
    path: str | Path, items: Iterable[Candidate], *, users: Mapping[str, int] | None = None
) -> list[Placed[Rating]]:
    """Votes of a JSON export of Label Studio, for `import_rows`; arguments and errors as `read_argilla`.

    A cancelled annotation is a skipped item. Predictions are no votes and are left alone.
    """
    return _read(path, items, users or {}, _label_studio_votes)


# --- out ---


def _with_votes(
    items: Iterable[Candidate], votes: Iterable[Rating], seed: int, users: Mapping[str, str | int], tool: str
) -> Iterator[tuple[Candidate, str, list[tuple[str | int, Rating]], list[str]]]:
    """(item, the answer on its left side, [(user, vote)], simulated raters)"""
    items = list(items)
    said: dict[str, list[tuple[str | int, Rating]]] = {item.id: [] for item in items}
    for vote in votes:
        if vote.item_id not in said:
            raise ValueError(f"{vote.rater} voted on {vote.item_id!r}, which is not among the {len(items)} items")
        if vote.rater not in users:
            raise ValueError(f"expected an id in {tool} for rater {vote.rater!r}; give users={{{vote.rater!r}: …}}")
        said[vote.item_id].append((users[vote.rater], vote))
    for item in items:
        simulated = sorted(vote.rater for _, vote in said[item.id] if vote.simulated)
        yield item, left_answer(seed, "", item.id), said[item.id], simulated


def _fields(item: Candidate, left: str) -> dict[str, str]:
    first, second = (item.answer_a, item.answer_b)[:: 1 if left == "A" else -1]
    return {"prompt": item.prompt, "left": first, "right": second}


def _answers(vote: Rating, left: str) -> dict[str, str]:
    """Question -> answer, in sides; nothing where the rater said nothing."""
    side = {"A": "left", "B": "right"} if left == "A" else {"A": "right", "B": "left"}
    marks = {1: side["A"], -1: side["B"], 0: SAME}
    given = {name: marks[getattr(vote, name)] for name in MARKS if getattr(vote, name) is not None}
    reason = {"reason": vote.reason} if vote.reason else {}
    return {"choice": side.get(vote.choice, vote.choice)} | given | reason


def _responses(said: Iterable[tuple[str, dict[str, str]]]) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for user, answers in said:
        for question, value in answers.items():
            found.setdefault(question, []).append({"value": value, "user_id": user})
    return found


def _annotation(user: int, vote: Rating, left: str) -> dict:
    result = [
        {"from_name": "reason", "to_name": "prompt", "type": "textarea", "value": {"text": [value]}}
        if name == "reason"
        else {"from_name": name, "to_name": "prompt", "type": "choices", "value": {"choices": [value]}}
        for name, value in _answers(vote, left).items()
    ]
    skipped = vote.choice == "skip"
    return {
        "completed_by": user,
        "result": [] if skipped else result,
        "was_cancelled": skipped,
        "lead_time": vote.seconds,
        "created_at": vote.created_at,
    }


# --- back ---


def _read(path: str | Path, items: Iterable[Candidate], users: Mapping, votes_of: Callable) -> list[Placed[Rating]]:
    path, known = Path(path), {item.id: item for item in items}
    rater_of = {str(user): rater for rater, user in users.items()}
    votes: list[Placed[Rating]] = []
    faults: list[str] = []
    seen: dict[str, str] = {}
    for number, (line, record) in enumerate(numbered_records(path), start=1):
        place = f"{path.name} line {line}, record {number}"  # an export may be one long line
        try:
            item_id, fields, simulated, said = votes_of(record)
            item = known.get(item_id)
            if item is None:
                raise ValueError(f"item {item_id!r} is not among the {len(known)} items that were sent; give its items")
            if item_id in seen:
                raise ValueError(f"item {item_id!r} was in {seen[item_id]} already; keep one of the two")
            seen[item_id] = place
            left = _left(item, fields)
            for user, answers, seconds, created_at in said:
                rater = rater_of.get(str(user), str(user))
                vote = _vote(item_id, rater, answers, left, seconds, created_at, rater in simulated)
                votes.append(Placed(place, vote))
                faults += [f"{place}: {fault}" for fault in text_faults(vote)]
        except ValidationError as error:
            faults += [f"{place}: {fault}" for fault in row_faults(error, Rating)]
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            faults.append(f"{place}: not in the form that this tool writes ({type(error).__name__}: {error})")
        except ValueError as error:
            faults.append(f"{place}: {error}")
    refuse_faults(path, faults + repeats(votes))
    return votes


def _left(item: Candidate, fields: Mapping[str, str]) -> str:
    """Which answer the tool showed on the left, told by the texts."""
    given = {name: fields[name] for name in ("prompt", "left", "right")}
    for left in ("A", "B"):
        if given == _fields(item, left):
            return left
    raise ValueError(f"item {item.id!r} has other texts there; votes belong to texts, so they cannot be taken over")


def _vote(
    item_id: str, rater: str, answers: Mapping[str, str], left: str, seconds: float, created_at: str, simulated: bool
) -> Rating:
    side = {"left": left, "right": {"A": "B", "B": "A"}[left]}
    unknown = set(answers) - {"choice", "reason", *MARKS}
    if unknown:
        raise ValueError(f"question {min(unknown)!r} is none of choice, reason, {', '.join(MARKS)}; rename it")
    if answers.get("choice") not in CHOICES:
        raise ValueError(f"{rater}: choice is {answers.get('choice')!r}; expected one of {', '.join(CHOICES)}")
    marks = {}
    for name in MARKS:
        value = answers.get(name)
        if value not in (None, SAME, *side):
            raise ValueError(f"{rater}: {name} is {value!r}; expected left, right or {SAME}")
        marks[name] = None if value is None else 0 if value == SAME else 1 if side[value] == "A" else -1
    return Rating(
        item_id=item_id, rater=rater, choice=side.get(answers["choice"], answers["choice"]), **marks,
        reason=answers.get("reason", ""), seconds=seconds, left=left, simulated=simulated, created_at=created_at,
    )  # fmt: skip


def _argilla_votes(record: dict) -> tuple[str, dict, list[str], list[tuple]]:
    said: dict[str, dict[str, str]] = {}
    for question, responses in record["responses"].items():
        for response in responses:
            answers = said.setdefault(response["user_id"], {})
            if question in answers:
                raise ValueError(f"user {response['user_id']} answered {question!r} twice; keep one of the two")
            answers[question] = response["value"]
    now = utc_now()
    votes = [(user, answers, 0.0, now) for user, answers in said.items()]
    return record["id"], record["fields"], record["metadata"].get(SIMULATED, []), votes


def _label_studio_votes(record: dict) -> tuple[str, dict, list[str], list[tuple]]:
    data, votes = record["data"], []
    for annotation in record["annotations"]:
        user = annotation["completed_by"]
        if isinstance(user, dict):  # an export with the users' details
            user = user.get("id", user.get("email"))
        values = {region["from_name"]: region["value"] for region in annotation["result"]}
        answers = {name: _text(value["choices" if "choices" in value else "text"]) for name, value in values.items()}
        if annotation.get("was_cancelled"):
            answers = {"choice": "skip"}
        votes.append(
            (user, answers, float(annotation.get("lead_time") or 0), annotation.get("created_at") or utc_now())
        )
    return data["id"], data, data.get(SIMULATED, []), votes


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "\n".join(value)
