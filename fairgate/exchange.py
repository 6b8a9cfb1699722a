"""One metered request, from its first byte until it is settled.

Its way: identify, read the body, estimate, route, admit and wait, hand to the app. The answer goes
out by way of :mod:`fairgate.watch`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from fairgate import codec, headers
from fairgate.config import Route
from fairgate.errors import Forbidden, Refusal, StoreError, Throttled, Unavailable
from fairgate.identity import Authenticate, Principal, complete, who_sends
from fairgate.inbox import ClientGone, Inbox
from fairgate.metering import Cost, Meter, TokenMeter, unit_meter
from fairgate.pool import Pool
from fairgate.refusing import Refuser
from fairgate.routing.routed import Routed, named, route_request
from fairgate.runtime import Runtime
from fairgate.sampling import Plan, read_wishes
from fairgate.tally import NOBODY
from fairgate.ticket import SCOPE_KEY, Ticket
from fairgate.watch import Watch


@dataclass(frozen=True, slots=True)
class Terms:
    """What all requests of one FairGate have in common."""

    app: ASGIApp
    refuser: Refuser
    authenticate: Authenticate | None = None
    cost: Cost | None = None
    """Of routes that say nothing about it themselves."""


class Exchange:
    """One request and its answer."""

    def __init__(
        self,
        terms: Terms,
        runtime: Runtime,
        route: Route,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self.terms = terms
        self.runtime = runtime
        self.route = route
        self.scope = scope
        self.inbox = Inbox(receive, runtime.deadlines)
        self.client_send = send
        fields = dict(scope["headers"])
        self.request_id = headers.request_id(fields.get(headers.REQUEST_ID))
        self.declared = headers.length(fields.get(b"content-length"))
        self.encoding = fields.get(b"content-encoding")
        self.plan: Plan | None = None
        self.watch = Watch(runtime, scope, self.request_id, self.inbox, send)

    async def run(self) -> None:
        """Serve it; whatever happens, its grant is given back and it is logged."""
        watch = self.watch
        try:
            await self._serve()
        except ClientGone:
            watch.outcome = "client_gone"
        except Refusal as refusal:
            await self._refuse(refusal)
        except StoreError as error:
            await self._refuse(Unavailable(str(error), code="store_unavailable", retry_after=2))
        except asyncio.CancelledError:
            if not self.runtime.draining:
                self._broken()
                raise
            await self._refuse(
                Unavailable("the gateway is shutting down", code="draining", retry_after=1)
            )
        except BaseException:
            self._broken()
            raise
        finally:
            self.inbox.close()
            watch.settle()
            watch.log()

    async def _serve(self) -> None:
        ticket = await self._admit()
        scope = {**self.scope, SCOPE_KEY: ticket}
        if self.watch.trace is not None:
            scope["headers"] = self.watch.trace.handed_on(ticket, scope["headers"])
        await self.terms.app(scope, self.inbox.receive, self.watch.send)
        if not self.watch.ended:
            self._broken()

    def _broken(self) -> None:
        """The app ended without ending its answer: mostly since the client left."""
        self.watch.outcome = "client_gone" if self.inbox.gone else "error"

    async def _admit(self) -> Ticket:
        runtime, watch = self.runtime, self.watch
        if runtime.draining:
            raise Unavailable("the gateway is draining", code="draining", retry_after=1)
        try:
            watch.principal = principal = await who_sends(
                self.scope, runtime.identity, self.terms.authenticate, failed=runtime.failed_keys
            )
        except Forbidden as refusal:
            watch.principal = refusal.principal
            raise
        if self.route.api is not None:
            codec.check_encoding(self.encoding)
        body = await self.inbox.read_body(
            limit=runtime.config.server.max_body_bytes,
            timeout_s=runtime.config.timeouts.body_s,
            declared=self.declared,
        )
        meter, watch.principal = self._meter(body, principal)
        self.inbox.replay(body)
        watch.ticket = ticket = Ticket(
            number=runtime.number(),
            request_id=self.request_id,
            principal=watch.principal,
            meter=meter,
            body=body,
            inbox=self.inbox,
            plan=self.plan,
        )
        with self.inbox:  # until the client leaves
            await ticket.acquire()
        return ticket

    def _meter(self, body: bytes, principal: Principal) -> tuple[Meter, Principal]:
        """How the request is metered, and who sends it, now that the body is known."""
        runtime, route = self.runtime, self.route
        config = runtime.config
        if route.api is None:
            pool, lanes = runtime.lane(route.lane)
            self.watch.lane = lanes[0]
            meter = unit_meter(pool, lanes, route.cost, self.terms.cost, self.scope, len(body))
            return meter, complete(principal, None, None)
        call = codec.decode(codec.PATHS[route.api], body, max_choices=config.max_choices)
        principal = complete(
            principal, call.safety_identifier or call.user, call.previous_response_id
        )
        request = route_request(self.request_id, call, principal)
        if route.lane:
            pool, (lane,) = runtime.lane(route.lane)
            routed = named(request, lane)
        else:
            pool, routed = runtime.find(request, self.scope["headers"])
        self.watch.lane = lane = routed.decision.lanes[0]
        self.plan = self._plan(pool, routed, body)
        if self.plan is not None:
            call = self.plan.draft(lane).call
        estimate = pool.estimate(call, principal, lane, config)
        return TokenMeter(pool, routed, call, estimate), principal

    def _plan(self, pool: Pool, routed: Routed, body: bytes) -> Plan | None:
        """How several answers are to be written, if they are."""
        if not pool.planner.active:
            return None
        call, decision = routed.request.call, routed.decision
        return pool.planner.plan(
            body,
            call,
            read_wishes(self.scope["headers"], pool.planner.best_of),
            decision.lanes,
            routed={a.lane: a.samples for a in decision.actions if a.samples > 1},
            free_choice=bool(decision.router),
        )

    async def _refuse(self, refusal: Refusal) -> None:
        watch = self.watch
        watch.outcome = "throttled" if refusal.status == HTTPStatus.TOO_MANY_REQUESTS else "refused"
        if watch.outcome == "throttled" and watch.principal is not None:
            cause = refusal.limit if isinstance(refusal, Throttled) else refusal.code
            self.runtime.metrics.throttled(watch.principal.tenant, cause or "other")
        if watch.status:
            await self._break_off(refusal)
            return
        watch.status = await self.terms.refuser.answer(
            refusal,
            self.scope,
            self.inbox.receive,
            self.client_send,
            request_id=self.request_id,
            lane="" if watch.lane == NOBODY else watch.lane,
            queue_s=watch.ticket.queue_s if watch.ticket else None,
        )

    async def _break_off(self, refusal: Refusal) -> None:
        """The answer has begun: a stream ends with an error event, anything else is cut short."""
        watch = self.watch
        watch.outcome = "error"
        call = watch.ticket.meter.call if watch.ticket is not None else None
        if watch.ended or call is None or not call.stream or not watch.scanner.cut():
            raise refusal
        last = headers.sse_error(refusal.message, refusal.code or "error")
        await self.client_send({"type": "http.response.body", "body": last})
