"""Cards and lineage of a hand-made run: they load back, say what they rest on, and lead from adapter to vote."""

import datetime
import json

import pytest
from governed import PAIR, make_run
from huggingface_hub import ModelCard
from test_ratings import item, rating

from ftlib import cards, lineage
from ftlib.approval import candidate_of
from ftlib.holdouts import exposure, public_gap
from ftlib.pairs import build_pairs
from ftlib.profiles import resolve
from ftlib.risks import edit_risk, register
from ftlib.runs import open_run
from ftlib.summary import load_summary

TODAY = datetime.date(2027, 1, 4)
NASTY = "a|b <script>alert(1)</script> [x](y)\n# head"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "r1")


def test_the_model_card_loads_with_huggingface_hub(run, tmp_path):
    text = cards.model_card(run)
    (tmp_path / "card.md").write_text(text)
    card = ModelCard.load(tmp_path / "card.md")
    results = {one.metric_type: one for one in card.data.eval_results}
    accuracy = results["sft.intent_accuracy"]
    assert (accuracy.metric_value, accuracy.metric_args["n"]) == (0.9, 170)
    assert accuracy.metric_args["ci95_of_difference"] == [0.68, 0.81]
    assert results["preferences.agreement_alpha"].metric_args["basis"] == "simulated"
    assert card.data.base_model == cards.EMBEDDED and card.data.library_name == "peft"
    for words in ("Limits", "no human preference", "minutes", "GB at most", "sft, dpo", "data/sft/test.jsonl"):
        assert words in card.text
    assert cards.card_faults(text, load_summary(run)) == []


def test_the_card_of_pairs_says_where_items_went_and_keeps_texts_plain():
    """Three items: one pair in train, one tie, one without votes."""
    items = [item(n, source_a=NASTY, kind="harmful") for n in range(3)]
    given = [rating("c0", simulated=True), rating("c1", choice="tie", simulated=True)]
    text = cards.pair_card(build_pairs(items, given, seed=1), basis="simulated raters", votes=2, smoke=True)
    assert text.startswith("# Data card of 1 preference pairs") and "None of its numbers is evidence" in text
    for line in (
        "| candidates | 0 | 3 |",
        "| no votes | 1 | 2 |",
        "| tie | 1 | 1 |",
        "| harmful | 1 | 1 | 0 | 1 | 1 |",
    ):
        assert line in text
    assert "chosen answer sampled from a model |" in text and "written for it with a language model" in text
    assert "2 votes of simulated raters" in text and cards.SIMULATED_VOTES in text
    assert "\n# head" not in text and "<script>" not in text.replace("\\<script", "")
    assert "adjudicat" not in text
    settled = build_pairs(items, [*given, rating("c1", "adjudicator:ann", "B")], seed=1)
    card = cards.pair_card(settled, basis="human and simulated raters", votes=3)
    assert "| settled by adjudication: 1 | 0 | 3 |" in card and "On 1 of the items an adjudicator's verdict" in card
    empty = cards.pair_card(build_pairs(items, [], seed=1), basis="human raters", votes=0)
    assert "of 0 preference pairs" in empty and cards.SIMULATED_VOTES not in empty


def test_a_card_that_says_other_numbers_is_found(run):
    text, summary = cards.model_card(run), load_summary(run)
    assert cards.card_faults(text.replace("value: 0.9\n", "value: 0.99\n"), summary) == [
        "model card: sft.intent_accuracy: value is 0.99, summary.json says 0.9"
    ]
    for field, other in (("baseline", 0.2), ("ci95", [0.1, 0.81]), ("unit", "tokens"), ("basis", "people"), ("n", 171)):
        changed = {
            **summary["metrics"],
            "sft.intent_accuracy": summary["metrics"]["sft.intent_accuracy"] | {field: other},
        }
        (fault,) = cards.card_faults(text, summary | {"metrics": changed})
        assert f"sft.intent_accuracy: {field}" in fault and repr(other) in fault
    assert "does not load" in cards.card_faults("---\nmodel-index: 3\n---\n", summary)[0]
    assert len(cards.card_faults("no card", summary)) in (1, len(summary["metrics"]))


def test_what_a_deep_notebook_measured_later_need_not_be_on_the_card(run):
    text, summary = cards.model_card(run), load_summary(run)
    accuracy = summary["metrics"]["sft.intent_accuracy"]
    summary["metrics"]["arms.random_success"] = accuracy | {"notebook": "06a_hacked_on_purpose"}
    assert cards.card_faults(text, summary) == []
    summary["metrics"]["sft.late"] = accuracy | {"notebook": "02_sft"}
    assert cards.card_faults(text, summary) == ["model card: sft.late is missing, summary.json has it"]


def test_a_smoke_card_says_so(tmp_path):
    text = cards.model_card(make_run(tmp_path / "r1", "smoke"))
    assert "None of its numbers is evidence" in text and "no-evidence" in text


def test_texts_of_people_stay_text(tmp_path):
    run = make_run(tmp_path / "r1")
    again = open_run("02_sft", run, profile=resolve("cpu"), seed=17, model_id="embedded")
    again.metric("sft.other", baseline=0.1, candidate=0.2, n=10, ci95=(0.0, 0.2), basis=NASTY)
    report = cards.evaluation_report(run, holdouts=exposure(run), gaps=public_gap(run))
    assert "<script>" not in report.replace("\\<script", "") and "\n# head" not in report
    assert "data/sft/test.jsonl" in report and "not measured" in report
    assert cards.card_faults(cards.model_card(run), load_summary(run)) == []
    assert "data/preferences/votes.jsonl" in cards.data_card(run)


