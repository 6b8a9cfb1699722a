"""Membership: a gateway's heartbeat in one pool, and what happens when the store was away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, Protocol

from fairgate.admission.background import Background
from fairgate.admission.ledger import GrantNote, Ledger, Renewed, settings_of
from fairgate.admission.model import EngineReport, PoolStatistics
from fairgate.admission.outage import Outage
from fairgate.admission.share import share_of_engines, within
from fairgate.config import Queue
from fairgate.config.policy import ResolvedPolicy
from fairgate.errors import StoreError

MISSED_BEATS = 5
_ALONE_BEATS = 3  # since the last reply; by then the store has set our share aside, see aside.lua
_AWAY_BEAT_S = 0.5  # at most, between two looks for a store that is away

OnFailure = Literal["local", "open", "closed"]


class Holder(Protocol):
    """Who holds places and grants in the pool, and keeps them in step with the store."""

    @property
    def owed(self) -> int:
        """Settlements that the store has not taken."""

    def take_up(self, notes: Iterable[GrantNote]) -> None:
        """Grants of this gateway that the store knows of."""

    def tell(self, renewed: Renewed, *, forgot: bool) -> list[asyncio.Future[bytes]]:
        """Tell the store what it does not know that is held; the calls leave at once.

        ``forgot``: it is empty, so that it has not taken what it is owed either.
        """

    async def line_up_again(self) -> None:
        """Have all that wait line up; who has its place keeps it. Raises ``StoreError``."""

    async def pay(self) -> None:
        """Send what is owed. Raises ``StoreError``."""

    def turn_away(self, why: str) -> None:
        """Fail all that wait: the store stays away."""


class Membership:
    """One gateway process in one pool: its lease, its engines' reports, the pool's settings.

    ``capacity`` tells the engines' state whenever a heartbeat goes out, ``holder`` gets what it
    brings. Whenever the connection to the store was lost, both sides compare what this gateway
    holds: what only the store knows of is given back, what only the gateway knows of is told
    (``adopt.lua``). Each heartbeat also tells what this gateway would grant by itself, so that
    nobody else has it once it does. All methods belong to one event loop.
    """

    def __init__(
        self,
        ledger: Ledger,
        holder: Holder,
        *,
        policy: ResolvedPolicy,
        queues: dict[str, Queue],
        capacity: Callable[[], list[EngineReport]],
        heartbeat_s: float,
        headroom: Mapping[str, float] | None,
        on_failure: OnFailure,
        usage_records: int,
    ) -> None:
        self._ledger = ledger
        self._holder = holder
        self._queues = queues
        self._capacity = capacity
        self._heartbeat_s = heartbeat_s
        self._on_failure = on_failure
        self._usage_records = usage_records
        self._settings = settings_of(policy, queues, headroom, usage_records)
        self._beat: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._soon = asyncio.Event()
        self._joined: tuple[str, str] | None = None
        self._doubt = True
        self._since_ms = "-inf"
        self._renewed_at = 0.0
        self._told: list[EngineReport] = []
        self.outage = Outage()
        self.background = Background(self.note_away)
        self.pool = PoolStatistics()
        ledger.on_lost(self._connection_lost)

    async def start(self) -> None:
        """Join the pool. Raises :class:`StoreError` when the store does not answer, and there is no
        other way (``closed``)."""
        try:
            await self.renew()
        except StoreError as error:
            if self._on_failure == "closed":
                raise
            self.note_away(error)
        self._beat = asyncio.create_task(self._heartbeat(), name="fairgate-heartbeat")

    async def stop(self) -> None:
        """No more heartbeats; what runs in the background gets as long as a lease to end."""
        if self._beat is not None:
            self._beat.cancel()
            await asyncio.gather(self._beat, return_exceptions=True)
        await self.background.wait(self.lease_s)

    async def leave(self) -> None:
        """Give up all that is held. Raises ``StoreError``."""
        await self._call_renew(leave=True)

    @property
    def lease_s(self) -> float:
        """Seconds after the last heartbeat until the store takes this gateway for dead."""
        return MISSED_BEATS * self._heartbeat_s

    def apply(
        self, policy: ResolvedPolicy, queues: dict[str, Queue], headroom: Mapping[str, float]
    ) -> None:
        """See :meth:`fairgate.admission.queue.Admission.apply`."""
        self._queues = queues
        self._settings = settings_of(policy, queues, headroom, self._usage_records)
        self.renew_soon()

    def is_current(self) -> bool:
        """Whether the last heartbeat is young enough for what was granted since to be good."""
        return asyncio.get_running_loop().time() - self._renewed_at < self.lease_s

    def renew_soon(self) -> None:
        """Send a heartbeat now."""
        self._soon.set()

    async def renew(self) -> None:
        """Send a heartbeat; callers at the same time share one. Raises ``StoreError``.

        Cancelled: it is sent all the same.
        """
        if self._renewing is None or self._renewing.done():
            self._renewing = self.background.spawn(self._renew_once())
        await asyncio.shield(self._renewing)

    def note_away(self, error: StoreError) -> None:
        """A call failed."""
        self._doubt = True
        if self.outage.begin(error):
            self.renew_soon()  # it may have been the connection only

    def note_doubt(self) -> None:
        """What this gateway and the store hold may differ; the next heartbeat has them compare."""
        self._doubt = True

    async def outlast(self) -> bool:
        """Whether the store is there; where it is away, waits until this gateway may go on by
        itself.

        Cancelled, nothing changes.
        """
        while self.outage.lasts and (left_s := self._alone_in_s()) > 0:
            await self.outage.outlast(left_s)
        return not self.outage.lasts

    def share_of(self, reports: Sequence[EngineReport]) -> list[EngineReport]:
        """What of the engines this gateway may grant by itself: no more than the store was told and
        has taken, if other gateways were alive by then."""
        share = share_of_engines(reports, replicas=max(1, self.pool.gateways), rank=self.pool.rank)
        return within(share, self._told) if self._told else share

    def _alone_in_s(self) -> float:
        """Seconds until this gateway may go on by itself. Others may reach the store: not before it
        has set this one's share aside, and what others run on it has had half a beat to end."""
        left_s = self._heartbeat_s - self.outage.seconds
        if self.pool.gateways > 1:
            silent_s = asyncio.get_running_loop().time() - self._renewed_at
            left_s = max(left_s, _ALONE_BEATS * self._heartbeat_s - silent_s)
        return left_s

    async def _heartbeat(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._pause_s()):
                    await self._soon.wait()
            except TimeoutError:
                pass
            self._soon.clear()
            try:
                await self.renew()
                await self._holder.pay()
            except StoreError as error:
                self.note_away(error)
                self._turn_away()

    def _pause_s(self) -> float:
        """Until the next beat. Replicas that lost the same store do not come back all at once."""
        if not self.outage.lasts:
            return self._heartbeat_s
        return min(self._heartbeat_s, _AWAY_BEAT_S) * random.uniform(0.5, 1)  # noqa: S311

    def _connection_lost(self) -> None:
        """The server, too, may be another one now."""
        self._doubt = True
        self.renew_soon()

    def _turn_away(self) -> None:
        """Fail those in line, once the store does not come back soon."""
        if self._on_failure == "local":
            is_over = self._alone_in_s() <= 0
        else:
            is_over = self._on_failure == "open" and self.outage.seconds > self.lease_s
        if is_over:
            self._holder.turn_away("store: away")

    async def _renew_once(self) -> None:
        while True:
            doubt, self._doubt = self._doubt, False
            try:
                renewed = await self._call_renew(doubt=doubt)
                # By comparison, not by an event in a reply: the reply that tells it may be lost.
                before, joined = self._joined, (renewed.epoch, renewed.joined)
                if before not in (None, joined) and not doubt:
                    self._doubt = True  # what we held is not ours any more; see what is left
                    continue
                forgot = before is not None and before[0] != renewed.epoch
                told = self._holder.tell(renewed, forgot=forgot) if doubt else []
                shifted = self._note_renewed(renewed)
                await asyncio.gather(*told)
            except StoreError:
                self._doubt = self._doubt or doubt
                raise
            self._joined = joined
            if doubt and before is not None:
                self.background.spawn(self._holder.line_up_again())
            self._holder.take_up(renewed.grants)
            # The store waits to hear that all is told.
            is_awaited = renewed.aside or (doubt and renewed.quiet_s > 0)
            if not (renewed.more or is_awaited or shifted):
                return

    def _note_renewed(self, renewed: Renewed) -> bool:
        """Whether this gateway's share is another one than the store was told."""
        loop = asyncio.get_running_loop()
        self.outage.end(self._holder.owed)
        before, self.pool = self.pool, renewed.statistics
        self._since_ms = renewed.now_ms
        self._renewed_at = loop.time()
        if renewed.quiet_s:
            loop.call_later(renewed.quiet_s, self.renew_soon)
        now = self.pool
        changed = (now.gateways, now.rank) != (before.gateways, before.rank)
        return changed and now.gateways > 1 and self._on_failure == "local"

    async def _call_renew(self, *, doubt: bool = False, leave: bool = False) -> Renewed:
        """``doubt``: have all told that the store thinks we hold."""
        engines = self._capacity()
        share = [] if doubt else self._share_to_tell(engines)
        renewed = await self._ledger.renew(
            lease_s=self.lease_s,
            settings=self._settings,
            queues=self._queues,
            engines=engines,
            since_ms="-inf" if doubt else self._since_ms,
            leave=leave,
            peers=self.pool.gateways if doubt else 0,
            share=share,
        )
        if not doubt and not renewed.aside:
            self._told = share
        return renewed

    def _share_to_tell(self, engines: Sequence[EngineReport]) -> list[EngineReport]:
        if self._on_failure != "local" or self.pool.gateways < 2:
            return []
        return share_of_engines(engines, replicas=self.pool.gateways, rank=self.pool.rank)
