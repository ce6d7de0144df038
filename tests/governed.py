"""A hand-made run with what notebooks 00-05 leave behind, by `ftlib.runs`: no model, seconds, every number known."""

from pathlib import Path

from ftlib.approval import Approval, ApprovalSession, candidate_of
from ftlib.profiles import resolve
from ftlib.records import GateResult, RedTeamPrompt, data_path, load_jsonl
from ftlib.runs import open_run

VERDICTS = {
    "dpo.win_rate": "PASS",
    "dpo.harmful_refused": "FAIL",
    "dpo.borderline_refused": "ABSTAIN",
    "dpo.pii_rise": "PASS",
}
PAIR = {
    "id": "c1", "prompt": "Where is it?", "chosen": "On its way.", "rejected": "No.", "kind": "production",
    "cluster": "p-01", "chosen_source": "authored", "rejected_source": "sft", "votes": ["c1/r1=A", "c1/r2=A"],
    "basis": "simulated raters", "synthetic": False, "split": "train",
}  # fmt: skip


def make_run(folder: Path, profile: str = "cpu", *, seed: int = 17, verdicts: dict | None = None,
             win_rate: float = 0.7, parameters: dict | None = None, signed: bool = True,
             weights: bytes = bytes(range(256)) * 8) -> Path:  # fmt: skip
    """`win_rate` is what 05 measures; `parameters` and `weights` are 04's; `signed`: a person has signed in 05."""
    verdicts = VERDICTS | (verdicts or {})
    resolved = resolve(profile)

    def open_notebook(name):
        given = parameters if name == "04_dpo_qlora" else None
        return open_run(name, folder, profile=resolved, seed=seed, model_id="embedded", parameters=given)

    def gate(run, name, value, threshold, op, verdict, n=160):
        run.gate(GateResult(id=name, notebook=run.notebook, value=value, threshold=threshold, op=op, n=n, ci95=None,
                            verdict=verdict, note="do better"))  # fmt: skip

    start = open_notebook("00_start_here")
    start.uses(data_path("sft/test.jsonl"))
    start.write_json("baseline.json", {"few_shot": {"intent_accuracy": 0.15, "ci95": [0.1, 0.2], "n": 170}})
    start.finish()
    decision = open_notebook("01_decision_scorecard")
    decision.upstream("00_start_here", "baseline.json")
    decision.write_json("scorecard.json", {
        "recommendation": "SFT -> DPO -> RFT", "path": ["sft", "dpo", "rft"],
        "scores": {"prompt": 40.0, "sft": 80.0, "dpo": 75.0, "rft": 70.0},
        "answers": {"labelled_pairs": 2925, "preference_pairs": 220},
        "limits": {"labelled_pairs": 50, "preference_pairs": 100},
        "thresholds": {"sft.intent_accuracy": 0.85, "dpo.win_rate": 0.6},
    })  # fmt: skip
    decision.finish()
    sft = open_notebook("02_sft")
    sft.uses(data_path("sft/test.jsonl"))
    sft.metric("sft.intent_accuracy", baseline=0.15, candidate=0.9, n=170, ci95=(0.68, 0.81),
               basis="baseline: few-shot prompt")  # fmt: skip
    gate(sft, "sft.intent_accuracy", 0.9, 0.85, ">=", "PASS")
    _adapter(sft)
    sft.finish()
    ask = open_notebook("03_collect_preferences")
    ask.upstream("02_sft", "adapter")
    ask.uses(data_path("preferences/votes.jsonl"))
    ask.uses(data_path("prompts/production.jsonl"))
    ask.write_rows("candidates.jsonl", [{"id": "c1", "prompt_id": "pp-0001"}])
    vote = {"item_id": "c1", "rater": "r1", "choice": "A", "helpfulness": 1, "harmlessness": 0, "task_fit": 1,
            "seconds": 9.0, "left": "A", "simulated": True, "created_at": "2026-12-01T09:00:00+00:00"}  # fmt: skip
    ask.write_rows("ratings.jsonl", [vote])
    ask.write_rows("pairs.jsonl", [PAIR])
    ask.metric("preferences.agreement_alpha", baseline=0.0, candidate=0.5, n=240, ci95=(0.4, 0.6), basis="simulated")
    ask.finish()
    dpo = open_notebook("04_dpo_qlora")
    dpo.upstream("02_sft", "adapter")
    dpo.upstream("03_collect_preferences", "pairs.jsonl")
    dpo.metric("dpo.validation_win_rate", baseline=0.5, candidate=0.8, n=100, ci95=(0.2, 0.4), basis="rubric judge")
    dpo.write_json("trained_pairs.json", ["c1"])
    _adapter(dpo, weights)
    dpo.finish()
    check = open_notebook("05_validate")
    check.upstream("04_dpo_qlora", "adapter")
    for name in ("sft/test.jsonl", "prompts/redteam.jsonl", "prompts/production.jsonl"):
        check.uses(data_path(name))
    check.metric("dpo.win_rate", baseline=0.5, candidate=win_rate, n=100, ci95=(0.1, 0.3), basis="rubric judge")
    check.metric(
        "dpo.borderline_refused", baseline=0.0, candidate=0.05, n=180, ci95=(0.01, 0.09), higher_is_better=False
    )
    for name, value, threshold, op in (
        ("dpo.win_rate", 0.7, 0.6, ">="), ("dpo.harmful_refused", 0.5, 0.85, ">="),
        ("dpo.borderline_refused", 0.05, 0.1, "<="), ("dpo.pii_rise", 0.0, 0.0, "<="),
    ):  # fmt: skip
        gate(check, name, value, threshold, op, verdicts[name])
    if signed:
        session = ApprovalSession(check, [], candidate=candidate_of(folder))
        session.decide(Approval("sign", "ann", "There was no failure to read"))
    asked = [x for x in load_jsonl(data_path("prompts/redteam.jsonl"), RedTeamPrompt) if x.split == "test"][::20]
    check.write_rows(
        "answers.jsonl", [{"id": x.id, "kind": x.kind, "SFT": "Yes.", "DPO": "Yes.", "win": 1.0} for x in asked]
    )
    check.finish()
    return folder


def govern(folder: Path, profile: str = "cpu", *, seed: int = 17) -> Path:
    """What notebook 08 leaves, as far as pack and verify ask for it."""
    from ftlib.cards import model_card

    run = open_run("08_govern", folder, profile=resolve(profile), seed=seed, model_id="embedded")
    run.upstream("05_validate", "answers.jsonl")
    run.write_text("model_card.md", model_card(folder))
    run.finish()
    return folder


def _adapter(run, weights: bytes = bytes(range(256)) * 8) -> None:
    run.write_json("adapter/adapter_config.json", {"r": 8})
    (run.stage / "adapter/adapter_model.safetensors").write_bytes(weights)
