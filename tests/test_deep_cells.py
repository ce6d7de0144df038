"""Cells of deep notebooks as they stand, without a model: votes beside a stage, what was trained on, who is hasty."""

import json
from types import SimpleNamespace

import numpy as np
from governed import PAIR, make_run
from notebook_cells import run_cell
from test_ratings import item, rating

from ftlib import agreement, evidence, looks, pairs, plots, quality, rater_flags, raters, ratings, records, redteam
from ftlib.planted import team_votes
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


GOLD = records.load_jsonl(records.data_path("preferences/gold.jsonl"), records.GoldItem)


def rated_run(folder, votes, items) -> dict:
    """What the first cells of 03a find: a run whose stage of 03 has these votes, and the store that they came from."""
    records.write_jsonl(folder / "ratings.jsonl", [vote for vote in votes if vote.item_id[0] == "c"])
    records.write_jsonl(folder / "candidates.jsonl", items)
    return {"run": SimpleNamespace(path=folder, upstream=lambda _notebook, name: folder / name, uses=lambda path: path),
            "records": records, "agreement": agreement, "plots": plots, "resolved": resolve("cpu"),
            "open_store": open_store, "database_url": "", "ratings": ratings, "raters": raters, "pairs": pairs,
            "table": lambda rows, **_: rows, "headless": False, "adjudicator": "me", "seed": 17}  # fmt: skip


def test_the_chart_of_03a_shows_the_votes_of_the_run_hidden_gold_included(tmp_path):
    """Five steady raters and r0, who guesses in the second half; only r0 signals. Gold is read from the store."""
    items = [item(n) for n in range(200)]
    hidden = {one.id: one.gold for one in GOLD if one.round == "hidden"}
    verdicts = {one.id: "AB"[n % 2] for n, one in enumerate(items)}
    kinds = {f"r{n}": "drifting" if n == 0 else "honest" for n in range(6)}
    votes = team_votes(verdicts | hidden, kinds, seed=5, overlap=3, everybody=list(hidden))
    store = open_store(tmp_path / "ratings.db")
    store.load(items, votes, raters.gold_candidates(GOLD))
    store.close()
    names = rated_run(tmp_path, votes, items)
    run_cell("deep/03a_rater_quality", "has_store =", names)
    assert {vote.item_id for vote in names["checks"]} == set(hidden) and len(names["votes"]) == 600
    figures = {}
    names["run"].figure = lambda name, fig, caption: figures.update({name: (fig, caption)})
    run_cell("deep/03a_rater_quality", '"drift_of_run"', names)
    low = {name for name, chart in names["charts"].items() if any(one.signal == "low" for one in chart)}
    assert low == {"r0"}
    assert {trace.name for trace in figures["drift_of_run"][0].data} == set(kinds)
    assert figures["drift_of_run"][1] == "Votes of this run in windows of 20, simulated raters"
    judged = raters.agreement_windows(names["votes"], size=20)
    assert all(len(names["windows"][name]) > len(judged[name]) for name in kinds)  # hidden gold makes more windows


def test_a_run_without_its_store_is_read_and_no_store_is_made(tmp_path):
    names = rated_run(tmp_path, team_votes({"c0": "A"}, {"r0": "honest"}, seed=1, overlap=1), [item(0)])
    run_cell("deep/03a_rater_quality", "has_store =", names)
    assert (names["has_store"], names["checks"], len(names["votes"])) == (False, [], 1)
    assert not (tmp_path / "ratings.db").exists()


def test_what_is_settled_in_03a_decides_the_pairs_that_03_builds(tmp_path, monkeypatch):
    """c0: one A, one B, no majority. The queue has it, a person says B by the buttons' session, and 03's cell knows."""
    items = [item(0), item(1)]
    votes = [
        rating(f"c{n}", f"r{place}", choice) for n, said in enumerate(("AB", "AA")) for place, choice in enumerate(said)
    ]
    store = open_store(tmp_path / "ratings.db")
    store.load(items, votes)
    names = rated_run(tmp_path, votes, items) | {"queue": [SimpleNamespace(item_id="c0")], "has_store": True}
    shown = []
    names |= {"store": store, "items": items}
    monkeypatch.setattr("ftlib.rater_widgets.rating_widget", lambda session: session)
    monkeypatch.setattr("IPython.display.display", shown.append)
    run_cell("deep/03a_rater_quality", "ratings.adjudication_session(store", names)
    shown[0].submit("B", item_id=shown[0].current().item.id)
    again = {"rated_by": "recorded", "opened": store, "items": items, "basis": agreement.basis}
    run_cell("03_collect_preferences", "votes = opened.ratings(", again, only=("votes",))
    limits = {"synthetic_cap": 1.0, "balance": 0.0, "seed": 17, "pairs": pairs, "plots": plots, "mark": lambda fig: fig}
    limits |= {"votes": again["votes"], "items": items, "overall": agreement.agreement(again["votes"], seed=17)}
    limits["run"] = SimpleNamespace(figure=lambda *_: None)
    made = run_cell("03_collect_preferences", "pairs.build_pairs(", limits)["made"]
    assert [(pair.id, pair.votes) for pair in made.pairs] == [
        ("c0", ["c0/adjudicator:me=B"]), ("c1", ["c1/r0=A", "c1/r1=A"]),
    ]  # fmt: skip
    assert (made.adjudicated, limits["overall"].raters) == (1, 2)
    store.close()
