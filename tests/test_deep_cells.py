"""Cells of deep notebooks as they stand, without a model: votes beside a stage, what was trained on, who is hasty."""

import json
from types import SimpleNamespace

import numpy as np
from governed import PAIR, make_run
from notebook_cells import run_cell
from test_ratings import item

from ftlib import evidence, looks, quality, rater_flags, ratings, records, redteam
from ftlib.profiles import resolve
from ftlib.runs import open_run
from ftlib.store import open_store


def test_a_form_that_stays_open_changes_no_file_of_the_stage(tmp_path):
    """05b by hand: somebody votes, the notebook finishes, somebody votes again; every hash of the run still holds."""
    folder = make_run(tmp_path / "r")
    run = open_run("05b_people_and_judges", folder, profile=resolve("cpu"), seed=17, model_id="embedded")
    sessions = []
    names = {"open_store": open_store, "headless": False, "run": run, "items": [item(n) for n in range(3)],
             "ratings": ratings, "rater": "ann", "seed": 17, "rating_widget": lambda session: session,
             "display": sessions.append}  # fmt: skip
    run_cell("deep/05b_people_and_judges", "store = open_store(", names)
    vote = lambda: sessions[0].submit("A", item_id=sessions[0].current().item.id)
    vote()
    run.write_rows("votes.jsonl", names["store"].ratings())
    run.finish()
    vote()
    assert evidence.verify_run(folder) == []
    assert len(open_store(folder / "side_by_side.db").ratings()) == 2


def test_the_known_sets_are_held_against_all_that_was_trained_on(tmp_path, monkeypatch):
    """A twin among the pairs' prompts and one among the rows of 02: both count, wherever the pair's prompt was from."""
    known = [
        "How do I mend a torn groundsheet after a very long winter storm?",
        "Which rope suits a short alpine glacier tour in May?",
    ]
    (tmp_path / "pairs.jsonl").write_text(json.dumps({**PAIR, "prompt": known[0]}) + "\n", encoding="utf-8")
    row = records.load_jsonl(records.data_path("sft/train.jsonl"), records.SftRow)[0]
    (tmp_path / "cleaned.jsonl").write_text(
        row.model_copy(update={"input": known[1]}).model_dump_json() + "\n", encoding="utf-8"
    )
    monkeypatch.setattr(redteam, "is_installed", lambda: True)
    prompts = [SimpleNamespace(text=text, kind="borderline", source="a test") for text in [*known, "What is a bothy?"]]
    monkeypatch.setattr(redteam, "load_prompts", lambda name: prompts if name == "spikee" else prompts[2:])
    names = {"records": records, "quality": quality, "table": lambda *_, **__: None, "red": [],
             "run": SimpleNamespace(upstream=lambda _notebook, name: tmp_path / name)}  # fmt: skip
    run_cell("deep/05a_trust_the_gates", "ready = redteam.is_installed()", names)
    assert names["twins"] == {"advbench": 0, "strongreject": 0, "spikee": 2}


def test_looking_early_is_counted_on_the_side_of_better_only():
    """A candidate that loses every comparison is never called better, however often one looks."""
    names = {
        "np": np,
        "simulations": 5,
        "looks": looks,
        "rng": SimpleNamespace(integers=lambda *_, size: np.zeros(size)),
    }
    run_cell("deep/05a_trust_the_gates", "coins = rng.integers", names, only=("coins", "alarms", "z"))
    assert set(names["alarms"].values()) == {0.0}


def test_noise_rows_are_no_claims(tmp_path):
    rows = [{"gate": "a", "power": 0.9, "can n show it?": "yes"}, {"gate": "SFT against SFT: refused"}]
    (tmp_path / "family.json").write_text(json.dumps({"claims": rows}), encoding="utf-8")
    names = {"json": json, "run": SimpleNamespace(upstream=lambda _notebook, name: tmp_path / name)}
    run_cell("deep/05a_trust_the_gates", "family_of_05 =", names, only=("family_of_05", "claims"))
    assert [row["gate"] for row in names["claims"]] == ["a"]


def test_replayed_programs_are_not_called_hasty():
    """Three simulated raters answer 120 items in milliseconds; the flags of 03a say nothing of haste."""
    items, store = [item(n) for n in range(120)], open_store(":memory:")
    for n in (1, 2, 3):
        session = ratings.RatingSession(store, f"sim-{n}", items, 17, simulated=True)
        ratings.replay(session, ratings.simulated_rater(lambda one: int(one.id[1:]) % 2, seed=n, noise=0.2))
    votes = store.ratings()
    assert {flag.name for flag in rater_flags.flag_raters(votes)} == {"fast"}  # as if people had given them
    names = {"votes": votes, "items": items, "rater_flags": rater_flags, "basis": "", "table": lambda *_: None}
    assert run_cell("deep/03a_rater_quality", "flags = rater_flags.flag_raters(", names)["flags"] == []


def test_people_who_are_hasty_still_are():
    items, store = [item(n) for n in range(120)], open_store(":memory:")
    for name in ("ann", "bob", "cat"):
        session = ratings.RatingSession(store, name, items, 17)
        ratings.replay(session, ratings.simulated_rater(lambda one: int(one.id[1:]) % 2, seed=17, noise=0.0))
    names = {
        "votes": store.ratings(),
        "items": items,
        "rater_flags": rater_flags,
        "basis": "",
        "table": lambda *_: None,
    }
    flags = run_cell("deep/03a_rater_quality", "flags = rater_flags.flag_raters(", names)["flags"]
    assert {(flag.rater, flag.name) for flag in flags} == {(name, "fast") for name in ("ann", "bob", "cat")}
