"""Clients that ask the router all at once, while its candidate crashes, hangs, babbles and answers by turns."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ftlib.engines import listening
from ftlib.rollout import Guardrail, Plan
from ftlib.serve import Router, app, completion

# Nearly everyone has the candidate, and a failure says nothing: it stays in for all of them.
PLAN = Plan(shares=(0.999999, 1.0), requests=(1_000_000, 0), guardrails=(Guardrail("failed"),), salt="crowd")


class Baseline:
    """Answers what it was asked."""

    async def complete(self, body: Mapping) -> dict:
        return completion(f"baseline to {body['messages'][0]['content']}", model="baseline")


class Candidate:
    """To question 0, 4, 8 … it crashes, to 1 it hangs, to 2 it babbles, to 3 it answers."""

    async def complete(self, body: Mapping) -> dict:
        question = body["messages"][0]["content"]
        turn = int(question) % 4
        if turn == 0:
            raise ConnectionError("the process is gone")
        if turn == 1:
            await asyncio.sleep(3600)
        return {"choices": "?"} if turn == 2 else completion(f"candidate to {question}", model="candidate")


def ask_all(log: Path, *, clients: int) -> tuple[int, int]:
    """Ask `clients` questions at once through the OpenAI client.

    Returns:
        How many got the right text, and how many failures are in the log with their reason.
    """
    import openai

    router = Router(PLAN, baseline=Baseline(), candidate=Candidate(), log=log, timeout_s=2.0)

    def ask(number: int) -> bool:
        shop = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        said = [{"role": "user", "content": str(number)}]
        reply = shop.chat.completions.create(model="shop", messages=said, user=f"u{number}")
        arm = "candidate" if number % 4 == 3 else "baseline"
        return reply.choices[0].message.content == f"{arm} to {number}"

    with listening(app(router)) as address, ThreadPoolExecutor(clients) as crowd:
        right = sum(crowd.map(ask, range(clients)))
    failures = [entry for entry in router.log.read() if entry["kind"] == "answered" and entry["error"]]
    return right, len(failures)
