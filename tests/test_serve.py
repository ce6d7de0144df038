"""The router, asked by the OpenAI client: who answers, what falls back, what the log gives back after a kill."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from benchmarks.cases import crowd
from ftlib.engines import free_port, listening
from ftlib.rollout import Guardrail, Plan
from ftlib.serve import SHADOW, HttpBackend, LocalBackend, Log, Router, answer_text, app, completion

ALL = Plan(shares=(0.999999, 1.0), requests=(10_000, 0), guardrails=(Guardrail("failed", 0.0),), salt="t")
HALF = Plan(shares=(0.5, 1.0), requests=(10_000, 0), guardrails=(Guardrail("failed"), Guardrail("slow")), salt="t")
MOST = Plan(shares=(0.999999, 1.0), requests=(10_000, 0), guardrails=(Guardrail("failed"),), salt="t")  # never stops
SAY = [{"role": "user", "content": "Where is my tent?"}]


class Scripted:
    """A model whose answer is a function of the body; it may raise, wait or return anything."""

    def __init__(self, reply):
        self.reply = reply

    async def complete(self, body):
        found = self.reply(body)
        return await found if asyncio.iscoroutine(found) else found


def says(text):
    return Scripted(lambda _body: completion(text, model="m"))


def client(address, **options):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", **{"max_retries": 0, **options})


def router(tmp_path, candidate, *, plan=ALL, baseline=None, **options):
    return Router(plan, baseline=baseline or says("base"), candidate=candidate, log=tmp_path / "log.jsonl", **options)


def ask(address, user="u", **options):
    reply = client(address).chat.completions.create(model="shop", messages=SAY, user=user, **options)
    return reply.choices[0].message.content


def test_the_openai_client_is_answered_by_the_arm_of_its_user(tmp_path):
    made = router(tmp_path, says("new"), plan=HALF)
    with listening(app(made)) as address:
        got = {f"u{n}": ask(address, f"u{n}") for n in range(12)}
        assert [m.id for m in client(address).models.list()] == ["shop"]
        status = httpx.get(f"{address}/rollout").json()
    want = {user: "new" if made.canary.arm(user) == "candidate" else "base" for user in got}
    assert got == want and set(got.values()) == {"new", "base"}
    assert (status["requests"], status["candidate_requests"]) == (12, list(got.values()).count("new"))


async def _hang():
    await asyncio.sleep(30)


def _crash(_body):
    raise ConnectionError("the process is gone")


@pytest.mark.parametrize(
    ("candidate", "error"),
    [
        (Scripted(_crash), "ConnectionError: the process is gone"),
        (Scripted(lambda _body: _hang()), "TimeoutError"),
        (Scripted(lambda _body: {"choices": []}), "ValueError: expected a chat completion"),
        (Scripted(lambda _body: "<html>"), "ValueError: expected a chat completion"),
        (says("  "), "ValueError: expected a chat completion"),
        (says("caf\ufffd"), "ValueError: expected a chat completion"),
        (HttpBackend(f"http://127.0.0.1:{free_port()}/v1", "gone"), "ConnectError"),
    ],
    ids=["crashes", "hangs", "no choices", "no JSON object", "empty", "broken bytes", "its server is gone"],
)
def test_a_bad_candidate_costs_the_user_nothing(tmp_path, candidate, error):
    made = router(tmp_path, candidate, timeout_s=0.3)
    with listening(app(made)) as address:
        assert ask(address) == "base"
        assert made.canary.state == "rolled_back"  # here one failure is enough
        assert ask(address) == "base"
    answered = [entry for entry in made.log.read() if entry["kind"] == "answered"]
    assert [entry["served"] for entry in answered] == ["baseline", "baseline"]
    assert answered[0]["events"] == ["failed"] and answered[0]["error"].startswith(error)
    assert answered[1]["events"] == []


def test_fifty_clients_of_a_candidate_that_crashes_hangs_and_babbles(tmp_path):
    """Of 50 questions it crashes at 13, hangs at 13 and babbles at 12: all are answered, these 38 by the baseline."""
    assert crowd.ask_all(tmp_path / "log.jsonl", clients=50) == (50, 38)


def test_a_hung_model_in_this_process_takes_no_thread_of_the_baseline(tmp_path):
    """30 requests wait for it at once, more than asyncio's own pool has threads."""
    stop = threading.Event()
    hung = LocalBackend(lambda *_: "late" if stop.wait(30) else "", model="candidate")
    base = LocalBackend(lambda *_: "base", model="baseline")
    made = router(tmp_path, hung, plan=MOST, baseline=base, timeout_s=0.5, baseline_timeout_s=5.0)
    try:
        with listening(app(made)) as address, ThreadPoolExecutor(30) as pool:
            assert list(pool.map(lambda n: ask(address, f"u{n}"), range(30))) == ["base"] * 30
    finally:
        stop.set()


