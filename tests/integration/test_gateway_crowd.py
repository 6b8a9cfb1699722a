"""Four gateway processes on one pool: one dies, one stands still, one cannot reach the store."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
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
    metrics,
    running,
    tenant,
)
from support.store import Store

CAPACITY = 4


@dataclass
class Site:
    """Gateways before one engine, which would run more than they may give it."""

    gates: list[Gateway]
    engine: SimulatedEngine
    store: Store


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        store = stack.enter_context(Store(tmp_path / "store"))
        it = stack.enter_context(
            engine(tmp_path, "--max-num-seqs", "32", "--speed", "4"),
        )
        settings = config(
            {"small": lane(it.url, max_num_seqs=CAPACITY)},
            store=store.url,
            tenants={"acme": tenant("acme"), "few": tenant("few", limits={"concurrency": 8})},
        )
        gates = [stack.enter_context(gateway(tmp_path / f"g{i}", settings)) for i in range(4)]
        yield Site(gates, it, store)


async def post(
    http: aiohttp.ClientSession, gate: Gateway, body: Any, name: str = "acme"
) -> tuple[int, Any, Any]:
    url = f"{gate.url}/v1/chat/completions"
    async with http.post(url, json=body, headers=bearer(name)) as answer:
        return answer.status, answer.headers, json.loads(await answer.read())


async def watch(http: aiohttp.ClientSession, site: Site, seen: list[float]) -> None:
    """Look again and again at what the engine runs."""
    while True:
        seen.append(await running(http, site.engine.url))
        await asyncio.sleep(0.02)


async def test_four_gateways_lose_one_freeze_one_and_lose_their_store(site, http):
    first, second, *others = site.gates

    async def all_know() -> bool:
        told = [await metrics(http, gate.url) for gate in site.gates]
        return all(samples["fairgate_gateways{pool=main}"] == 4 for samples in told)

    await eventually(all_know)
    seen: list[float] = []
    watching = asyncio.create_task(watch(http, site, seen))
    try:
        await one_dies(site, http, first)
        await one_stands_still(site, http, second, others[0])
        await the_store_goes(site, http, [second, *others])
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert max(seen) <= CAPACITY


async def one_dies(site: Site, http: aiohttp.ClientSession, victim: Gateway) -> None:
    """With all of the capacity, and requests in line: the others have it back soon after."""
    held = [asyncio.create_task(post(http, victim, long_chat())) for _ in range(2 * CAPACITY)]
    with LedgerView(site.store.url, wipe=False) as ledger:
        await eventually(lambda: ledger.waiting() == CAPACITY)
        waiting = [
            asyncio.create_task(post(http, gate, chat(max_tokens=3), "few"))
            for gate in site.gates[1:] * 2
        ]
        await eventually(lambda: ledger.waiting() == CAPACITY + len(waiting))
        victim.process.kill()
        for outcome in await asyncio.gather(*held, return_exceptions=True):
            assert isinstance(outcome, aiohttp.ClientError)
        assert [(await request)[0] for request in waiting] == [200] * len(waiting)
        await eventually(ledger.idle)


async def one_stands_still(
    site: Site, http: aiohttp.ClientSession, victim: Gateway, other: Gateway
) -> None:
    """Longer than its leases: what waits at it is served once, when it goes on."""
    with LedgerView(site.store.url, wipe=False) as ledger:
        before = ledger.tokens()
        held = [asyncio.create_task(post(http, other, long_chat(300))) for _ in range(CAPACITY)]
        await eventually(lambda: ledger.in_use().get("engine:small:small-0 seqs") == CAPACITY)
        waiting = [asyncio.create_task(post(http, victim, chat(max_tokens=3))) for _ in range(6)]
        await eventually(lambda: ledger.waiting() == 6)
        victim.send(signal.SIGSTOP)
        try:
            await eventually(lambda: ledger.waiting() == 0)  # its lines do not outlive it
        finally:
            victim.send(signal.SIGCONT)
        answers = await asyncio.gather(*waiting, *held)
        assert [status for status, *_ in answers] == [200] * len(answers)
        await eventually(ledger.idle)
        used = sum(body["usage"]["total_tokens"] for *_, body in answers)
        assert ledger.tokens() - before == used


async def the_store_goes(site: Site, http: aiohttp.ClientSession, gates: list[Gateway]) -> None:
    """Each serves its share of the capacity and says so; the store learns of it when it returns."""
    site.store.kill()
    requests = [
        asyncio.create_task(post(http, gate, chat(max_tokens=3)))
        for gate in gates
        for _ in range(6)
    ]
    answers = [await request for request in requests]
    assert [status for status, *_ in answers] == [200] * len(answers)
    assert {headers["x-fairgate-degraded"] for _, headers, _ in answers} == {"local"}
    site.store.start()

    async def shared_again(gate: Gateway) -> bool:
        return "x-fairgate-degraded" not in (await post(http, gate, chat(max_tokens=1)))[1]

    extra = 0
    with LedgerView(site.store.url, wipe=False) as ledger:
        for gate in gates:
            while not await shared_again(gate):
                extra += 1
        await eventually(ledger.idle)
        served = len(answers) + extra + len(gates)
        await eventually(lambda: ledger.requests() == served)
    for gate in gates:
        samples = await metrics(http, gate.url)
        assert samples["fairgate_degraded_requests_total{tenant=acme}"] >= 6
        assert gate.logs("enforcing limits locally")
