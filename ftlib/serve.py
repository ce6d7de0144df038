"""The router: one OpenAI-compatible address in front of two models, and a log from which it can be started again.

A request is written to the log before any model sees it, and its answer before the user sees it. A candidate that
crashes, hangs or answers garbage costs the user nothing but the wait: the baseline answers, and the log says why. The
state of the canary is what the log replayed gives, so a killed router goes on where it was; a client that asks again
with the same `Idempotency-Key` gets the answer that it missed.

Left out on purpose: streaming (an answer is checked as a whole before anybody sees it), accounts and TLS (put the
router behind the gateway that has them), and more than one router on a log. Starting and stopping is `engines`'.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from ftlib.files import append_line, mend_tail, to_json, utc_now, whole_lines
from ftlib.rollout import Canary, Plan

SHADOW, CANARY = "shadow", "canary"
Checks = Mapping[str, Callable[[str, str], bool]]  # guardrail -> does this answer (prompt, text) have the event?


class Backend(Protocol):
    """A model that answers a body of /v1/chat/completions with an answer of the same form."""

    async def complete(self, body: Mapping[str, Any]) -> dict: ...


class HttpBackend:
    """Any OpenAI-compatible server: `transformers serve`, vLLM, a vendor.

    Args:
        url: up to and with /v1.
        model: the name that this server knows the model by.
        api_key: sent as a bearer token, never logged.
    """

    def __init__(self, url: str, model: str, *, api_key: str = ""):
        import httpx

        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.model = model
        self._client = httpx.AsyncClient(base_url=url.rstrip("/") + "/", headers=headers, timeout=None)

    async def complete(self, body: Mapping[str, Any]) -> dict:
        """Ask the server; how long to wait is the router's business.

        Raises:
            httpx.HTTPError: no connection, or a status that is no success.
            ValueError: an answer that is no JSON.
        """
        reply = await self._client.post("chat/completions", json={**body, "model": self.model})
        reply.raise_for_status()
        return reply.json()


class LocalBackend:
    """A model in this process, as a function from chat messages to text, one call at a time.

    Each has a thread of its own: a candidate that hangs must not take the threads that the baseline answers in.
    """

    def __init__(self, answer: Callable[[list[dict], int], str], *, model: str):
        self.model = model
        self._answer, self._thread = answer, ThreadPoolExecutor(1, thread_name_prefix=model)

    async def complete(self, body: Mapping[str, Any]) -> dict:
        """Run the function in the thread, so that the router goes on meanwhile; who gives up leaves the queue."""
        given = list(body["messages"]), int(body.get("max_tokens") or 56)
        text = await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, *given)
        return completion(text, model=self.model)


def completion(text: str, *, model: str) -> dict:
    """A chat completion around a text, in the form of the API."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    name = f"chatcmpl-{uuid.uuid4().hex}"
    return {"id": name, "object": "chat.completion", "created": int(time.time()), "model": model, "choices": [choice]}


def answer_text(reply: object) -> str:
    """The text of a chat completion.

    Raises:
        ValueError: not a completion, or an empty one.
    """
    try:
        text = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        text = None
    if not isinstance(text, str) or not text.strip() or "\ufffd" in text:
        raise ValueError("expected a chat completion with a text, got something else")
    return text


