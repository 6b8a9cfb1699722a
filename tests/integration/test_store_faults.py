"""What goes wrong with a store under load: nobody is lost, nothing is given twice or stays."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from unittest.mock import patch

import pytest
from support.deaf import DeafLine
from support.gateway import LedgerView, eventually
from support.replicas import TOKENS, Engine, Load, Replica, ask, started
from support.store import Store

from fairgate.admission.model import Served

CAPACITY = 6
SERVED = Served(cost=float(TOKENS), tokens=TOKENS, void=False)

Fault = Callable[[Store, Load], Awaitable[None]]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def by_themselves(load: Load) -> None:
    await eventually(lambda: load.outcomes["local"] > 10)


async def killed(store: Store, load: Load) -> None:
    store.kill()
    await by_themselves(load)
    store.start()


async def restarted_soon(store: Store, load: Load) -> None:
    store.kill()
    store.start()


async def stopped(store: Store, load: Load) -> None:
    store.send(signal.SIGSTOP)
    await by_themselves(load)
    await asyncio.sleep(1.0)  # longer than the leases
    store.send(signal.SIGCONT)


async def slow(store: Store, load: Load) -> None:
    with store.client() as client:
        for _ in range(4):
            client.client_pause(250)  # milliseconds, in which it answers nobody
            await asyncio.sleep(0.3)


async def full(store: Store, load: Load) -> None:
    with store.client() as client:
        client.config_set("maxmemory", 1)
        await by_themselves(load)
        client.config_set("maxmemory", 0)


async def without_scripts(store: Store, load: Load) -> None:
    with store.client() as client:
        for _ in range(5):
            client.script_flush()
            await asyncio.sleep(0.05)


async def reset(store: Store, load: Load) -> None:
    with store.client() as client:
        for _ in range(5):
            client.client_kill_filter(_type="normal", skipme=True)
            await asyncio.sleep(0.1)


async def clock_jumps(store: Store, load: Load) -> None:
    """The gateways' clock; the store's is the one that counts."""
    for days in (2, -2):
        goal = load.taken + 10
        with patch("time.time", return_value=time.time() + days * 86_400):
            await eventually(lambda goal=goal: load.taken > goal)


KEEPS: dict[str, Fault] = {
    "killed, with an append-only file": killed,
    "killed and started at once, with an append-only file": restarted_soon,
    "stopped": stopped,
    "slow": slow,
    "full": full,
    "without scripts": without_scripts,
    "connections reset": reset,
    "there all the time, while the gateways' clock jumps": clock_jumps,
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
    load = await stack.enter_async_context(Load(replicas))
    await eventually(lambda: load.taken > 20)
    await KEEPS[fault](store, load)
    await back(store, load)
    await load.stop()
    assert set(load.outcomes) <= {"shared", "local"}
    await settled(ledger, engine)
    assert ledger.tokens() == load.served * TOKENS
    assert ledger.service() == load.served * TOKENS
    assert all(replica.admission.statistics().owed == 0 for replica in replicas)


async def test_a_store_that_returns_empty_is_told_what_it_missed(tmp_path, stack):
    store = stack.enter_context(Store(tmp_path))
    engine = Engine(CAPACITY)
    replicas = await started(stack, store.url, 3, engine)
    load = await stack.enter_async_context(Load(replicas))
    await eventually(lambda: load.taken > 20)
    store.kill()
    await by_themselves(load)
    forgotten = load.taken
    store.start()
    await back(store, load)
    await load.stop()
    assert set(load.outcomes) <= {"shared", "local"}
    with LedgerView(store.url, wipe=False) as ledger:
        await settled(ledger, engine)
        assert ledger.tokens() == (load.served - forgotten) * TOKENS


async def test_one_that_gets_no_replies_goes_on_within_the_share_that_is_set_aside(tmp_path, stack):
    """Its calls arrive, so that the store takes it for alive all the time."""
    store = stack.enter_context(Store(tmp_path))
    line = await stack.enter_async_context(DeafLine(tmp_path, store.url))
    engine = Engine(CAPACITY)
    deaf = await stack.enter_async_context(Replica(line.url, "g0", engine))
    other = await stack.enter_async_context(Replica(store.url, "g1", engine))
    await eventually(lambda: all(r.admission.pool.gateways == 2 for r in (deaf, other)))
    load = await stack.enter_async_context(Load([deaf, other], clients=2 * CAPACITY))
    await eventually(lambda: load.taken > 20)
    line.deaf = True
    await eventually(lambda: load.outcomes["local"] > 50)
    taken = load.taken
    await eventually(lambda: load.taken > taken + 50)  # the other one is served by the store
    line.deaf = False
    await back(store, load)
    await eventually(lambda: not deaf.admission.away)
    await load.stop()
    assert line.swallowed > 1
    assert set(load.outcomes) <= {"shared", "local"}
    with LedgerView(store.url, wipe=False) as ledger:
        await settled(ledger, engine)
        assert ledger.number("engine", "small:e0", "aside_seqs") == 0


async def test_what_ended_while_the_store_is_away_takes_up_no_room(tmp_path, stack):
    """All capacity was in use when it went."""
    store = stack.enter_context(Store(tmp_path))
    (replica,) = await started(stack, store.url, 1, Engine(2))
    before = [await replica.acquire(ask()) for _ in range(2)]
    store.kill()
    for grant in before:
        replica.settle(grant, SERVED)
    meanwhile = [await replica.acquire(ask(timeout_s=10.0)) for _ in range(2)]
    assert [grant.degraded for grant in meanwhile] == ["local", "local"]
    for grant in meanwhile:
        await replica.settle(grant, SERVED)
