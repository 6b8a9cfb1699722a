"""Admission: asks for capacity, waits in line, settles; one per pool and gateway process."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import structlog
from msgspec.structs import replace

from fairgate.admission.ledger import (
    Admitted,
    Denied,
    Down,
    GrantNote,
    Ledger,
    Renewed,
    Unknown,
    notes_of,
    settings_of,
)
from fairgate.admission.model import Ask, EngineReport, Grant, PoolStatistics, Served
from fairgate.admission.outage import Outage
from fairgate.config import Queue
from fairgate.errors import (
    FairgateError,
    NoEngine,
    QueueTimeout,
    StoreError,
    Throttled,
    Unavailable,
)
from fairgate.policy import ResolvedPolicy

MISSED_BEATS = 5
_RENEWALS = 3
_UNSURE = ("", "")
_PAID_PER_BEAT = 1000  # debts of a long outage must not hold the next beat up

OnFailure = Literal["open", "closed"]

log = structlog.get_logger("fairgate.admission")


@dataclass(frozen=True, slots=True)
class TenantLine:
    """What one tenant's requests in line ask for."""

    weight: float
    requests: int = 0
    service: float = 0.0
    """Expected service units, at the price of the lane preferred."""

    def __add__(self, ask: Ask) -> TenantLine:
        service = self.service + ask.cost * ask.lanes[0][1]
        return TenantLine(ask.tenant_weight, self.requests + 1, service)


@dataclass(frozen=True, slots=True)
class AdmissionStatistics:
    """What this gateway process holds now."""

    waiting: int
    running: int
    owed: int
    """Settlements that the store has not taken yet."""
    store_up: bool
    """It answered when it was last asked."""
    outages: int
    """Times that the store went away."""
    outage_s: float
    """Time without it, the present outage's too."""


class _Waiter:
    __slots__ = ("ask", "granted", "in_line")

    def __init__(self, ask: Ask, granted: asyncio.Future[GrantNote]) -> None:
        self.ask = ask
        self.granted = granted
        self.in_line = False

    def fail(self, error: FairgateError) -> None:
        """Have its place end with ``error``, unless it is granted."""
        if not self.granted.done():
            self.granted.set_exception(error)
            self.granted.exception()  # seen: nobody may be waiting for it yet, or ever


