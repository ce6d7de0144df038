"""Runs that differ in their seed alone, and how far their numbers spread; worked by hand."""

import datetime
from pathlib import Path

import pytest
from governed import make_run

from ftlib import evidence, risks, seeds
from ftlib.parameters import given_parameters, notebook_parameters
from ftlib.profiles import resolve
from ftlib.runs import open_run


def spread_of(runs, metric):
    (row,) = [row for row in seeds.spread(runs) if row["metric"] == metric]
    return row


def test_the_newest_run_of_each_other_seed_is_found(tmp_path):
    own = make_run(tmp_path / "a", seed=17)
    make_run(tmp_path / "b", seed=23)
    again = make_run(tmp_path / "c", seed=23)
    third = make_run(tmp_path / "d", seed=5)
    make_run(tmp_path / "e", "smoke", seed=4)
    make_run(tmp_path / "f", seed=17)
    assert seeds.other_seeds(own) == [third, again]


def test_mean_and_standard_deviation_by_hand(tmp_path):
    """0.6, 0.7 and 0.8: mean 0.7, sd sqrt((0.01 + 0 + 0.01) / 2) = 0.1."""
    runs = [make_run(tmp_path / str(seed), seed=seed, win_rate=rate) for seed, rate in ((17, 0.6), (3, 0.7), (4, 0.8))]
    row = spread_of(runs, "dpo.win_rate")
    assert (row["seeds"], row["values"]) == ([17, 3, 4], [0.6, 0.7, 0.8])
    assert row["mean"] == pytest.approx(0.7) and row["sd"] == pytest.approx(0.1) and row["left_out"] == {}
    assert spread_of(runs, "sft.intent_accuracy")["sd"] == 0
    shown = next(row for row in seeds.spread_rows(seeds.spread(runs)) if row["metric"] == "dpo.win_rate")
    assert shown == {"metric": "dpo.win_rate", "seed 3": "0.700", "seed 4": "0.800", "seed 17": "0.600",
                     "mean": "0.700", "sd": "0.100", "left out": ""}  # fmt: skip


def test_a_run_counts_up_to_where_it_differs(tmp_path):
    one = make_run(tmp_path / "a", seed=1, parameters={"beta": 0.1})
    two = make_run(tmp_path / "b", seed=2, parameters={"beta": 0.3})
    assert spread_of([one, two], "sft.intent_accuracy")["seeds"] == [1, 2]
    row = spread_of([one, two], "dpo.win_rate")
    assert (row["seeds"], row["sd"]) == ([1], None)
    assert row["left_out"] == {2: "04_dpo_qlora: other parameters (beta)"}
    assert seeds.difference(one, two, "03_collect_preferences") == ""


def test_a_parameter_that_only_one_notebook_knows_sets_runs_apart(tmp_path):
    """`learning_rate` of 04: two runs that differ in it are no two seeds of one experiment."""
    defaults = notebook_parameters(Path(__file__).resolve().parent.parent / "notebooks/04_dpo_qlora.ipynb")
    given = [given_parameters("04_dpo_qlora", defaults | {"learning_rate": rate, "seed": 5}) for rate in (1e-3, 1e-4)]
    one, two, three = (
        make_run(tmp_path / name, seed=seed, parameters=parameters)
        for name, seed, parameters in (("a", 1, given[0]), ("b", 2, given[1]), ("c", 3, given[0]))
    )
    assert seeds.difference(one, two, "05_validate") == "04_dpo_qlora: other parameters (learning_rate)"
    assert seeds.difference(one, three, "05_validate") == ""


def test_other_data_and_unfinished_notebooks_are_named(tmp_path):
    one, two = make_run(tmp_path / "a", seed=1), make_run(tmp_path / "b", seed=2)
    rows = tmp_path / "mine.jsonl"
    rows.write_text("{}")
    again = open_run("02_sft", two, profile=resolve("cpu"), seed=2, model_id="embedded")
    again.uses(rows)
    assert seeds.difference(one, two, "01_decision_scorecard") == ""
    again.write_json("x.json", {})
    assert seeds.difference(one, two, "02_sft") == "02_sft: not complete in both"
    again.finish()
    assert seeds.difference(one, two, "02_sft") == "02_sft: other data (data/sft/test.jsonl, mine.jsonl)"


def test_register_and_report_show_the_spread(tmp_path):
    """0.70 and 0.84: sd 0.14 / sqrt(2) = 0.099, above 0.05, so the standing risk is high."""
    one = make_run(tmp_path / "a", seed=17)
    make_run(tmp_path / "b", seed=23, win_rate=0.84)
    rows = {row.id: row for row in risks.register(one, today=datetime.date(2027, 1, 4))}
    risk = rows["standing-seed-instability"]
    assert risk.value == pytest.approx(0.14 / 2**0.5)
    assert risk.measure == "standard deviation of dpo.win_rate over seeds 17, 23" and risk.level == "high"
    page = evidence.build_report(one).read_text(encoding="utf-8")
    assert "Over seeds" in page and "<td>0.840</td>" in page
