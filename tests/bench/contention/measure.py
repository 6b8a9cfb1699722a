"""A gateway whose lane is full, and two tenants who always have requests in line."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
import urllib.request
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fairgate.engines.process import free_port
from tests.bench.contention.engine import Times
from tests.bench.contention.figures import (
    Contention,
    grant_latencies_s,
    idle_share,
    latency_quantiles_ms,
    most_at_once,
)
from tests.bench.hotpath.cases import SMALL
from tests.bench.hotpath.subjects import CHAT, KEYS, ROOT, gateway_command, imported_from
from tests.bench.parts.load import Fleet, Timing, ask_once, request_bytes
from tests.bench.parts.processes import Process, allow_open_files, running, until_ready
from tests.bench.parts.valkey import Valkey, valkey

_OPEN_FILES = 16_384


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    waiting: int = 1_000
    """Requests in line."""
    sequences: int = 64
    service_s: float = 0.5
    """Mean; each takes half of it to half as much again."""
    seconds: float = 15.0
    warm_up_s: float = 3.0
    package: Path = ROOT
    """The folder with the ``fairgate`` to measure."""


async def measure(plan: Plan) -> Contention:
    """Raises ``RuntimeError`` for a gateway that does not serve."""
    allow_open_files(_OPEN_FILES)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = await stack.enter_async_context(valkey())
        engine_port, port = free_port(), free_port()
        engine = stack.enter_context(running(_engine(engine_port, plan), folder / "engine.log"))
        await until_ready(engine, lambda: _times(engine_port))
        command = gateway_command(
            folder, store.url, f"http://127.0.0.1:{engine_port}", port, sequences=plan.sequences
        )
        environ = imported_from(plan.package)
        gateway = stack.enter_context(running(command, folder / "gateway.log", environ))
        await until_ready(gateway, lambda: ask_once(port, _request(KEYS[0])))
        return await _contend(plan, gateway, store, engine_port, port)


async def _contend(
    plan: Plan, gateway: Process, store: Valkey, engine_port: int, port: int
) -> Contention:
    requests = [_request(key) for key in KEYS]
    async with await Fleet.open(port, plan.waiting + plan.sequences) as fleet:
        load = asyncio.create_task(fleet.drive(requests, seconds=3600))
        try:
            await _for(plan.warm_up_s, load)
            since, before = time.perf_counter(), (gateway.cpu_s(), store.process.cpu_s())
            await _for(plan.seconds, load)
            until, after = time.perf_counter(), (gateway.cpu_s(), store.process.cpu_s())
            times = await _times(engine_port)
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
    latencies = grant_latencies_s(times, plan.sequences, since, until)
    p50, p90, p99 = latency_quantiles_ms(latencies)
    return Contention(
        waiting=plan.waiting,
        sequences=plan.sequences,
        service_ms=plan.service_s * 1e3,
        grants=len(latencies),
        grant_p50_ms=p50,
        grant_p90_ms=p90,
        grant_p99_ms=p99,
        idle_share=idle_share(times, plan.sequences, since, until),
        most_at_once=most_at_once(times),
        cpu_us=(after[0] - before[0]) / len(latencies) * 1e6,
        store_us=(after[1] - before[1]) / len(latencies) * 1e6,
    )


async def _for(seconds: float, load: asyncio.Task[Timing]) -> None:
    """Let the load run on. Raises what it raises."""
    await asyncio.wait({load}, timeout=seconds)
    if load.done():
        load.result()


def _engine(port: int, plan: Plan) -> tuple[str, ...]:
    return (
        sys.executable, "-m", "tests.bench.contention.engine", str(port), str(plan.service_s),
    )  # fmt: skip


def _request(key: str) -> bytes:
    return request_bytes(CHAT, key, SMALL.body())


async def _times(port: int) -> Times:
    def fetch() -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/times", timeout=30) as answer:
            body: bytes = answer.read()
            return body

    return msgspec.json.decode(await asyncio.to_thread(fetch), type=Times)
