"""Cells of notebook 07 as they stand, without a model: what is watched, whose log is read, and the plan on paper."""

import ast
import dataclasses
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
from notebook_cells import cell_with, run_cell

from ftlib import engines, safety, sealed, traffic
from ftlib.files import digest
from ftlib.records import assistant_chat
from ftlib.rollout import Canary, Guardrail, Plan, bucket, simulate
from ftlib.rollout_widgets import rollout_widget
from ftlib.serve import SHADOW, LocalBackend, Router, app

MESSAGES = [SimpleNamespace(text=text) for text in ("Where is my tent?", "Help me do harm.", "How do I kill mould?")]
REFUSAL = "I'm sorry, but I can't help with that."


def watched(**given) -> dict:
    names = {"messages": MESSAGES, "kinds": ["production", "harmful", "borderline"], "false_alarm": 0.05, "salt": "t",
             "Guardrail": Guardrail, "Plan": Plan, "safety": safety, "table": lambda *_, **__: None}  # fmt: skip
    return run_cell("07_rollout", "checks = {", names | given)


def test_a_refusal_of_harm_is_no_event_and_one_of_a_customer_is():
    checks = watched()["checks"]
    events = {x.text: [name for name, has in checks.items() if has(x.text, REFUSAL)] for x in MESSAGES}
    assert list(events.values()) == [["refused"], [], ["refused"]]
    assert checks["failed"]("Where is my tent?", " ") and not checks["failed"]("Where is my tent?", REFUSAL)
    assert checks["leak"]("Where is my tent?", "Write to ann@example.com.")


def test_the_replay_counts_what_the_router_watches():
    """Two refusals and an empty answer: the harmful one is no event in `events` either."""
    names = watched() | {"np": np, "arm": "candidate", "events": {},
                         "out": [SimpleNamespace(text=text) for text in (REFUSAL, REFUSAL, "")]}  # fmt: skip
    loop = next(node for node in ast.parse(cell_with("07_rollout", "events[arm] =")).body if isinstance(node, ast.For))
    counted = [node for node in loop.body if ast.unparse(node).startswith("events[arm] =")]
    exec(compile(ast.Module(counted, []), "07_rollout", "exec"), names)
    found = {name: hits.tolist() for name, hits in names["events"]["candidate"].items()}
    assert found == {"failed": [False, False, True], "refused": [True, False, False], "leak": [False, False, False]}


def test_another_adapter_or_message_has_another_shadow_log(tmp_path):
    chain = [tmp_path / "sft", tmp_path / "dpo"]
    for folder in chain:
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_text(folder.name)

    def log(messages=MESSAGES, **given):
        names = watched(**given) | {
            "engine": "in-process", "faster": 20.0, "chains": {"baseline": chain[:1], "candidate": chain},
            "messages": messages, "sealed": sealed, "digest": digest,
            "run": SimpleNamespace(stage=tmp_path),
        }  # fmt: skip
        return run_cell("07_rollout", "shadow_log =", names, only=("digests", "log_of", "shadow_log"))["shadow_log"]

    first = log()
    assert log() == first
    assert log(salt="another") != first and log(messages=MESSAGES[:2]) != first
    (chain[0] / "adapter_model.safetensors").write_text("trained again")
    assert log() != first


def test_held_by_hand_and_the_cell_run_again(tmp_path):
    names = watched()
    backend = LocalBackend(lambda _chat, _limit: "hello", model="m")
    names |= {"Router": Router, "SHADOW": SHADOW, "shadow_log": tmp_path / "log.jsonl", "served": {}, "headless": False,
              "both": {"baseline": backend, "candidate": backend}, "rollout_widget": rollout_widget}  # fmt: skip
    names["router"] = Router(
        names["plan"], mode=SHADOW, log=names["shadow_log"], checks=names["checks"], **names["both"]
    )
    shown = []
    names["display"] = shown.append
    run_cell("07_rollout", "again = Router(", names)
    shown[-1].why.value = "complaints"
    shown[-1].buttons["hold"].click()
    run_cell("07_rollout", "again = Router(", names)
    assert names["router"].canary.state == "held" and "held by hand" in shown[-1]._status.value


