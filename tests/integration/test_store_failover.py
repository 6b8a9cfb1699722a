"""Servers behind one address that take over from each other, under load."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from support.clusters import announce_move, cluster, move_slot, watched
from support.gateway import LedgerView, eventually
from support.replicas import TOKENS, Engine, Load, Replica, started

CAPACITY = 6


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def answered(load: Load, url: str, pool: str = "main") -> None:
    """Nobody was left without an answer, and nothing is left behind."""
    before = load.taken
    await eventually(lambda: load.taken > before + 20)
    await load.stop()
    assert set(load.outcomes) <= {"shared", "local"}
    with LedgerView(url, pool, wipe=False) as ledger:
        await eventually(ledger.idle)


async def test_a_master_that_is_killed_is_replaced_by_the_replica(tmp_path, stack):
    site = stack.enter_context(watched(tmp_path))
    engine = Engine(CAPACITY)
    replicas = await started(stack, site.url, 2, engine)
    load = await stack.enter_async_context(Load(replicas))
    await eventually(lambda: load.taken > 20)
    site.master.kill()
    await eventually(lambda: site.address() == site.replica.port)
    await answered(load, site.replica.url)
    assert engine.most <= CAPACITY


async def test_a_master_that_becomes_a_replica_is_left_for_the_new_one(tmp_path, stack):
    site = stack.enter_context(watched(tmp_path))
    engine = Engine(CAPACITY)
    replicas = await started(stack, site.url, 2, engine)
    load = await stack.enter_async_context(Load(replicas))
    await eventually(lambda: load.taken > 20)
    site.fail_over()
    await eventually(site.master_obeys)
    before = load.taken
    await answered(load, site.replica.url)
    with LedgerView(site.replica.url, wipe=False) as ledger:
        assert ledger.tokens() >= (load.taken - before) * TOKENS


async def test_pools_of_a_cluster_outlive_the_death_of_a_master(tmp_path, stack):
    site = stack.enter_context(cluster(tmp_path))
    pools = ["main", "chat", "batch", "agents"]
    assert len({site.master_of(pool).port for pool in pools}) > 1
    loads = {}
    for pool in pools:
        replica = Replica(site.url, "g0", Engine(CAPACITY), pool=pool)
        await stack.enter_async_context(replica)
        loads[pool] = await stack.enter_async_context(Load([replica]))
    await eventually(lambda: all(load.taken > 20 for load in loads.values()))
    dead = site.master_of("main")
    dead.kill()
    await eventually(lambda: site.master_of("main") is not dead)
    for pool, load in loads.items():
        await answered(load, site.master_of(pool).url, pool)


async def test_a_pool_follows_its_slot_to_another_node(tmp_path, stack):
    site = stack.enter_context(cluster(tmp_path))
    replica = await stack.enter_async_context(Replica(site.url, "g0", Engine(CAPACITY)))
    load = await stack.enter_async_context(Load([replica]))
    await eventually(lambda: load.taken > 20)
    source = site.master_of("main")
    target = next(node for node in site.masters if node is not source)
    move_slot(source, target, "main", site.masters)
    await answered(load, target.url)
    with LedgerView(target.url, wipe=False) as ledger:
        assert ledger.tokens() == load.served * TOKENS


async def test_no_script_ends_in_the_middle_while_a_slot_is_moved_key_by_key(tmp_path, stack):
    """Until all are moved the pool counts as away."""
    site = stack.enter_context(cluster(tmp_path))
    replica = await stack.enter_async_context(Replica(site.url, "g0", Engine(CAPACITY)))
    load = await stack.enter_async_context(Load([replica], clients=18))
    await eventually(lambda: load.taken > 20)
    source = site.master_of("main")
    target = next(node for node in site.masters if node is not source)
    announce_move(source, target, "main")
    await eventually(lambda: load.outcomes["local"] > 10)
    move_slot(source, target, "main", site.masters)
    await answered(load, target.url)
    with LedgerView(target.url, wipe=False) as ledger:
        assert ledger.tokens() == load.served * TOKENS
