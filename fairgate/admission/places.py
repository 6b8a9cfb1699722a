"""What the gate keeps of each request: its place in line, then what it holds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from fairgate.admission.ledger import Denied, Down, GrantNote
from fairgate.admission.model import Arrears, Ask, Served
from fairgate.errors import FairgateError, NoEngine, Throttled


class Held:
    """A granted request: what it asked for, what it got, and what it took once it ended."""

    __slots__ = ("ask", "note", "served")

    def __init__(self, ask: Ask, note: GrantNote) -> None:
        self.ask = ask
        self.note = note
        self.served: Served | None = None


class Elsewhere(Protocol):
    """A gate that admits while the store is away."""

    def hand_over(self) -> tuple[list[Held], list[tuple[str, Arrears]]]:
        """The store is back: what runs, and what ended and is to be charged, each with an id.

        Both are the caller's from now on. Who waits there comes back to :meth:`Admission.acquire`.
        """


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


class Waiter:
    """A request that has no grant yet."""

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


def refusal_of(reply: Denied | Down) -> Throttled | NoEngine:
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
