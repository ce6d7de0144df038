"""The safety approval: order and masking of failures, what may be signed, the ledger, and what 07 checks."""

import datetime
import json

import pytest
from hostile import HOSTILE

from ftlib import approval as ap
from ftlib import risks
from ftlib.approval_widgets import approval_widget
from ftlib.ledger import read_ledger, verify_ledger
from ftlib.profiles import resolve
from ftlib.records import GateResult
from ftlib.runs import open_run

WHY = "I read all failures; none of them does harm"


def run_of(folder, notebook="05_validate"):
    return open_run(notebook, folder, profile=resolve("cpu"), seed=1, model_id="embedded")


def session_of(folder, n=3):
    found = ap.worst_first({"harmless, refused": [(f"prompt {k}", "I can't help.") for k in range(n)]})
    run_of(folder, "04_dpo_qlora").write_text("adapter/weights", "1")
    run_of(folder, "04_dpo_qlora").finish()
    run = run_of(folder)
    run.finish()
    return ap.ApprovalSession(run, found, candidate=ap.candidate_of(run.path))


def test_worst_first_and_masked():
    found = ap.worst_first(
        {
            "harmless, refused": [("How do I shoot stars?", "I can't help with that.")],
            "harmful, answered": [("h1", "yes yes yes yes yes yes yes"), ("h2", "Sure."), ("h3", "First you take it")],
            "data given away": [("Who?", "Write to mara.keller@example.org.")],
        }
    )
    assert [one.kind for one in found] == ["data given away", *["harmful, answered"] * 3, "harmless, refused"]
    assert found[0].answer == "Write to [EMAIL]."
    assert [one.prompt for one in found[1:4]] == ["h3", "h2", "h1"]  # a full answer first, a loop last
    assert found[0].line() == {"what": "data given away", "prompt": "Who?", "answer (masked)": "Write to [EMAIL]."}
    with pytest.raises(ValueError, match="'rude' is no kind of failure"):
        ap.worst_first({"rude": []})


def test_what_may_be_signed(tmp_path):
    session = session_of(tmp_path / "r")
    for given, message in (
        (ap.Approval("sign", " ", WHY), "expected the reviewer's name"),
        (ap.Approval("sign", "ann", "looks good"), "reasons of 5 words or more, got 'looks good'"),
        (ap.Approval("sign", "ann", WHY), "expected 3 failures read before a signature, got 0"),
        (ap.Approval("maybe", "ann", WHY), "expected sign or refuse"),
    ):
        with pytest.raises(ValueError, match=message):
            session.decide(given)
    assert read_ledger(session.run.path / "gates.jsonl") == [] and session.decided() is None
    while session.show_next():
        pass
    assert session.decide(ap.Approval("sign", "ann", WHY)).verdict == "PASS"
    fact, gate = read_ledger(session.run.path / "gates.jsonl")
    assert (fact["kind"], fact["decision"], fact["reviewer"], fact["read"], fact["recorded"]) == (
        "approval", "sign", "ann", 3, False,
    )  # fmt: skip
    assert (gate["kind"], gate["id"], gate["value"]) == ("gate", ap.GATE, 1.0)
    verify_ledger(session.run.path / "gates.jsonl")


def test_a_refusal_stops_06_and_07_until_it_is_waived_or_taken_back(tmp_path):
    session = session_of(tmp_path / "r")
    later = run_of(tmp_path / "r", "07_rollout")
    assert ap.gates_to_check(later) == []  # a run without an approval goes on
    assert later.check_gates(ap.gates_to_check(later)) == []
    session.decide(ap.Approval("refuse", "ann", "it told a customer how to harm"))
    for one in (later, run_of(tmp_path / "r", "06_rft")):
        with pytest.raises(ValueError, match=r"'safety.approval' of 05_validate failed.*told a customer how to harm"):
            one.check_gates(ap.gates_to_check(one))
    passed = later.check_gates([ap.GATE], waive={ap.GATE: "two of three reviewers agreed"})
    assert passed[0]["waived"] == "two of three reviewers agreed"
    while session.show_next():
        pass
    session.decide(ap.Approval("sign", "ann", WHY))
    assert later.check_gates([ap.GATE])[0]["verdict"] == "PASS"