def test_a_slow_baseline_is_waited_for(tmp_path):
    """Nobody else can answer: the candidate's limit is not the baseline's."""

    async def late(_body):
        await asyncio.sleep(0.4)
        return completion("base", model="m")

    made = router(tmp_path, Scripted(_crash), baseline=Scripted(late), timeout_s=0.1)
    with listening(app(made)) as address:
        assert ask(address) == "base"


def test_a_candidate_that_hangs_in_shadow_keeps_nobody_waiting(tmp_path):
    made = router(tmp_path, Scripted(lambda _body: _hang()), mode=SHADOW, timeout_s=1.5)
    with listening(app(made)) as address:
        ask(address)
        (answered,) = [entry for entry in made.log.read() if entry["kind"] == "answered"]
        assert [entry for entry in made.log.read() if entry["kind"] == "shadowed"] == []  # the user has it already
        made.drain()
    (shadowed,) = [entry for entry in made.log.read() if entry["kind"] == "shadowed"]
    assert (shadowed["id"], shadowed["reply"], shadowed["events"]) == (answered["id"], None, ["failed"])
    assert shadowed["error"].startswith("TimeoutError")


def test_no_model_left_is_said_and_logged(tmp_path):
    made = router(tmp_path, Scripted(_crash), baseline=Scripted(_crash))
    with listening(app(made)) as address, pytest.raises(openai.InternalServerError, match="no model answered"):
        ask(address)
    assert [entry["kind"] for entry in made.log.read()] == ["opened", "asked", "lost"]
    assert made.canary.state == "rolled_back"  # the candidate failed, whoever else did; here one failure is enough
    again = router(tmp_path, says("new"))
    assert again.canary.status() == made.canary.status() and not again.unanswered  # its client was told


def test_a_lost_request_of_an_older_log_stays_uncounted(tmp_path):
    made = router(tmp_path, says("new"))
    made.log.add("asked", id="k", user="u", arm="candidate", share=0.999999, messages=SAY)
    made.log.add("lost", id="k", error="gone")
    assert router(tmp_path, says("new")).canary.requests == 0


def _breaks(rate, draws):
    return Scripted(lambda body: _crash(body) if draws.random() < rate else completion("text", model="m"))


def _roll_out(tmp_path, candidate, baseline, users=250, **options):
    made = router(tmp_path, candidate, plan=HALF, baseline=baseline, **options)

    async def all_of_them():
        for n in range(users):
            if made.canary.state == "rolled_back":
                break
            with contextlib.suppress(RuntimeError):  # nobody answered this one: counted, which is what is tested
                await made.answer({"messages": SAY}, user=f"u{n}", key=f"k{n}")

    asyncio.run(all_of_them())
    return made


@pytest.mark.parametrize("seed", range(3))
def test_a_candidate_that_fails_as_often_as_the_baseline_is_no_harm(tmp_path, seed):
    """Both crash at 3 in 10. The baseline's crashes are evidence too, also those that leave a user without answer."""
    draws = random.Random(seed)
    made = _roll_out(tmp_path, _breaks(0.3, draws), _breaks(0.3, draws))
    failed = made.canary.evidence["failed"].failed
    assert made.canary.state == "running" and made.canary.requests == 250
    assert min(failed.values()) > 20
    assert "lost" in {entry["kind"] for entry in made.log.read()}
    assert router(tmp_path, says("new"), plan=HALF).canary.status() == made.canary.status()


