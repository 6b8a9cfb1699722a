"""Clients that leave: in line, before the answer, within a stream. The engine hears of it, nothing
stays reserved, and what was served is charged."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from support.gateway import (
    Gateway,
    LedgerView,
    SimulatedEngine,
    bearer,
    chat,
    config,
    engine,
    eventually,
    gateway,
    lane,
    long_chat,
    running,
    tenant,
)

TENANTS = ("acme", "leaver", "streamer", "waiter", "many")
POOL = "disconnect"


@dataclass(frozen=True)
class Site:
    """A gateway and its engine, which runs two sequences at a time."""

    gate: Gateway
    engine: SimulatedEngine
    ledger: LedgerView


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, valkey_server: str) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("disconnect")
    with engine(folder, "--max-num-seqs", "2", "--speed", "2") as it:
        settings = config(
            {"small": lane(it.url, max_num_seqs=2)},
            store=valkey_server,
            pool=POOL,
            tenants={name: tenant(name) for name in TENANTS},
        )
        with LedgerView(valkey_server, POOL) as ledger, gateway(folder, settings) as gate:
            yield Site(gate, it, ledger)


async def post(site: Site, http: aiohttp.ClientSession, body: Any, name: str) -> int:
    url = f"{site.gate.url}/v1/chat/completions"
    async with http.post(url, json=body, headers=bearer(name)) as answer:
        await answer.read()
        return answer.status


async def leave(request: asyncio.Task[Any]) -> None:
    """Close its connection."""
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)


async def runs(site: Site, http: aiohttp.ClientSession, count: int) -> None:
    """Wait until the engine runs so many sequences."""

    async def so_many() -> bool:
        return await running(http, site.engine.url) == count

    await eventually(so_many, within_s=5)


async def line_of(site: Site, name: str) -> dict[str, Any]:
    """The tenant's only access-log line."""

    def logged() -> list[dict[str, Any]]:
        return [line for line in site.gate.logs("request") if line["tenant"] == name]

    (line,) = await eventually(logged)
    return line


@asynccontextmanager
async def saturated(site: Site, http: aiohttp.ClientSession) -> AsyncIterator[None]:
    """While it lasts, the engine is full."""
    held = [asyncio.create_task(post(site, http, long_chat(), "acme")) for _ in range(2)]
    await runs(site, http, 2)
    try:
        yield
    finally:
        for request in held:
            await leave(request)


async def nothing_is_left(site: Site, http: aiohttp.ClientSession) -> None:
    await runs(site, http, 0)
    await eventually(site.ledger.idle)
    async with asyncio.timeout(5):
        assert await post(site, http, chat(max_tokens=2), "acme") == 200


async def test_who_leaves_the_line_pays_nothing(site, http):
    async with saturated(site, http):
        request = asyncio.create_task(post(site, http, chat(), "waiter"))
        await eventually(lambda: site.ledger.waiting() == 1)
        assert site.ledger.requests("waiter") == 1
        await leave(request)
        await eventually(lambda: site.ledger.waiting() == 0)
        assert site.ledger.tokens("waiter") == site.ledger.requests("waiter") == 0
    await nothing_is_left(site, http)
    line = await line_of(site, "waiter")
    assert (line["outcome"], line["service"], line["status"]) == ("client_gone", 0, 0)
    assert line["queue_ms"] > 0


async def test_who_leaves_a_stream_pays_for_what_came(site, http):
    url = f"{site.gate.url}/v1/chat/completions"
    seen = 0
    body = long_chat(4000, stream=True)
    async with http.post(url, json=body, headers=bearer("streamer")) as answer:
        async for event in answer.content:
            seen += b'"content":" ' in event
            if seen == 10:
                break
        answer.close()
    await nothing_is_left(site, http)
    line = await line_of(site, "streamer")
    assert (line["outcome"], line["status"]) == ("client_gone", 200)
    assert 10 <= line["output_tokens"] < 400
    assert site.ledger.tokens("streamer") == line["prompt_tokens"] + line["output_tokens"]
    assert site.ledger.requests("streamer") == 1


async def test_who_leaves_before_a_whole_answer_pays_for_the_time_it_ran(site, http):
    request = asyncio.create_task(post(site, http, long_chat(), "leaver"))
    await runs(site, http, 1)
    await leave(request)
    await nothing_is_left(site, http)
    line = await line_of(site, "leaver")
    assert line["outcome"] == "client_gone"
    assert site.ledger.tokens("leaver") == line["prompt_tokens"] + line["output_tokens"] > 0


async def test_who_leaves_within_the_body_is_not_waited_for(site, http):
    _, writer = await asyncio.open_connection("127.0.0.1", site.gate.port)
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n"
    key = bearer("acme")["authorization"]
    writer.write(f'{head}authorization: {key}\r\n\r\n{{"model":'.encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    gone = {"outcome": "client_gone", "prompt_tokens": 0, "engine": "-"}
    await eventually(
        lambda: any(gone.items() <= line.items() for line in site.gate.logs("request"))
    )
    await nothing_is_left(site, http)


async def test_a_crowd_that_leaves_at_any_moment_leaves_nothing_behind(site, http):
    rng = random.Random(7)

    async def usual() -> float:
        began = time.monotonic()
        await asyncio.gather(*(post(site, http, chat(max_tokens=5), "many") for _ in range(20)))
        return time.monotonic() - began

    longest_s = 2 * await usual()  # on this machine, as busy as it is now

    async def hasty() -> None:
        body = chat(max_tokens=5, stream=rng.random() < 0.5)
        request = asyncio.create_task(post(site, http, body, "many"))
        await asyncio.wait({request}, timeout=rng.uniform(0, longest_s))
        await leave(request)

    await asyncio.gather(*(hasty() for _ in range(80)))
    await nothing_is_left(site, http)
    outcomes = {line["outcome"] for line in site.gate.logs("request") if line["tenant"] == "many"}
    assert outcomes == {"completed", "client_gone"}
