"""One request on its way: what was asked, what was decided, and what it comes to in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from fairgate.codec import Call
from fairgate.headers import Header
from fairgate.identity import Principal
from fairgate.routing.base import Action, Decision, RouteRequest

HEADER = b"x-fairgate-router"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a routed request was served."""

    lane: str
    seconds: float
    """From its grant to the end of its answer."""
    prompt_tokens: int
    output_tokens: int
    ended: bool
    """The answer is complete."""
    score: float | None = None
    """How good it was, 0 to 1, where the handler or a check tells at once."""
    samples: int = 1
    """Answers that were asked for; the client got one of them, unless it asked for them itself."""


Ended = Callable[["Routed", Outcome], None]


@dataclass(slots=True)
class Routed:
    """A request and the decision on it. ``on_end`` is told its outcome."""

    request: RouteRequest
    decision: Decision
    on_end: Ended | None = None
    trial: bool = False
    """The second router of an A/B split decided."""

    def headers(self) -> list[Header]:
        """Who chose the lane and why; nothing where the client did."""
        decision = self.decision
        if not decision.router:
            return []
        told = f"{decision.router}; reason={decision.reason}"
        expected = decision.predicted.get(decision.actions[0].lane)
        if expected is not None:
            told += f"; expected={expected:.2f}"
        return [(HEADER, told.encode("ascii", "replace"))]


def route_request(request_id: str, call: Call, principal: Principal) -> RouteRequest:
    """What a router may know of a request before it is decided what it may ask for."""
    return RouteRequest(  # by place, since names cost a dictionary
        call,
        request_id,
        principal.tenant,
        principal.user or principal.key_id,
        principal.app,
        principal.interaction or "",
    )


def named(request: RouteRequest, lane: str) -> Routed:
    """A request whose client named ``lane``, or its model."""
    return Routed(request, _to(lane))


@lru_cache(maxsize=1024)
def _to(lane: str) -> Decision:
    return Decision((Action(lane),))