@pytest.mark.parametrize("seed", range(3))
def test_a_candidate_that_fails_twice_as_often_is_rolled_back(tmp_path, seed):
    draws = random.Random(seed)
    made = _roll_out(tmp_path, _breaks(0.6, draws), _breaks(0.3, draws), users=500)
    assert made.canary.state == "rolled_back"
    assert router(tmp_path, says("new"), plan=HALF).canary.status() == made.canary.status()


def test_one_deadline_for_both_models(tmp_path):
    """Both answer after 0.05 s, the deadline is 0.01 s: all users get the baseline's answer, and both have failed."""

    async def late(_body):
        await asyncio.sleep(0.05)
        return completion("base", model="m")

    slow = Scripted(late)
    made = _roll_out(tmp_path, slow, slow, users=30, timeout_s=0.01, baseline_timeout_s=5.0)
    answered = [entry for entry in made.log.read() if entry["kind"] == "answered"]
    assert len(answered) == 30 and {answer_text(entry["reply"]) for entry in answered} == {"base"}
    assert all("failed" in entry["events"] for entry in answered)
    assert sum(made.canary.evidence["failed"].failed.values()) == 30
    assert made.canary.state == "running"


def test_fifty_clients_at_once(tmp_path):
    """Every one gets its own answer, once; the log has each request and answer."""

    async def slowly(body):
        await asyncio.sleep(0.05)
        return completion(f"to {body['messages'][0]['content']}", model="m")

    both = Scripted(lambda body: slowly(body))
    made = router(tmp_path, both, plan=HALF, baseline=both)

    def one(n):
        messages = [{"role": "user", "content": f"question {n}"}]
        reply = client(address).chat.completions.create(model="shop", messages=messages, user=f"u{n}")
        return reply.choices[0].message.content

    with listening(app(made)) as address, ThreadPoolExecutor(50) as pool:
        got = list(pool.map(one, range(50)))
    assert got == [f"to question {n}" for n in range(50)]
    kinds = [entry["kind"] for entry in made.log.read()]
    assert (kinds.count("asked"), kinds.count("answered"), made.canary.requests) == (50, 50, 50)


def test_the_same_key_is_answered_once(tmp_path):
    calls = []
    model = Scripted(lambda body: calls.append(1) or completion(f"answer {len(calls)}", model="m"))
    made = router(tmp_path, model, baseline=model)
    with listening(app(made)) as address:
        first, again = (ask(address, extra_headers={"Idempotency-Key": "k1"}) for _ in range(2))
    assert (first, again, len(calls), made.canary.requests) == ("answer 1", "answer 1", 1, 1)


def test_shadow_serves_the_baseline_and_logs_the_candidate(tmp_path):
    made = router(tmp_path, says("new"), mode=SHADOW)
    with listening(app(made)) as address:
        assert {ask(address, f"u{n}") for n in range(5)} == {"base"}
        made.drain()
    shadowed = [answer_text(e["reply"]) for e in made.log.read() if e["kind"] == "shadowed"]
    assert shadowed == ["new"] * 5 and made.canary.requests == 0


def test_shadow_answers_that_a_kill_lost_are_asked_for_again(tmp_path):
    """Three are answered and a kill leaves the log with one "shadowed": the next router asks the candidate the two."""
    made = router(tmp_path, says("new"), mode=SHADOW)
    with listening(app(made)) as address:
        for n in range(3):
            ask(address, extra_headers={"Idempotency-Key": f"k{n}"}, max_tokens=7 + n)
            made.drain()
    lines = made.log.path.read_text().splitlines(keepends=True)
    lost = ('"shadowed"', ('"k1"', '"k2"'))
    made.log.path.write_text("".join(x for x in lines if not (lost[0] in x and any(key in x for key in lost[1]))))
    bodies = []
    model = Scripted(lambda body: bodies.append(dict(body)) or completion("newer", model="m"))
    again = router(tmp_path, model, mode=SHADOW)
    assert [one["id"] for one in again.unshadowed] == ["k1", "k2"] and bodies == []
    with listening(app(again)):
        again.drain()
    assert [(body["max_tokens"], body["messages"]) for body in bodies] == [(8, SAY), (9, SAY)]
    shadowed = {e["id"]: answer_text(e["reply"]) for e in again.log.read() if e["kind"] == "shadowed"}
    assert shadowed == {"k0": "new", "k1": "newer", "k2": "newer"}
    assert not router(tmp_path, model, mode=SHADOW).unshadowed


