"""The end of a request's way: sends it to the granted engine and passes the answer on."""

from __future__ import annotations

import structlog
from starlette.types import Message, Receive, Scope, Send

from fairgate.admission.model import Grant
from fairgate.codec import PATHS
from fairgate.engines.base import Engine
from fairgate.engines.transport import Answer
from fairgate.errors import (
    BadGateway,
    EngineError,
    EngineUnreachable,
    GatewayTimeout,
    Refusal,
    Unavailable,
)
from fairgate.gateway.best_of import BestOf, Reply
from fairgate.pipe import put_of
from fairgate.runtime import Runtime
from fairgate.sampling import Plan
from fairgate.ticket import SCOPE_KEY, Ticket
from fairgate.within import Within

ATTEMPTS = 2
"""Engines that a request is tried on: more would let one that kills engines kill them all."""

_OUT_OF_ORDER = frozenset({502, 503, 504})
"""By its own word the engine cannot serve. With 500 it says so of one request, whose own fault it
may be: that is tried again, but an engine is not given up for it."""

_FAILED = 500

_HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-connection", b"te", b"trailer",
        b"transfer-encoding", b"upgrade", b"date", b"server",
    }
)  # fmt: skip
_PASSED_ON = frozenset({b"accept", b"traceparent", b"tracestate", b"user-agent"})

_Begun = tuple[Answer, bytes]
"""An answer with its first part, or all of it unless it is a stream."""

log = structlog.get_logger("fairgate.gateway")


class Forwarder:
    """The ASGI app behind the middleware: expects a ticket with a grant in the scope."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._best_of = BestOf(runtime, self._open)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request. The client's leaving cancels the engine's work on it."""
        ticket: Ticket = scope[SCOPE_KEY]
        if ticket.plan is not None:
            await self._serve_planned(scope, ticket, ticket.plan, send)
            return
        stream = ticket.call.stream
        with ticket.inbox:  # until the client leaves
            answer, part = await self._open(scope, ticket)
            if stream:
                part = await _stream(answer, part, ticket, send)
        # Outside the block: the server reports a disconnect as soon as the answer is complete.
        if stream:
            await _end_stream(answer, part, ticket, send)
            return
        self._runtime.judging.look(ticket, part)
        await send(_start(answer))
        await send({"type": "http.response.body", "body": part})

    async def _serve_planned(self, scope: Scope, ticket: Ticket, plan: Plan, send: Send) -> None:
        with ticket.inbox:
            reply = await self._best_of.serve(scope, ticket, plan)
        if not plan.asked.stream:
            self._runtime.judging.look(ticket, reply.body)
        await send(_start(reply))
        await send({"type": "http.response.body", "body": reply.body})

    async def _open(self, scope: Scope, ticket: Ticket) -> _Begun:
        """An answer; while the client has seen nothing, another engine is tried if one fails."""
        for _ in range(ATTEMPTS - 1):
            try:
                answer, first = await self._ask(scope, ticket)
            except GatewayTimeout:
                raise  # as much patience again would be no service
            except Refusal as failure:
                _log_failure(ticket, failure.message)
            else:
                if answer.status != _FAILED:
                    return answer, first
                answer.close()
                _log_failure(ticket, "the engine answered 500")
            await ticket.move()
        return await self._ask(scope, ticket)

    def _engine(self, ticket: Ticket) -> Engine:
        grant = ticket.grant
        engine = ticket.pool.monitor.engine(grant.lane, grant.engine) if grant else None
        if engine is None:
            raise BadGateway("the granted engine is not in this gateway's configuration")
        return engine

    async def _ask(self, scope: Scope, ticket: Ticket) -> _Begun:
        """Send the request to the granted engine and wait for its answer to begin."""
        engine = self._engine(ticket)
        timeout_s = self._runtime.config.timeouts.first_byte_s
        try:
            with Within(self._runtime.deadlines.of(timeout_s)):
                return await self._post(scope, ticket, engine)
        except EngineUnreachable as error:
            _blame(ticket, unreachable=True)
            raise BadGateway(f"the engine cannot be reached ({error})") from error
        except TimeoutError:
            _blame(ticket)
            raise GatewayTimeout(f"the engine sent nothing within {timeout_s:g} s") from None
        except EngineError as error:
            _blame(ticket)
            raise BadGateway(f"the engine failed ({error})") from error

    async def _post(self, scope: Scope, ticket: Ticket, engine: Engine) -> _Begun:
        grant = ticket.grant
        assert grant is not None  # noqa: S101 — the middleware admits before it calls us
        lane = ticket.pool.lanes[grant.lane]
        body = ticket.engine_body(
            model=lane.model or grant.lane,
            priority=grant.priority if engine.priority else None,
            cache_salt=ticket.principal.cache_salt if engine.cache_salt else None,
        )
        if engine.transport is None:
            raise BadGateway("the granted engine is not reached through the gateway")
        path = PATHS[ticket.call.route]  # never the client's text
        answer = await engine.transport.post(path, body, _request_headers(scope, ticket))
        try:
            return answer, await self._first_part(answer, ticket)
        except BaseException:
            answer.close()
            raise

    async def _first_part(self, answer: Answer, ticket: Ticket) -> bytes:
        if answer.status in _OUT_OF_ORDER:
            _blame(ticket)
            raise Unavailable(f"the engine answered {answer.status}", code="engine_unavailable")
        if not ticket.call.stream:
            whole = await answer.read()
            _praise(answer, ticket, ticket.grant)
            return whole
        first = await answer.part()
        timeouts = self._runtime.config.timeouts
        answer.limit_time(idle_s=timeouts.idle_s, total_s=timeouts.answer_s)
        return first


