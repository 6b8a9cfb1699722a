"""Several gateway processes on one port: one ledger, one set of engines, one set of metrics."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.gateway import (
    Gateway,
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

CHAT = "/v1/chat/completions"
WORKERS = 2


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedEngine]:
    """An engine that writes a hundred tokens per second."""
    with engine(tmp_path_factory.mktemp("workers"), "--speed", "2") as it:
        yield it


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """Every request on a connection of its own: the kernel chooses the worker anew."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        yield session


def serving(folder: Path, settings: dict[str, Any]) -> Any:
    return gateway(folder, settings, "--workers", str(WORKERS))


async def post(http: aiohttp.ClientSession, gate: Gateway, body: Any, name: str = "acme") -> int:
    async with http.post(gate.url + CHAT, json=body, headers=bearer(name)) as answer:
        await answer.read()
        return answer.status


async def both_serve(http: aiohttp.ClientSession, gate: Gateway) -> int:
    """Send requests until each worker has logged one, and all are logged; how many they were."""
    sent = 0

    async def done() -> bool:
        nonlocal sent
        sent += 1
        assert await post(http, gate, chat(max_tokens=1)) == 200
        return {line["worker"] for line in gate.logs("request")} == set(range(WORKERS))

    await eventually(done)
    await eventually(lambda: len(gate.logs("request")) == sent)
    return sent


