"""Admits by this replica's share of everything while the shared store is away.

The very same scripts decide, in a Valkey server of our own that is started when it is needed: one
policy, not a second one that only outages would test. It knows nothing of the past, so all tenants
begin level. When the shared store is back it is told what runs and charged what was served.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import structlog
from msgspec.structs import replace

from fairgate.admission.embedded import EmbeddedStore
from fairgate.admission.link import Link
from fairgate.admission.model import Arrears, Ask, EngineReport, Grant, Served
from fairgate.admission.places import Held
from fairgate.admission.queue import Admission
from fairgate.admission.share import less_held, share_of_limits
from fairgate.errors import StoreError

HEARTBEAT_S = 0.5
_TURNS = 10  # of one request between the two stores, should the shared one come and go
_TIMEOUT_S = 2.0
_MINUTE_S = 60.0

MakeGate = Callable[[Link, Callable[[], list[EngineReport]]], Admission]
"""An admission on that link, for engines of that capacity."""

log = structlog.get_logger("fairgate.admission")


class LocalGate:
    """The gate of one pool in one replica while the store is away.

    ``shared`` is the admission on the shared store, ``capacity`` tells the engines' whole capacity,
    ``make`` makes the admission on the store of our own. All methods belong to one event loop.
    """

    def __init__(
        self, shared: Admission, capacity: Callable[[], list[EngineReport]], make: MakeGate
    ) -> None:
        self._shared = shared
        self._capacity = capacity
        self._make = make
        self._open: asyncio.Task[_OpenGate] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._arrears: dict[tuple[str, ...], Arrears] = {}
        self._minute = 0
        self._stopped = False
        shared.elsewhere = self

    @property
    def admission(self) -> Admission | None:
        """The admission on the store of our own, where it is in force."""
        gate = self._opened()
        return gate.admission if gate else None

    async def acquire(self, ask: Ask, waited_s: float) -> Grant:
        """Wait for capacity as :meth:`Admission.acquire`, after the shared store failed.

        ``waited_s`` seconds were spent in its line. A store that is back before this replica may go
        on by itself is asked again; one that comes back later takes over who waits here. Cancelled
        or failed, nothing stays reserved.
        """
        loop = asyncio.get_running_loop()
        began = loop.time() - waited_s
        failure = StoreError("store: away")
        for turn in range(1, _TURNS):
            wish = _again(ask, turn, loop.time() - began, stood=waited_s > 0)
            try:
                if await self._shared.outlast():
                    grant = await self._shared.acquire(wish)
                else:
                    grant = await self._acquire_here(wish)
            except StoreError as error:
                failure, waited_s = error, waited_s + error.waited_s
            else:
                return replace(grant, queue_s=loop.time() - began)
        raise failure

    def settle(self, grant: Grant, served: Served) -> asyncio.Future[Any]:
        """End a request that :meth:`acquire` granted, wherever it is accounted for by now."""
        gate = self._opened()
        held = gate.admission.held().get(grant.id) if gate else None
        if gate is None or held is None or held.served is not None:
            return self._shared.settle(grant.id, served)
        self._note(held, served)
        return gate.admission.settle(grant.id, served)

    def hand_over(self) -> tuple[list[Held], list[tuple[str, Arrears]]]:
        """See :class:`fairgate.admission.places.Elsewhere`."""
        gate, opening, self._open = self._opened(), self._open, None
        arrears, self._arrears = self._arrears, {}
        if opening is not None:
            task = asyncio.get_running_loop().create_task(_close(opening))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        running = [h for h in gate.admission.held().values() if not h.served] if gate else []
        if gate is not None:
            gate.admission.turn_away("store: it is back")
            log.warning("no longer enforcing limits locally", running=len(running))
        salt = secrets.token_hex(4)
        return running, [(f"{salt}-{i}", owed) for i, owed in enumerate(arrears.values())]

    async def stop(self) -> None:
        """Give everything up; nobody is admitted any more. Idempotent."""
        self._stopped = True
        self.hand_over()
        await asyncio.gather(*self._closing)

    def _opened(self) -> _OpenGate | None:
        task = self._open
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()

    async def _acquire_here(self, ask: Ask) -> Grant:
        if self._stopped:
            raise StoreError("store: away, and the gateway is shutting down")
        if self._open is None or (self._open.done() and self._opened() is None):
            self._open = asyncio.get_running_loop().create_task(self._begin())
        opening = self._open
        gate = await asyncio.shield(opening)
        if opening is self._open:
            pool = self._shared.pool
            grant = await gate.admission.acquire(share_of_limits(ask, max(1, pool.gateways)))
            if opening is self._open:
                return replace(grant, degraded="local")
            gate.admission.settle(grant.id, Served())
        raise StoreError("store: it is back")

    async def _begin(self) -> _OpenGate:
        """Start the store of our own. Raises ``StoreError``."""
        async with AsyncExitStack() as stack:
            store = EmbeddedStore()
            stack.push_async_callback(store.stop)
            await store.start()
            link = Link(store.url, timeout_s=_TIMEOUT_S)
            stack.push_async_callback(link.close)
            admission = self._make(link, self._share)
            stack.push_async_callback(admission.stop)
            await admission.start()
            pool = self._shared.pool
            log.warning(
                "enforcing limits locally", replicas=max(1, pool.gateways), replica=pool.rank
            )
            return _OpenGate(admission, stack.pop_all())

    def _share(self) -> list[EngineReport]:
        return less_held(
            self._shared.share_of(self._capacity()),
            [
                (held.note.lane, held.note.engine, held.ask.kv_tokens)
                for held in self._shared.occupying()
            ],
        )

    def _note(self, held: Held, served: Served) -> None:
        """Remember what was served, by whom: memory does not grow with the outage's length."""
        if served.void:
            return
        ask = held.ask
        minute = int(asyncio.get_running_loop().time() // _MINUTE_S)
        if minute != self._minute:
            self._minute = minute
            for old in self._arrears.values():
                old.recent_tokens = old.recent_requests = 0
        owed = self._arrears.setdefault((ask.tenant, ask.user, ask.app), Arrears(ask))
        owed.cost += served.cost * dict(ask.lanes).get(held.note.lane, 1.0)
        owed.tokens += served.tokens
        owed.recent_tokens += served.tokens
        owed.requests += 1
        owed.recent_requests += 1


class _OpenGate:
    """An admission that runs, and all that was started for it."""

    def __init__(self, admission: Admission, stack: AsyncExitStack) -> None:
        self.admission = admission
        self.stack = stack


async def _close(opening: asyncio.Task[_OpenGate]) -> None:
    try:
        gate = await opening
    except StoreError:
        return  # it never came up
    await gate.stack.aclose()


def _again(ask: Ask, turn: int, waited_s: float, *, stood: bool) -> Ask:
    """``ask`` for another try, under an id of its own: what became of the last one is not known."""
    return replace(
        ask,
        id=f"{ask.id}~{turn}",
        exempt=ask.exempt or stood,
        timeout_s=max(0.0, ask.timeout_s - waited_s),
        continuation_timeout_s=max(0.0, ask.continuation_timeout_s - waited_s),
    )
