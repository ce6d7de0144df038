"""The canary on paper: how often is a bad candidate stopped in time, and a harmless one by mistake?

The plan is notebook 07's: three guardrails share one chance of a false alarm; 1,000 rollouts a line, seeds fixed here.
"""

from benchmarks import check
from ftlib.gates import wilson
from ftlib.rollout import Guardrail, Plan, simulate

RUNS = 1_000
RATES = {"failed": 0.02, "refused": 0.02, "leak": 0.0}
PLAN = Plan(guardrails=(Guardrail("failed", 0.03), Guardrail("refused", 0.02), Guardrail("leak", 0.0)))


def measure() -> dict:
    """{"rows", "checks"}: a candidate with twice the failures (2 % -> 4 %), and one that is alike, by looks."""
    cases = {
        "twice": (RATES | {"failed": 0.04}, 1),
        "alike": (RATES, 1),
        "alike_look_every_500": (RATES, 500),
    }
    rows, of = [], {}
    for number, (name, (candidate, every)) in enumerate(cases.items()):
        of[name] = runs = simulate(PLAN, baseline=RATES, candidate=candidate, runs=RUNS, seed=number, every=every)
        rows.append(
            {
                "case": name,
                "stopped": float(runs.stopped.mean()),
                "candidate_requests_when_stopped": sorted(runs.spent[runs.stopped].tolist()),
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
        check(id, float(hits.mean()), op, target, n=RUNS, spread=list(wilson(int(hits.sum()), RUNS)))
        for id, (hits, op, target) in counts.items()
    ]
    return {"rows": rows, "checks": checks}