class Log:
    """The router's log, JSON Lines, append-only: "asked", "answered", "lost", "shadowed" and "manual" entries."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._writing = threading.Lock()
        mend_tail(self.path)

    def add(self, kind: str, **entry: object) -> None:
        """Append an entry and sync it.

        Raises:
            OSError: it could not be written; the log is as it was.
        """
        line = to_json({"kind": kind, "at": utc_now(), **entry}, self.path.name)
        with self._writing:
            size = self.path.stat().st_size if self.path.exists() else 0
            try:
                append_line(self.path, line)
            except OSError:
                if self.path.exists():
                    os.truncate(self.path, size)  # a piece of a line would be the beginning of the next one
                raise

    def read(self) -> list[dict]:
        """All entries.

        Raises:
            ValueError: names the line that is no entry.
        """
        entries = []
        lines, _ = whole_lines(self.path)  # a piece at the end is being written, or was when the router was killed
        for number, line in enumerate(lines, start=1):
            try:
                entry = json.loads(line)
                entry["kind"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(
                    f"{self.path} line {number}: expected a log entry; restore the file from a copy"
                ) from None
            entries.append(entry)
        return entries


class Router:
    """What happens to a request; `app` puts HTTP around it.

    Args:
        plan: of the canary; its guardrails are "failed", "slow" and the names in `checks`, or some of them.
        mode: "shadow": users get the baseline, the candidate is asked behind their back. "canary": by `plan`.
        log: path of the log; an old one is gone on with.
        checks: what to look for in an answer's text.
        timeout_s: how long either model may take; later is "failed". The candidate's answer is given up by then.
        baseline_timeout_s: how long the baseline is waited for all the same; nobody else can answer its users.
        slow_s: above this the event is "slow".

    Raises:
        ValueError: a log of another plan or mode.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        baseline: Backend,
        candidate: Backend,
        log: str | Path,
        mode: str = CANARY,
        checks: Checks | None = None,
        timeout_s: float = 10.0,
        baseline_timeout_s: float = 120.0,
        slow_s: float = 5.0,
    ):
        if mode not in (SHADOW, CANARY):
            raise ValueError(f"mode: expected {SHADOW!r} or {CANARY!r}, got {mode!r}")
        self.canary, self.mode, self.checks = Canary(plan), mode, dict(checks or {})
        self.backends = {"baseline": baseline, "candidate": candidate}
        self.timeout_s, self.slow_s = timeout_s, slow_s
        self._wait_s = {"candidate": timeout_s, "baseline": max(baseline_timeout_s, timeout_s)}
        self.log = Log(log)
        self._answers: dict[str, dict] = {}
        self._running: dict[str, asyncio.Task] = {}
        self._shadows: set[asyncio.Task] = set()
        # A button is pressed in another thread than requests are counted in. What is logged and what is counted must
        # have one order, or the log replayed gives another state.
        self._moving = threading.Lock()
        self._replay(json.loads(to_json({"plan": dataclasses.asdict(plan), "mode": mode}, "plan")))

    def _replay(self, identity: dict) -> None:
        entries = self.log.read()
        if not entries:
            self.log.add("opened", **identity)
            return
        first = {key: entries[0].get(key) for key in identity}
        if first != identity:
            raise ValueError(f"{self.log.path}: expected the log of this plan and mode, got another's; give a new path")
        asked, unshadowed = {}, {}
        for entry in entries:
            if entry["kind"] == "asked":
                asked[entry["id"]] = entry
            elif entry["kind"] == "answered":
                self._answers[entry["id"]] = entry["reply"]
                unshadowed[entry["id"]] = asked.pop(entry["id"])
                self._count(unshadowed[entry["id"]], entry)
            elif entry["kind"] == "shadowed":
                unshadowed.pop(entry["id"], None)
            elif entry["kind"] == "lost":
                lost = asked.pop(entry["id"])
                if "events" in entry:  # logs of earlier routers lack them: what was not counted then is not now
                    self._count(lost, entry)
            elif entry["kind"] == "manual":
                getattr(self.canary, entry["do"])(entry["why"])
        self.unanswered = list(asked.values())
        self.unshadowed = list(unshadowed.values()) if self.mode == SHADOW else []

    unanswered: Sequence[dict] = ()  # asked before a kill and never answered: their clients ask again
    unshadowed: Sequence[dict] = ()  # answered before a kill, in shadow, and not yet by the candidate

    async def catch_up(self) -> None:
        """Begin to ask the candidate what a kill kept it from answering in shadow; `drain` waits for the answers.

        `app` does it when it starts. Nobody asks twice for these: their customers have the baseline's answer.
        """
        missing, self.unshadowed = self.unshadowed, []
        for asked in missing:
            self._begin_shadow({"messages": asked["messages"], **asked.get("options", {})}, asked["id"])

    async def answer(self, body: Mapping[str, Any], *, user: str, key: str) -> dict:
        """Answer a request; the same key again gets the same answer, also while the first is under way.

        Raises:
            RuntimeError: the baseline failed too; nothing is left to answer with.
        """
        if key in self._answers:
            return self._answers[key]
        if key not in self._running:
            task = asyncio.create_task(self._answer(body, user, key))
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key, None))
        # Shielded: a client that hangs up does not take the answer with it.
        return await asyncio.shield(self._running[key])

    def manual(self, do: str, why: str) -> None:
        """ "hold", "go_on" or "roll_back" the canary, with a reason for the log; from any thread.

        Raises:
            ValueError: another word, no reason, or not possible in this state.
            OSError: the log could not be written; then nothing is done, because a restart would not know of it.
        """
        with self._moving:
            self.canary.check(do, why)
            self.log.add("manual", do=do, why=why)
            getattr(self.canary, do)(why)

    def drain(self, seconds: float = 120.0) -> None:
        """Wait, from outside the router's thread, until no shadow answer is under way.

        Raises:
            RuntimeError: not in time.
        """
        until = time.monotonic() + seconds
        while self._shadows:
            if time.monotonic() > until:
                raise RuntimeError(f"{len(self._shadows)} shadow answers are still under way after {seconds:g} s")
            time.sleep(0.02)

    async def _answer(self, body: Mapping[str, Any], user: str, key: str) -> dict:
        with self._moving:  # a roll-back between the two would log a share that the arm does not come from
            share = self.canary.share if self.mode == CANARY else 0.0
            arm = self.canary.arm(user) if self.mode == CANARY else "baseline"
        asked = {"id": key, "user": user, "arm": arm, "share": share}
        options = {name: value for name, value in body.items() if name not in ("messages", "model", "user")}
        self.log.add("asked", **asked, messages=body["messages"], options=options)
        made = await self._ask(arm, body)
        fell_back = arm == "candidate" and made["reply"] is None
        served = await self._ask("baseline", body) if fell_back else made
        reply = served["reply"]
        entry = {
            "id": key, "served": "baseline" if fell_back else arm, "events": made["events"], "error": made["error"],
            "seconds": made["seconds"], "reply": reply,
        }  # fmt: skip
        if reply is None:
            # Counted like an answer: if only a candidate's failures were, one as good as the baseline would be stopped.
            with self._moving:
                self.log.add("lost", id=key, events=made["events"], seconds=made["seconds"], error=served["error"])
                self._count(asked, made)
            raise RuntimeError(f"no model answered: {served['error']}")
        with self._moving:
            self.log.add("answered", **entry)
            self._answers[key] = reply
            self._count(asked, entry)
        if self.mode == SHADOW:
            self._begin_shadow(body, key)
        return reply

    def _begin_shadow(self, body: Mapping[str, Any], key: str) -> None:
        task = asyncio.create_task(self._shadow(body, key))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _shadow(self, body: Mapping[str, Any], key: str) -> None:
        made = await self._ask("candidate", body)
        self.log.add("shadowed", id=key, **made)

    async def _ask(self, arm: str, body: Mapping[str, Any]) -> dict:
        """One model's answer, checked: {"reply" or None, "events", "error", "seconds"}."""
        started = time.monotonic()
        reply, events, error = None, [], ""
        try:
            found = await asyncio.wait_for(self.backends[arm].complete(body), self._wait_s[arm])
            late = time.monotonic() - started > self.timeout_s
            text = answer_text(found)
            reply = completion(text, model=arm)
            prompt = str(body["messages"][-1].get("content", ""))
            events = [name for name, has in self.checks.items() if has(prompt, text)]
            if late and "failed" not in events:  # one deadline for both, or the faster clock would look like harm
                events, error = [*events, "failed"], f"late: more than {self.timeout_s:g} s"
        except Exception as failure:  # whatever a model does, the user gets an answer and the log the reason
            events, error = ["failed"], f"{type(failure).__name__}: {failure}"[:300]
        seconds = time.monotonic() - started
        events += ["slow"] if seconds > self.slow_s else []
        return {"reply": reply, "events": events, "error": error, "seconds": round(seconds, 4)}

    def _count(self, asked: Mapping, answered: Mapping) -> None:
        events = [name for name in answered["events"] if name in self.canary.evidence]
        if self.mode == CANARY:
            self.canary.record(asked["user"], arm=asked["arm"], share=asked["share"], events=events)


