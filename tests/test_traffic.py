"""A replay: requests come when they came, those that come together wait together, and each gets its own answer."""

import asyncio
import time

import openai
import pytest

from ftlib.engines import listening
from ftlib.rollout import Guardrail, Plan
from ftlib.serve import Router, app, completion
from ftlib.traffic import Request, replay

PLAN = Plan(shares=(0.5, 1.0), requests=(10_000, 0), guardrails=(Guardrail("failed"), Guardrail("slow")), salt="t")


class Echo:
    """Says after `seconds` what it was asked, and notes when that was and how many were inside."""

    def __init__(self, seconds: float = 0.0):
        self.seconds, self.at, self.inside, self.most = seconds, {}, 0, 0

    async def complete(self, body):
        text = body["messages"][0]["content"]
        self.at[text], self.inside = time.monotonic(), self.inside + 1
        self.most = max(self.most, self.inside)
        await asyncio.sleep(self.seconds)
        self.inside -= 1
        assert (body["temperature"], body["max_tokens"]) == (0, 7)
        return completion(f"to {text}", model="m")


def request(text: str, minute: float, user: str = "u") -> Request:
    return Request(minute, user, f"key {text}", [{"role": "user", "content": text}])


def test_gaps_are_kept_and_shortened(tmp_path):
    """At 900, 900.5 and 902 minutes, 60 times as fast: 0, 0.5 and 2 s after the first, who is the last in the list."""
    model = Echo()
    router = Router(PLAN, baseline=model, candidate=model, log=tmp_path / "log.jsonl")
    requests = [request("b", 900.5, "u2"), request("c", 902, "u3"), request("a", 900, "u1")]
    with listening(app(router)) as address:
        started = time.monotonic()
        assert replay(address, requests, faster=60, max_tokens=7) == ["to b", "to c", "to a"]
    after = {text: at - started for text, at in model.at.items()}
    assert set(after) == {"a", "b", "c"} and after["b"] >= 0.5 and 2 <= after["c"] < 60, after  # never before its time
    asked = {entry["id"]: entry["user"] for entry in router.log.read() if entry["kind"] == "asked"}
    assert asked == {"key a": "u1", "key b": "u2", "key c": "u3"}


def test_what_comes_together_waits_together(tmp_path):
    model = Echo(1.0)
    router = Router(PLAN, baseline=model, candidate=model, log=tmp_path / "log.jsonl")
    with listening(app(router)) as address:
        replay(address, [request(str(n), 0.0, f"u{n}") for n in range(5)], max_tokens=7)
    assert model.most >= 2


def test_no_answer_and_a_wrong_speed_are_said(tmp_path):
    with pytest.raises(ValueError, match="faster: expected a number above 0, got 0"):
        replay("http://127.0.0.1:9", [], faster=0)
    with pytest.raises(openai.APIConnectionError):
        replay("http://127.0.0.1:9", [request("a", 0)])
    assert replay("http://127.0.0.1:9", []) == []
