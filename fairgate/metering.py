"""What a request is expected to use, and what it used: tokens of LLM calls, or an app's own units.

A unit is one service unit (DESIGN.md §2): as much as one prompt token at weight 1 and price 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Protocol

import structlog
from msgspec import Struct
from starlette.types import Scope

from fairgate.accounting import Estimate
from fairgate.admission.model import Ask, Served
from fairgate.codec import Call
from fairgate.config import RouteCost
from fairgate.headers import Header
from fairgate.identity import Principal
from fairgate.pool import Pool
from fairgate.routing.base import Action
from fairgate.routing.routed import Outcome, Routed
from fairgate.scanners import UsageScanner, scanner_for
from fairgate.usage import Usage

_MOST_UNITS = 2**40
_ONE_UNIT = RouteCost(per_request=1.0)

log = structlog.get_logger("fairgate.metering")


class Measured(Struct, frozen=True, gc=False):
    """What is known of a request on a route without tokens; a cost function gets it twice.

    At admission with ``ended`` false and nothing of the answer, for the cost to expect; at the end
    with everything, for the cost to charge.
    """

    scope: Scope
    request_bytes: int
    ended: bool = False
    answer_bytes: int = 0
    """Sent to the client; of a file that the server sends, its ``content-length``."""
    seconds: float = 0.0
    """From the grant to the end of the answer."""
    status: int = 0
    headers: Mapping[bytes, bytes] = {}
    """Of the answer, names in lower case."""


Cost = Callable[[Measured], float]
"""Units that a request costs, 0 or more."""


class Observed(Struct, frozen=True, gc=False):
    """How a request went that was granted capacity."""

    lane: str
    ended: bool
    """The answer is complete."""
    usage: Usage
    """Told by the answer; what it did not tell is estimated."""
    reported: Usage | None
    """Told by the handler, which knows better."""
    measured: Measured
    score: float | None = None
    """How good the answer was, 0 to 1, where the handler told."""


class Meter(Protocol):
    """Meters one request."""

    @property
    def call(self) -> Call | None:
        """The LLM call that it is, if it is one."""

    @property
    def pool(self) -> Pool:
        """Whose capacity it asks for."""

    @property
    def withheld(self) -> bytes:
        """Name of a header of the answer that is not for the client; may be empty."""

    @property
    def routed(self) -> Routed | None:
        """How the lane was chosen, of an LLM call."""

    @property
    def headers(self) -> Sequence[Header]:
        """Of the answer: how its lane was chosen."""

    def ask(self, number: str, principal: Principal) -> Ask:
        """The wish for capacity under the request id ``number``."""

    def scanner(self, content_type: bytes, *, hide_usage: bool) -> UsageScanner:
        """What looks at the answer on its way out."""

    def served(self, observed: Observed) -> Served:
        """What to charge. Never raises."""


class TokenMeter:
    """Meters an LLM call by its tokens."""

    withheld = b""

    def __init__(self, pool: Pool, routed: Routed, call: Call, estimate: Estimate) -> None:
        self.pool = pool
        self.routed = routed
        self.call = call
        self.estimate = estimate

    @property
    def headers(self) -> Sequence[Header]:
        return self.routed.headers()

    def of(self, call: Call) -> TokenMeter:
        """The same for ``call``, which the engine is asked instead; the estimate stays."""
        meter = copy(self)
        meter.call = call
        return meter

    def elsewhere(self, lane: str, call: Call, estimate: Estimate) -> TokenMeter:
        """The same request at ``lane`` alone."""
        decision = replace(self.routed.decision, actions=(Action(lane),))
        return TokenMeter(self.pool, replace(self.routed, decision=decision), call, estimate)

    def unheard(self) -> TokenMeter:
        """The same, but routers learn nothing of its outcome."""
        meter = copy(self)
        meter.routed = replace(self.routed, on_end=None)
        return meter

    def ask(self, number: str, principal: Principal) -> Ask:
        return self.pool.ask(number, principal, self.routed.decision.lanes, self.estimate)

    def scanner(self, content_type: bytes, *, hide_usage: bool) -> UsageScanner:
        return scanner_for(self.call.route, content_type, hide_usage=hide_usage)

    def served(self, observed: Observed) -> Served:
        call, pool, usage = self.call, self.pool, observed.reported or observed.usage
        engine_s = observed.measured.seconds
        if not usage.exact and not call.stream:
            usage = pool.spent(self.estimate, observed.lane, engine_s)
        elif observed.ended:
            pool.note_pace(observed.lane, usage.completion_tokens // call.choices, engine_s)
        served = pool.served(call, self.estimate, usage, learn=observed.ended)
        if self.routed.on_end is not None:
            prompt, output = served.prompt_tokens, served.tokens - served.prompt_tokens
            ended, score = observed.ended, observed.score
            outcome = Outcome(observed.lane, engine_s, prompt, output, ended, score, call.choices)
            self.routed.on_end(self.routed, outcome)
        return served


class UnitMeter:
    """Meters a request without tokens by what the route, or the app's own function, says."""

    call = None
    routed = None
    headers: Sequence[Header] = ()

    def __init__(
        self, pool: Pool, lanes: Sequence[str], cost: Cost, known: Measured, withheld: bytes
    ) -> None:
        """Raises ``ValueError`` where ``cost`` gives what is no cost, or what it raises itself."""
        self.pool = pool
        self.withheld = withheld
        self._lanes = lanes
        self._cost = cost
        self._expected = _checked(cost(known))

    def ask(self, number: str, principal: Principal) -> Ask:
        return self.pool.ask_units(number, principal, self._lanes, self._expected)

    def scanner(self, content_type: bytes, *, hide_usage: bool) -> UsageScanner:
        return UsageScanner()

    def served(self, observed: Observed) -> Served:
        if observed.reported is not None:
            usage = observed.reported
            prompt = usage.prompt_tokens or 0
            return Served(
                cost=self.pool.cost_of(usage),
                tokens=prompt + usage.completion_tokens,
                prompt_tokens=prompt,
                void=False,
            )
        try:
            units = _checked(self._cost(observed.measured))
        except Exception:
            path = observed.measured.scope["path"]
            log.exception("the cost cannot be told; charged as expected", path=path)
            units = self._expected
        tokens = math.ceil(units)
        return Served(cost=units, tokens=tokens, prompt_tokens=tokens, void=False)


def unit_meter(
    pool: Pool,
    lanes: Sequence[str],
    spec: RouteCost | None,
    own: Cost | None,
    scope: Scope,
    request_bytes: int,
) -> UnitMeter:
    """The meter of a route with the cost ``spec``, else the app's ``own``, else one unit."""
    cost = declared_cost(spec or _ONE_UNIT) if spec is not None or own is None else own
    withheld = spec.header.lower().encode() if spec is not None and spec.header else b""
    return UnitMeter(pool, lanes, cost, Measured(scope, request_bytes), withheld)


def declared_cost(spec: RouteCost) -> Cost:
    """The cost function that a route's ``cost`` section describes."""
    header = spec.header.lower().encode() if spec.header else b""

    def cost(measured: Measured) -> float:
        total_bytes = measured.request_bytes + measured.answer_bytes
        units = spec.per_request + spec.per_byte * total_bytes
        if not measured.ended:
            return units + spec.expected
        told = measured.headers.get(header)
        return units + spec.per_second * measured.seconds + (float(told) if told else 0.0)

    return cost


def _checked(units: float) -> float:
    if not 0 <= units <= _MOST_UNITS:
        raise ValueError(f"cost: expected 0 to 2^40 units, got {units!r}")
    return units
