"""A gateway is killed, stops, or leaves as told."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.faults.faults import Harm, Registry
from tests.faults.site import HEARTBEAT_S, Gate, Site

gateways = Registry()
_LEASE_S = 5 * HEARTBEAT_S
_SLACK_S = 1.0


@gateways.add(
    "gateway killed", "its leases and places are free within the heartbeat TTL", lasts_s=3
)
@asynccontextmanager
async def killed(site: Site) -> AsyncIterator[Harm]:
    gate, harm = _one_of(site), Harm()
    before = await site.look()
    await gate.kill()
    watching = asyncio.create_task(_freed(site, set(before.gateways) if before else set(), harm))
    yield harm
    await gate.start()
    await watching


@gateways.add(
    "gateway stopped 10 s", "it returns without using what was given to others", lasts_s=10
)
@asynccontextmanager
async def stopped(site: Site) -> AsyncIterator[Harm]:
    gate = _one_of(site)
    gate.program.send(signal.SIGSTOP)
    try:
        yield Harm()
    finally:
        gate.program.send(signal.SIGCONT)


@gateways.add("gateway drained", "SIGTERM: streams end, nobody is cut off", lasts_s=1)
@asynccontextmanager
async def drained(site: Site) -> AsyncIterator[Harm]:
    gate, harm = _one_of(site), Harm()
    yield harm
    await _restart(gate, harm)


@gateways.add("rolling restart", "all gateways, one after the other", lasts_s=0.5)
@asynccontextmanager
async def rolled(site: Site) -> AsyncIterator[Harm]:
    harm = Harm(times=len(site.gates))
    yield harm
    for gate in site.gates:
        await _restart(gate, harm)


async def _restart(gate: Gate, harm: Harm) -> None:
    status = await gate.stop()
    if status:
        harm.notes.append(f"{gate.program.name} ended with status {status}")
    await gate.start()


def _one_of(site: Site) -> Gate:
    return site.random.choice(site.gates)


async def _freed(site: Site, before: set[str], harm: Harm) -> None:
    """Whether exactly one gateway's leases and places were gone in time."""
    await asyncio.sleep(_LEASE_S + HEARTBEAT_S + _SLACK_S)
    seen = await site.look()
    if seen is None:
        harm.notes.append("the store did not answer")
        return
    alive = set(seen.gateways)
    theirs = sum(len(ids) for name, ids in seen.held.items() if name not in alive)
    theirs += sum(len(ids) for name, ids in seen.waiting.items() if name not in alive)
    if theirs or alive >= before:
        harm.notes.append(f"the dead gateway still counts, {theirs} requests are held for it")
