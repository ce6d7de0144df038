"""The canary on paper, the router under 50 clients, and the evidence under 500 changes.

How often is a bad candidate stopped in time, and a harmless one by mistake? The plan is notebook 07's: three guardrails
share one chance of a false alarm; 1,000 rollouts a line, seeds fixed here. Does every client get its answer while the
candidate crashes, hangs and babbles? Does `verify` find each single byte that was changed?
"""

import tempfile
from pathlib import Path

from benchmarks import check
from benchmarks.cases import changed_bytes, crowd
from ftlib.gates import wilson
from ftlib.rollout import Guardrail, Plan, simulate

RUNS = 1_000
RATES = {"failed": 0.02, "refused": 0.02, "leak": 0.0}
PLAN = Plan(guardrails=(Guardrail("failed", 0.03), Guardrail("refused", 0.02), Guardrail("leak", 0.0)))


def measure(*, runs: int = RUNS, clients: int = 50, changes: int = 500) -> dict:
    """{"rows", "checks"}: a candidate that fails twice as often (2 % -> 4 %) or as often, clients, changed bytes.

    Args:
        runs: rollouts on paper, each line.
        clients: who ask the router at once.
        changes: single bytes changed.
    """
    cases = {
        "twice": (RATES | {"failed": 0.04}, 1),
        "alike": (RATES, 1),
        "alike_look_every_500": (RATES, 500),
    }
    rows, of = [], {}
    for number, (name, (candidate, every)) in enumerate(cases.items()):
        of[name] = done = simulate(PLAN, baseline=RATES, candidate=candidate, runs=runs, seed=number, every=every)
        rows.append(
            {
                "case": name,
                "stopped": float(done.stopped.mean()),
                "candidate_requests_when_stopped": sorted(done.spent[done.stopped].tolist()),
            }
        )
    twice, alike, seldom = of.values()
    spent = twice.stopped & (twice.share_spent < 0.25)
    stage = twice.stopped & (twice.stage < 2)
    counts = {
        "twice_stopped_before_25_percent_of_traffic_spent": (spent, ">=", 0.95),
        "twice_stopped_before_the_25_percent_stage": (stage, ">=", 0.95),
        "alike_stopped_looking_at_every_request": (alike.stopped, "<=", 0.05),
        "alike_stopped_looking_every_500": (seldom.stopped, "<=", 0.05),
    }
    checks = [
        check(id, float(hits.mean()), op, target, n=runs, spread=list(wilson(int(hits.sum()), runs)))
        for id, (hits, op, target) in counts.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        right, failures = crowd.ask_all(Path(folder) / "log.jsonl", clients=clients)
        missed = changed_bytes.missed(Path(folder), changes=changes, seed=8)
    bad = sum(number % 4 != 3 for number in range(clients))
    found = changes - sum(map(len, missed.values()))
    rows.append({"case": "changed_bytes", "missed": missed})
    checks += [
        check(id, hits / n, "==", 1.0, n=n, spread=list(wilson(hits, n)))
        for id, hits, n in (
            ("clients_answered_while_the_candidate_fails", right, clients),
            ("failures_in_the_log_with_a_reason", failures, bad),
            ("changed_bytes_found_by_verify", found, changes),
        )
    ]
    return {"rows": rows, "checks": checks}
