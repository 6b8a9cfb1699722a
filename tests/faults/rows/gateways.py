"""A gateway is killed, stops, or leaves as told."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.faults.faults import Harm, Registry
from tests.faults.site import HEARTBEAT_S, Gate, Site

gateways = Registry()
_LEASE_S = 5 * HEARTBEAT_S
_PATIENCE_S = _LEASE_S + 10


@gateways.add(
    "gateway killed", "its leases and places are free within the heartbeat TTL", lasts_s=3
)
@asynccontextmanager
async def killed(site: Site) -> AsyncIterator[Harm]:
    gate, harm = _one_of(site), Harm()
    await gate.kill()
    watching = asyncio.create_task(_freed(site, harm))
    yield harm
    await watching
    await gate.start()


@gateways.add(
    "gateway stopped 10 s", "it returns without using what was given to others", lasts_s=10
)
@asynccontextmanager
async def stopped(site: Site) -> AsyncIterator[Harm]:
    gate = _one_of(site)
    gate.program.send(signal.SIGSTOP)
    await asyncio.sleep(0.3)  # by then what it had sent has begun
    await asyncio.gather(*(engine.disown() for engine in site.engines))
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


@gateways.add(
    "gateway cut off from the store",
    "one of several: it goes on within its share, which nobody else has",
    lasts_s=7, store="relayed",
)  # fmt: skip
@asynccontextmanager
async def cut_off(site: Site) -> AsyncIterator[Harm]:
    """For less than a lease, in which its share is set aside."""
    gate, harm = _one_of(site), Harm()
    proxy = site.proxies[site.gates.index(gate)]
    before = await gate.degraded()
    await proxy.order("hold")
    try:
        yield harm
    finally:
        await proxy.order("pass")
    alone = await gate.degraded() - before
    harm.remarks.append(f"it served {alone} requests by itself, its share less what it had granted")


async def _restart(gate: Gate, harm: Harm) -> None:
    status = await gate.stop()
    if status:
        harm.notes.append(f"{gate.program.name} ended with status {status}")
    await gate.start()


def _one_of(site: Site) -> Gate:
    return site.random.choice(site.gates)


async def _freed(site: Site, harm: Harm) -> None:
    """Wait until nothing is held for the gateway that was killed; say how long that took."""
    began, left = time.monotonic(), "the store does not answer"
    while time.monotonic() < began + _PATIENCE_S:
        if seen := await site.look():
            theirs = {*seen.held, *seen.waiting} - seen.gateways.keys()
            if len(seen.gateways) < len(site.gates) and not theirs:
                took_s = time.monotonic() - began
                harm.remarks.append(f"all was free {took_s:.1f} s later, lease {_LEASE_S:g} s")
                return
            left = f"{len(seen.gateways)} gateways count, those of {theirs} hold something"
        await asyncio.sleep(0.1)
    harm.notes.append(f"the dead gateway's capacity did not come back: {left}")