class Admission:
    """The gate of one pool.

    ``capacity`` tells the engines' state whenever a heartbeat goes out. ``on_failure`` says what a
    store that is away means to those who ask: ``closed`` keeps trying, and those in line keep
    their place until their deadline; ``open`` fails at once, those in line after five missed beats,
    and the caller lets them pass by. All methods belong to one event loop.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        policy: ResolvedPolicy,
        queues: dict[str, Queue],
        capacity: Callable[[], list[EngineReport]],
        heartbeat_s: float = 1.0,
        headroom: Mapping[str, float] | None = None,
        on_failure: OnFailure = "closed",
    ) -> None:
        self._ledger = ledger
        self._on_failure = on_failure
        self._outage = Outage()
        self._queues = queues
        self._capacity = capacity
        self._heartbeat_s = heartbeat_s
        self._headroom = headroom
        self._settings = settings_of(policy, queues, headroom)
        self._waiting: dict[str, _Waiter] = {}
        self._running: set[str] = set()
        self._owed: dict[str, Served] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._beat: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._soon = asyncio.Event()
        self._membership: tuple[str, str] | None = None
        self._since_ms = "-inf"
        self.pool = PoolStatistics()

    def statistics(self) -> AdmissionStatistics:
        """Requests of this process in line and granted, and settlements still to be taken."""
        return AdmissionStatistics(
            waiting=len(self._waiting),
            running=len(self._running.difference(self._owed)),
            owed=len(self._owed),
            store_up=not self._outage.lasts,
            outages=self._outage.count,
            outage_s=self._outage.total_s,
        )

    def waiting(self) -> dict[str, TenantLine]:
        """Requests of this process in line, by tenant."""
        lines: dict[str, TenantLine] = {}
        for waiter in self._waiting.values():
            if waiter.in_line:
                ask = waiter.ask
                lines[ask.tenant] = lines.get(ask.tenant, TenantLine(ask.tenant_weight)) + ask
        return lines

    # Life

    async def start(self) -> None:
        """Join the pool. Raises :class:`StoreError` when the store does not answer."""
        await self._renew()
        self._beat = asyncio.create_task(self._heartbeat(), name="fairgate-heartbeat")

    async def stop(self) -> None:
        """Leave the pool: what is still waiting is refused, what is still held is given up."""
        if self._beat is not None:
            self._beat.cancel()
            await asyncio.gather(self._beat, return_exceptions=True)
        for waiter in self._waiting.values():
            waiter.fail(Unavailable("the gateway is shutting down"))
        if self._background:
            await asyncio.wait(self._background, timeout=MISSED_BEATS * self._heartbeat_s)
        try:
            await self._call_renew(leave=True)
        except StoreError as error:
            log.warning("left the pool without telling the store", error=str(error))

    def apply_policy(self, policy: ResolvedPolicy) -> None:
        """Change the policy of the whole pool; effective with the heartbeat that goes out now."""
        self._settings = settings_of(policy, self._queues, self._headroom)
        self.renew_soon()

    def renew_soon(self) -> None:
        """Send a heartbeat now: an engine's state changed."""
        self._soon.set()

    # A request

    async def acquire(self, ask: Ask) -> Grant:
        """Wait for capacity and return the grant.

        Raises :class:`Throttled` (a limit, or a full line), :class:`QueueTimeout` after
        ``ask.timeout_s`` seconds in line, :class:`NoEngine` when no lane has an engine that is up,
        :class:`StoreError` when the store is away. Cancelled or failed, nothing stays reserved,
        charged or in line. Every grant must be settled, once or more often.
        """
        if self._outage.lasts and self._on_failure == "open":
            raise StoreError("store: away", sent=False)
        loop = asyncio.get_running_loop()
        began = loop.time()
        waiter = _Waiter(ask, loop.create_future())
        self._waiting[ask.id] = waiter
        try:
            reply = await self._admit(ask)
            if not isinstance(reply, Admitted):
                raise _refusal(reply)
            note = await self._place(reply, waiter)
        except (Throttled, NoEngine):
            raise  # the script wrote nothing
        except StoreError as error:
            self._note_away(error)
            if error.sent:
                self._withdraw(ask.id)
            raise
        except BaseException:
            self._withdraw(ask.id)
            raise
        finally:
            del self._waiting[ask.id]
        self._running.add(ask.id)
        queue_s = 0.0 if reply.engine else loop.time() - began
        return Grant(note.id, note.lane, note.engine, note.priority, queue_s, reply.limits)

    async def _admit(self, ask: Ask) -> Admitted | Denied | Down:
        for _ in range(_RENEWALS):
            reply = await self._ledger.admit(ask)
            if not isinstance(reply, Unknown):
                return reply
            await self._renew()
        raise StoreError("store: it keeps forgetting this gateway")

    async def _place(self, reply: Admitted, waiter: _Waiter) -> GrantNote:
        if reply.engine:
            return GrantNote(waiter.ask.id, reply.lane, reply.engine, reply.priority)
        ask = waiter.ask
        waiter.in_line = True
        timeout_s = ask.continuation_timeout_s if reply.continues else ask.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter.granted
        except TimeoutError:
            message = f"no capacity came free within {timeout_s:g} s"
            raise QueueTimeout(message, retry_after=5) from None

    def settle(self, request_id: str, served: Served) -> asyncio.Future[Any]:
        """End a granted request: charge what was served, free its capacity.

        Returns at once and cannot be lost by a cancellation; await the future to know that the
        store took it. While the store is away it is owed, and sent after it returns.
        """
        taken = self._ledger.send_settle(request_id, served)
        taken.add_done_callback(partial(self._settled, request_id, served))
        return taken

    def _settled(self, request_id: str, served: Served, taken: asyncio.Future[list[bytes]]) -> None:
        error = None if taken.cancelled() else taken.exception()
        if taken.cancelled() or error is not None:
            self._owed[request_id] = served  # whether it was taken is not known: once more
            if isinstance(error, StoreError):
                self._note_away(error)
            return
        self._running.discard(request_id)
        self._owed.pop(request_id, None)
        self._hand_out(notes_of(taken.result()))

    def _withdraw(self, request_id: str) -> None:
        """Give up a place or an unused grant.

        The call goes out behind the admit on the same link, so it finds whatever that one did.
        """
        self._spawn(self._cancel(request_id))

    async def _cancel(self, request_id: str) -> None:
        try:
            self._hand_out(await self._ledger.cancel(request_id))
        except StoreError:
            self._owed[request_id] = Served()
            raise

    def take(self, notes: Iterable[GrantNote]) -> None:
        """Grants that arrived from elsewhere: another gateway's settle published them."""
        self._hand_out(notes)

    def _hand_out(self, notes: Iterable[GrantNote]) -> None:
        for note in notes:
            waiter = self._waiting.get(note.id)
            if waiter is None:
                if note.id not in self._running and note.id not in self._owed:
                    self._withdraw(note.id)  # its caller gave up meanwhile
            elif not waiter.granted.done():
                waiter.granted.set_result(note)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._reap)
        return task

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), StoreError):
            self._note_away(error)

    # Heartbeat

    async def _heartbeat(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    await self._soon.wait()
            except TimeoutError:
                pass
            self._soon.clear()
            try:
                await self._renew()
                await self._pay()
            except StoreError as error:
                self._note_away(error)
                self._turn_away()

    def _note_away(self, error: StoreError) -> None:
        if self._outage.begin(error):
            self.renew_soon()  # it may have been the connection only

    def _turn_away(self) -> None:
        """Fail those in line, once the store takes this gateway for dead anyway."""
        if self._on_failure == "open" and self._outage.seconds > MISSED_BEATS * self._heartbeat_s:
            for waiter in self._waiting.values():
                waiter.fail(StoreError("store: away"))

    async def _renew(self) -> None:
        """Renew; callers at the same time share one call."""
        if self._renewing is None or self._renewing.done():
            self._renewing = self._spawn(self._renew_once())
        await asyncio.shield(self._renewing)

    async def _renew_once(self) -> None:
        while True:
            renewed = await self._call_renew()
            self._outage.end(len(self._owed))
            self.pool = renewed.statistics
            self._since_ms = renewed.now_ms
            # By comparison, not by an event in a reply: the reply that tells it may be lost.
            membership = (renewed.epoch, renewed.joined)
            before, self._membership = self._membership, membership
            if before not in (None, membership):
                self._line_up_again()
            self._hand_out(renewed.grants)
            if not renewed.more:
                return

    async def _call_renew(self, *, leave: bool = False) -> Renewed:
        return await self._ledger.renew(
            lease_s=MISSED_BEATS * self._heartbeat_s,
            settings=self._settings,
            queues=self._queues,
            engines=self._capacity(),
            since_ms=self._since_ms,
            leave=leave,
        )

    def _line_up_again(self) -> None:
        """The store restarted empty, or took this gateway for dead: its lines are gone."""
        log.warning("the store forgot this gateway; lining up again", waiting=len(self._waiting))
        for waiter in list(self._waiting.values()):
            if waiter.in_line and not waiter.granted.done():
                self._spawn(self._readmit(waiter))

    async def _readmit(self, waiter: _Waiter) -> None:
        try:
            reply = await self._ledger.admit(replace(waiter.ask, exempt=True))
        except StoreError:
            self._membership = _UNSURE  # the next heartbeat has everybody line up again
            raise
        if isinstance(reply, Admitted):
            if reply.engine:
                note = GrantNote(waiter.ask.id, reply.lane, reply.engine, reply.priority)
                self._hand_out((note,))
            elif waiter.ask.id not in self._waiting:
                self._withdraw(waiter.ask.id)
        elif not isinstance(reply, Unknown):
            waiter.fail(_refusal(reply))

    async def _pay(self) -> None:
        some = list(itertools.islice(self._owed.items(), _PAID_PER_BEAT))
        await asyncio.gather(*(self.settle(request_id, served) for request_id, served in some))


def _refusal(reply: Denied | Down) -> Throttled | NoEngine:
    if isinstance(reply, Down):
        return NoEngine("no healthy engine can serve this model", retry_after=5)
    if reply.limit == "queue":
        message = "too many requests are waiting in line"
    elif reply.limit == "interaction":
        message = "this interaction was refused at its first call"
    else:
        message = f"limit {reply.limit} reached"
    error = Throttled(
        message,
        limit=reply.limit,
        retry_after=reply.retry_after_s,
        code="insufficient_quota" if reply.limit.endswith("daily_tokens") else None,
    )
    error.limits = reply.limits
    return error
