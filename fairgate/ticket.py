"""What a request carries on its way: who, what, which grant. Handlers find it in the ASGI scope."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from fairgate.accounting import Estimate
from fairgate.admission.model import Grant, Served
from fairgate.codec import Call
from fairgate.identity import Principal
from fairgate.inbox import Inbox
from fairgate.pool import Pool
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
        call: Call,
        body: bytes,
        pool: Pool,
        lanes: Sequence[str],
        estimate: Estimate,
        inbox: Inbox,
    ) -> None:
        self.request_id = request_id
        """The client's, or one that we gave it."""
        self.principal = principal
        self.call = call
        self.body = body
        self.estimate = estimate
        self.inbox = inbox
        self.pool = pool
        self.grant: Grant | None = None
        self.queue_s = 0.0
        self._ask = pool.ask(number, principal, lanes, estimate)
        self._number = number
        self._moves = 0
        self._reported: Usage | None = None

    async def acquire(self) -> Grant:
        """Wait for capacity; see :meth:`fairgate.pool.Pool.acquire`."""
        began = time.perf_counter()
        try:
            self.grant = await self.pool.acquire(self._ask)
        except BaseException:
            self.queue_s += time.perf_counter() - began
            raise
        self.queue_s += self.grant.queue_s
        return self.grant

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

    def settle(self, served: Served) -> asyncio.Task[None] | None:
        """Give the grant back, if one is held, and charge what was served. Does not wait."""
        grant, self.grant = self.grant, None
        return self.pool.settle(grant, served) if grant is not None else None

    def report_usage(self, usage: Usage) -> None:
        """For handlers that know better than the answer's bytes tell what was used."""
        self._reported = usage

    def usage(self, seen: Usage) -> Usage:
        """What the handler reported, else what was seen in the answer."""
        return self._reported or seen
