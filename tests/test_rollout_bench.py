"""The benchmark of the rollout at small: its checks hold, and a check that misses something would show it."""

from benchmarks import rollout as bench
from benchmarks.cases import changed_bytes
from ftlib.files import to_json


def test_the_benchmark_at_small():
    found = bench.measure(runs=20, clients=9, changes=42)
    of = {line["id"]: line for line in found["checks"]}
    assert of["twice_stopped_before_25_percent_of_traffic_spent"]["value"] > 0.8
    assert of["alike_stopped_looking_at_every_request"]["value"] < 0.3
    for id, n in (
        ("clients_answered_while_the_candidate_fails", 9),
        ("failures_in_the_log_with_a_reason", 7),  # of the questions 0..8 only 3 and 7 are answered by the candidate
        ("changed_bytes_found_by_verify", 42),
    ):
        assert (of[id]["holds"], of[id]["value"], of[id]["n"]) == (True, 1.0, n), id
    to_json(found, "rollout.json")


def test_a_change_that_is_not_found_is_counted(tmp_path, monkeypatch):
    """With a `verify` that sees nothing, all of ten changes are missed: three, three, two and two."""
    monkeypatch.setattr(changed_bytes, "verify_run", lambda run: [])
    monkeypatch.setattr(changed_bytes.pack, "verify_pack", lambda packed: [])
    missed = changed_bytes.missed(tmp_path, changes=10, seed=1)
    assert {name: len(places) for name, places in missed.items()} == {
        "run.zip": 3, "gates.jsonl": 3, "lineage.jsonl": 2, "model_card.md": 2,
    }  # fmt: skip
