"""Admission: asks for capacity, waits in line, settles; one per pool and gateway process."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
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
from fairgate.admission.model import Arrears, Ask, EngineReport, Grant, PoolStatistics, Served
from fairgate.admission.outage import Outage
from fairgate.admission.places import (
    AdmissionStatistics,
    Elsewhere,
    Held,
    TenantLine,
    Waiter,
    refusal_of,
)
from fairgate.config import Queue
from fairgate.errors import (
    NoEngine,
    QueueTimeout,
    StoreError,
    Throttled,
    Unauthenticated,
    Unavailable,
)
from fairgate.policy import ResolvedPolicy

MISSED_BEATS = 5
_RENEWALS = 3
_AWAY_BEAT_S = 0.5  # at most, between two looks for a store that is away
_READMITTED = 200  # calls at once, when all line up again
_PAID_PER_BEAT = 1000  # debts of a long outage must not hold the next beat up

OnFailure = Literal["local", "open", "closed"]

log = structlog.get_logger("fairgate.admission")


class Admission:
    """The gate of one pool.

    ``capacity`` tells the engines' state whenever a heartbeat goes out. ``on_failure`` says what a
    store that is away means to those who ask: ``closed`` keeps trying, and those in line keep
    their place until their deadline; the others fail at once, those in line after five missed beats
    (``open``) or one (``local``), and the caller sees to them. All methods belong to one event
    loop.

    Whenever the connection to the store was lost, both sides compare what this gateway holds: what
    only the store knows of is given back, what only the gateway knows of is told (``adopt.lua``).
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
        usage_records: int = 0,
    ) -> None:
        self._ledger = ledger
        self._on_failure = on_failure
        self._outage = Outage()
        self._queues = queues
        self._capacity = capacity
        self._heartbeat_s = heartbeat_s
        self._headroom = headroom
        self._usage_records = usage_records
        self._settings = settings_of(policy, queues, headroom, usage_records)
        self._waiting: dict[str, Waiter] = {}
        self._running: dict[str, Held] = {}
        self._owed: dict[str, Served] = {}
        self._arrears: dict[str, Arrears] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._beat: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._soon = asyncio.Event()
        self._membership: tuple[str, str] | None = None
        self._doubt = True
        self._since_ms = "-inf"
        self._renewed_at = 0.0
        self.pool = PoolStatistics()
        self.elsewhere: Elsewhere | None = None
        """Where requests were admitted while the store was away."""
        ledger.on_lost(self._connection_lost)

    def statistics(self) -> AdmissionStatistics:
        """Requests of this process in line and granted, and settlements still to be taken."""
        return AdmissionStatistics(
            waiting=len(self._waiting),
            running=len(self._running.keys() - self._owed.keys()),
            owed=len(self._owed) + len(self._arrears),
            store_up=not self._outage.lasts,
            outages=self._outage.count,
            outage_s=self._outage.total_s,
        )

    @property
    def away(self) -> bool:
        """The store did not answer when it was last asked."""
        return self._outage.lasts

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
        """Join the pool. Raises :class:`StoreError` when the store does not answer, and there is no
        other way (``closed``)."""
        try:
            await self._renew()
        except StoreError as error:
            if self._on_failure == "closed":
                raise
            self._note_away(error)
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

    def apply(
        self, policy: ResolvedPolicy, queues: dict[str, Queue], headroom: Mapping[str, float]
    ) -> None:
        """Change the policy of the whole pool, and the lines and headroom of its lanes; effective
        with the heartbeat that goes out now."""
        self._queues, self._headroom = queues, headroom
        self._settings = settings_of(policy, queues, headroom, self._usage_records)
        self.renew_soon()

    def refuse_keys(self, keys: Collection[str]) -> None:
        """Refuse what waits in line with one of these API keys, by their ids."""
        for waiter in self._waiting.values():
            if waiter.ask.key in keys:
                waiter.fail(Unauthenticated("This API key was revoked."))

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
        if self._outage.lasts and self._on_failure != "closed":
            raise StoreError("store: away", sent=False)
        loop = asyncio.get_running_loop()
        began = loop.time()
        waiter = Waiter(ask, loop.create_future())
        self._waiting[ask.id] = waiter
        try:
            reply = await self._admit(ask)
            if not isinstance(reply, Admitted):
                raise refusal_of(reply)
            note = await self._place(reply, waiter)
        except (Throttled, NoEngine):
            raise  # the script wrote nothing
        except StoreError as error:
            if waiter.in_line:
                error.waited_s = loop.time() - began
            else:
                self._note_away(error)
            if error.sent:
                self._withdraw(ask.id)
            raise
        except BaseException:
            self._withdraw(ask.id)
            raise
        finally:
            del self._waiting[ask.id]
        self._running[ask.id] = Held(ask, note)
        queue_s = 0.0 if reply.engine else loop.time() - began
        return Grant(note.id, note.lane, note.engine, note.priority, queue_s, reply.limits)

    async def _admit(self, ask: Ask) -> Admitted | Denied | Down:
        for _ in range(_RENEWALS):
            reply = await self._ledger.admit(ask)
            if not isinstance(reply, Unknown):
                return reply
            await self._renew()
        raise StoreError("store: it keeps forgetting this gateway")

    async def _place(self, reply: Admitted, waiter: Waiter) -> GrantNote:
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
        held = self._running.get(request_id)
        if held is not None:
            held.served = served
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
        self._running.pop(request_id, None)
        self._owed.pop(request_id, None)
        self._hand_out(notes_of(taken.result()))

    def held(self) -> Mapping[str, Held]:
        """What is granted and not settled, by request id."""
        return self._running

    def occupying(self) -> list[Held]:
        """What takes up room of the engines as far as this process knows.

        At first that is also what ended since the store does not answer: it may have taken the
        settlement, and given the place to another replica.
        """
        lasts = self._outage.seconds > MISSED_BEATS * self._heartbeat_s
        return [held for held in self._running.values() if held.served is None or not lasts]

    def turn_away(self, why: str) -> None:
        """Fail all that wait with ``StoreError``: they are to ask elsewhere."""
        for waiter in self._waiting.values():
            waiter.fail(StoreError(why))

    def _withdraw(self, request_id: str) -> None:
        """Give up a place or an unused grant.

        The call goes out behind the admit on the same link, so it finds whatever that one did.
        """
        self._spawn(self._cancel(request_id))

    async def _cancel(self, request_id: str) -> None:
        try:
            self._hand_out(await self._ledger.cancel(request_id))
        except StoreError:
            self._owed.setdefault(request_id, Served())
            raise

    def take(self, notes: Iterable[GrantNote]) -> None:
        """Grants that arrived from elsewhere: another gateway's settle published them.

        Those that lay there while this process stood still may not be good any more; the heartbeat
        brings those that are.
        """
        since_s = asyncio.get_running_loop().time() - self._renewed_at
        if since_s < MISSED_BEATS * self._heartbeat_s:
            self._hand_out(notes)
        else:
            self.renew_soon()

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
                async with asyncio.timeout(self._pause_s()):
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

    def _pause_s(self) -> float:
        """Until the next beat. Replicas that lost the same store do not come back all at once."""
        if not self._outage.lasts:
            return self._heartbeat_s
        return min(self._heartbeat_s, _AWAY_BEAT_S) * random.uniform(0.5, 1)  # noqa: S311

    def _note_away(self, error: StoreError) -> None:
        self._doubt = True
        if self._outage.begin(error):
            self.renew_soon()  # it may have been the connection only

    def _connection_lost(self) -> None:
        """The server, too, may be another one now."""
        self._doubt = True
        self.renew_soon()

    def _turn_away(self) -> None:
        """Fail those in line, once the store does not come back soon."""
        patience_s = self._heartbeat_s * (1 if self._on_failure == "local" else MISSED_BEATS)
        if self._on_failure != "closed" and self._outage.seconds > patience_s:
            self.turn_away("store: away")

    async def outlast(self) -> bool:
        """Whether the store is there; where it is away, waits a beat for it at most.

        Cancelled, nothing changes.
        """
        return await self._outage.outlast(self._heartbeat_s)

    async def _renew(self) -> None:
        """Renew; callers at the same time share one call."""
        if self._renewing is None or self._renewing.done():
            self._renewing = self._spawn(self._renew_once())
        await asyncio.shield(self._renewing)

    async def _renew_once(self) -> None:
        while True:
            doubt, self._doubt = self._doubt, False
            try:
                renewed = await self._call_renew(doubt=doubt)
                # By comparison, not by an event in a reply: the reply that tells it may be lost.
                before, membership = self._membership, (renewed.epoch, renewed.joined)
                if before not in (None, membership) and not doubt:
                    self._doubt = True  # what we held is not ours any more; see what is left
                    continue
                forgot = before is not None and before[0] != renewed.epoch
                told = self._tell(renewed, forgot=forgot) if doubt else []
                self._note_renewed(renewed)
                await asyncio.gather(*told)
            except StoreError:
                self._doubt = self._doubt or doubt
                raise
            self._membership = membership
            if doubt and before is not None:
                self._spawn(self._line_up_again())
            self._hand_out(renewed.grants)
            has_told = doubt and renewed.quiet_s > 0  # which the store is waiting to hear
            if not renewed.more and not has_told:
                return

    def _note_renewed(self, renewed: Renewed) -> None:
        loop = asyncio.get_running_loop()
        self._outage.end(len(self._owed))
        self.pool = renewed.statistics
        self._since_ms = renewed.now_ms
        self._renewed_at = loop.time()
        if renewed.quiet_s:
            loop.call_later(renewed.quiet_s, self.renew_soon)

    async def _call_renew(self, *, doubt: bool = False, leave: bool = False) -> Renewed:
        """``doubt``: have all told that the store thinks we hold."""
        return await self._ledger.renew(
            lease_s=MISSED_BEATS * self._heartbeat_s,
            settings=self._settings,
            queues=self._queues,
            engines=self._capacity(),
            since_ms="-inf" if doubt else self._since_ms,
            leave=leave,
            peers=self.pool.gateways if doubt else 0,
        )

    def _tell(self, renewed: Renewed, *, forgot: bool) -> list[asyncio.Future[bytes]]:
        """Tell the store what it does not know that we hold.

        The calls leave before any admission of those who come now. ``forgot``: it is empty, so that
        it has not taken what it is owed either.
        """
        running, arrears = self.elsewhere.hand_over() if self.elsewhere else ([], [])
        self._running.update((held.ask.id, held) for held in running)
        self._arrears.update(arrears)
        known = {note.id for note in renewed.grants}
        untold = [
            held
            for held in self._running.values()
            if held.ask.id not in known
            and (held.served is None or (forgot and held.ask.id in self._owed))
        ]
        if untold:
            log.warning("the store did not know of running requests", count=len(untold))
        return [self._ledger.send_adopt(h.ask, h.note.lane, h.note.engine) for h in untold]

    async def _line_up_again(self) -> None:
        """All that wait, a bounded number at a time; who has its place keeps it."""
        waiting = [w for w in self._waiting.values() if w.in_line]
        for i in range(0, len(waiting), _READMITTED):
            some = (w for w in waiting[i : i + _READMITTED] if not w.granted.done())
            await asyncio.gather(*map(self._readmit, some))

    async def _readmit(self, waiter: Waiter) -> None:
        try:
            reply = await self._ledger.admit(replace(waiter.ask, exempt=True))
        except StoreError:
            self._doubt = True  # the next heartbeat has everybody line up again
            raise
        if isinstance(reply, Admitted):
            if reply.engine:
                note = GrantNote(waiter.ask.id, reply.lane, reply.engine, reply.priority)
                self._hand_out((note,))
            elif waiter.ask.id not in self._waiting and waiter.ask.id not in self._running:
                self._withdraw(waiter.ask.id)
        elif not isinstance(reply, Unknown):
            waiter.fail(refusal_of(reply))

    async def _pay(self) -> None:
        some = list(itertools.islice(self._owed.items(), _PAID_PER_BEAT))
        await asyncio.gather(*(self.settle(request_id, served) for request_id, served in some))
        for charge_id, arrears in list(itertools.islice(self._arrears.items(), _PAID_PER_BEAT)):
            await self._ledger.charge(charge_id, arrears)
            del self._arrears[charge_id]
