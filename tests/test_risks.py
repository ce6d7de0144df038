"""The risk register: fed by the ledger, edited by hand within bounds, and the word on promotion."""

import csv
import datetime
import io
import json
import math
from pathlib import Path

import pytest
from governed import VERDICTS, make_run

from ftlib import gates, holdouts, risks, sealed
from ftlib.profiles import resolve
from ftlib.records import GateResult, Rating, data_path
from ftlib.runs import open_run
from ftlib.sheets import csv_text
from ftlib.widgets import risk_widget

ROOT = Path(__file__).resolve().parent.parent
TODAY = datetime.date(2027, 1, 4)
GATE = "05-dpo.harmful_refused"


def register(run, **more):
    return risks.register(run, today=TODAY, holdouts=holdouts.exposure(run), **more)


def by_id(rows):
    return {row.id: row for row in rows}


def test_every_gate_that_did_not_pass_opens_a_row(tmp_path):
    """Harmful FAIL: 3 x 3, high. Borderline ABSTAIN: 2 x 2, medium. The two that passed have none."""
    found = by_id(register(make_run(tmp_path / "r1")))
    gates = {name: row for name, row in found.items() if row.source.startswith("gate ")}
    assert {name: (row.level, row.status, row.kind) for name, row in gates.items()} == {
        GATE: ("high", "open", "model"), "05-dpo.borderline_refused": ("medium", "open", "model"),
    }  # fmt: skip
    assert (gates[GATE].value, gates[GATE].threshold) == (0.5, ">= 0.85")
    assert gates[GATE].mitigation == "do better" and gates[GATE].expires == "2027-02-03"
    assert {name for name in found if name.startswith("standing-")} == {
        f"standing-{name}" for name in ("annotator-drift", "bias-hotspots", "over-refusal", "seed-instability",
                                        "reward-hacking", "overfit-to-evaluation")
    }  # fmt: skip
    drift = found["standing-annotator-drift"]
    assert (drift.value, drift.status, drift.likelihood) == (
        None,
        "open",
        2,
    ) and "all votes are simulated" in drift.measure
    unknown = found["standing-seed-instability"]
    assert unknown.value is None and "not measured" in unknown.measure and unknown.level == "medium"


def three_raters(agreeing, *, simulated=False):
    """Ann, ben and cid on 75 items; ann agrees with the other two on so many of each 25."""
    made = []
    for window, right in enumerate(agreeing):
        for n in range(25):
            item = window * 25 + n
            for rater in ("ann", "ben", "cid"):
                choice = "B" if rater == "ann" and n >= right else "A"
                made.append(Rating(item_id=f"i{item}", rater=rater, choice=choice, helpfulness=None, harmlessness=None,
                                   task_fit=None, seconds=9, left="A", simulated=simulated,
                                   created_at=f"2026-12-01T{item:05d}"))  # fmt: skip
    return made


def test_annotator_drift_is_the_control_chart_of_people(tmp_path):
    """24, 24, then 10 of 25: below what the first two windows foretell. Ben and cid are judged where ann agrees: too
    few for three windows once she does not (58 of 75), so one of one rater counts."""
    run = make_run(tmp_path / "r1")
    row = lambda votes: by_id(register(run, votes=votes))["standing-annotator-drift"]
    low, steady = row(three_raters((24, 24, 10))), row(three_raters((24, 24, 23)))
    assert (low.value, low.likelihood, low.status, low.level) == (1.0, 3, "open", "high")
    assert "of 1 with three windows" in low.measure
    assert (steady.value, steady.likelihood, steady.status) == (0.0, 1, "closed")
    assert row(three_raters((24, 24, 10), simulated=True)).value is None
    few = row(three_raters((24, 24)))
    assert few.value is None and "of 0 with three windows or more (not measured)" in few.measure


