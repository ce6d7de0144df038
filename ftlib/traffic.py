"""Traffic for a rehearsal: requests that come at their own times, from users who wait for their own answer only.

A test that asks one question after the other never sees a queue. A replay keeps the gaps between requests, so that
what arrives together waits together; `faster` shortens a day to a coffee break.

Left out on purpose: load tests (how many requests a server can take is a question for its own tools).
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """A message on its way.

    Attributes:
        minute: when it comes, in minutes of the day.
        user: who sends it; the split of a rollout goes by this.
        key: sent as Idempotency-Key; the same key again gets the same answer.
        messages: the chat, as the API takes it.
    """

    minute: float
    user: str
    key: str
    messages: list[dict]


def replay(address: str, requests: Sequence[Request], *, faster: float = 1.0, max_tokens: int = 56) -> list[str]:
    """Send requests to an OpenAI-compatible address at their times, counted from the first one.

    Args:
        address: without /v1.
        requests: in any order.
        faster: how many times as fast as they came.
        max_tokens: of each answer; the temperature is 0, which servers do not do by themselves.

    Returns:
        The texts, in the order of `requests`.

    Raises:
        ValueError: `faster` is not above 0.
        openai.APIError: a request that got no answer.
    """
    import openai

    if not faster > 0:
        raise ValueError(f"faster: expected a number above 0, got {faster}")
    shop = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=600)
    start, first = time.monotonic(), min((request.minute for request in requests), default=0.0)

    def send(request: Request) -> str:
        time.sleep(max(0.0, start + (request.minute - first) * 60 / faster - time.monotonic()))
        reply = shop.chat.completions.create(
            model="shop",
            messages=request.messages,
            user=request.user,
            max_tokens=max_tokens,
            temperature=0,
            extra_headers={"Idempotency-Key": request.key},
        )
        return reply.choices[0].message.content

    with ThreadPoolExecutor(max(1, len(requests))) as users:
        return list(users.map(send, requests))
