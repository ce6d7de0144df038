"""Whole rollouts as preference pairs for TRL's DPOTrainer: which to compare, and which of their tokens count.

DPO compares log pi(trajectory) - log pi_ref(trajectory). What the desk answers is written by the desk: its probability
is no part of either policy and cancels (Rafailov et al. 2024, arXiv 2404.12358; pairs of a policy's own trajectories:
Song et al. 2024, arXiv 2403.02502). TRL (1.16) counts every token after the prompt, tool results too, so the policy
would be trained to foretell the desk. `mask_tools` puts the chat template's own marks of what the model wrote into the
trainer's rows and batches. What chosen and rejected begin with alike cancels by itself, so it needs no cut.

Pairs that people judge instead are rated as 03 rates answers; `recorded_votes` reads such votes of an earlier run.

Left out on purpose: a value for each turn. The reward of a case comes at its end, and a pair says no more than that.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ftlib.desk import Trajectory
from ftlib.ratings import candidate_id, replay_apart
from ftlib.records import Candidate, Rating, load_jsonl

ITEMS = "rating_items.jsonl"  # pairs of rollouts as `records.Candidate`, beside the votes on them
OPENING = 2  # messages that all rollouts of a case share: the system's and the customer's


@dataclass(frozen=True)
class TrajectoryPair:
    """Two rollouts of one case: what the better and the worse one did, as chat messages after the opening."""

    case: str
    prompt: list[dict[str, Any]]
    chosen: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    gap: float  # score of chosen minus that of rejected


def make_pairs(
    trajectories: Sequence[Trajectory],
    chats: Sequence[list[dict[str, Any]]],
    *,
    score: Callable[[Trajectory], float],
    least_gap: float = 0.5,
) -> list[TrajectoryPair]:
    """The best rollout of a case over its worst one, the second best over the second worst, and so on.

    Each rollout is in one pair at most. Two rollouts that did the same are no pair, and a pair comes once.

    Args:
        trajectories, chats: as `desk.rollouts` returns them, several of each case.
        score: of a trajectory; larger is better.
        least_gap: pairs whose scores lie nearer together are left out.

    Raises:
        ValueError: lists of two lengths, or a gap below 0.
    """
    if len(trajectories) != len(chats) or least_gap < 0:
        raise ValueError(
            f"expected one chat for each trajectory and least_gap >= 0, got {len(trajectories)} trajectories, "
            f"{len(chats)} chats and {least_gap}"
        )
    of_case: dict[str, list[int]] = {}
    for n, trajectory in enumerate(trajectories):
        of_case.setdefault(trajectory.case.id, []).append(n)
    scores = [float(score(trajectory)) for trajectory in trajectories]
    pairs, seen = [], set()
    for case, places in of_case.items():
        best_first = sorted(places, key=lambda n: -scores[n])
        for better, worse in zip(best_first[: len(places) // 2], best_first[::-1], strict=False):
            gap, chosen, rejected = scores[better] - scores[worse], chats[better][OPENING:], chats[worse][OPENING:]
            key = json.dumps([case, chosen, rejected])
            if gap >= least_gap and chosen != rejected and key not in seen:
                seen.add(key)
                pairs.append(TrajectoryPair(case, chats[better][:OPENING], chosen, rejected, gap))
    return pairs


def recorded_votes(path: str | Path, *, seed: int) -> tuple[list[Candidate], list[Rating]]:
    """Pairs of rollouts that an earlier run put before raters, and the votes, replayed through `RatingSession.submit`.

    Votes belong to texts, and another run samples others; so the pairs come with their votes.

    Args:
        path: the votes, `ratings.jsonl`; the pairs are read from `ITEMS` beside it.
        seed: of the sessions' order; a recorded vote keeps its side, its time, and whether a program gave it.

    Raises:
        FileNotFoundError: one of the files is not there.
        ValueError: a line that is no vote or no pair, no line at all, a pair whose texts are not those that its id was
            made of, or votes on pairs that are not there.
    """
    path = Path(path)
    items, votes = load_jsonl(path.with_name(ITEMS), Candidate), load_jsonl(path, Rating)
    changed = [item.id for item in items if item.id != candidate_id(item.prompt_id, item.answer_a, item.answer_b)]
    if changed:
        raise ValueError(
            f"{path.with_name(ITEMS)}: expected the pairs as they were rated, got other texts under {changed[0]!r} (of "
            f"{len(changed)}); a vote is on texts, so take the file of the run unchanged"
        )
    given, standing = replay_apart(items, dict.fromkeys(sorted({vote.rater for vote in votes}), votes), seed=seed)
    if given != len(votes):
        raise ValueError(
            f"{path}: {len(votes) - given} of {len(votes)} votes are on pairs that {ITEMS} does not have; give both "
            "files of one run together"
        )
    return items, standing


def dataset_of(pairs: Sequence[TrajectoryPair], tools: Sequence[dict]):
    """The pairs as a `datasets.Dataset` that DPOTrainer takes: prompt, chosen, rejected, tools.

    Args:
        tools: their JSON schemas, for the chat template.

    Raises:
        ValueError: no pair.
    """
    from datasets import Dataset

    if not pairs:
        raise ValueError("expected one or more pairs, got none; sample more rollouts a case, or lower least_gap")
    schemas = json.dumps(list(tools))
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected, "tools": schemas} for p in pairs]
    # As JSON where calls have different arguments: a plain table gives each call the names of all, with null.
    return Dataset.from_list(rows, on_mixed_types="use_json")


def mask_tools(trainer) -> int:
    """Let only what the model wrote carry loss in a DPOTrainer over rows of `dataset_of`; call it before training.

    The rows get the columns `chosen_mask` and `rejected_mask`, 1 for each token between the template's generation
    marks, and the collator puts them into TRL's `completion_mask`.

    Returns:
        Tokens that carry loss in one pass over the rows.

    Raises:
        ValueError: the trainer drops the columns, truncates at the front, or has tokens that are not the template's; a
            side on which the model wrote nothing, as under a template without generation marks.
    """
    if trainer.args.remove_unused_columns or trainer.args.truncation_mode != "keep_start":
        raise ValueError(
            "expected remove_unused_columns=False and truncation_mode='keep_start' in the DPOConfig, got "
            f"{trainer.args.remove_unused_columns} and {trainer.args.truncation_mode!r}; the masks would be lost"
        )
    tokenizer = trainer.processing_class
    rows = trainer.train_dataset.map(lambda row, n: _masks(tokenizer, row, n), with_indices=True)
    trainer.train_dataset = rows
    trainer.data_collator = partial(_collate, trainer.data_collator)
    return sum(sum(mask) for side in ("chosen", "rejected") for mask in rows[f"{side}_mask"])


def _masks(tokenizer, row: dict[str, Any], number: int) -> dict[str, list[int]]:
    found = {}
    for side in ("chosen", "rejected"):
        rendered = tokenizer.apply_chat_template(
            row["prompt"] + row[side], tools=json.loads(row["tools"]), tokenize=True, return_dict=True,
            return_assistant_tokens_mask=True,
        )  # fmt: skip
        ids, begin = row["prompt_ids"] + row[f"{side}_ids"], len(row["prompt_ids"])
        mask = list(rendered["assistant_masks"][begin:])
        if rendered["input_ids"] != ids or 1 not in mask:
            raise ValueError(
                f"pair {number}, {side}: expected the tokens of the chat template, with marks of what the model wrote, "
                f"got {len(ids)} tokens beside {len(rendered['input_ids'])}, and {sum(mask)} marks; give the rows of "
                "dataset_of unchanged, and a chat template with {% generation %}"
            )
        found[f"{side}_mask"] = mask
    return found


def _collate(collator, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """TRL's batch, chosen rows first, with the masks in it."""
    batch = collator(rows)
    sides = [(row, row[f"{side}_mask"]) for side in ("chosen", "rejected") for row in rows]
    for carries, (row, mask) in zip(batch["completion_mask"], sides, strict=True):  # carries (T,) is changed in place
        begin = len(row["prompt_ids"])
        kept = mask[: max(0, len(carries) - begin)]  # the collator cuts at max_length
        carries[begin : begin + len(kept)] *= carries.new_tensor(kept)
    return batch
