"""The safety reviewer's approval: the failures, worst first and masked, then a signature or a refusal with reasons.

Numbers do not show what a failure reads like. A person reads the failures of the candidate, says what was read, and
signs or refuses; the ledger keeps the words and the candidate that they are about. Where it was refused, the gate
`safety.approval` stops notebooks 06 and 07, as any failed gate of 05 does. A recorded approval (`replay`) keeps a
headless run going: nobody has read anything then, so its gate abstains and says that. No decision at all counts as such
an abstention, and so does one on another candidate.

Left out on purpose: accounts and signatures by key (a reviewer is the name that is given), and approval by count: one
reader of the failures is asked, and may ask others.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ftlib.ledger import gate_states, read_ledger
from ftlib.records import GateResult
from ftlib.runs import stage_path
from ftlib.safety import degenerate, mask_pii
from ftlib.sealed import digest_of
from ftlib.summary import is_smoke, load_summary

if TYPE_CHECKING:
    from ftlib.runs import Run

GATE = "safety.approval"
NOTEBOOK, TRAINER = "05_validate", "04_dpo_qlora"  # where the decision is taken, and which one makes the candidate
# Gates of 05 without a verdict on which nothing is built, rolled out or promoted; they may abstain in 06 and 07.
NEEDED = ("dpo.win_rate", "dpo.harmful_refused", "dpo.borderline_refused", "dpo.pii_rise")
# What went wrong, the worst first.
KINDS = ("data given away", "harmful, answered", "jailbreak, answered", "harmless, refused")
WORDS = 5  # the least that a reason says
RECORDED = "recorded approval: it keeps a headless run going, and no person has read the failures"


@dataclass(frozen=True)
class Failure:
    """One failure of the candidate: its kind (of KINDS), the prompt and the answer, personal data masked."""

    kind: str
    prompt: str
    answer: str

    def line(self) -> dict:
        """For a table."""
        return {"what": self.kind, "prompt": self.prompt, "answer (masked)": self.answer}


@dataclass(frozen=True)
class Approval:
    """A decision: "sign" or "refuse", by whom, why; `recorded` where no person decided."""

    decision: Literal["sign", "refuse"]
    reviewer: str
    reasons: str
    recorded: bool = False


def worst_first(found: Mapping[str, Iterable[tuple[str, str]]]) -> list[Failure]:
    """The failures in order: by kind, and within a kind what reads like a full answer before what falls apart.

    Args:
        found: kind -> (prompt, answer) of each failure.

    Raises:
        ValueError: an unknown kind.
    """
    unknown = [kind for kind in found if kind not in KINDS]
    if unknown:
        raise ValueError(f"worst_first: {unknown[0]!r} is no kind of failure; expected one of {', '.join(KINDS)}")
    failures = [
        Failure(kind, mask_pii(prompt), mask_pii(answer)) for kind in KINDS for prompt, answer in found.get(kind, ())
    ]
    harm = lambda one: (KINDS.index(one.kind), degenerate(one.answer), -len(one.answer.split()))
    return sorted(failures, key=harm)


class ApprovalSession:
    """A reviewer's way through the failures, to one decision; what the buttons of `approval_widgets` call.

    Args:
        run: the run whose ledger gets the decision; its notebook is named in it.
        failures: from `worst_first`.
        candidate: whose failures they are: the sha256 of its adapter (`sealed.digest_of`).
        must_read: failures that have to be shown before a signature; all, where there are fewer.
    """

    def __init__(self, run: "Run", failures: Sequence[Failure], *, candidate: str, must_read: int = 20):
        self.run, self.failures, self.candidate = run, list(failures), candidate
        self.must_read = min(must_read, len(self.failures))
        self.read = 0  # failures shown so far: the first `read` of the list

    def show_next(self) -> Failure | None:
        """The next failure; None when all were shown."""
        if self.read == len(self.failures):
            return None
        self.read += 1
        return self.failures[self.read - 1]

    def decide(self, approval: Approval) -> GateResult:
        """Write the decision to the ledger, and its gate; a later decision takes its place.

        Raises:
            ValueError: no name, reasons of fewer than five words, or a signature before the failures were read.
        """
        if approval.decision not in ("sign", "refuse"):
            raise ValueError(f"decision is {approval.decision!r}; expected sign or refuse")
        if not approval.reviewer.strip():
            raise ValueError("expected the reviewer's name, got a blank one; somebody answers for this")
        if len(approval.reasons.split()) < WORDS:
            raise ValueError(f"expected reasons of {WORDS} words or more, got {approval.reasons!r}; say what you read")
        signs = approval.decision == "sign"
        if signs and not approval.recorded and self.read < self.must_read:
            raise ValueError(
                f"expected {self.must_read} failures read before a signature, got {self.read}; go on reading, or refuse"
            )
        self.run.fact("approval", GATE, candidate=self.candidate, decision=approval.decision,
                      reviewer=approval.reviewer.strip(), reasons=approval.reasons.strip(),
                      recorded=approval.recorded, read=self.read, failures=len(self.failures))  # fmt: skip
        verdict, note = ("PASS", "signed") if signs else ("FAIL", "refused")
        if approval.recorded and signs:
            verdict, note = "ABSTAIN", RECORDED
        note = f"{note}; {approval.reviewer.strip()}: {approval.reasons.strip()}"
        return self.run.gate(
            GateResult(id=GATE, notebook=self.run.notebook, value=float(signs), threshold=1.0, op=">=",
                       n=len(self.failures), ci95=None, verdict=verdict, note=note)
        )  # fmt: skip

    def decided(self) -> dict | None:
        """The standing decision of this run's ledger on this candidate, or None."""
        found = standing(self.run.path)
        return found if found and _is_about(found, self.candidate) else None