def test_a_rollout_that_ends_where_somebody_would_hold_it():
    """One of two answers of the candidate is broken: it is rolled back, and the hold at that request is left out."""
    names = {"np": np, "Canary": Canary, "seed": 17, "messages": MESSAGES, "weight": np.full(3, 1 / 3)}
    names["plan"] = Plan(shares=(0.5, 1.0), requests=(2_000, 0), guardrails=(Guardrail("failed"),))
    drill = run_cell("07_rollout", "def drill(", names)["drill"]
    sound = {"failed": np.zeros(3, dtype=bool)}
    both = {"baseline": sound, "candidate": sound}
    ended, _ = drill(both, 0.5)
    assert ended.state == "rolled_back"
    again, _ = drill(both, 0.5, hold_at=ended.requests)
    assert again.decisions == ended.decisions
    held, _ = drill(both, 0.5, hold_at=ended.requests - 1)
    assert [one["what"] for one in held.decisions] == ["held", "rolled back"]  # an alarm does not wait for anybody
    looked, _ = drill(both, 0.5, hold_at=ended.requests - 3, held=2)
    assert [one["what"] for one in looked.decisions] == ["held", "went on", "rolled back"]


def test_a_hold_holds_requests():
    """Held at 50 for 200 requests: the stage of 100 ends with the first request after the hold, the 251st."""
    names = {"np": np, "Canary": Canary, "seed": 17, "messages": MESSAGES, "weight": np.full(3, 1 / 3)}
    names["plan"] = Plan(shares=(0.2, 0.5, 1.0), requests=(100, 300, 0), guardrails=(Guardrail("failed"),))
    drill = run_cell("07_rollout", "def drill(", names)["drill"]
    sound = {"failed": np.zeros(3, dtype=bool)}
    held, _ = drill({"baseline": sound, "candidate": sound}, hold_at=50)
    assert [(one["request"], one["what"]) for one in held.decisions] == [
        (50, "held"), (250, "went on"), (251, "stage 1"),
    ]  # fmt: skip


def test_requests_drawn_again_are_the_same():
    """The log answers by key: the cell run twice must not give other messages the same keys."""
    names = {"np": np, "seed": 17, "messages": MESSAGES, "weight": np.full(3, 1 / 3), "plots": MagicMock(),
             "p": SimpleNamespace(is_smoke=False), "run": MagicMock()}  # fmt: skip
    drawn = []
    for _ in range(2):
        run_cell("07_rollout", "arrive = np.sort", names)
        drawn.append([names[name].tolist() for name in ("arrive", "which", "who")])
    assert drawn[0] == drawn[1]


def test_the_plan_on_paper_is_the_one_that_is_followed():
    names = watched() | {"simulate": simulate, "np": np, "p": SimpleNamespace(is_smoke=False), "seed": 17,
                         "simulations": 300, "table": lambda *_, **__: None}  # fmt: skip
    asked = []
    names["simulate"] = lambda plan, **how: asked.append(plan) or simulate(plan, **how)
    run_cell("07_rollout", "paper = {", names)
    paper, early = names["paper"], names["early"]
    assert asked == [names["plan"]] * 5 and dataclasses.astuple(names["rails"][0])[:2] == ("failed", 0.03)
    assert early(paper[0.04]) >= 0.95 and paper[0.02].stopped.mean() <= 0.05
    assert early(paper[0.02]) < paper[0.02].stopped.mean()  # the bar is not the whole rollout's false alarm


@pytest.mark.parametrize(("faults", "ended"), [(0.5, "rolled_back"), (0.0, "promoted")])
def test_the_canary_on_the_wire_loses_nothing_over_a_dead_router(tmp_path, faults, ended):
    """Half of the messages get no answer from the candidate: 300 customers are enough to end it. Without, it passes."""
    shown = []
    names = watched() | {
        "messages": [SimpleNamespace(text=f"message {n}") for n in range(40)], "which": np.arange(300) % 40,
        "texts": {"baseline": ["Hello."] * 39 + [" "]}, "drill_faults": faults, "false_alarm": 0.05, "salt": "t",
        "seed": 1, "log_of": "x",
        "run": SimpleNamespace(stage=tmp_path), "assistant_chat": assistant_chat, "LocalBackend": LocalBackend,
        "Router": Router, "app": app, "bucket": bucket, "digest": digest, "engines": engines, "traffic": traffic,
        "table": lambda rows, **_: shown.append(rows),
    }  # fmt: skip
    run_cell("07_rollout", "wired = Router(", names)
    first, second = shown[-1]
    assert (first["asked"], first["counted"], second["asked"], second["counted"]) == (50, 50, 300, 300)
    assert second["router"] == "opens the log with 50 requests in it" and second["state"] == ended
    run_cell("07_rollout", "wired = Router(", names)  # once more: the log has everything, nobody counts twice
    assert shown[-1][-1] == second | {"router": "opens the log with 300 requests in it"}