def children(pid: int) -> dict[int, str]:
    """Processes that ``pid`` has started, with their command lines."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(p): Path(f"/proc/{p}/cmdline").read_text().replace("\0", " ") for p in listed}


def workers_of(gate: Gateway) -> list[int]:
    return [p for p, line in children(gate.process.pid).items() if "workers.worker" in line]


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


async def test_workers_share_the_port_the_store_and_the_engines(tmp_path, http):
    simulated = {"type": "simulated", "max_num_seqs": 3, "speed": 20}
    with serving(tmp_path, config({"small": {"model": "tiny", "engines": [simulated]}})) as gate:
        await both_serve(http, gate)
        started = children(gate.process.pid)
        assert sum("valkey-server" in line for line in started.values()) == 1
        assert sum("fairgate.engines.simulated" in line for line in started.values()) == 1
        assert len(workers_of(gate)) == WORKERS

        async def know_each_other() -> bool:  # by their next heartbeats
            told = await metrics(http, gate.url)
            return told["fairgate_gateways{pool=main}"] == WORKERS

        await eventually(know_each_other)
        told = await metrics(http, gate.url)
        assert told["fairgate_lane_limit_sequences{lane=small,pool=main}"] == 3  # not twice
    assert not any(map(is_alive, started))


async def test_capacity_is_shared_and_fair_over_workers(tmp_path, slow, http):
    """What runs at the engine never exceeds the lane, whichever worker admits it."""
    names = ("one", "two")
    settings = config(
        {"small": lane(slow.url, max_num_seqs=2)}, tenants={name: tenant(name) for name in names}
    )
    with serving(tmp_path, settings) as gate:
        body = long_chat(20)
        calls = [asyncio.create_task(post(http, gate, body, names[i % 2])) for i in range(12)]
        most = 0.0
        while not all(call.done() for call in calls):
            most = max(most, await running(http, slow.url))
            await asyncio.sleep(0.02)
        assert [call.result() for call in calls] == [200] * len(calls)
        assert most == 2
        lines = gate.logs("request")
        assert {line["worker"] for line in lines} == set(range(WORKERS))
        assert any(line["queue_ms"] > 0 for line in lines)


async def test_metrics_of_all_workers_come_from_any_of_them(tmp_path, slow, http):
    with serving(tmp_path, config({"small": lane(slow.url)})) as gate:
        sent = await both_serve(http, gate)
        for _ in range(6):
            told = await metrics(http, gate.url)
            counted = {k: v for k, v in told.items() if k.startswith("fairgate_requests_total")}
            assert len(counted) == WORKERS
            assert all("worker=" in name for name in counted)
            assert sum(counted.values()) == sent


async def test_a_worker_that_dies_is_replaced_and_its_capacity_freed(tmp_path, slow, http):
    with serving(tmp_path, config({"small": lane(slow.url, max_num_seqs=1)})) as gate:
        await both_serve(http, gate)
        before = set(workers_of(gate))
        stream = asyncio.create_task(post(http, gate, long_chat(4000, stream=True)))

        async def runs() -> bool:
            return await running(http, slow.url) == 1

        await eventually(runs)
        for victim in before:  # one of them holds the only sequence
            os.kill(victim, signal.SIGKILL)
        with pytest.raises(aiohttp.ClientError):
            await stream
        await eventually(lambda: len(workers_of(gate)) == WORKERS)
        assert not before & set(workers_of(gate))

        async def serves_again() -> bool:
            try:
                return await post(http, gate, chat(max_tokens=1)) == 200
            except aiohttp.ClientConnectionError:
                return False  # nobody listens yet

        await eventually(serves_again)
        assert [line["status"] for line in gate.logs("worker ended")] == [-9, -9]


async def test_sigterm_lets_streams_of_every_worker_end(tmp_path, slow, http):
    many = 16  # so that all but certainly each worker gets one
    with serving(tmp_path, config({"small": lane(slow.url, max_num_seqs=many)})) as gate:
        streams = [asyncio.create_task(whole(http, gate, long_chat(200))) for _ in range(many)]

        async def all_run() -> bool:
            return await running(http, slow.url) == len(streams)

        await eventually(all_run)
        gate.send(signal.SIGTERM)
        assert all(await asyncio.gather(*streams))
        assert await asyncio.to_thread(gate.wait) == 0
        assert {line["worker"] for line in gate.logs("request")} == set(range(WORKERS))


async def whole(http: aiohttp.ClientSession, gate: Gateway, body: dict[str, Any]) -> bool:
    """Whether its stream came to its end."""
    async with http.post(
        gate.url + CHAT, json={**body, "stream": True}, headers=bearer()
    ) as answer:
        return answer.status == 200 and (await answer.read()).endswith(b"data: [DONE]\n\n")


async def test_a_second_signal_does_not_wait(tmp_path, slow, http):
    with serving(tmp_path, config({"small": lane(slow.url)})) as gate:
        stream = asyncio.create_task(whole(http, gate, long_chat(4000)))

        async def runs() -> bool:
            return await running(http, slow.url) == 1

        await eventually(runs)
        gate.send(signal.SIGTERM)
        await asyncio.sleep(0.3)
        assert gate.process.poll() is None
        gate.send(signal.SIGTERM)
        assert await asyncio.to_thread(gate.wait) == 0
        with pytest.raises(aiohttp.ClientError):
            await stream


async def test_workers_end_with_a_supervisor_that_is_killed(tmp_path, slow, http):
    with serving(tmp_path, config({"small": lane(slow.url)})) as gate:
        left = [*children(gate.process.pid)]
        assert len(left) > WORKERS
        gate.process.kill()
        gate.wait()
        await eventually(lambda: not any(map(is_alive, left)))


async def test_a_reload_reaches_every_worker_and_those_that_come_later(tmp_path, slow, http):
    lanes = {"small": lane(slow.url)}
    with serving(tmp_path, config(lanes)) as gate:
        assert await post(http, gate, chat(max_tokens=1), "newcomer") == 401
        both = {name: tenant(name) for name in ("acme", "newcomer")}
        gate.write(config(lanes, tenants=both))
        gate.send(signal.SIGHUP)
        await eventually(lambda: gate.logs("config_reloaded"))

        async def known_by_all() -> bool:
            statuses = [await post(http, gate, chat(max_tokens=1), "newcomer") for _ in range(8)]
            return statuses == [200] * 8

        await eventually(known_by_all)
        for victim in workers_of(gate):
            os.kill(victim, signal.SIGKILL)

        async def known_by_successors() -> bool:
            try:
                return await known_by_all()
            except aiohttp.ClientConnectionError:
                return False

        await eventually(lambda: len(gate.logs("worker ended")) == WORKERS)
        await eventually(known_by_successors)


def test_an_address_in_use_is_told_at_once(tmp_path, slow):
    settings = config({"small": lane(slow.url)})
    with serving(tmp_path / "first", settings) as first:
        second = Gateway(
            tmp_path / "second", settings, "--workers", "2", "--port", str(first.port), cwd=None
        )
        assert second.wait() == 1
        assert "address already in use" in second.text().lower()


def test_engines_that_live_in_one_process_are_refused(tmp_path):
    inside = {"type": "vllm-inprocess", "model": "nowhere"}
    settings = config({"small": {"model": "tiny", "engines": [inside]}})
    it = Gateway(tmp_path, settings, "--workers", "2", cwd=None)
    assert it.wait() == 1
    assert "pools.main.lanes.small.engines[0]: type 'vllm-inprocess'" in it.text()
