"""One metered request and its answer.

Its way: identify, read the body, estimate, route, admit and wait, hand to the app,
watch the answer go out, settle.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from msgspec.structs import replace
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fairgate import codec, headers
from fairgate.admission.model import Served
from fairgate.config import Route
from fairgate.errors import Refusal, StoreError, Throttled, Unavailable
from fairgate.identity import Authenticate, Principal, complete, interaction_id, who_sends
from fairgate.inbox import ClientGone, Inbox
from fairgate.metering import Cost, Measured, Meter, Observed, TokenMeter, unit_meter
from fairgate.pool import Pool
from fairgate.refusing import Refuser
from fairgate.routing.routed import Routed, named, route_request
from fairgate.runtime import Runtime
from fairgate.sampling import Plan, read_wishes
from fairgate.tally import NOBODY, tally
from fairgate.ticket import SCOPE_KEY, Ticket
from fairgate.usage import UsageScanner

_NO_ANSWER = UsageScanner()
_FILES = frozenset({"http.response.pathsend", "http.response.zerocopysend"})


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
        self.inbox = Inbox(receive)
        self.client_send = send
        fields = dict(scope["headers"])
        self.request_id = headers.request_id(fields.get(headers.REQUEST_ID))
        self.declared = _length(fields.get(b"content-length"))
        self.principal: Principal | None = None
        self.plan: Plan | None = None
        self.ticket: Ticket | None = None
        self.scanner = _NO_ANSWER
        self.began = time.perf_counter()
        self.granted_at: float | None = None
        self.first_byte_at: float | None = None
        self.status = 0
        self.answer_headers: Mapping[bytes, bytes] = {}
        self.answer_bytes = 0
        self.ended = False
        self.outcome = "completed"
        self.lane = self.engine = NOBODY
        self.leased = True
        self.served = Served()
        begin_trace = runtime.begin_trace
        self.trace = begin_trace(scope, self.request_id) if begin_trace is not None else None

    async def run(self) -> None:
        """Serve it; whatever happens, its grant is given back and it is logged."""
        try:
            await self._serve()
        except ClientGone:
            self.outcome = "client_gone"
        except Refusal as refusal:
            await self._refuse(refusal)
        except StoreError as error:
            await self._refuse(Unavailable(str(error), code="store_unavailable", retry_after=2))
        except BaseException:
            self._broken()
            raise
        finally:
            self.inbox.close()
            self._settle()
            self._log()

    async def _serve(self) -> None:
        ticket = await self._admit()
        scope = {**self.scope, SCOPE_KEY: ticket}
        if self.trace is not None:
            scope["headers"] = self.trace.handed_on(ticket, scope["headers"])
        await self.terms.app(scope, self.inbox.receive, self._send)
        if not self.ended:
            self._broken()

    def _broken(self) -> None:
        """The app ended without ending its answer: mostly since the client left."""
        self.outcome = "client_gone" if self.inbox.gone else "error"

    async def _admit(self) -> Ticket:
        runtime = self.runtime
        if runtime.draining:
            raise Unavailable("the gateway is draining", code="draining", retry_after=1)
        self.principal = await who_sends(self.scope, self.runtime.identity, self.terms.authenticate)
        body = await self.inbox.read_body(
            limit=runtime.config.server.max_body_bytes,
            timeout_s=runtime.config.timeouts.body_s,
            declared=self.declared,
        )
        meter, self.principal = self._meter(body, self.principal)
        self.inbox.replay(body)
        self.ticket = ticket = Ticket(
            number=runtime.number(),
            request_id=self.request_id,
            principal=self.principal,
            meter=meter,
            body=body,
            inbox=self.inbox,
            plan=self.plan,
        )
        with self.inbox:  # until the client leaves
            await ticket.acquire()
        self.granted_at = time.perf_counter()
        return ticket

    def _meter(self, body: bytes, principal: Principal) -> tuple[Meter, Principal]:
        """How the request is metered, and who sends it, now that the body is known."""
        runtime, route = self.runtime, self.route
        config = runtime.config
        if route.api is None:
            pool, lanes = runtime.lane(route.lane)
            self.lane = lanes[0]
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
        self.lane = routed.decision.lanes[0]
        self.plan = self._plan(pool, routed, body)
        if self.plan is not None:
            call = self.plan.draft(self.lane).call
        estimate = pool.estimate(call, principal, self.lane, config)
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

    async def _send(self, message: Message) -> None:
        """What the app sends, on its way to the client."""
        kind = message["type"]
        if kind == "http.response.start":
            message = self._start(message)
        elif kind == "http.response.body":
            chunk, more = message.get("body", b""), message.get("more_body", False)
            passed = self._body(chunk, more)
            if more and not passed:
                return
            message = {"type": kind, "body": passed, "more_body": more}
        elif kind in _FILES:
            self._file(message)
        try:
            await self.client_send(message)
        except OSError:
            self.inbox.leave()  # since ASGI 2.4 a server says so that the client is gone
            raise

    def _body(self, chunk: bytes, more: bool) -> bytes:
        """What of it to send on now."""
        if self.first_byte_at is None and chunk:
            self.first_byte_at = time.perf_counter()
        self.answer_bytes += len(chunk)
        passed = self.scanner.feed(chunk)
        if not more:
            passed += self.scanner.finish()
            self._end()
        return passed

    def _file(self, message: Message) -> None:
        """The server sends a file by itself."""
        self.first_byte_at = self.first_byte_at or time.perf_counter()
        if not message.get("more_body", False):
            self.answer_bytes += _length(self.answer_headers.get(b"content-length")) or 0
            self._end()

    def _end(self) -> None:
        """The app is done: its capacity need not wait for the client."""
        self.ended = True
        self._settle()

    def _start(self, message: Message) -> Message:
        ticket = self.ticket
        assert ticket is not None  # noqa: S101 — the app runs only with a ticket
        self.status = message["status"]
        sent = headers.lowered(message)
        self.answer_headers = answered = dict(sent)
        withheld = {ticket.meter.withheld}
        if self.status < HTTPStatus.BAD_REQUEST:
            kind = answered.get(b"content-type", b"")
            self.scanner = ticket.meter.scanner(kind, hide_usage=ticket.hides_usage)
            if ticket.hides_usage:
                withheld.add(b"content-length")  # the app counted what is withheld
        return {**message, "headers": headers.merged(sent, self._headers(ticket), withheld)}

    def _headers(self, ticket: Ticket) -> list[headers.Header]:
        grant = ticket.answered_by or ticket.grant
        if grant is None:
            return headers.route_headers(self.request_id)
        self.lane, self.engine = grant.lane, grant.engine
        added = headers.route_headers(
            self.request_id, lane=grant.lane, engine=grant.engine, queue_s=ticket.queue_s
        )
        added += ticket.meter.headers
        if not grant.leased:
            added.append(headers.DEGRADED_OPEN)
        return added + (headers.limit_headers(grant.limits) if grant.limits else [])

    async def _refuse(self, refusal: Refusal) -> None:
        self.outcome = "throttled" if refusal.status == HTTPStatus.TOO_MANY_REQUESTS else "refused"
        if self.outcome == "throttled" and self.principal is not None:
            cause = refusal.limit if isinstance(refusal, Throttled) else refusal.code
            self.runtime.metrics.throttled(self.principal.tenant, cause or "other")
        if self.status:
            await self._break_off(refusal)
            return
        self.status = await self.terms.refuser.answer(
            refusal,
            self.scope,
            self.inbox.receive,
            self.client_send,
            request_id=self.request_id,
            lane="" if self.lane == NOBODY else self.lane,
            queue_s=self.ticket.queue_s if self.ticket else None,
        )

    async def _break_off(self, refusal: Refusal) -> None:
        """The answer has begun: a stream ends with an error event, anything else is cut short."""
        self.outcome = "error"
        call = self.ticket.meter.call if self.ticket is not None else None
        if self.ended or call is None or not call.stream:
            raise refusal
        last = self.scanner.finish() + headers.sse_error(refusal.message, refusal.code or "error")
        await self.client_send({"type": "http.response.body", "body": last})

    def _settle(self) -> None:
        """Charge what was served and free the capacity; does nothing the second time."""
        ticket = self.ticket
        if ticket is None or ticket.grant is None:
            return
        self.lane, self.engine = ticket.grant.lane, ticket.grant.engine
        self.leased = ticket.grant.leased
        self.served = self._what_was_served(ticket)
        ticket.settle(self.served)

    def _what_was_served(self, ticket: Ticket) -> Served:
        """Nothing if the engine never answered or failed; a refused request counts, but is free;
        a broken-off answer costs its prompt and the tokens that were seen."""
        if not self.status and self.outcome != "client_gone":
            return Served()
        if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return Served()
        if self.status >= HTTPStatus.BAD_REQUEST:
            return Served(void=False)
        if not self.ended:
            self.scanner.finish()
        served = ticket.meter.served(self._observed(ticket))
        return replace(served, continues_as=self._next_id(ticket))

    def _observed(self, ticket: Ticket) -> Observed:
        return Observed(
            lane=self.lane,
            ended=self.ended,
            usage=self.scanner.usage,
            reported=ticket.reported,
            score=ticket.score,
            measured=Measured(
                scope=self.scope,
                request_bytes=len(ticket.body),
                ended=True,
                answer_bytes=self.answer_bytes,
                seconds=time.perf_counter() - (ticket.granted_at or self.began),
                status=self.status,
                headers=self.answer_headers,
            ),
        )

    def _next_id(self, ticket: Ticket) -> str:
        """The interaction of calls that name this answer as their previous response."""
        if not self.scanner.response_id:
            return ""
        who = ticket.principal
        return interaction_id(who.tenant, who.user or who.key_id, self.scanner.response_id)

    def _charged(self) -> Served:
        """All that was served: of a cascade, more than the last answer."""
        if self.ticket is None or not self.ticket.charged:
            return self.served
        every = (*self.ticket.charged, self.served)
        return Served(
            cost=sum(served.cost for served in every),
            tokens=sum(served.tokens for served in every),
            prompt_tokens=sum(served.prompt_tokens for served in every),
            void=all(served.void for served in every),
        )

    def _log(self) -> None:
        now = time.perf_counter()
        principal = self.principal
        tenant = principal.tenant if principal else NOBODY
        first_byte_s = self.first_byte_at - self.began if self.first_byte_at else None
        queue_s = self.ticket.queue_s if self.ticket else 0.0
        served = self._charged()
        output = served.tokens - served.prompt_tokens
        tally(
            self.runtime.metrics, principal, self.ticket, self.outcome, self.status, self.lane,
            served, first_byte_s=first_byte_s, leased=self.leased,
        )  # fmt: skip
        if self.trace is not None:
            self.trace.ended(
                principal, self.ticket, self.outcome, self.status, self.lane, self.engine, served,
                first_byte_s=first_byte_s,
            )  # fmt: skip
        if self.runtime.config.server.access_log is False:
            return
        self.runtime.log_request(
            {
                "request_id": self.request_id,
                "path": self.scope["path"],
                "tenant": tenant,
                "user": principal.user if principal else None,
                "app": principal.app if principal else None,
                "key": principal.key_id if principal else None,
                "lane": self.lane,
                "engine": self.engine,
                "status": self.status,
                "outcome": self.outcome,
                "queue_ms": round(queue_s * 1000, 1),
                "engine_ms": round((now - self.granted_at) * 1000, 1) if self.granted_at else None,
                "first_byte_ms": round(first_byte_s * 1000, 1)
                if first_byte_s is not None
                else None,
                "total_ms": round((now - self.began) * 1000, 1),
                "prompt_tokens": served.prompt_tokens,
                "output_tokens": output,
                "service": round(served.cost, 1),
                **({"trace_id": self.trace.trace_id} if self.trace is not None else {}),
            }
        )


def _length(declared: bytes | None) -> int | None:
    return int(declared) if declared is not None and declared.isdigit() else None