@pytest.mark.parametrize(
    ("gate", "kind", "owner"),
    [
        ("raters.flags", "data", "data lead"),
        ("preferences.duplicates", "data", "data lead"),
        ("dpo.pii_leaks", "model", "model lead"),  # what a model says, though the word looks like a leak of data
        ("dpo.kl", "process", "evaluation lead"),
        ("model_speaks", "process", "evaluation lead"),
        ("sft.intent_accuracy", "model", "model lead"),
    ],
)
def test_who_looks_after_a_gates_risk(tmp_path, gate, kind, owner):
    run = make_run(tmp_path / "r1")
    open_run("05_validate", run, profile=resolve("cpu"), seed=17, model_id="embedded").gate(
        GateResult(id=gate, notebook="05_validate", value=0.0, threshold=1.0, op=">=", n=9, ci95=None, verdict="FAIL",
                   note="")
    )  # fmt: skip
    row = by_id(register(run))[f"05-{gate}"]
    assert (row.kind, row.owner) == (kind, owner)


def test_a_waiver_accepts_a_gates_row_and_a_pass_takes_it_away(tmp_path):
    run = make_run(tmp_path / "r1")
    assert len(risks.promotion_blockers(register(run), today=TODAY)) == 1
    govern = open_run("08_govern", run, profile=resolve("cpu"), seed=17, model_id="embedded")
    govern.check_gates(["dpo.harmful_refused"], waive={"dpo.harmful_refused": "pilot with staff only"})
    row = by_id(register(run))[GATE]
    assert (row.status, row.reason, row.level) == ("accepted", "pilot with staff only", "high")
    assert risks.promotion_blockers([row], today=TODAY) == []
    assert "acceptance expired on 2027-02-03" in risks.promotion_blockers([row], today=datetime.date(2027, 2, 3))[0]
    passed = make_run(tmp_path / "r2", verdicts=dict.fromkeys(VERDICTS, "PASS"))
    assert [row.id for row in register(passed) if row.source.startswith("gate ")] == []
    assert risks.promotion_blockers(register(passed), today=TODAY) == []


def test_a_waiver_that_let_an_earlier_notebook_go_on_accepts_nothing(tmp_path):
    """Waived for 07 as a trial: the row says so, stays open and blocks. 08's own waiver, given after it, accepts."""
    run, name = make_run(tmp_path / "r1"), "dpo.harmful_refused"
    later = open_run("07_rollout", run, profile=resolve("cpu"), seed=17, model_id="embedded")
    assert later.check_gates([name], waive={name: "a trial, no customer sees it"})[0]["waived"]
    row = by_id(register(run))[GATE]
    assert (row.status, row.reason) == (
        "open",
        "waived for 07_rollout, not for a promotion: a trial, no customer sees it",
    )
    assert row.title.endswith("failed and was waived for 07_rollout")
    assert len(risks.promotion_blockers(register(run), today=TODAY)) == 1
    govern = open_run("08_govern", run, profile=resolve("cpu"), seed=17, model_id="embedded")
    govern.check_gates([name], waive={name: "staff only, for four weeks"})
    row = by_id(register(run))[GATE]
    assert (row.status, row.reason) == ("accepted", "staff only, for four weeks")
    assert risks.promotion_blockers(register(run), today=TODAY) == []


def test_a_waiver_of_an_abstained_safety_gate_is_kept_and_accepts_it(tmp_path):
    """Harmful ABSTAIN: 3 x 2 = 6, high, and blocks until 08 waives it."""
    name = "dpo.harmful_refused"
    run = make_run(tmp_path / "r1", verdicts={name: "ABSTAIN"})
    assert by_id(register(run))[GATE].level == "high"
    assert len(risks.promotion_blockers(register(run), today=TODAY)) == 1
    govern = open_run("08_govern", run, profile=resolve("cpu"), seed=17, model_id="embedded")
    govern.check_gates([name], waive={name: "staff only, for four weeks"})
    assert by_id(register(run))[GATE].status == "accepted"
    assert risks.promotion_blockers(register(run), today=TODAY) == []
    with pytest.raises(ValueError, match=r"waive names 'dpo.win_rate', which passed in run r1; take it out of waive"):
        govern.check_gates(["dpo.win_rate"], waive={"dpo.win_rate": "to be sure of it"})


