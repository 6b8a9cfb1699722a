"""What a request carries on its way: who, what, which grant. Handlers find it in the ASGI scope."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from msgspec.structs import replace

from fairgate.admission.model import Grant, Served
from fairgate.billing.note import Status, note
from fairgate.codec import Call, rewrite
from fairgate.identity import Principal
from fairgate.inbox import Inbox
from fairgate.metering import Meter, TokenMeter
from fairgate.routing.routed import Routed
from fairgate.sampling import Draft, Plan
from fairgate.usage import Usage

SCOPE_KEY = "fairgate"


class Ticket:
    """One admitted request, as ``scope["fairgate"]``."""

    def __init__(
        self,
        *,
        number: str,
        request_id: str,
        principal: Principal,
        meter: Meter,
        body: bytes,
        inbox: Inbox,
        plan: Plan | None = None,
    ) -> None:
        self.request_id = request_id
        """The client's, or one that we gave it."""
        self.principal = principal
        self.meter = meter
        self.body = body
        self.inbox = inbox
        self.pool = meter.pool
        self.plan = plan
        """How several answers are written, where the client does not get the first best."""
        self.grant: Grant | None = None
        """Held from admission until the answer is complete."""
        self.granted_at: float | None = None
        """When it was last granted, by ``time.perf_counter()``."""
        self.grant_s: float | None = None
        """Seconds that asking took where capacity was free."""
        self.answered_by: Grant | None = None
        """Whose answer the client gets, where that is not held any more."""
        self.charged: list[Served] = []
        """For answers that the client does not get."""
        self.queue_s = 0.0
        """Seconds in line so far."""
        self.from_engine = False
        """An engine's answer is passed on, not an app's own."""
        self.hides_usage = False
        """The answer's usage event was asked for by us, and is not for the client."""
        self.reported: Usage | None = None
        self.score: float | None = None
        self._ask = meter.ask(number, principal)
        self._number = number
        self._moves = 0
        self._calls = 0
        """Of engines."""

    @property
    def call(self) -> Call:
        """The LLM call that this request is. Raises ``TypeError`` on routes without tokens."""
        if self.meter.call is None:
            raise TypeError("this request is metered by its cost; it is no LLM call")
        return self.meter.call

    @property
    def expected_service(self) -> float:
        """Service units that it was expected to use, at price 1."""
        return self._ask.cost

    @property
    def routed(self) -> Routed | None:
        """How its lane was chosen; ``None`` on routes without tokens."""
        return self.meter.routed

    def engine_body(
        self,
        *,
        model: str | None = None,
        priority: int | None = None,
        cache_salt: str | None = None,
    ) -> bytes:
        """The body for an engine, asking it for the usage of a stream.

        From then on the usage event is withheld from a client that did not ask for it. What only
        we may set is dropped; see :func:`fairgate.codec.rewrite`. A plan says what engines of the
        granted lane are asked, and metered, instead of the client's call.
        """
        if self.plan is not None and self.grant is not None:
            self._use(self.plan.draft(self.grant.lane))
        self.from_engine = True
        self.hides_usage = self.call.needs_usage
        return rewrite(
            self.body,
            self.call,
            model=model,
            include_usage=True,
            priority=priority,
            cache_salt=cache_salt,
        )

    def engine_request_id(self) -> str:
        """A new request id for an engine: begins with the client's, and no other request has it.

        vLLM names its work by it, so two tenants must never have one in common.
        """
        self._calls += 1
        return f"{self.request_id}-{self._number}-{self._calls}"

    async def acquire(self) -> Grant:
        """Wait for capacity; see :meth:`fairgate.pool.Pool.acquire`."""
        began = time.perf_counter()
        try:
            self.grant = await self.pool.acquire(self._ask)
        except BaseException:
            self.queue_s += time.perf_counter() - began
            raise
        self.queue_s += self.grant.queue_s
        self.granted_at = time.perf_counter()
        if not (self.queue_s or self._moves):
            self.grant_s = self.granted_at - began
        return self.grant

    def _use(self, draft: Draft) -> None:
        assert isinstance(self.meter, TokenMeter)  # noqa: S101 — only LLM calls have plans
        self.meter, self.body = self.meter.of(draft.call), draft.body

    async def escalate(self, meter: Meter, served: Served, *, wait_s: float) -> Grant:
        """The answer is not good enough: charge ``served`` for it and ask for what ``meter`` says.

        Both count as one request, and rate limits do not bite again. Waits at most ``wait_s``
        seconds in line. Raises as :meth:`acquire`; then nothing is held, and the charge stays.
        """
        self.answered_by = self.grant
        self.charged.append(served)
        if settled := self.settle(replace(served, void=True), "escalated"):
            await asyncio.wait({settled})
        self._moves += 1
        self.meter = meter
        self._ask = replace(
            meter.ask(f"{self._number}+{self._moves}", self.principal),
            exempt=True,
            timeout_s=wait_s,
            continuation_timeout_s=wait_s,
        )
        return await self.acquire()

    async def move(self) -> Grant:
        """The engine failed before its first byte: give the grant back and ask for another engine.

        Nothing is charged for the failed try, and rate limits do not bite again. Raises as
        :meth:`acquire`; then nothing is held.
        """
        failed = self.grant
        if settled := self.settle(Served()):
            # Taken by the store first: until then this request counts as one in flight.
            await asyncio.wait({settled})
        self._moves += 1
        self._ask = replace(
            self._ask,
            id=f"{self._number}+{self._moves}",
            exempt=True,
            avoid=failed.engine if failed else "",
        )
        return await self.acquire()

    def settle(self, served: Served, ended: Status | None = None) -> asyncio.Future[Any] | None:
        """Give the grant back, if one is held, and charge what was served. Does not wait.

        ``ended`` says how, for the usage record; ``None``: another try follows.
        """
        grant, self.grant = self.grant, None
        if ended is not None and grant is not None and self.pool.records_usage:
            served = replace(served, record=self._record(grant, served, ended))
        return self.pool.settle(grant, served) if grant is not None else None

    def _record(self, grant: Grant, served: Served, ended: Status) -> bytes:
        return note(
            ended,
            key=self.principal.key_id,
            model=self.pool.lanes[grant.lane].model or grant.lane,
            request_id=self.request_id,
            served=served,
            queue_s=self.queue_s,
        )

    def report_usage(self, usage: Usage) -> None:
        """For handlers that know better than the answer's bytes tell what was used.

        To be called before the answer ends; the last report counts. A request on a route without
        tokens then costs these tokens instead of what the route says.
        """
        self.reported = replace(usage, exact=True)

    def report_score(self, score: float) -> None:
        """For handlers that can tell how good the answer is, 0 to 1: routers learn from it.

        To be called before the answer ends; the last report counts, as the request's only feedback.
        Raises ``ValueError`` for a score that is not in 0..1.
        """
        if not 0 <= score <= 1:
            raise ValueError(f"score: expected 0 to 1, got {score!r}")
        self.score = score
