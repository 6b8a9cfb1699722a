"""Two gateway processes that share one store: the embedded Valkey's binary, and Debian's Redis."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis
from support.gateway import (
    PATIENCE_S,
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

CAPACITY = 3
HEARTBEAT_S = 0.2


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A real Redis behind a socket; skips where there is none."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server: apt-get install redis-server")
    socket = folder / "redis.sock"
    options = {"port": "0", "unixsocket": str(socket), "save": "", "dir": str(folder)}
    command = [word for name, value in options.items() for word in (f"--{name}", value)]
    process = subprocess.Popen([binary, *command], stdout=subprocess.DEVNULL)
    try:
        _wait_for(f"unix://{socket}")
        yield f"unix://{socket}"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _wait_for(url: str) -> None:
    until = time.monotonic() + PATIENCE_S
    with redis.Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                assert time.monotonic() < until, "redis-server did not start"
                time.sleep(0.02)


@pytest.fixture(scope="module", params=["valkey", pytest.param("redis", marks=pytest.mark.redis)])
def store(
    request: pytest.FixtureRequest,
    valkey_server: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    if request.param == "valkey":
        yield valkey_server
        return
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@dataclass(frozen=True)
class Site:
    """Two gateways before one engine, which would run more than they may give it."""

    gates: tuple[Gateway, Gateway]
    engine: SimulatedEngine
    ledger: LedgerView
    settings: dict[str, Any]


@pytest.fixture(scope="module")
def site(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("replicas")
    with (
        engine(folder, "--max-num-seqs", "16", "--speed", "4") as it,
        LedgerView(store, "replicas") as ledger,
    ):
        settings = config(
            {"small": lane(it.url, max_num_seqs=CAPACITY)},
            store=store,
            pool="replicas",
            policy={"throttle": "always"},
            tenants={"acme": tenant("acme"), "rated": tenant("rated", limits={"rpm": 5})},
            store_fields={"heartbeat_s": HEARTBEAT_S},
        )
        with gateway(folder / "a", settings) as a, gateway(folder / "b", settings) as b:
            yield Site((a, b), it, ledger, settings)


async def post(http: aiohttp.ClientSession, gate: Gateway, body: Any, name: str = "acme") -> int:
    url = f"{gate.url}/v1/chat/completions"
    async with http.post(url, json=body, headers=bearer(name)) as answer:
        await answer.read()
        return answer.status


async def leave(requests: list[asyncio.Task[Any]]) -> None:
    for request in requests:
        request.cancel()
    await asyncio.gather(*requests, return_exceptions=True)


async def runs(site: Site, http: aiohttp.ClientSession, count: int) -> None:
    async def so_many() -> bool:
        return await running(http, site.engine.url) == count

    await eventually(so_many)


async def test_both_know_of_each_other(site, http):
    for gate in site.gates:

        async def two(gate: Gateway = gate) -> bool:
            return (await metrics(http, gate.url))["fairgate_gateways{pool=replicas}"] == 2

        await eventually(two)


async def test_together_they_never_exceed_the_engines_capacity(site, http):
    seen = []

    async def watch() -> None:
        while True:
            seen.append(await running(http, site.engine.url))

    watcher = asyncio.create_task(watch())
    body = chat(max_tokens=8, ignore_eos=True)
    statuses = await asyncio.gather(*(post(http, site.gates[i % 2], body) for i in range(60)))
    await leave([watcher])
    assert set(statuses) == {200}
    assert max(seen) == CAPACITY
    await eventually(site.ledger.idle)


async def test_a_rate_limit_counts_over_both(site, http):
    """Sixty seconds' worth: the window slides far more slowly than this test runs."""
    statuses = [await post(http, site.gates[i % 2], chat(max_tokens=1), "rated") for i in range(12)]
    assert statuses == [200] * 5 + [429] * 7


async def test_a_killed_gateways_capacity_comes_back(site, http, tmp_path):
    with gateway(tmp_path, site.settings) as doomed:
        held = [asyncio.create_task(post(http, doomed, long_chat())) for _ in range(CAPACITY)]
        await runs(site, http, CAPACITY)
        waiting = asyncio.create_task(post(http, site.gates[0], chat(max_tokens=1)))
        await eventually(lambda: site.ledger.waiting() == 1)
        doomed.process.kill()
        doomed.wait()
        killed = time.monotonic()
        assert await waiting == 200
        # Five heartbeats until it counts as dead, one until somebody looks; and a busy machine.
        assert time.monotonic() - killed < 6 * HEARTBEAT_S + 3
        await leave(held)
    await runs(site, http, 0)
    await eventually(site.ledger.idle)


async def test_grants_cross_at_once_and_not_with_the_next_heartbeat(site, http, tmp_path):
    """A pool of its own, with one sequence and heartbeats far apart."""
    pool = {"policy": "fairserve", "lanes": {"small": lane(site.engine.url, max_num_seqs=1)}}
    slow = {
        **site.settings,
        "pools": {"slow": pool},
        "store": {**site.settings["store"], "heartbeat_s": 60},
    }
    with gateway(tmp_path / "a", slow) as a, gateway(tmp_path / "b", slow) as b:
        held = asyncio.create_task(post(http, a, long_chat()))
        await runs(site, http, 1)
        waiting = asyncio.create_task(post(http, b, chat(max_tokens=1)))
        with LedgerView(site.settings["store"]["url"], "slow", wipe=False) as ledger:
            await eventually(lambda: ledger.waiting() == 1)
            await leave([held])
            async with asyncio.timeout(PATIENCE_S):
                assert await waiting == 200
            await eventually(ledger.idle)


async def test_a_gateway_that_leaves_hands_over_what_stands_in_its_line(site, http, tmp_path):
    """A rolling restart: its clients are told to come back, the others' go on."""
    with gateway(tmp_path, site.settings) as leaving:
        held = [asyncio.create_task(post(http, leaving, long_chat(400))) for _ in range(CAPACITY)]
        await runs(site, http, CAPACITY)
        other = asyncio.create_task(post(http, site.gates[1], chat(max_tokens=1)))
        await eventually(lambda: site.ledger.waiting() == 1)
        leaving.send(signal.SIGTERM)
        assert await asyncio.gather(*held) == [200] * CAPACITY
        assert await other == 200
        assert leaving.wait() == 0
    await eventually(site.ledger.idle)