def test_in_canary_mode_no_shadow_answer_is_missing(tmp_path):
    made = router(tmp_path, says("new"))
    with listening(app(made)) as address:
        ask(address)
    assert not router(tmp_path, says("new")).unshadowed


def test_checks_and_slowness_become_events(tmp_path):
    plan = Plan(shares=(0.9999, 1.0), requests=(99, 0), guardrails=(Guardrail("failed"), Guardrail("refused")))
    checks = {"refused": lambda _prompt, text: text.startswith("I can't")}
    made = router(tmp_path, says("I can't help."), plan=plan, checks=checks, slow_s=-1.0)
    with listening(app(made)) as address:
        ask(address)
    assert made.log.read()[-1]["events"] == ["refused", "slow"]
    assert made.canary.evidence["refused"].failed["candidate"] == 1


def test_manual_hold_and_roll_back_over_http(tmp_path):
    made = router(tmp_path, says("new"))
    with listening(app(made)) as address:
        held = httpx.post(f"{address}/rollout", json={"do": "hold", "why": "a holiday"})
        wrong = httpx.post(f"{address}/rollout", json={"do": "promote", "why": "x"})
        rolled = httpx.post(f"{address}/rollout", json={"do": "roll_back", "why": "a complaint"})
        assert ask(address) == "base"
    assert (held.json()["state"], rolled.json()["state"]) == ("held", "rolled_back")
    assert wrong.status_code == 400 and "expected hold, go_on or roll_back" in wrong.text


def test_what_cannot_be_logged_is_not_done(tmp_path, monkeypatch):
    """A full disk: the rollout runs on, and the log has neither the move nor a piece of its line."""
    made = router(tmp_path, says("new"))
    before, status = made.log.path.read_bytes(), made.canary.status()

    def half(path, line):
        with open(path, "a") as file:
            file.write(line[:9])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("ftlib.serve.append_line", half)
        with pytest.raises(OSError, match="No space left"):
            made.manual("hold", "a holiday")
        with listening(app(made)) as address:
            told = httpx.post(f"{address}/rollout", json={"do": "hold", "why": "a holiday"})
        assert told.status_code == 503 and "not done" in told.text
    assert made.canary.status() == status and made.canary.state == "running"
    assert made.log.path.read_bytes() == before
    made.manual("hold", "a holiday")
    assert router(tmp_path, says("new")).canary.status() == made.canary.status()


def test_a_move_that_is_refused_leaves_no_line(tmp_path):
    made = router(tmp_path, says("new"))
    for do, why, error in (
        ("promote", "x", "hold, go_on or roll_back"),
        ("go_on", "x", "is held"),
        ("hold", " ", "reason"),
    ):
        with pytest.raises(ValueError, match=error):
            made.manual(do, why)
    assert [entry["kind"] for entry in made.log.read()] == ["opened"]


def test_buttons_and_answers_at_once_have_one_order(tmp_path, monkeypatch):
    """Held and let go from another thread while 60 answers are counted: the log replayed gives the same state.

    Stages of 15 requests, so an answer logged before a hold but counted after it would move another stage. The write
    is slowed down, or the two would hardly ever meet.
    """
    plan = Plan(shares=(0.2, 0.4, 0.6, 1.0), requests=(15, 15, 10_000, 0), salt="t")
    made = router(tmp_path, says("new"), plan=plan)
    write = made.log.add
    monkeypatch.setattr(made.log, "add", lambda *of, **entry: (write(*of, **entry), time.sleep(0.003)))
    over = threading.Event()

    def press():
        for n in range(10_000):
            if over.is_set():
                return
            made.manual("go_on" if n % 2 else "hold", f"press {n}")

    async def all_of_them():
        await asyncio.gather(*(made.answer({"messages": SAY}, user=f"u{n}", key=f"k{n}") for n in range(60)))

    finger = threading.Thread(target=press)
    finger.start()
    asyncio.run(all_of_them())
    over.set()
    finger.join()
    assert router(tmp_path, says("new"), plan=plan).canary.status() == made.canary.status()
    assert {entry["kind"] for entry in made.log.read()} >= {"manual", "answered"}


