"""Replicas of the admission under load, on one engine that sees what they really run."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any, Self

from fairgate.admission.grants import GrantListener
from fairgate.admission.ledger import Ledger
from fairgate.admission.link import Link
from fairgate.admission.local import LocalGate
from fairgate.admission.locating import locator_of
from fairgate.admission.model import Ask, EngineReport, Grant, Served
from fairgate.admission.queue import Admission
from fairgate.config import Queue
from fairgate.config.policy import resolve_policy
from fairgate.errors import Refusal, StoreError
from support.gateway import eventually

POOL = "main"
TOKENS = 10
HEARTBEAT_S = 0.2
TIMEOUT_S = 0.5

_numbers = itertools.count()


class Engine:
    """Counts what runs on it, from outside of fairgate."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.running = 0
        self.most = 0

    def __enter__(self) -> None:
        self.running += 1
        self.most = max(self.most, self.running)

    def __exit__(self, *_: object) -> None:
        self.running -= 1


class Replica:
    """One gateway's admission with its fallback."""

    def __init__(
        self, url: str, name: str, engine: Engine, *, pool: str = POOL, on_failure: str = "local"
    ) -> None:
        self.engine = engine
        self.name = name
        self._pool = pool
        self._link = Link(locator_of(url, pool), timeout_s=TIMEOUT_S)
        self.ledger = Ledger(self._link, pool, name)
        self.admission = self._make(self.ledger, self._capacity, on_failure)
        self.local = LocalGate(
            self.admission,
            self._capacity,
            lambda link, capacity: self._make(Ledger(link, pool, name), capacity, "closed"),
        )
        self._listener = GrantListener(
            locator_of(url, pool), self.ledger.channel, self.admission.take
        )

    def _make(self, ledger: Ledger, capacity: Any, on_failure: Any) -> Admission:
        return Admission(
            ledger,
            policy=resolve_policy("fairserve"),
            queues={"small": Queue(max_waiting=10_000)},
            capacity=capacity,
            heartbeat_s=HEARTBEAT_S,
            on_failure=on_failure,
        )

    def _capacity(self) -> list[EngineReport]:
        return [EngineReport("small", "e0", up=True, max_num_seqs=self.engine.capacity)]

    async def __aenter__(self) -> Self:
        self._listener.start()
        await self.admission.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.local.stop()
        await self.admission.stop()
        await self._listener.stop()
        await self._link.close()

    async def acquire(self, ask: Ask) -> Grant:
        """As a pool does."""
        try:
            return await self.admission.acquire(ask)
        except StoreError as error:
            return await self.local.acquire(ask, error.waited_s)

    def settle(self, grant: Grant, served: Served) -> asyncio.Future[Any]:
        if grant.degraded:
            return self.local.settle(grant, served)
        return self.admission.settle(grant.id, served)


def ask(tenant: str = "acme", **fields: Any) -> Ask:
    """A request of :data:`TOKENS` tokens."""
    defaults: dict[str, Any] = {
        "id": f"q{next(_numbers)}", "user": "u", "app": "chat", "lanes": (("small", 1.0),),
        "cost": float(TOKENS), "tokens": TOKENS, "kv_tokens": TOKENS,
    }  # fmt: skip
    return Ask(tenant=tenant, **(defaults | fields))


class Load:
    """Clients of several replicas, each with one request at a time, until :meth:`stop`."""

    def __init__(self, replicas: list[Replica], clients: int = 6) -> None:
        self.outcomes: Counter[str] = Counter()
        """``shared`` and ``local`` grants, and names of errors."""
        self.taken = 0
        """Requests whose settlement the shared store has confirmed."""
        self._ended = asyncio.Event()
        self._clients = [
            asyncio.create_task(self._client(replica)) for replica in replicas * clients
        ]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    @property
    def served(self) -> int:
        return self.outcomes["shared"] + self.outcomes["local"]

    async def stop(self) -> None:
        self._ended.set()
        await asyncio.gather(*self._clients)

    async def _client(self, replica: Replica) -> None:
        while not self._ended.is_set():
            try:
                grant = await replica.acquire(ask())
            except (Refusal, StoreError) as error:
                self.outcomes[type(error).__name__] += 1
                await asyncio.sleep(0.02)
                continue
            try:
                with replica.engine:
                    await asyncio.sleep(random.uniform(0.005, 0.03))
            finally:
                self.outcomes[grant.degraded or "shared"] += 1
                cost = Served(cost=float(TOKENS), tokens=TOKENS, void=False)
                settled = replica.settle(grant, cost)
                if not grant.degraded:
                    settled.add_done_callback(self._settled)

    def _settled(self, future: asyncio.Future[Any]) -> None:
        self.taken += not future.cancelled() and future.exception() is None


async def started(stack: AsyncExitStack, url: str, count: int, engine: Engine) -> list[Replica]:
    """So many replicas that know of each other."""
    replicas = [
        await stack.enter_async_context(Replica(url, f"g{i}", engine)) for i in range(count)
    ]
    await eventually(lambda: all(r.admission.pool.gateways == count for r in replicas))
    return replicas
