"""Admission: asks for capacity, waits in line, settles; one per pool and gateway process."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

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
)
from fairgate.admission.membership import Membership, OnFailure
from fairgate.admission.model import Arrears, Ask, EngineReport, Grant, PoolStatistics, Served
from fairgate.admission.places import (
    AdmissionStatistics,
    Elsewhere,
    Held,
    TenantLine,
    Waiter,
    refusal_of,
)
from fairgate.config import Queue
from fairgate.config.policy import ResolvedPolicy
from fairgate.errors import (
    NoEngine,
    QueueTimeout,
    StoreError,
    Throttled,
    Unauthenticated,
    Unavailable,
)

_RENEWALS = 3
_READMITTED = 200  # calls at once, when all line up again
_PAID_PER_BEAT = 1000  # debts of a long outage must not hold the next beat up

log = structlog.get_logger("fairgate.admission")


class Admission:
    """The gate of one pool.

    ``capacity`` tells the engines' state whenever a heartbeat goes out. ``on_failure`` says what a
    store that is away means to those who ask: ``closed`` keeps trying, and those in line keep
    their place until their deadline; the others fail at once, those in line after five missed beats
    (``open``) or once this gateway may go on by itself (``local``), and the caller sees to them.
    All methods belong to one event loop.
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
        self._waiting: dict[str, Waiter] = {}
        self._in_line = 0
        """Of those, the ones that found no free capacity."""
        self._running: dict[str, Held] = {}
        self._owed: dict[str, Served] = {}
        self._arrears: dict[str, Arrears] = {}
        self._member = Membership(
            ledger,
            self,
            policy=policy,
            queues=queues,
            capacity=capacity,
            heartbeat_s=heartbeat_s,
            headroom=headroom,
            on_failure=on_failure,
            usage_records=usage_records,
        )
        self._outage = self._member.outage
        self.elsewhere: Elsewhere | None = None
        """Where requests were admitted while the store was away."""

    @property
    def pool(self) -> PoolStatistics:
        """The pool as the last heartbeat told."""
        return self._member.pool

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
        await self._member.start()

    async def stop(self) -> None:
        """Leave the pool: what is still waiting is refused, what is still held is given up."""
        for waiter in self._waiting.values():
            waiter.fail(Unavailable("the gateway is shutting down"))
        await self._member.stop()
        try:
            await self._member.leave()
        except StoreError as error:
            log.warning("left the pool without telling the store", error=str(error))

    def apply(
        self, policy: ResolvedPolicy, queues: dict[str, Queue], headroom: Mapping[str, float]
    ) -> None:
        """Change the policy of the whole pool, and the lines and headroom of its lanes; effective
        with the heartbeat that goes out now."""
        self._member.apply(policy, queues, headroom)

    def refuse_keys(self, keys: Collection[str]) -> None:
        """Refuse what waits in line with one of these API keys, by their ids."""
        for waiter in self._waiting.values():
            if waiter.ask.key in keys:
                waiter.fail(Unauthenticated("This API key was revoked."))

    def renew_soon(self) -> None:
        """Send a heartbeat now: an engine's state changed."""
        self._member.renew_soon()

    async def outlast(self) -> bool:
        """See :meth:`fairgate.admission.membership.Membership.outlast`."""
        return await self._member.outlast()

    def share_of(self, reports: Sequence[EngineReport]) -> list[EngineReport]:
        """See :meth:`fairgate.admission.membership.Membership.share_of`."""
        return self._member.share_of(reports)

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
                self._member.note_away(error)
            if error.sent:
                self._withdraw(ask.id)
            raise
        except BaseException:
            self._withdraw(ask.id)
            raise
        finally:
            del self._waiting[ask.id]
            self._in_line -= waiter.in_line
        self._running[ask.id] = Held(ask, note)
        queue_s = 0.0 if reply.engine else loop.time() - began
        return Grant(note.id, note.lane, note.engine, note.priority, queue_s, reply.limits)

    async def _admit(self, ask: Ask) -> Admitted | Denied | Down:
        for _ in range(_RENEWALS):
            reply = await self._ledger.admit(ask)
            # One that lay there while this process stood still may not be good any more.
            if not isinstance(reply, Unknown) and self._member.is_current():
                return reply
            await self._member.renew()
        raise StoreError("store: it keeps forgetting this gateway")

    async def _place(self, reply: Admitted, waiter: Waiter) -> GrantNote:
        if reply.engine:
            return GrantNote(waiter.ask.id, reply.lane, reply.engine, reply.priority)
        ask = waiter.ask
        waiter.in_line = True
        self._in_line += 1
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
        # Who waits in line waits for this capacity: it goes before the rest of the answer.
        taken = self._ledger.send_settle(request_id, served, now=self._in_line > 0)
        taken.add_done_callback(partial(self._settled, request_id, served))
        return taken

    def _settled(self, request_id: str, served: Served, taken: asyncio.Future[list[bytes]]) -> None:
        error = None if taken.cancelled() else taken.exception()
        if taken.cancelled() or error is not None:
            self._owed[request_id] = served  # whether it was taken is not known: once more
            if isinstance(error, StoreError):
                self._member.note_away(error)
            return
        self._running.pop(request_id, None)
        self._owed.pop(request_id, None)
        self.take(notes_of(taken.result()))

    def held(self) -> Mapping[str, Held]:
        """What is granted and not settled, by request id."""
        return self._running

    def occupying(self) -> list[Held]:
        """What takes up room of the engines as far as this process knows.

        At first that is also what ended since the store does not answer: it may have taken the
        settlement, and given the place to another replica.
        """
        lasts = self._outage.seconds > self._member.lease_s
        return [held for held in self._running.values() if held.served is None or not lasts]

    def turn_away(self, why: str) -> None:
        """Fail all that wait with ``StoreError``: they are to ask elsewhere."""
        for waiter in self._waiting.values():
            waiter.fail(StoreError(why))

    def _withdraw(self, request_id: str) -> None:
        """Give up a place or an unused grant.

        The call goes out behind the admit on the same link, so it finds whatever that one did.
        """
        self._member.background.spawn(self._cancel(request_id))

    async def _cancel(self, request_id: str) -> None:
        try:
            self.take(await self._ledger.cancel(request_id))
        except StoreError:
            self._owed.setdefault(request_id, Served())
            raise

    def take(self, notes: Iterable[GrantNote]) -> None:
        """Grants that a settlement made, of this gateway or, published, of another one.

        Those that lay there while this process stood still may not be good any more; the heartbeat
        brings those that are.
        """
        if self._member.is_current():
            self.take_up(notes)
        else:
            self.renew_soon()

    def take_up(self, notes: Iterable[GrantNote]) -> None:
        """Grants of this gateway: end the waits for them, give back what nobody wants any more."""
        for note in notes:
            waiter = self._waiting.get(note.id)
            if waiter is None:
                if note.id not in self._running and note.id not in self._owed:
                    self._withdraw(note.id)  # its caller gave up meanwhile
            elif not waiter.granted.done():
                waiter.granted.set_result(note)

    # What the heartbeat asks for; see `membership.Holder`

    @property
    def owed(self) -> int:
        """Settlements that the store has not taken."""
        return len(self._owed)

    def tell(self, renewed: Renewed, *, forgot: bool) -> list[asyncio.Future[bytes]]:
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

    async def line_up_again(self) -> None:
        """All that wait, a bounded number at a time; who has its place keeps it."""
        waiting = [w for w in self._waiting.values() if w.in_line]
        for i in range(0, len(waiting), _READMITTED):
            some = (w for w in waiting[i : i + _READMITTED] if not w.granted.done())
            await asyncio.gather(*map(self._readmit, some))

    async def _readmit(self, waiter: Waiter) -> None:
        try:
            reply = await self._ledger.admit(replace(waiter.ask, exempt=True))
        except StoreError:
            self._member.note_doubt()  # the next heartbeat has everybody line up again
            raise
        if isinstance(reply, Admitted):
            if reply.engine:
                note = GrantNote(waiter.ask.id, reply.lane, reply.engine, reply.priority)
                self.take_up((note,))
            elif waiter.ask.id not in self._waiting and waiter.ask.id not in self._running:
                self._withdraw(waiter.ask.id)
        elif not isinstance(reply, Unknown):
            waiter.fail(refusal_of(reply))

    async def pay(self) -> None:
        """Send what is owed. Raises ``StoreError``."""
        some = list(itertools.islice(self._owed.items(), _PAID_PER_BEAT))
        await asyncio.gather(*(self.settle(request_id, served) for request_id, served in some))
        for charge_id, arrears in list(itertools.islice(self._arrears.items(), _PAID_PER_BEAT)):
            await self._ledger.charge(charge_id, arrears)
            del self._arrears[charge_id]
