"""A store of several servers loses one, or hands the pool on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.faults.faults import Harm, Inject, Registry
from tests.faults.replicated import ClusterStore, Replicated
from tests.faults.site import Site

failover = Registry(recovers_s=2.0)


@asynccontextmanager
async def master_killed(site: Site) -> AsyncIterator[Harm]:
    """Its replica takes over; later it comes back as a replica itself."""
    assert isinstance(site.store, Replicated), "this fault needs a store of several servers"
    dead = await site.store.kill_master()
    yield Harm()
    await site.store.revive(dead)


@asynccontextmanager
async def slot_moved(site: Site) -> AsyncIterator[Harm]:
    """Gateways are answered ASK, TRYAGAIN and MOVED."""
    assert isinstance(site.store, ClusterStore), "this fault needs a cluster"
    await site.store.move_slot()
    yield Harm()


_killed: Inject = master_killed
failover.add(
    "Sentinel fails over",
    "the master is killed, its replica takes over",
    lasts_s=1,
    store="sentinel",
)(_killed)
failover.add("cluster's master killed", "its replica takes over", lasts_s=1, store="cluster")(
    _killed
)
failover.add(
    "cluster moves the pool", "its slot goes to another master", lasts_s=1, store="cluster"
)(slot_moved)