def app(router: Router) -> Any:
    """The router over HTTP (an ASGI app): POST /v1/chat/completions, GET /v1/models, GET and POST /rollout."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    def refused(message: str, status: int = 400) -> JSONResponse:
        kind = "invalid_request_error" if status == 400 else "server_error"
        return JSONResponse({"error": {"message": message, "type": kind}}, status_code=status)

    async def chat(request):
        try:
            body = await request.json()
            _check_body(body)
        except ValueError as error:
            return refused(str(error))
        key = request.headers.get("idempotency-key") or uuid.uuid4().hex
        user = str(body.get("user") or request.headers.get("x-user") or key)
        try:
            return JSONResponse(await router.answer(body, user=user, key=key))
        except RuntimeError as error:
            return refused(str(error), 503)

    async def models(_request):
        return JSONResponse({"object": "list", "data": [{"id": "shop", "object": "model", "owned_by": "playbook"}]})

    async def status(_request):
        return JSONResponse({"mode": router.mode, **router.canary.status()})

    async def manual(request):
        try:
            given = await request.json()
            router.manual(str(given.get("do")), str(given.get("why", "")))
        except (ValueError, AttributeError) as error:
            return refused(str(error))
        except OSError as error:
            return refused(f"not done, because the log could not be written: {error}", 503)
        return await status(request)

    @contextlib.asynccontextmanager
    async def lifespan(_app):
        await router.catch_up()
        yield

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", models),
            Route("/rollout", status),
            Route("/rollout", manual, methods=["POST"]),
        ],
    )


def _check_body(body: object) -> None:
    messages = body.get("messages") if isinstance(body, dict) else None
    sound = isinstance(messages, list) and messages and all(isinstance(m, dict) and "content" in m for m in messages)
    if not sound:
        raise ValueError('messages: expected a list of {"role", "content"}, got something else')
    if body.get("stream"):
        raise ValueError("stream: expected false; an answer is checked as a whole before it is sent")
