"""Watches one answer on its way to the client: what it used is charged, and told in the log."""

from __future__ import annotations

import time
from collections.abc import Mapping

from msgspec.structs import replace
from starlette.types import Message, Scope, Send

from fairgate import headers
from fairgate.admission.model import Served
from fairgate.billing.note import Status
from fairgate.identity import Principal, interaction_id
from fairgate.inbox import Inbox
from fairgate.metering import Measured, Observed
from fairgate.pipe import Pipe, Put, put_of
from fairgate.runtime import Runtime
from fairgate.scanners import UsageScanner
from fairgate.tally import NOBODY, tally
from fairgate.ticket import Ticket

_NO_ANSWER = UsageScanner()
_FILES = frozenset({"http.response.pathsend", "http.response.zerocopysend"})


class Watch(Pipe):
    """Stands between the app and the client of one request.

    Who serves the request tells it who sends it, its ``ticket`` and, where the app does not end its
    answer, the ``outcome``.
    """

    def __init__(
        self, runtime: Runtime, scope: Scope, request_id: str, inbox: Inbox, client_send: Send
    ) -> None:
        self._runtime = runtime
        self._scope = scope
        self._request_id = request_id
        self._inbox = inbox
        self._client_send = client_send
        self._client_put: Put | None = None
        self._began = time.perf_counter()
        self._first_byte_at: float | None = None
        self._headers: Mapping[bytes, bytes] = {}
        self._bytes = 0
        self._degraded = False
        self._served = Served()
        self.scanner = _NO_ANSWER
        self.principal: Principal | None = None
        self.ticket: Ticket | None = None
        self.status = 0
        """Of the answer; 0 until it has begun."""
        self.ended = False
        """The app's answer is complete."""
        self.outcome = "completed"
        self.lane = self.engine = NOBODY
        begin_trace = runtime.begin_trace
        self.trace = begin_trace(scope, request_id) if begin_trace is not None else None

    async def send(self, message: Message) -> None:
        """What the app sends, on its way to the client."""
        kind = message["type"]
        if kind == "http.response.body":
            more = message.get("more_body", False)
            passed = self._body(message.get("body", b""), more)
            if more and not passed:
                return
            message = {"type": kind, "body": passed, "more_body": more}
        elif kind == "http.response.start":
            message = self._start(message)
        elif kind in _FILES:
            self._file(message)
        try:
            await self._client_send(message)
        except OSError:
            self._inbox.leave()  # since ASGI 2.4 a server says so that the client is gone
            raise

    def putting(self) -> Put | None:
        """Of an answer that has begun. What it takes is looked at as what is sent is."""
        self._client_put = put_of(self._client_send)
        return self._put if self._client_put is not None else None

    def _put(self, chunk: bytes) -> bool:
        passed = self._body(chunk, more=True)
        if not passed:
            return True
        assert self._client_put is not None  # noqa: S101 — else nobody was given this
        return self._client_put(passed)

    def _body(self, chunk: bytes, more: bool) -> bytes:
        """What of it to send on now."""
        if self._first_byte_at is None and chunk:
            self._first_byte_at = time.perf_counter()
        self._bytes += len(chunk)
        passed = self.scanner.feed(chunk)
        if not more:
            passed += self.scanner.finish()
            self._end()
        return passed

    def _file(self, message: Message) -> None:
        """The server sends a file by itself."""
        self._first_byte_at = self._first_byte_at or time.perf_counter()
        if not message.get("more_body", False):
            self._bytes += headers.length(self._headers.get(b"content-length")) or 0
            self._end()

    def _end(self) -> None:
        """The app is done: its capacity need not wait for the client."""
        self.ended = True
        if self.scanner.failed:
            self.outcome = "error"  # an event said so
        self.settle()

    def _start(self, message: Message) -> Message:
        ticket = self.ticket
        assert ticket is not None  # noqa: S101 — the app runs only with a ticket
        self.status = message["status"]
        sent = headers.lowered(message)
        self._headers = answered = dict(sent)
        withheld = {ticket.meter.withheld}
        if self.status < 400:
            kind = answered.get(b"content-type", b"")
            self.scanner = ticket.meter.scanner(kind, hide_usage=ticket.hides_usage)
            self.scanner.checks_events = ticket.from_engine
            if ticket.hides_usage:
                withheld.add(b"content-length")  # the app counted what is withheld
        return {**message, "headers": headers.merged(sent, self._added(ticket), withheld)}

    def _added(self, ticket: Ticket) -> list[headers.Header]:
        """The headers that the client gets besides the app's."""
        grant = ticket.answered_by or ticket.grant
        if grant is None:
            return headers.route_headers(self._request_id)
        self.lane, self.engine = grant.lane, grant.engine
        added = headers.route_headers(
            self._request_id, lane=grant.lane, engine=grant.engine, queue_s=ticket.queue_s
        )
        added += ticket.meter.headers
        if grant.degraded:
            added.append((headers.DEGRADED, grant.degraded.encode()))
        return added + (headers.limit_headers(grant.limits) if grant.limits else [])

    def settle(self) -> None:
        """Charge what was served and free the capacity; does nothing the second time."""
        ticket = self.ticket
        if ticket is None or ticket.grant is None:
            return
        self.lane, self.engine = ticket.grant.lane, ticket.grant.engine
        self._degraded = bool(ticket.grant.degraded)
        self._served = self._what_was_served(ticket)
        ticket.settle(self._served, self._how_it_ended())

    def _how_it_ended(self) -> Status:
        if self.status >= 500:
            return "engine_failed"
        if self.status >= 400:
            return "refused"
        if self.ended:
            return "ok"
        if self.outcome == "client_gone":
            return "aborted"
        return "broken_off" if self.status else "engine_failed"

    def _what_was_served(self, ticket: Ticket) -> Served:
        """Nothing if the engine never answered or failed; a refused request counts, but is free;
        a broken-off answer costs its prompt and the tokens that were seen."""
        if not self.status and self.outcome != "client_gone":
            return Served()
        if self.status >= 500:
            return Served()
        if self.status >= 400:
            return Served(void=False)
        if not self.ended:
            self.scanner.cut()
        served = ticket.meter.served(self._observed(ticket))
        if not self.scanner.response_id:
            return served
        return replace(served, continues_as=self._next_id(ticket))

    def _observed(self, ticket: Ticket) -> Observed:
        return Observed(
            lane=self.lane,
            ended=self.ended,
            usage=self.scanner.usage,
            reported=ticket.reported,
            score=ticket.score,
            measured=Measured(
                scope=self._scope,
                request_bytes=len(ticket.body),
                ended=True,
                answer_bytes=self._bytes,
                seconds=time.perf_counter() - (ticket.granted_at or self._began),
                status=self.status,
                headers=self._headers,
            ),
        )

    def _next_id(self, ticket: Ticket) -> str:
        """The interaction of calls that name this answer as their previous response."""
        who = ticket.principal
        return interaction_id(who.tenant, who.user or who.key_id, self.scanner.response_id)

    def _charged(self) -> Served:
        """All that was served: of a cascade, more than the last answer."""
        if self.ticket is None or not self.ticket.charged:
            return self._served
        every = (*self.ticket.charged, self._served)
        return Served(
            cost=sum(served.cost for served in every),
            tokens=sum(served.tokens for served in every),
            prompt_tokens=sum(served.prompt_tokens for served in every),
            void=all(served.void for served in every),
        )

    def log(self) -> None:
        """Count the request, which is over, and write its line."""
        now = time.perf_counter()
        principal, ticket = self.principal, self.ticket
        tenant = principal.tenant if principal else NOBODY
        first_byte_s = self._first_byte_at - self._began if self._first_byte_at else None
        queue_s = ticket.queue_s if ticket else 0.0
        granted_at = ticket.granted_at if ticket else None
        served = self._charged()
        output = served.tokens - served.prompt_tokens
        tally(
            self._runtime.metrics, principal, ticket, self.outcome, self.status, self.lane, served,
            first_byte_s=first_byte_s, leased=not self._degraded,
        )  # fmt: skip
        if self.trace is not None:
            self.trace.ended(
                principal, ticket, self.outcome, self.status, self.lane, self.engine, served,
                first_byte_s=first_byte_s,
            )  # fmt: skip
        if self._runtime.config.server.access_log is False:
            return
        self._runtime.log_request(
            {
                "request_id": self._request_id,
                "path": self._scope["path"],
                "tenant": tenant,
                "user": principal.user if principal else None,
                "app": principal.app if principal else None,
                "key": principal.key_id if principal else None,
                "lane": self.lane,
                "engine": self.engine,
                "status": self.status,
                "outcome": self.outcome,
                "queue_ms": _tenths(queue_s * 1000),
                "engine_ms": _tenths((now - granted_at) * 1000) if granted_at else None,
                "first_byte_ms": _tenths(first_byte_s * 1000) if first_byte_s is not None else None,
                "total_ms": _tenths((now - self._began) * 1000),
                "prompt_tokens": served.prompt_tokens,
                "output_tokens": output,
                "service": _tenths(served.cost),
                **({"trace_id": self.trace.trace_id} if self.trace is not None else {}),
            }
        )


def _tenths(number: float) -> float:
    """Rounded, 0 or more: ``round`` goes by way of text, which takes ten times as long."""
    return int(number * 10 + 0.5) / 10
