"""A flood through a gateway that goes on while a test looks at it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import aiohttp

from support.gateway import bearer, long_chat


@contextmanager
def flood(url: str, at_once: Mapping[str, int], *, tokens: int = 20) -> Iterator[None]:
    """Each tenant keeps so many requests going, until the context ends."""
    ended = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_send(url, at_once, tokens, ended)))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


async def _send(url: str, at_once: Mapping[str, int], tokens: int, ended: threading.Event) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        tasks = [
            asyncio.create_task(_repeat(http, url, tenant, tokens))
            for tenant, count in at_once.items()
            for _ in range(count)
        ]
        await asyncio.to_thread(ended.wait)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _repeat(http: aiohttp.ClientSession, url: str, tenant: str, tokens: int) -> None:
    while True:
        try:
            target = f"{url}/v1/chat/completions"
            async with http.post(target, json=long_chat(tokens), headers=bearer(tenant)) as answer:
                await answer.read()
        except aiohttp.ClientError:
            await asyncio.sleep(0.1)  # the gateway is being restarted