def test_the_card_says_what_was_measured_on_what_and_knows_one_licence(run):
    text = cards.model_card(run)
    card = ModelCard(text)
    on = {one.metric_type: one.dataset_name for one in card.data.eval_results}
    assert on["preferences.agreement_alpha"] == "raters' votes of 03_collect_preferences"
    assert on["sft.intent_accuracy"] == "held-out rows of 02_sft"
    assert on["dpo.validation_win_rate"] == "validation prompts of 04_dpo_qlora"
    assert card.data.license == "apache-2.0" and cards.OTHER_LICENSE not in text


def test_another_models_licence_is_not_made_up(tmp_path):
    other = open_run("02_sft", tmp_path / "r", profile=resolve("cpu"), seed=17, model_id="owner/name")
    other.metric("sft.x", baseline=0.1, candidate=0.2, n=10, ci95=(0.0, 0.2))
    card = ModelCard(cards.model_card(other.path))
    assert (card.data.license, card.data.license_name) == ("other", "of-the-base-model")
    assert cards.OTHER_LICENSE in card.text and "apache" not in str(card)


def test_a_decision_names_its_evidence(run):
    """The gate's number with n, the ledger's head, the adapter by hash, and why a row is accepted or closed."""
    rows = register(run, today=TODAY)
    rows = edit_risk(rows, "standing-annotator-drift", status="closed", reason="two people rate every week")
    said = cards.decision_record(run, decision="hold", blockers=["x"], risks=rows, signed_by="", today=TODAY)
    summary = load_summary(run)
    for words in (
        "| dpo.win_rate | 05_validate | 0.7 | \\>= 0.6 | 160 | none | PASS |",
        f"Ledger: {summary['ledger']['lines']} lines, the last with sha256 {summary['ledger']['head']}",
        f"| dpo | {candidate_of(run)} |",
        "| 05-dpo.harmful_refused | gate dpo.harmful_refused failed | high | open |",
        "| closed | two people rate every week |",
    ):
        assert words in said, words


def test_decisions(run):
    asked = {"risks": [], "today": TODAY}
    held = cards.decision_record(run, decision="hold", blockers=["x"], signed_by="", **asked)
    assert "**HOLD**" in held and "Not signed" in held
    signed = cards.decision_record(run, decision="promote", blockers=[], signed_by="product owner", **asked)
    assert "**PROMOTE**" in signed and "Signed by: product owner" in signed
    for decision, blockers, by, words in (
        ("promote", ["a high risk"], "product owner", "is refused:\n- a high risk"),
        ("promote", [], " ", "needs signed_by"),
        ("maybe", [], "", "expected 'promote' or 'hold', got 'maybe'"),
    ):
        with pytest.raises(ValueError, match=words):
            cards.decision_record(run, decision=decision, blockers=blockers, signed_by=by, **asked)


def test_lineage_is_sound_and_leads_from_the_adapter_to_the_votes(run):
    path = run / "lineage.jsonl"
    assert lineage.lineage_faults(path, anchored=load_summary(run)["lineage"]) == []
    steps = lineage.trace(lineage.read_events(path), "dpo/adapter/adapter_model.safetensors")
    assert steps[0]["made_by"] == "04_dpo_qlora"
    sources = {step["file"] for step in steps if step["made_by"] == "source"}
    assert {"data/preferences/votes.jsonl", "data/prompts/production.jsonl", "data/sft/test.jsonl"} == sources
    with pytest.raises(ValueError, match="expected a file that ends in 'rft/adapter'"):
        lineage.trace(lineage.read_events(path), "rft/adapter")
    asked = [{"id": "c1", "prompt_id": "pp-0001"}, {"id": "c2", "prompt_id": "pp-0001"}]
    given = {"candidates": asked, "checkpoint": "dpo", "trained": ["c1"]}
    sources = {"pp-0001": "data/p.jsonl"}
    row, left_out = lineage.row_origins([PAIR, PAIR | {"id": "c2"}], sources=sources, **given)
    assert (row["checkpoint"], left_out["checkpoint"]) == ("dpo", "")  # both are in the train split
    assert (row["votes"], row["source_row"], row["source_file"]) == (["c1/r1=A", "c1/r2=A"], "pp-0001", "data/p.jsonl")
    with pytest.raises(ValueError, match="prompt 'pp-0001' among the inputs, found none"):
        lineage.row_origins([PAIR], sources={}, **given)
    with pytest.raises(ValueError, match="trained on 'c9': expected a pair of the train split"):
        lineage.row_origins([PAIR], sources=sources, **given | {"trained": ["c9"]})


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e.pop("run"),
        lambda e: e.update(eventTime="yesterday"),
        lambda e: e.update(eventType="DONE"),
        lambda e: e["run"].update(runId="7"),
        lambda e: e["job"]["facets"]["jobType"].pop("_schemaURL"),
        lambda e: e["outputs"][0]["facets"]["version"].update(datasetVersion="abc"),
    ],
)
def test_events_that_are_none(change, run, tmp_path):
    event = lineage.read_events(run / "lineage.jsonl")[1]
    change(event)
    (tmp_path / "lineage.jsonl").write_text(json.dumps(event) + "\n")
    assert "line 1: no OpenLineage run event" in lineage.lineage_faults(tmp_path / "lineage.jsonl")[0]
