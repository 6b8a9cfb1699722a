"""One series: a pool for each size, measured by turns, while as many wait as before."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import msgspec

from fairgate.admission.link import Link
from fairgate.config import Preset
from tests.bench.scheduling.pool import PIPELINED, Pool
from tests.bench.scheduling.server import SCRIPTS, Server
from tests.bench.scheduling.sweeps import Sweep

ROUNDS = 10


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one population under one policy; a pair is one settlement and one admission.

    Microseconds are the server's. Each figure is that of the best round, which other processes on
    the machine disturbed least.
    """

    sweep: str
    policy: str
    lanes: int
    n: int
    """Of what the sweep counts."""
    waiting: int
    """Requests in line."""
    pair_cpu_us: float
    """CPU of the server process, with reading commands and writing replies."""
    scripts_per_s: float
    """Pipelined over one connection, as this client and this machine are able to."""
    admit_us: float
    """Of one call, as the three that follow: median of the round."""
    settle_us: float
    cancel_us: float
    renew_us: float
    calls_per_pair: float
    """Commands that the two scripts call."""
    bytes_per_waiting: float
    """Memory, with the accounts of idle tenants."""


@dataclass(frozen=True, slots=True)
class Series:
    """The sizes of one sweep, under one policy, with so many lanes."""

    sweep: Sweep
    policy: Preset
    lanes: int


class _Size:
    """One size of a series: its pool, and what its rounds have given."""

    def __init__(self, series: Series, n: int, link: Link) -> None:
        self._series = series
        self._n = n
        self._pool = Pool(link, f"n{n}", series.sweep.population(n), series.policy, series.lanes)
        self._memory = 0
        self._rounds: list[tuple[float, float, float]] = []
        self._singles: list[dict[str, list[int]]] = []

    async def prepare(self, server: Server, pairs: int) -> None:
        before = await server.memory()
        await self._pool.fill()
        self._memory = await server.memory() - before
        await self._pool.turn(pairs)  # the first ones are not like those that follow

    async def round(self, server: Server, pairs: int) -> None:
        self._rounds.append(await _pipelined(self._pool, server, pairs))
        self._singles.append(await _singly(self._pool, server, max(8, pairs // 8)))

    async def point(self) -> Point:
        waiting = await self._pool.renew()
        return Point(
            sweep=self._series.sweep.name,
            policy=self._series.policy,
            lanes=self._series.lanes,
            n=self._n,
            waiting=waiting,
            pair_cpu_us=min(cpu for cpu, _, _ in self._rounds),
            scripts_per_s=max(rate for _, rate, _ in self._rounds),
            calls_per_pair=median(calls for _, _, calls in self._rounds),
            bytes_per_waiting=self._memory / waiting,
            **{
                f"{name}_us": min(median(times[name]) for times in self._singles)
                for name in SCRIPTS
            },
        )


async def measure(series: Series, limit: int, url: str, server: Server, pairs: int) -> list[Point]:
    """One point for each size up to ``limit``, over :data:`ROUNDS` rounds of ``pairs`` pairs.

    All sizes are there at once and take turns, so that a machine which is busy for a while disturbs
    them alike. Empties the store first.
    """
    await server.empty()
    link = Link(url, timeout_s=30.0)
    try:
        sizes = [_Size(series, n, link) for n in series.sweep.sizes(limit)]
        for size in sizes:
            await size.prepare(server, pairs)
        for _ in range(ROUNDS):
            for size in sizes:
                await size.round(server, pairs)
        return [await size.point() for size in sizes]
    finally:
        await link.close()


async def _pipelined(pool: Pool, server: Server, pairs: int) -> tuple[float, float, float]:
    """CPU microseconds per pair, scripts per second, inner commands per pair."""
    done = pairs // PIPELINED * PIPELINED
    calls, cpu, began = await server.inner_calls(), await server.cpu_s(), time.perf_counter()
    await pool.turn(pairs)
    wall, cpu = time.perf_counter() - began, await server.cpu_s() - cpu
    calls = await server.inner_calls() - calls
    return cpu / done * 1e6, 2 * done / wall, calls / done


async def _singly(pool: Pool, server: Server, pairs: int) -> dict[str, list[int]]:
    """Microseconds of each call, by script."""
    await server.log_scripts()
    await pool.turn_singly(pairs)
    await pool.give_up(pairs // 4)
    for _ in range(4):
        await pool.renew()
    return await server.logged()