def test_all_gates_of_05_are_checked_the_needed_ones_first_and_no_other_notebooks(tmp_path):
    session = session_of(tmp_path / "r")
    gate = lambda run, id, verdict: run.gate(
        GateResult(id=id, notebook=run.notebook, value=0.0, threshold=0.0, op="<=", n=9, ci95=None, verdict=verdict)
    )
    gate(run_of(tmp_path / "r", "04_dpo_qlora"), "dpo.kl", "FAIL")  # 05 has been told of it, and answers for it
    gate(session.run, "dpo.toxicity_rise", "PASS")
    gate(session.run, "dpo.pii_rise", "PASS")
    later = run_of(tmp_path / "r", "07_rollout")
    wanted = ["dpo.win_rate", "dpo.pii_rise"]
    assert ap.gates_to_check(later, wanted) == ["dpo.win_rate", "dpo.pii_rise", "dpo.toxicity_rise"]
    with pytest.raises(ValueError, match="rests on gate 'dpo.win_rate', which no upstream notebook has measured"):
        later.check_gates(ap.gates_to_check(later, wanted))
    session.decide(ap.Approval("refuse", "ann", "it told a customer how to harm"))
    assert ap.gates_to_check(later) == ["dpo.toxicity_rise", "dpo.pii_rise", ap.GATE]


def test_a_decision_is_about_one_candidate(tmp_path):
    """Refused, then 04 trains another: 07 goes on, 08 does not; nothing of it is taken for the new candidate's."""
    session = session_of(tmp_path / "r")
    session.decide(ap.Approval("refuse", "ann", "it told a customer how to harm"))
    assert ap.state(session.run.path)["verdict"] == "FAIL" and session.decided()["decision"] == "refuse"
    run_of(tmp_path / "r", "04_dpo_qlora").write_text("adapter/weights", "2")
    assert ap.gates_to_check(run_of(tmp_path / "r", "07_rollout")) == []
    now = ap.state(session.run.path)
    assert (now["verdict"], now["n"]) == ("ABSTAIN", 0) and "the decision of ann is about another" in now["note"]
    assert session_of(tmp_path / "r2").decided() is None
    old = {"decision": "sign"}  # from before the candidate was written down
    assert not ap._is_about(old, "c1") and ap._is_about({"decision": "refuse"}, "c1")


def test_a_recorded_approval_is_no_pass(tmp_path):
    session = session_of(tmp_path / "r")
    gate = ap.replay(session, ap.Approval("sign", "recorded", "written for headless runs of this lesson"))
    assert gate.verdict == "ABSTAIN" and ap.RECORDED in gate.note
    assert ap.standing(session.run.path)["recorded"] is True
    later = run_of(tmp_path / "r", "07_rollout")
    assert later.check_gates(ap.gates_to_check(later))[0]["verdict"] == "ABSTAIN"  # stops nothing
    day = datetime.date(2026, 11, 28)
    (risk,) = [one for one in risks.register(session.run.path, today=day) if ap.GATE in one.id]
    assert risk.level == "medium"  # a headless run with nothing else wrong stays green,
    blockers = risks.promotion_blockers([risk], today=day)
    assert "no person has read the failures" in blockers[0]  # and is not promoted
    session.decide(ap.Approval("refuse", "ann", "it told a customer how to harm"))
    (risk,) = [one for one in risks.register(session.run.path, today=day) if ap.GATE in one.id]
    assert risk.level == "high" and "told a customer" in risks.promotion_blockers([risk], today=day)[0]


def test_the_buttons(tmp_path):
    form = approval_widget(session_of(tmp_path / "r", n=2))
    form.reviewer.value, form.reasons.value = "ann", WHY
    form.buttons["sign"].click()
    assert "Not written." in form._message.value and "2 failures read" in form._message.value
    form.buttons["next"].click()
    assert "1 of 2" in form._head.value and "prompt" in form._shown.value
    form.buttons["next"].click()
    assert form.buttons["next"].disabled
    form.buttons["sign"].click()
    assert "In the ledger: signed; ann" in form._message.value
    assert json.loads((form.session.run.path / "summary.json").read_text())["gates"][0]["verdict"] == "PASS"
    again = approval_widget(session_of(tmp_path / "r", n=2))  # after a restart
    assert "Decided before: sign, ann" in again._message.value


def test_texts_stay_texts(tmp_path):
    found = [ap.Failure("harmful, answered", text, text) for text in HOSTILE[:8]]
    form = approval_widget(ap.ApprovalSession(run_of(tmp_path / "r"), found, candidate="c1"))
    for _ in found:
        form.buttons["next"].click()
        assert "<script" not in form._shown.value and "<img" not in form._shown.value
    form.reviewer.value, form.reasons.value = "<img src=x>", "<script>alert(1)</script> one two three four five"
    form.buttons["refuse"].click()
    assert "<script" not in form._message.value and "<img" not in form._message.value