@pytest.mark.parametrize("signed", [False, True])
def test_an_approval_that_is_missing_or_about_another_candidate_blocks(signed, tmp_path):
    """Nobody signs; or somebody signs, then 04 makes another adapter and 05 is run again without a decision."""
    passed = dict.fromkeys(VERDICTS, "PASS")
    run = make_run(tmp_path / "r1", verdicts=passed, signed=signed)
    if signed:
        assert risks.promotion_blockers(register(run), today=TODAY) == []
        make_run(run, verdicts=passed, signed=False, weights=b"another")
    row = by_id(register(run))["05-safety.approval"]
    assert (row.status, row.level, row.value) == ("open", "medium", None)
    assert row.mitigation.startswith(
        "the decision of ann is about another candidate" if signed else "nobody has decided"
    )
    (line,) = risks.promotion_blockers(register(run), today=TODAY)
    assert "no person has read the failures of this candidate" in line


def test_a_gate_of_a_notebook_that_is_stale_is_not_judged(tmp_path):
    """07 passed on the first adapter; 04 and 05 were made anew since. Its PASS counts as unknown: 2 x 2, medium."""
    passed = dict.fromkeys(VERDICTS, "PASS")
    run = make_run(tmp_path / "r1", verdicts=passed)
    later = open_run("07_rollout", run, profile=resolve("cpu"), seed=17, model_id="embedded")
    later.upstream("04_dpo_qlora", "adapter")
    later.gate(GateResult(id="rollout.candidate_alarms", notebook="07_rollout", value=0.0, threshold=0.0, op="<=",
                          n=100, ci95=None, verdict="PASS", note="mend it"))  # fmt: skip
    later.gate(GateResult(id="rollout.false_alarm", notebook="07_rollout", value=0.2, threshold=0.05, op="<=", n=100,
                          ci95=None, verdict="FAIL", note="mend it"))  # fmt: skip
    later.finish()
    govern = open_run("08_govern", run, profile=resolve("cpu"), seed=17, model_id="embedded")
    govern.check_gates(["rollout.false_alarm"], waive={"rollout.false_alarm": "one look a day only"})
    found = by_id(register(run))
    assert "07-rollout.candidate_alarms" not in found and found["07-rollout.false_alarm"].status == "accepted"
    make_run(run, verdicts=passed, weights=b"another")
    found = by_id(register(run))
    row = found["07-rollout.candidate_alarms"]
    assert (row.level, row.status) == ("medium", "open") and "run 07_rollout again" in row.mitigation
    assert (found["07-rollout.false_alarm"].status, found["07-rollout.false_alarm"].reason) == ("open", "")


def test_blockers_say_why_and_smoke_never_promotes(tmp_path):
    (line,) = risks.promotion_blockers(register(make_run(tmp_path / "r1")), today=TODAY)
    assert line == (
        f"high risk '{GATE}' (gate dpo.harmful_refused failed; 0.5, needed >= 0.85): it is open. What to do: do better"
    )
    smoke = make_run(tmp_path / "r2", "smoke", verdicts=dict.fromkeys(VERDICTS, "PASS"))
    rows = register(smoke)
    assert not any(row.evidence for row in rows) and not any(row.status == "closed" for row in rows)
    assert "smoke run" in risks.promotion_blockers(rows, today=TODAY, smoke=True)[0]


def test_levels_by_hand():
    assert [[risks.risk_level(s, k) for k in (1, 2, 3)] for s in (1, 2, 3)] == [
        ["low", "low", "medium"], ["low", "medium", "high"], ["medium", "high", "high"],
    ]  # fmt: skip
    with pytest.raises(ValueError, match="expected severity and likelihood of 1, 2 or 3, got 4 and 1"):
        risks.risk_level(4, 1)


def test_edits_hold_until_the_number_changes(tmp_path):
    rows = register(make_run(tmp_path / "r1"))
    edited = risks.edit_risk(rows, GATE, owner="safety team", expires="2027-01-20")
    edited = risks.edit_risk(edited, "standing-seed-instability", status="accepted", reason="two seeds next month")
    again = by_id(risks.keep_edits(rows, risks.load_register([row.model_dump() for row in edited])))
    assert again[GATE].owner == "safety team" and again["standing-seed-instability"].status == "accepted"
    moved = [row.model_copy(update={"value": 0.6}) if row.id == GATE else row for row in rows]
    assert by_id(risks.keep_edits(moved, edited))[GATE].owner == "model lead"