async def _stream(answer: Answer, part: bytes, ticket: Ticket, send: Send) -> bytes:
    """All of the answer but its last part, which is returned.

    While the client reads as fast as the engine writes, parts pass without waking this task; a
    client that is slower slows the engine's sending.
    """
    try:
        await send(_start(answer))
        put = put_of(send)
        while not answer.complete:
            await send({"type": "http.response.body", "body": part, "more_body": True})
            part = await answer.part(put)
    except EngineError as error:
        raise _broken_off(ticket, error) from error
    finally:
        answer.close()  # if it is not complete, this is what tells the engine
    return part


async def _end_stream(answer: Answer, last: bytes, ticket: Ticket, send: Send) -> None:
    grant = ticket.grant  # it is given back with the last part
    try:
        await send({"type": "http.response.body", "body": last})
    except EngineError as error:
        raise _broken_off(ticket, error) from error
    _praise(answer, ticket, grant)


def _broken_off(ticket: Ticket, error: EngineError) -> BadGateway:
    _blame(ticket)
    return BadGateway(f"the engine broke off ({error})")


def _blame(ticket: Ticket, *, unreachable: bool = False) -> None:
    """The granted engine failed the request."""
    grant, monitor = ticket.grant, ticket.pool.monitor
    if grant is not None:
        failed = monitor.unreachable if unreachable else monitor.failed
        failed(grant.lane, grant.engine, ticket.granted_at or 0.0)


def _praise(answer: Answer, ticket: Ticket, grant: Grant | None) -> None:
    """The engine of ``grant`` served the request in whole."""
    monitor = ticket.pool.monitor
    if monitor.doubted and grant is not None and answer.status < 500:
        monitor.went_well(grant.lane, grant.engine)


def _log_failure(ticket: Ticket, error: str) -> None:
    engine = ticket.grant.engine if ticket.grant else ""
    log.warning("engine failed", engine=engine, error=error)


def _start(answer: Answer | Reply) -> Message:
    headers = [(n, v) for name, v in answer.headers if (n := name.lower()) not in _HOP_BY_HOP]
    return {"type": "http.response.start", "status": answer.status, "headers": headers}


def _request_headers(scope: Scope, ticket: Ticket) -> dict[str, str]:
    """Little of what the client sent reaches the engine: no key, no priority, no cookies."""
    headers = {
        name.decode(): value.decode("latin-1")
        for name, value in scope["headers"]
        if name in _PASSED_ON
    }
    headers["content-type"] = "application/json"
    headers["accept-encoding"] = "identity"
    headers["x-request-id"] = ticket.engine_request_id()
    return headers
