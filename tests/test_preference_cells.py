"""Cells of 03 as they stand, without a model: which prompts are asked, what each source is asked, which items come."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from notebook_cells import cell_with, run_cell

from ftlib import gates, pairs, quality, ratings, records, safety, sources
from ftlib.pair_rules import side_counts

NOTEBOOK = "03_collect_preferences"
MESSAGE = "Where is the tent that I ordered last week"  # nine words, seven 3-shingles
LOOP = "tent tent tent tent tent tent tent tent tent tent tent tent"


def prompt(id: str, text: str, *, kind: str = "", split: str = "train"):
    sort = {"kind": kind, "category": "c"} if kind else {"intent": "i"}
    return SimpleNamespace(id=id, text=text, split=split, cluster=f"k-{id}", **sort)


@pytest.fixture
def drawing(tmp_path):
    """What the cell that draws the prompts finds; p2 nearly repeats p1 (7 of 8 shingles), h1 and b1 repeat it whole."""
    rows = [
        prompt("p1", MESSAGE),
        prompt("p2", f"{MESSAGE} please"),
        prompt("p3", "My boots are too small, may I send them back?"),
        prompt("p4", MESSAGE, split="test"),
    ]
    red_team = [prompt("h1", MESSAGE, kind="harmful"), prompt("b1", MESSAGE, kind="borderline")]
    wrong = tmp_path / "refresh.jsonl"
    wrong.write_text('{"id": "p2", "split": "train", "prompt": "x", "kind": "production", "remedy": "DPO refresh"}\n')
    return {"recorded_items": [], "production": rows, "red_team": red_team, "records": records, "quality": quality,
            "run": SimpleNamespace(uses=Path), "refresh_path": "", "near_duplicates": "drop", "seed": 17, "pd": pd,
            "resolved": SimpleNamespace(preference_prompts=30), "wrong": wrong}  # fmt: skip


def ids_of(names: dict) -> dict[str, set[str]]:
    return {name: {row.id for _, row in part} for name, part in names["sampling"].items()}


def test_a_near_duplicate_of_its_sort_is_not_asked(drawing):
    """7 shingles of p1, 8 of p2, 7 shared: Jaccard 7 / 8. Rows of another sort or split may say the same."""
    names = run_cell(NOTEBOOK, "sampling = {", drawing)
    assert ids_of(names) == {
        "in the train split": {"p1", "p2", "p3", "h1", "b1"},
        "near-duplicates": {"p2"},
        "asked": {"p1", "p3", "h1", "b1"},
    }
    shown = eval(cell_with(NOTEBOOK, "pd.DataFrame(strata)").splitlines()[-1], names | strata_of(names))
    assert shown.loc["production: i"].tolist() == [3, 1, 2]
    assert shown.sum().tolist() == [5, 1, 4]


def strata_of(names: dict) -> dict:
    return {"strata": run_cell(NOTEBOOK, "pd.DataFrame(strata)", dict(names), only=("strata",))["strata"]}


def test_near_duplicates_may_be_kept(drawing):
    asked = ids_of(run_cell(NOTEBOOK, "sampling = {", drawing | {"near_duplicates": "keep"}))
    assert asked["near-duplicates"] == set() and asked["asked"] == {"p1", "p2", "p3", "h1", "b1"}


def test_what_went_wrong_is_asked_again_near_duplicate_or_not(drawing):
    asked = ids_of(run_cell(NOTEBOOK, "sampling = {", drawing | {"refresh_path": drawing["wrong"]}))
    assert asked["near-duplicates"] == {"p2"} and "p2" in asked["asked"]


PROMPTS = [
    ("production", prompt("p1", "p1")),
    ("production", prompt("p2", "p2")),
    ("harmful", prompt("h1", "h1", kind="harmful")),
    ("borderline", prompt("b1", "b1", kind="borderline")),
    ("borderline", prompt("b2", "b2", kind="borderline")),
]


def sampled_with(text: str, folder: Path, loops: set[tuple[str, str]], *, speaker: str = "") -> tuple[dict, list]:
    """The two cells that sample and make items, over a model that says who it is.

    Args:
        loops: (source, prompt) pairs whose answer loops.
        speaker: who all the sources say they are.
    """
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    listed = sources.read_sources(text, sft=folder)
    calls, held = [], SimpleNamespace(close=lambda: None)

    def answers_of(source, held, chats, **given):
        asked = [chat[-1]["content"] for chat in chats]
        calls.append((source.name, asked, given["max_new_tokens"], given["temperature"], given["seed"]))
        assert given["folder"] == folder / "checkpoints"
        said = [
            LOOP if (source.name, who) in loops else f"{speaker or source.name} says to {who} what it can"
            for who in asked
        ]
        return [SimpleNamespace(text=text, stopped=True, token_ids=[1]) for text in said]

    names = {"listed": listed, "prompts": PROMPTS, "held": held, "examples": [], "seed": 17, "safety": safety, "pd": pd,
             "answers_of": answers_of, "resolved": SimpleNamespace(sample_batch=8),
             "sorts": dict.fromkeys(("production", "harmful", "borderline")), "pairs": pairs, "records": records,
             "ratings": ratings, "refusal": "Unfortunately, I must decline that request.", "recorded_items": [],
             "sampled": {source.name: {} for source in listed},
             "run": SimpleNamespace(stage=folder, write_rows=lambda *row: None),
             "compared": sources.pair_up([source.name for source in listed], ["p1", "p2"], seed=17),
             "source_table": sources.source_table, "table": lambda rows: None}  # fmt: skip
    run_cell(NOTEBOOK, "answers_of(  #", names)
    run_cell(NOTEBOOK, "def candidate(", names)
    return names, calls


def test_the_default_sources_are_asked_as_ever(tmp_path):
    """Three calls; rows, their order and the seed fix a draw, so they are what must not change."""
    names, calls = sampled_with("sft at 0.0, sft at 0.9", tmp_path, loops={("sft at 0.0", "b2")})
    assert calls == [
        ("sft at 0.0", ["h1"], 24, 0.0, 17),
        ("sft at 0.0", ["p1", "p2", "b1", "b2"], 56, 0.0, 17),
        ("sft at 0.9", ["p1", "p2", "b2"], 56, 0.9, 17),  # everyday messages, and the one that looped
    ]
    assert [(item.prompt_id, item.source_a, item.source_b) for item in names["fresh"]] == [
        ("p1", "over-refusal, authored", "sft at 0.0"),
        ("p1", "sft at 0.0", "sft at 0.9"),
        ("p2", "over-refusal, authored", "sft at 0.0"),
        ("p2", "sft at 0.0", "sft at 0.9"),
        ("h1", "authored", "sft at 0.0"),
        ("b1", "over-refusal, authored", "sft at 0.0"),
        ("b2", "over-refusal, authored", "sft at 0.9"),
    ]


def test_three_sources_give_two_items_an_everyday_message(tmp_path):
    loops = {("base at 0.7", "b1"), ("base at 0.7", "b2"), ("few-shot at 0.7", "b1"), ("sft at 0.0", "b1")}
    names, calls = sampled_with("base at 0.7, few-shot at 0.7, sft at 0.0", tmp_path, loops)
    assert calls == [
        ("base at 0.7", ["h1"], 24, 0.7, 17),
        ("base at 0.7", ["p1", "p2", "b1", "b2"], 56, 0.7, 17),
        ("few-shot at 0.7", ["p1", "p2", "b1", "b2"], 56, 0.7, 18),
        ("sft at 0.0", ["p1", "p2", "b1"], 56, 0.0, 19),
    ]
    everyday = [item for item in names["fresh"] if item.kind == "production" and "authored" not in item.source_a]
    assert Counter(item.prompt_id for item in everyday) == {"p1": 2, "p2": 2}
    against = {item.prompt_id: item.source_b for item in names["fresh"] if "authored" in item.source_a}
    assert against == {  # where all loop, the first one stands
        "p1": "base at 0.7", "p2": "base at 0.7", "h1": "base at 0.7", "b1": "base at 0.7", "b2": "few-shot at 0.7",
    }  # fmt: skip


def test_the_same_two_texts_are_one_item(tmp_path):
    """One pair of texts from two pairs of sources would be one id twice, which no store takes."""
    a, b, c, d = (f"base at 0.{n}" for n in (1, 2, 3, 4))
    loops = {(source, who) for source in (b, d) for who in ("p1", "p2")}
    names, _ = sampled_with(", ".join((a, b, c, d)), tmp_path, loops, speaker="the base")
    names["compared"] = {"p1": [(a, b), (c, d)], "p2": [(a, c), (b, d)]}  # p2: two equal answers, twice
    run_cell(NOTEBOOK, "def candidate(", names)
    everyday = [item for item in names["fresh"] if item.kind == "production" and "authored" not in item.source_a]
    assert [(item.prompt_id, item.answer_a, item.answer_b) for item in everyday] == [
        ("p1", "the base says to p1 what it can", LOOP)
    ]
    assert len(names["alike"]) == 2


@pytest.mark.parametrize(
    ("safe", "adversarial", "verdict"),
    [(90, 30, "PASS"), (91, 30, "FAIL"), (30, 90, "PASS"), (30, 91, "FAIL"), (60, 29, "ABSTAIN"), (60, 0, "ABSTAIN")],
)
def test_one_side_may_have_three_times_the_pairs_of_the_other_and_no_more(safe, adversarial, verdict):
    """30 pairs of the smaller side are wanted to say anything; which side is the larger one does not matter."""
    pair = lambda kind: SimpleNamespace(kind=kind, split="train")
    made = SimpleNamespace(pairs=[pair("production")] * safe + [pair("harmful")] * adversarial,
                           synthetic_share=0.5, near_duplicates=0.0)  # fmt: skip
    said = []
    run = SimpleNamespace(notebook=NOTEBOOK, gate=lambda result: said.append(result) or result, figure=lambda *_: None)
    plots = SimpleNamespace(gate_matrix=lambda *_: None)
    names = {"made": made, "by_whom": "people", "gates": gates, "run": run, "plots": plots, "mark": lambda fig: fig,
             "overall": SimpleNamespace(alpha=0.5, items=100, alpha_interval=(0.4, 0.6)), "leaks": [],
             "held_out": ["x"], "side_counts": side_counts}  # fmt: skip
    run_cell(NOTEBOOK, '"preferences.side_balance"', names)
    of = {result.id: result for result in said}
    assert of["preferences.side_balance"].verdict == verdict
    assert f"'safe': {safe}, 'adversarial': {adversarial}" in of["preferences.side_balance"].note