@pytest.mark.parametrize(
    ("risk_id", "change", "words"),
    [
        ("nobody", {"owner": "x"}, "risk 'nobody': expected one of"),
        (GATE, {"status": "closed"}, "'status' cannot be edited here .* follows the ledger"),
        (GATE, {"severity": 1}, "'severity' cannot be edited here"),
        (GATE, {"expires": "soon"}, "expires: .*correct the value"),
        (GATE, {"owner": " "}, "owner: "),
        ("standing-bias-hotspots", {"status": "accepted"}, "an accepted risk needs a reason"),
        ("standing-bias-hotspots", {"likelihood": 4}, "likelihood: "),
        ("standing-bias-hotspots", {"status": "closed"}, "by hand needs a reason in words"),
        ("standing-bias-hotspots", {"severity": 1, "reason": " "}, "by hand needs a reason in words"),
    ],
)
def test_edits_that_are_refused(risk_id, change, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        risks.edit_risk(register(make_run(tmp_path / "r1")), risk_id, **change)


def test_csv_without_formulas(tmp_path):
    rows = risks.edit_risk(register(make_run(tmp_path / "r1")), GATE, mitigation='=cmd|"/c calc"!A1', owner=" +x")
    (row,) = [row for row in csv.DictReader(io.StringIO(risks.register_csv(rows))) if row["id"] == GATE]
    assert (row["mitigation"], row["owner"], row["level"]) == ('\'=cmd|"/c calc"!A1', "' +x", "high")
    with pytest.raises(ValueError, match=r"row 1: expected the columns .* \['b'\] missing"):
        csv_text([{"a": 1}], columns=("a", "b"))


def test_widget_shows_text_as_text_and_keeps_edits(tmp_path):
    rows = risks.edit_risk(register(make_run(tmp_path / "r1")), GATE, owner="<script>alert(1)</script>")
    saved = []
    form = risk_widget(rows, on_change=lambda new: saved.append(json.dumps([row.model_dump() for row in new])))
    form.choose.value = GATE
    assert "<script>" not in form._table.value and "&lt;script&gt;" in form._table.value
    assert form.fields["status"].disabled and not form.fields["owner"].disabled
    form.fields["owner"].value = "safety team"
    form.save.click()
    assert by_id(form.risks)[GATE].owner == "safety team" and len(saved) == 1
    form.fields["expires"].value = "soon"
    form.save.click()
    assert "Not kept." in form._message.value and by_id(form.risks)[GATE].expires == "2027-02-03" and len(saved) == 1
    risk_widget([])  # an empty register has a form too


def test_opens_are_counted_by_execution(tmp_path):
    """sft/test: 00, 02 and 05 open it once each; a second 05 makes four. START and COMPLETE are one execution."""
    run = make_run(tmp_path / "r1")
    found = {row["file"]: row for row in holdouts.exposure(run)}
    assert (found["data/sft/test.jsonl"]["opened"], found["data/sft/test.jsonl"]["versions"]) == (3, 1)
    assert found["data/sft/test.jsonl"]["by"] == ["00_start_here", "02_sft", "05_validate"]
    assert found["data/sft/test.jsonl"]["verdicts"] == 6  # one gate of 02, four of 05 and the approval there
    assert found["data/preferences/gold.jsonl"]["opened"] == 0
    make_run(run)
    assert {row["file"]: row["opened"] for row in holdouts.exposure(run)}["data/sft/test.jsonl"] == 6
    assert by_id(register(run, max_opens=5))["standing-overfit-to-evaluation"].level == "high"


def test_what_reads_other_splits_opens_nothing_and_what_06_sealed_is_counted(tmp_path):
    """03 has read the production file for its train rows; 05 its test split. 06 opens its sealed cases twice."""
    run = make_run(tmp_path / "r1")
    found = {row["file"]: row for row in holdouts.exposure(run)}
    for name in ("data/prompts/production.jsonl", "data/prompts/redteam.jsonl"):
        assert (found[name]["opened"], found[name]["by"]) == (1, ["05_validate"])
    rft = open_run("06_rft", run, profile=resolve("cpu"), seed=17, model_id="embedded")
    cases = rft.write_text("hidden_cases.jsonl", "{}")
    sealed.seal(rft, cases, id="hidden_families")
    for _ in range(2):
        sealed.open_sealed(rft, cases, candidate="c1", why="gain", id="hidden_families")
    row = holdouts.exposure(run)[-1]
    assert (row["file"], row["opened"], row["by"], row["versions"]) == ("hidden_cases.jsonl", 2, ["06_rft"], 1)
    rft.uses(data_path("sft/validation.jsonl"))
    rft.finish()
    sealed.seal(rft, data_path("sft/validation.jsonl"))
    sealed.open_sealed(rft, data_path("sft/validation.jsonl"), candidate="c1", why="gap")
    found = [row["file"] for row in holdouts.exposure(run)]
    assert len(found) == len(set(found)) and "validation.jsonl" not in found  # by its lineage, and not twice


def test_notebooks_that_are_not_counted_read_no_test_split():
    texts = {
        path.stem: path.read_text() for path in (ROOT / "notebooks").rglob("*.ipynb") if "solutions" not in path.parts
    }
    for name in holdouts._NOT_THE_TEST_SPLIT:
        assert 'split == \\"test\\"' not in texts[name], name


def test_the_success_of_rft_on_families_that_were_sealed(tmp_path):
    """0.8 of 100 held-out cases, 0.6 of 50 sealed ones: 0.2, Newcombe's interval of two Wilson intervals."""
    run = make_run(tmp_path / "r1")
    rft = open_run("06_rft", run, profile=resolve("cpu"), seed=17, model_id="embedded")
    for name, value, n in (("rft.task_success", 0.8, 100), ("rft.hidden_success", 0.6, 50)):
        rft.metric(name, baseline=0.5, candidate=value, n=n, ci95=(value - 0.55, value - 0.45), basis="warm start")
    gap = {row["score"]: row for row in holdouts.public_gap(run)}["success of RFT"]
    one, two = gates.wilson(80, 100), gates.wilson(30, 50)
    half = (math.hypot(0.8 - one.low, two.high - 0.6), math.hypot(one.high - 0.8, 0.6 - two.low))
    assert gap["gap"] == pytest.approx(0.2) and gap["n"] == [100, 50]
    assert gap["ci95"] == pytest.approx((0.2 - half[0], 0.2 + half[1]))


def test_a_kept_register_brings_no_grade_without_its_reason(tmp_path):
    rows = register(make_run(tmp_path / "r1"))
    name = "standing-annotator-drift"
    old = [row.model_copy(update={"status": "closed", "likelihood": 1}) if row.id == name else row for row in rows]
    assert by_id(risks.keep_edits(rows, old))[name].status == "open"
    kept = risks.edit_risk(rows, name, status="closed", reason="two people rate every week")
    assert by_id(risks.keep_edits(rows, kept))[name].status == "closed"


def test_public_gap_by_hand(tmp_path):
    """0.8 (0.7 to 0.9) on 04's validation prompts, 0.7 (0.6 to 0.8) on 05's: 0.1, half width sqrt(0.02)."""
    gap = holdouts.public_gap(make_run(tmp_path / "r1"))[0]
    assert gap["gap"] == pytest.approx(0.1) and gap["n"] == [100, 100]
    assert gap["ci95"] == pytest.approx((0.1 - 0.02**0.5, 0.1 + 0.02**0.5))
    empty = open_run("00_start_here", tmp_path / "r2", profile=resolve("cpu"), seed=1, model_id="embedded")
    assert [row["gap"] for row in holdouts.public_gap(empty.path)] == [None, None, None]
    assert all("not measured" in row["note"] for row in holdouts.public_gap(empty.path))
