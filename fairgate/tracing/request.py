"""The spans of one request.

``POST /v1/chat/completions`` (server) is the whole; below it ``fairgate.admission`` with
``fairgate.queue`` in it, and ``chat MODEL`` (client): what the engine did, for whose own spans it
is the parent.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue
from starlette.types import Scope

from fairgate.admission.model import Served
from fairgate.codec import ROUTES as PATHS_OF_APIS
from fairgate.headers import Header
from fairgate.identity import Principal
from fairgate.ticket import Ticket
from fairgate.tracing import conventions as names

_CONTEXT = frozenset((b"traceparent", b"tracestate"))
_ERROR = Status(StatusCode.ERROR)

_propagator = TraceContextTextMapPropagator()


class RequestTrace:
    """Begun when the request arrives; :meth:`ended` must be called, once."""

    def __init__(self, tracer: Tracer, scope: Scope, request_id: str) -> None:
        self._tracer = tracer
        self._epoch_s = time.time() - time.perf_counter()
        self._began = time.perf_counter()
        self._handed_on: float | None = None
        self._engine: Span | None = None
        self._queue_s = 0.0
        method, path = scope["method"], scope["path"]
        self._span = tracer.start_span(
            f"{method} {path}" if path in PATHS_OF_APIS else method,  # few names, whatever comes
            _propagator.extract(_carrier(scope["headers"])),
            SpanKind.SERVER,
            {names.HTTP_METHOD: method, names.URL_PATH: path, names.REQUEST_ID: request_id},
            start_time=self._ns(self._began),
        )
        self._context = trace.set_span_in_context(self._span)

    @property
    def trace_id(self) -> str:
        """In hex, for logs."""
        return trace.format_trace_id(self._span.get_span_context().trace_id)

    def handed_on(self, ticket: Ticket, sent: Iterable[Header]) -> list[Header]:
        """The request is granted: the header fields for the engine, instead of ``sent``."""
        self._handed_on = now = time.perf_counter()
        self._queue_s = ticket.queue_s
        call = ticket.meter.call
        attributes: dict[str, AttributeValue]
        if call is None:
            name, kind, attributes = names.APP_SPAN, SpanKind.INTERNAL, {}
        else:
            operation, model = names.operation(call.route), _model(ticket)
            name, kind = f"{operation} {model}", SpanKind.CLIENT
            attributes = {
                names.OPERATION: operation,
                names.PROVIDER: names.PROVIDER_VALUE,
                names.REQUEST_MODEL: model,
                names.REQUEST_STREAM: call.stream,
                names.REQUEST_CHOICES: call.n,
            }
            if call.max_output_tokens is not None:
                attributes[names.REQUEST_MAX_TOKENS] = call.max_output_tokens
        self._engine = self._tracer.start_span(
            name, self._context, kind, attributes, start_time=self._ns(now)
        )
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, trace.set_span_in_context(self._engine))
        kept = [(name, value) for name, value in sent if name not in _CONTEXT]
        return kept + [(name.encode(), value.encode("latin-1")) for name, value in carrier.items()]

    def ended(
        self,
        principal: Principal | None,
        ticket: Ticket | None,
        outcome: str,
        status: int,
        lane: str,
        engine: str,
        served: Served,
        *,
        first_byte_s: float | None,
    ) -> None:
        """The request is over, in whatever way; the arguments are what the log tells."""
        now = time.perf_counter()
        failed = outcome == "error" or status >= 500
        told: dict[str, AttributeValue] = {names.OUTCOME: outcome, names.LANE: lane}
        if status:
            told[names.HTTP_STATUS] = status
        if outcome != "completed" or status >= 400:
            told[names.ERROR_TYPE] = str(status) if status >= 400 else outcome
        if principal is not None:
            told |= {names.TENANT: principal.tenant, names.APP: principal.app}
            if principal.interaction:
                told[names.CONVERSATION] = principal.interaction
        if ticket is not None:
            told |= {names.POOL: ticket.pool.name, names.QUEUE_S: ticket.queue_s}
            told |= _asked(ticket)
        if ticket is not None and self._handed_on is None:
            self._queue_s = ticket.queue_s
        self._admission(now)
        if self._engine is not None:
            self._end_engine(self._engine, engine, served, told, failed, first_byte_s, now)
        self._span.set_attributes({**told, names.SERVICE: served.cost})
        self._finish(self._span, failed, now)

    def _admission(self, now: float) -> None:
        """Its span, with hindsight."""
        until = self._handed_on or now
        span = self._tracer.start_span(
            names.ADMISSION_SPAN, self._context, start_time=self._ns(self._began)
        )
        if self._queue_s:
            began = max(self._began, until - self._queue_s)  # by another clock, a rougher one
            queue = self._tracer.start_span(
                names.QUEUE_SPAN,
                trace.set_span_in_context(span),
                start_time=self._ns(began),
            )
            queue.end(self._ns(until))
        span.end(self._ns(until))

    def _end_engine(
        self,
        span: Span,
        engine: str,
        served: Served,
        told: Mapping[str, AttributeValue],
        failed: bool,
        first_byte_s: float | None,
        now: float,
    ) -> None:
        wanted = (names.ERROR_TYPE, names.LANE, names.CONVERSATION)
        span.set_attributes({name: told[name] for name in wanted if name in told})
        span.set_attribute(names.ENGINE, engine)
        if not served.void:
            span.set_attribute(names.INPUT_TOKENS, served.prompt_tokens)
            span.set_attribute(names.OUTPUT_TOKENS, served.tokens - served.prompt_tokens)
        if first_byte_s is not None and self._handed_on is not None:
            waited_s = self._handed_on - self._began
            span.set_attribute(names.FIRST_CHUNK_S, max(0.0, first_byte_s - waited_s))
        self._finish(span, failed, now)

    def _finish(self, span: Span, failed: bool, now: float) -> None:
        if failed:
            span.set_status(_ERROR)
        span.end(self._ns(now))

    def _ns(self, at: float) -> int:
        """Nanoseconds since the epoch of a time by ``time.perf_counter()``."""
        return int((self._epoch_s + at) * 1e9)


def _asked(ticket: Ticket) -> dict[str, AttributeValue]:
    """What the client asked for, and who chose the lane."""
    call, routed = ticket.meter.call, ticket.meter.routed
    told: dict[str, AttributeValue] = {}
    if call is not None:
        told[names.OPERATION] = names.operation(call.route)
        if call.model:
            told[names.REQUEST_MODEL] = call.model[:256]
    if routed is not None and routed.decision.router:
        told[names.ROUTER] = routed.decision.router
    return told


def _model(ticket: Ticket) -> str:
    """The model that the granted lane's engines know."""
    lane = ticket.grant.lane if ticket.grant is not None else ""
    return ticket.pool.lanes[lane].model or lane


def _carrier(fields: Iterable[Header]) -> dict[str, str]:
    return {name.decode(): value.decode("latin-1") for name, value in fields if name in _CONTEXT}
