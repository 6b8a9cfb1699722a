"""The store goes away and comes back under a running gateway."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
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
)
from support.store import Store

TIMEOUT_S = 0.8  # of the store; the tests' configuration says so


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    it = Store(tmp_path)
    yield it
    it.kill()


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[SimulatedEngine]]:
    """Two engines that run one sequence each."""
    folder = tmp_path_factory.mktemp("store")
    options = ("--max-num-seqs", "4", "--speed", "2")
    with engine(folder, *options) as first, engine(folder, *options) as second:
        yield [first, second]


def settings_of(store: Store, engines: list[SimulatedEngine], on_failure: str) -> dict[str, Any]:
    lanes = {"small": lane(*(e.url for e in engines), max_num_seqs=1)}
    return config(lanes, store=store.url, store_fields={"on_failure": on_failure})


async def post(http: aiohttp.ClientSession, gate: Gateway, body: Any) -> tuple[int, Any, Any]:
    url = f"{gate.url}/v1/chat/completions"
    async with http.post(url, json=body, headers=bearer()) as answer:
        text = await answer.read()
        return answer.status, answer.headers, text if body.get("stream") else json.loads(text)


async def runs(http: aiohttp.ClientSession, engines: list[SimulatedEngine], count: int) -> None:
    async def so_many() -> bool:
        return sum([await running(http, e.url) for e in engines]) == count

    await eventually(so_many)


async def serves_again(http: aiohttp.ClientSession, gate: Gateway) -> None:
    async def answers() -> bool:
        status, headers, _ = await post(http, gate, chat(max_tokens=1))
        return status == 200 and "x-fairgate-degraded" not in headers

    await eventually(answers)


def outages(gate: Gateway) -> list[str]:
    """Turns of the store, as logged."""
    told = ("the store is away", "the store is back")
    return [line["event"] for line in gate.logs() if line["event"] in told]


async def refused_in_time(http: aiohttp.ClientSession, gate: Gateway, within_s: float) -> None:
    began = time.monotonic()
    status, headers, body = await post(http, gate, chat())
    assert time.monotonic() - began < within_s
    assert (status, body["error"]["code"]) == (503, "store_unavailable")
    assert 1 <= int(headers["retry-after"]) <= 120


async def test_a_killed_store_refuses_at_once_and_all_goes_on_when_it_returns(
    tmp_path, store, engines, http
):
    with gateway(tmp_path, settings_of(store, engines, "closed")) as gate:
        streams = [
            asyncio.create_task(post(http, gate, long_chat(200, stream=True))) for _ in engines
        ]
        await runs(http, engines, 2)
        waiting = asyncio.create_task(post(http, gate, chat(max_tokens=2)))
        with LedgerView(store.url, wipe=False) as ledger:
            await eventually(lambda: ledger.waiting() == 1)
        store.kill()
        for _ in range(5):
            await refused_in_time(http, gate, TIMEOUT_S + 1)
        store.start()
        # Streams under way notice nothing; who stood in line stands in line again.
        for stream in streams:
            status, _, body = await stream
            assert (status, body.endswith(b"data: [DONE]\n\n")) == (200, True)
        assert (await waiting)[0] == 200
        await serves_again(http, gate)
        with LedgerView(store.url, wipe=False) as ledger:
            await eventually(ledger.idle)
        assert outages(gate) == ["the store is away", "the store is back"]
        await eventually(lambda: owed(http, gate))


async def owed(http: aiohttp.ClientSession, gate: Gateway) -> bool:
    samples = await metrics(http, gate.url)
    assert samples["fairgate_store_up{pool=main}"] == 1
    return samples["fairgate_settlements_owed{pool=main}"] == 0


async def test_a_frozen_store_is_given_up_within_its_timeout(tmp_path, store, engines, http):
    with gateway(tmp_path, settings_of(store, engines, "closed")) as gate:
        store.send(signal.SIGSTOP)
        try:
            # The second one finds the connection closed and a server that greets nobody.
            for _ in range(3):
                await refused_in_time(http, gate, 2 * TIMEOUT_S + 1)
        finally:
            store.send(signal.SIGCONT)
        await serves_again(http, gate)


async def test_an_open_door_while_the_store_is_away(tmp_path, store, engines, http):
    with gateway(tmp_path, settings_of(store, engines, "open")) as gate:
        held = [asyncio.create_task(post(http, gate, long_chat())) for _ in engines]
        await runs(http, engines, 2)
        waiting = asyncio.create_task(post(http, gate, chat(max_tokens=2)))
        with LedgerView(store.url, wipe=False) as ledger:
            await eventually(lambda: ledger.waiting() == 1)
        store.kill()
        passing = [asyncio.create_task(post(http, gate, chat(max_tokens=2))) for _ in range(6)]
        used = set()
        for request in (waiting, *passing):
            status, headers, body = await request
            assert status == 200, body
            assert headers["x-fairgate-degraded"] == "open"
            assert body["usage"]["completion_tokens"] == 2
            used.add(headers["x-fairgate-engine"])
        assert used == {"small-0", "small-1"}
        for request in held:
            request.cancel()
        samples = await metrics(http, gate.url)
        assert samples["fairgate_degraded_requests_total{tenant=acme}"] == 7
        assert samples["fairgate_store_up{pool=main}"] == 0
        store.start()
        await serves_again(http, gate)
        with LedgerView(store.url, wipe=False) as ledger:
            await eventually(ledger.idle)
        assert outages(gate) == ["the store is away", "the store is back"]


async def test_an_open_door_leads_nowhere_without_an_engine(tmp_path, store, http):
    gone = config(
        {"small": lane("http://127.0.0.1:9")}, store=store.url, store_fields={"on_failure": "open"}
    )
    with gateway(tmp_path, gone, ready=False) as gate:
        store.kill()
        status, headers, body = await post(http, gate, chat())
        assert (status, body["error"]["code"]) == (503, "no_healthy_engine")
        assert 1 <= int(headers["retry-after"]) <= 120
