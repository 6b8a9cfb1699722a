"""One point of a sweep: fills a pool and measures it while as many wait as before."""

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

ROUNDS = 6


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
class Case:
    """What to measure: one size of a sweep, under one policy, with so many lanes."""

    sweep: Sweep
    policy: Preset
    lanes: int
    n: int


async def measure(case: Case, url: str, server: Server, pairs: int) -> Point:
    """Measure ``case`` over :data:`ROUNDS` rounds of ``pairs`` pairs each; empties the store."""
    await server.empty()
    link = Link(url, timeout_s=30.0)
    try:
        pool = Pool(link, case.sweep.population(case.n), case.policy, case.lanes)
        before = await server.memory()
        await pool.fill()
        grown = await server.memory() - before
        await pool.turn(pairs)  # the first ones are not like those that follow
        rounds = [await _round(pool, server, pairs) for _ in range(ROUNDS)]
        singles = [await _singly(pool, server, max(8, pairs // 8)) for _ in range(ROUNDS)]
        waiting = await pool.renew()
    finally:
        await link.close()
    return Point(
        sweep=case.sweep.name,
        policy=case.policy,
        lanes=case.lanes,
        n=case.n,
        waiting=waiting,
        pair_cpu_us=min(cpu for cpu, _, _ in rounds),
        scripts_per_s=max(rate for _, rate, _ in rounds),
        calls_per_pair=median(calls for _, _, calls in rounds),
        bytes_per_waiting=grown / waiting,
        **{f"{name}_us": min(median(times[name]) for times in singles) for name in SCRIPTS},
    )


async def _round(pool: Pool, server: Server, pairs: int) -> tuple[float, float, float]:
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
