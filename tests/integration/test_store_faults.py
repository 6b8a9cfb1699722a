"""What goes wrong with a store under load: nobody is lost, nothing is given twice or stays."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from support.gateway import LedgerView, eventually
from support.replicas import TOKENS, Engine, Load, started
from support.store import Store

CAPACITY = 6
AWAY_S = 0.8  # longer than a beat, so that replicas go by themselves

Fault = Callable[[Store], Awaitable[None]]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def killed(store: Store) -> None:
    store.kill()
    await asyncio.sleep(AWAY_S)
    store.start()


async def restarted_soon(store: Store) -> None:
    store.kill()
    store.start()


async def stopped(store: Store) -> None:
    store.send(signal.SIGSTOP)
    await asyncio.sleep(1.5)  # longer than its timeout, and than the leases
    store.send(signal.SIGCONT)


async def slow(store: Store) -> None:
    with store.client() as client:
        for _ in range(4):
            client.client_pause(250)  # milliseconds, in which it answers nobody
            await asyncio.sleep(0.3)


async def full(store: Store) -> None:
    with store.client() as client:
        client.config_set("maxmemory", 1)
        await asyncio.sleep(AWAY_S)
        client.config_set("maxmemory", 0)


async def without_scripts(store: Store) -> None:
    with store.client() as client:
        for _ in range(5):
            client.script_flush()
            await asyncio.sleep(0.05)


async def reset(store: Store) -> None:
    with store.client() as client:
        for _ in range(5):
            client.client_kill_filter(_type="normal", skipme=True)
            await asyncio.sleep(0.1)


BY_THEMSELVES = {"killed, with an append-only file", "stopped", "full"}
KEEPS: dict[str, Fault] = {
    "killed, with an append-only file": killed,
    "killed and started at once, with an append-only file": restarted_soon,
    "stopped": stopped,
    "slow": slow,
    "full": full,
    "without scripts": without_scripts,
    "connections reset": reset,
}


async def back(store: Store, load: Load) -> float:
    """Wait until the shared store serves again; seconds that took."""
    began, before = time.monotonic(), load.taken
    await eventually(lambda: load.taken > before + 10)
    return time.monotonic() - began


async def settled(ledger: LedgerView, engine: Engine) -> None:
    await eventually(ledger.idle)
    assert engine.most <= engine.capacity


@pytest.mark.parametrize("fault", KEEPS)
async def test_a_store_that_keeps_its_state_counts_everything_once(fault, tmp_path, stack):
    store = stack.enter_context(Store(tmp_path, appendonly="yes", appendfsync="always"))
    ledger = stack.enter_context(LedgerView(store.url, wipe=False))
    engine = Engine(CAPACITY)
    replicas = await started(stack, store.url, 3, engine)
    load = Load(replicas)
    await eventually(lambda: load.taken > 20)
    await KEEPS[fault](store)
    await back(store, load)
    await load.stop()
    assert set(load.outcomes) <= {"shared", "local"}
    assert fault not in BY_THEMSELVES or load.outcomes["local"] > 0
    await settled(ledger, engine)
    assert ledger.tokens() == load.served * TOKENS
    assert ledger.service() == load.served * TOKENS
    assert all(replica.admission.statistics().owed == 0 for replica in replicas)


async def test_a_store_that_returns_empty_is_told_what_it_missed(tmp_path, stack):
    store = stack.enter_context(Store(tmp_path))
    engine = Engine(CAPACITY)
    replicas = await started(stack, store.url, 3, engine)
    load = Load(replicas)
    await eventually(lambda: load.taken > 20)
    store.kill()
    await eventually(lambda: load.outcomes["local"] > 10)
    forgotten = load.taken
    store.start()
    await back(store, load)
    await load.stop()
    assert set(load.outcomes) <= {"shared", "local"}
    with LedgerView(store.url, wipe=False) as ledger:
        await settled(ledger, engine)
        assert ledger.tokens() == (load.served - forgotten) * TOKENS
