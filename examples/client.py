"""A tenant's client that backs off by fairgate's headers. Needs: pip install openai

    FAIRGATE_URL=http://127.0.0.1:8080 FAIRGATE_KEY=fg-... python client.py MODEL

- Slows down before a limit is reached: once less than a quarter is left, it spreads what is left
  over the time until it is all there again (`x-ratelimit-*`).
- Comes back after a refusal when `Retry-After` says so, and a little later, never earlier.
- Keeps one interaction id through the calls of an agent's run (`x-fairgate-interaction`).
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import openai

SLOW_BELOW = 0.25
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def seconds(duration: str) -> float:
    """Of `x-ratelimit-reset-*`: `12ms`, `8.64s`, `6m0s`."""
    return sum(float(n) * UNITS[unit] for n, unit in re.findall(r"([\d.]+)(ms|h|m|s)", duration))


def pause_s(headers: Mapping[str, str], tokens: int) -> float:
    """Seconds to leave between two calls of about `tokens` tokens, by what is left."""
    pause = 0.0
    for kind, cost in (("requests", 1), ("tokens", max(tokens, 1))):
        if f"x-ratelimit-limit-{kind}" not in headers:
            continue  # not limited
        limit = int(headers[f"x-ratelimit-limit-{kind}"])
        left = int(headers[f"x-ratelimit-remaining-{kind}"])
        if left < limit * SLOW_BELOW:
            reset_s = seconds(headers[f"x-ratelimit-reset-{kind}"])
            pause = max(pause, reset_s * cost / (left + cost))
    return pause


def retry_after_s(error: openai.APIStatusError) -> float | None:
    """Seconds after which the call may be made again; `None`: it should not be."""
    headers = error.response.headers
    if "retry-after" not in headers or headers.get("x-should-retry") == "false":
        return None
    return float(headers["retry-after"])


class Client:
    """Chats with one gateway as one user; its calls may run side by side."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        user: str = "",
        app: str = "",
        tries: int = 10,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        named = {"x-fairgate-user": user, "x-fairgate-app": app}
        self._openai = openai.AsyncOpenAI(
            base_url=f"{url}/v1",
            api_key=key,
            max_retries=0,  # ours look at more than one header
            default_headers={name: value for name, value in named.items() if value},
        )
        self._tries = tries
        self._sleep = sleep
        self._turn = asyncio.Lock()
        self._pause_s = 0.0
        self._tokens = 0

    async def chat(
        self,
        model: str,
        messages: Iterable[Any],
        *,
        interaction: str = "",
        on_text: Callable[[str], None] = lambda text: None,
        **options: Any,
    ) -> str:
        """The answer's text, given to `on_text` piece by piece as it comes."""
        headers = {"x-fairgate-interaction": interaction} if interaction else {}
        create: Any = self._openai.chat.completions.with_raw_response.create
        for attempt in range(1, self._tries + 1):
            async with self._turn:  # one after the other, each with its distance
                await self._sleep(self._pause_s)
            try:
                answer = await create(
                    model=model,
                    messages=list(messages),
                    stream=True,
                    stream_options={"include_usage": True},
                    extra_headers=headers,
                    **options,
                )
            except openai.APIStatusError as error:
                wait_s = retry_after_s(error)
                if wait_s is None or attempt == self._tries:
                    raise
                await self._sleep(wait_s * random.uniform(1.0, 1.25))
            else:
                return await self._read(answer, on_text)
        raise ValueError(f"tries: expected at least 1, got {self._tries}")

    async def _read(self, answer: Any, on_text: Callable[[str], None]) -> str:
        self._pause_s = pause_s(answer.headers, self._tokens)
        text = ""
        async for chunk in answer.parse():
            if chunk.usage:
                self._tokens = chunk.usage.total_tokens
            for choice in chunk.choices:
                piece = choice.delta.content or ""
                text += piece
                on_text(piece)
        return text

    async def close(self) -> None:
        await self._openai.close()


async def main(model: str) -> None:
    """A small agent: three calls, one interaction."""
    client = Client(os.environ["FAIRGATE_URL"], os.environ["FAIRGATE_KEY"])
    run = str(uuid.uuid4())
    messages = [{"role": "user", "content": "Name a fern."}]
    began = time.monotonic()
    for question in ("Where does it grow?", "Is it rare?", ""):
        answer = await client.chat(
            model, messages, interaction=run, on_text=lambda text: print(text, end="", flush=True)
        )
        print()
        messages += [
            {"role": "assistant", "content": answer},
            {"role": "user", "content": question},
        ]
    print(f"done in {time.monotonic() - began:.1f} s")
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
