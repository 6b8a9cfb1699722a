"""A pool with ever more engines, then with ever more tenants; what each costs store and gateway."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import Iterator, Sequence

import msgspec

from fairgate.admission.ledger import Ledger, settings_of
from fairgate.admission.link import Link
from fairgate.admission.model import Ask, EngineReport, Served
from fairgate.config import Config, Queue, Tenant
from fairgate.config.policy import resolve_policy
from fairgate.identity import Identity
from tests.bench.scheduling.server import Server

BEATS = 30
_LANE = "lane"
AT_ONCE = 64


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """One heartbeat of one gateway, the best of :data:`BEATS`."""

    engines: int
    store_us: float
    """CPU of the server."""
    gateway_us: float
    """CPU of this process: to tell, to send, to read."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """Tenants that were served once and went idle."""

    tenants: int
    store_bytes: float
    """Of the ledger, for each."""
    gateway_bytes: float
    """Of a gateway's memory, for each tenant with a key."""
    reload_ms: float
    """CPU to take up a configuration of so many."""
    admit_us: float
    """CPU of the server for one admission and settlement, with all those accounts there."""


async def beats(link: Link, server: Server, sizes: Sequence[int]) -> list[Beat]:
    """For each number of engines."""
    return [await _beat(link, server, engines) for engines in sizes]


async def _beat(link: Link, server: Server, engines: int) -> Beat:
    await server.empty()
    ledger = Ledger(link, f"e{engines}", "g0")
    told = reports(engines)
    costs = []
    for _ in range(BEATS):
        store, own = await server.cpu_s(), time.process_time()
        for _ in range(4):
            await renew(ledger, told)
        costs.append(((await server.cpu_s() - store) / 4, (time.process_time() - own) / 4))
    return Beat(
        engines=engines,
        store_us=1e6 * min(store for store, _ in costs[1:]),
        gateway_us=1e6 * min(own for _, own in costs[1:]),
    )


def reports(engines: int) -> list[EngineReport]:
    return [
        EngineReport(_LANE, f"engine-{n}", True, 256, 500_000, n % 7 / 10) for n in range(engines)
    ]


async def renew(ledger: Ledger, reports: Sequence[EngineReport]) -> None:
    await ledger.renew(
        lease_s=3600,
        settings=settings_of(resolve_policy("fairserve"), {_LANE: Queue()}, {_LANE: 0.0}),
        queues={_LANE: Queue()},
        engines=reports,
    )


async def accounts(link: Link, server: Server, sizes: Sequence[int]) -> list[Account]:
    """For each number of tenants."""
    return [await _account(link, server, tenants) for tenants in sizes]


async def _account(link: Link, server: Server, tenants: int) -> Account:
    await server.empty()
    ledger = Ledger(link, f"t{tenants}", "g0")
    await renew(ledger, reports(1))
    names = [f"tenant-{n}" for n in range(tenants)]
    await serve_all(ledger, names[:AT_ONCE])
    before = await server.memory()
    for part in parts(names[AT_ONCE:]):
        await serve_all(ledger, part)
    stored = (await server.memory() - before) / max(1, tenants - AT_ONCE)
    costs = []
    for _ in range(BEATS):
        cpu = await server.cpu_s()
        await serve_all(ledger, names[-AT_ONCE:])
        costs.append((await server.cpu_s() - cpu) / len(names[-AT_ONCE:]))
    held, reload_s = _configured(names)
    return Account(
        tenants=tenants, store_bytes=stored, gateway_bytes=held / tenants,
        reload_ms=1e3 * reload_s, admit_us=1e6 * min(costs),
    )  # fmt: skip


def parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(names), AT_ONCE):
        yield names[first : first + AT_ONCE]


async def serve_all(ledger: Ledger, tenants: Sequence[str]) -> None:
    await asyncio.gather(*(_serve(ledger, tenant) for tenant in tenants))


async def _serve(ledger: Ledger, tenant: str) -> None:
    request_id = f"{tenant}-{time.perf_counter_ns()}"
    ask = Ask(
        id=request_id, tenant=tenant, user="u", app="chat", lanes=((_LANE, 1.0),), cost=400.0,
        tokens=300, kv_tokens=300,
    )  # fmt: skip
    await ledger.admit(ask)
    served = Served(cost=400.0, tokens=300, output_tokens=100, prompt_tokens=200, void=False)
    await ledger.settle(request_id, served)


def _configured(names: Sequence[str]) -> tuple[int, float]:
    """Bytes that a gateway holds for so many tenants, and seconds that taking them up takes."""
    tenants = {name: {"keys": [{"sha256": f"{number:064x}"}]} for number, name in enumerate(names)}
    began = time.process_time()
    Identity(_config(tenants))
    reload_s = time.process_time() - began
    tracemalloc.start()
    kept = Identity(_config(tenants))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return held, reload_s


def _config(tenants: object) -> Config:
    return Config(pools={}, tenants=msgspec.convert(tenants, dict[str, Tenant]))
