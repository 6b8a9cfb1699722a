"""The end of a request's way: sends it to the granted engine and passes the answer on."""

from __future__ import annotations

import asyncio

import aiohttp
import structlog
from starlette.types import Message, Receive, Scope, Send

from fairgate.engines.base import Engine
from fairgate.errors import BadGateway, GatewayTimeout, Refusal, Unavailable
from fairgate.runtime import Runtime
from fairgate.ticket import SCOPE_KEY, Ticket

ATTEMPTS = 2
"""Engines that a request is tried on: more would let one that kills engines kill them all."""

_RETRIED = frozenset({502, 503, 504})
_HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-connection", b"te", b"trailer",
        b"transfer-encoding", b"upgrade", b"date", b"server",
    }
)  # fmt: skip
_PASSED_ON = frozenset({b"accept", b"traceparent", b"tracestate", b"user-agent"})

_Answer = tuple[aiohttp.ClientResponse, bytes]
"""With its first part, or all of it unless it is a stream."""

log = structlog.get_logger("fairgate.gateway")


class Forwarder:
    """The ASGI app behind the middleware: expects a ticket with a grant in the scope."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request. The client's leaving cancels the engine's work on it."""
        ticket: Ticket = scope[SCOPE_KEY]
        stream = ticket.call.stream
        async with ticket.inbox.until_gone():
            response, first = await self._open(scope, ticket)
            if stream:
                await _stream(response, first, send)
        # Outside the block: the server reports a disconnect as soon as the answer is complete.
        if not stream:
            await send(_start(response))
        await send({"type": "http.response.body", "body": b"" if stream else first})

    async def _open(self, scope: Scope, ticket: Ticket) -> _Answer:
        """An answer; while the client has seen nothing, another engine is tried if one fails."""
        for _ in range(ATTEMPTS - 1):
            try:
                return await self._ask(scope, ticket)
            except GatewayTimeout:
                raise  # as much patience again would be no service
            except Refusal as failure:
                engine = ticket.grant.engine if ticket.grant else ""
                log.warning("engine failed", engine=engine, error=failure.message)
            await ticket.move()
        return await self._ask(scope, ticket)

    def _engine(self, ticket: Ticket) -> Engine:
        grant = ticket.grant
        engine = ticket.pool.monitor.engine(grant.lane, grant.engine) if grant else None
        if engine is None:
            raise BadGateway("the granted engine is not in this gateway's configuration")
        return engine

    async def _ask(self, scope: Scope, ticket: Ticket) -> _Answer:
        """Send the request to the granted engine and wait for its answer to begin."""
        engine = self._engine(ticket)
        timeout_s = self._runtime.config.timeouts.first_byte_s
        try:
            async with asyncio.timeout(timeout_s):
                return await self._post(scope, ticket, engine)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            if ticket.grant is not None:
                ticket.pool.monitor.failed(ticket.grant.lane, engine.name)
            raise BadGateway(f"the engine cannot be reached ({type(error).__name__})") from error
        except TimeoutError:
            raise GatewayTimeout(f"the engine sent nothing within {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise BadGateway(f"the engine failed ({type(error).__name__})") from error

    async def _post(self, scope: Scope, ticket: Ticket, engine: Engine) -> _Answer:
        grant = ticket.grant
        assert grant is not None  # noqa: S101 — the middleware admits before it calls us
        lane = ticket.pool.lanes[grant.lane]
        body = ticket.engine_body(
            model=lane.model or grant.lane,
            priority=grant.priority if engine.priority else None,
        )
        response = await self._runtime.session.post(
            engine.url + scope["path"],
            data=body,
            headers=_request_headers(scope, ticket, engine),
            allow_redirects=False,
        )
        try:
            return response, await self._first_part(response, whole=not ticket.call.stream)
        except BaseException:
            response.close()
            raise

    async def _first_part(self, response: aiohttp.ClientResponse, *, whole: bool) -> bytes:
        if response.status in _RETRIED:
            raise Unavailable(f"the engine answered {response.status}", code="engine_unavailable")
        if whole:
            return await response.read()
        first = await response.content.readany()
        _limit_silence(response, self._runtime.config.timeouts.idle_s)
        return first


def _limit_silence(response: aiohttp.ClientResponse, idle_s: float) -> None:
    """From here on; aiohttp's own ``sock_read`` would limit the wait for the first byte as well."""
    handler = response.connection.protocol if response.connection is not None else None
    if handler is not None:
        handler.read_timeout = idle_s
        handler.start_timeout()


async def _stream(response: aiohttp.ClientResponse, first: bytes, send: Send) -> None:
    """All but the end of the answer. A client that reads slowly slows the engine's sending."""
    try:
        await send(_start(response))
        await send({"type": "http.response.body", "body": first, "more_body": True})
        async for chunk in response.content.iter_any():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise BadGateway(f"the engine broke off ({type(error).__name__})") from error
    finally:
        response.close()  # if it is not complete, this is what tells the engine


def _start(response: aiohttp.ClientResponse) -> Message:
    headers = [(n.lower(), v) for n, v in response.raw_headers if n.lower() not in _HOP_BY_HOP]
    return {"type": "http.response.start", "status": response.status, "headers": headers}


def _request_headers(scope: Scope, ticket: Ticket, engine: Engine) -> dict[str, str]:
    """Little of what the client sent reaches the engine: no key, no priority, no cookies."""
    headers = {
        name.decode(): value.decode("latin-1")
        for name, value in scope["headers"]
        if name in _PASSED_ON
    }
    headers["content-type"] = "application/json"
    headers["accept-encoding"] = "identity"
    headers["x-request-id"] = ticket.request_id
    headers.update(engine.headers)
    return headers