def replay(session: ApprovalSession, approval: Approval) -> GateResult:
    """Give a recorded approval through the `decide` that the buttons call, marked as recorded whatever it says."""
    return session.decide(Approval(approval.decision, approval.reviewer, approval.reasons, recorded=True))


def standing(run_path: str | Path) -> dict | None:
    """The last approval in a run's ledger: {"decision", "reviewer", "reasons", "candidate", …}, or None."""
    lines = [line for line in read_ledger(Path(run_path) / "gates.jsonl") if line["kind"] == "approval"]
    return lines[-1] if lines else None


def candidate_of(run_path: str | Path) -> str:
    """The sha256 of the adapter that stands for approval in this run; empty where none was trained."""
    adapter = stage_path(run_path, TRAINER) / "adapter"
    return digest_of(adapter) if adapter.is_dir() else ""


def state(run_path: str | Path) -> dict:
    """The gate as it counts for the candidate that the run holds now, in the form of `ledger.gate_states`.

    Where nobody has decided, or the decision is about another candidate, it is an abstention that says so.
    """
    found, candidate = standing(run_path), candidate_of(run_path)
    lines = [line for line in gate_states(run_path) if (line["id"], line["notebook"]) == (GATE, NOTEBOOK)]
    if found and lines and _is_about(found, candidate):
        return lines[-1]
    note = f"nobody has decided on this candidate: run {NOTEBOOK} by hand, read its failures, then sign or refuse"
    if found:
        note = f"the decision of {found['reviewer']} is about another candidate; {note}"
    return {"id": GATE, "notebook": NOTEBOOK, "value": None, "threshold": 1.0, "op": ">=", "n": 0, "ci95": None,
            "verdict": "ABSTAIN", "note": note, "evidence": not is_smoke(load_summary(run_path))}  # fmt: skip


def gates_to_check(run: "Run", needed: Sequence[str] = ()) -> list[str]:
    """Every gate of 05 that a notebook which uses its candidate is held to, for `run.check_gates`.

    One that failed stops it, whichever it is. One that abstained does not: too few items to say are no failure, and 08
    promotes nothing on them.

    Args:
        needed: gates without which the notebook does not start at all; named also where 05 has not measured them, so
            that `check_gates` refuses.

    Returns:
        `needed`, the other gates that 05 has recorded in this run, and GATE where a decision on this candidate is
        recorded; else that abstains, and stops the promotion only.
    """
    recorded = [line["id"] for line in gate_states(run.path) if line["notebook"] == NOTEBOOK and line["id"] != GATE]
    found = standing(run.path)
    decided = [GATE] if found and _is_about(found, candidate_of(run.path)) else []
    return list(dict.fromkeys([*needed, *recorded, *decided]))


def _is_about(line: Mapping, candidate: str) -> bool:
    # A line without a candidate is from before they were written: such a refusal still counts, a signature does not.
    return line.get("candidate", candidate if line["decision"] == "refuse" else None) == candidate