@pytest.mark.parametrize("body", ["no json", "{}", '{"messages": []}', '{"messages": [1]}', "[]"])
def test_a_bad_body_is_refused(tmp_path, body):
    with listening(app(router(tmp_path, says("new")))) as address:
        reply = httpx.post(f"{address}/v1/chat/completions", content=body)
    assert reply.status_code == 400 and reply.json()["error"]["type"] == "invalid_request_error"


def test_streaming_is_refused_in_words(tmp_path):
    bad = pytest.raises(openai.BadRequestError, match="stream: expected false")
    with listening(app(router(tmp_path, says("new")))) as address, bad:
        list(client(address).chat.completions.create(model="shop", messages=SAY, stream=True))


def test_a_router_in_front_of_a_server(tmp_path):
    """HttpBackend asks any OpenAI-compatible address; here, another router."""
    inner = router(tmp_path / "inner", says("inside"))
    with listening(app(inner)) as address:
        outer = router(tmp_path / "outer", HttpBackend(f"{address}/v1", "shop"))
        with listening(app(outer)) as front:
            assert ask(front) == "inside"


def test_local_backend_runs_one_call_at_a_time(tmp_path):
    inside, most = [], []

    def answer(messages, _limit):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        return messages[-1]["content"]

    made = router(tmp_path, LocalBackend(answer, model="m"))
    with listening(app(made)) as address, ThreadPoolExecutor(5) as pool:
        assert set(pool.map(lambda n: ask(address, f"u{n}"), range(5))) == {SAY[0]["content"]}
    assert max(most) == 1


def test_a_log_of_another_plan_and_a_broken_log_are_refused(tmp_path):
    router(tmp_path, says("new"))
    with pytest.raises(ValueError, match="log of this plan and mode"):
        router(tmp_path, says("new"), plan=HALF)
    (tmp_path / "log.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="log.jsonl line 1: expected a log entry"):
        router(tmp_path, says("new"))


SCRIPT = """
import sys, time
from ftlib.rollout import Guardrail, Plan
from ftlib.engines import listening
from ftlib.serve import LocalBackend, Router, app
def slowly(messages, limit):
    time.sleep(0.02)
    return "answer to " + messages[-1]["content"]
plan = Plan(shares=(0.5, 1.0), requests=(10_000, 0), guardrails=(Guardrail("failed"), Guardrail("slow")), salt="t")
models = {arm: LocalBackend(slowly, model=arm) for arm in ("baseline", "candidate")}
with listening(app(Router(plan, log=sys.argv[1], **models)), port=int(sys.argv[2])) as address:
    print("up", flush=True)
    time.sleep(120)
"""


def test_a_killed_router_loses_no_request(tmp_path):
    """kill -9 among 40 requests: every client gets its answer after the restart, each key is counted once."""
    port, log = free_port(), tmp_path / "log.jsonl"
    start = lambda: subprocess.Popen([sys.executable, "-c", SCRIPT, str(log), str(port)], stdout=subprocess.PIPE)
    first = start()
    assert first.stdout.readline() == b"up\n"

    def one(n):
        patient = client(f"http://127.0.0.1:{port}", max_retries=30, timeout=20)
        reply = patient.chat.completions.create(
            model="shop", user=f"u{n}", messages=[{"role": "user", "content": f"q{n}"}],
            extra_headers={"Idempotency-Key": f"k{n}"},
        )  # fmt: skip
        return reply.choices[0].message.content

    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(one, n) for n in range(40)]
        while sum(e["kind"] == "answered" for e in Log(log).read()) < 10:
            time.sleep(0.01)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        before = [e for e in Log(log).read() if e["kind"] == "answered"]
        second = start()
        try:
            assert second.stdout.readline() == b"up\n"
            assert [job.result(timeout=90) for job in waiting] == [f"answer to q{n}" for n in range(40)]
            status = httpx.get(f"http://127.0.0.1:{port}/rollout").json()
        finally:
            second.kill()
            second.wait()
    answered = [e["id"] for e in Log(log).read() if e["kind"] == "answered"]
    assert 10 <= len(before) < 40 and sorted(answered) == sorted(f"k{n}" for n in range(40))
    assert status["requests"] == 40
