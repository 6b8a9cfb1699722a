"""The end of a request's way: sends it to the granted engine and passes the answer on."""

from __future__ import annotations

import asyncio

import aiohttp
import structlog
from starlette.types import Message, Receive, Scope, Send

from fairgate.codec import rewrite
from fairgate.engines.base import Engine
from fairgate.errors import BadGateway, GatewayTimeout, Refusal
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

log = structlog.get_logger("fairgate.gateway")


class Forwarder:
    """The ASGI app behind the middleware: expects a ticket with a grant in the scope."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request. The client's leaving cancels the engine's work on it."""
        ticket: Ticket = scope[SCOPE_KEY]
        whole = b""
        async with ticket.inbox.until_gone():
            response = await self._open(scope, ticket)
            try:
                if ticket.call.stream:
                    await _stream(response, send)
                else:
                    whole = await _read(response)
            except BaseException:
                response.close()  # not given back half read: this is what tells the engine
                raise
        # Outside the block: the server reports a disconnect as soon as the answer is complete.
        if not ticket.call.stream:
            await send(_start(response))
        await send({"type": "http.response.body", "body": whole})

    async def _open(self, scope: Scope, ticket: Ticket) -> aiohttp.ClientResponse:
        """The engine's answer, its body unread; from another engine if the first one fails."""
        for attempt in range(1, ATTEMPTS + 1):
            engine = self._engine(ticket)
            try:
                response = await self._post(scope, ticket, engine)
            except Refusal as failure:
                log.warning("engine failed", engine=engine.name, error=failure.message)
                if attempt == ATTEMPTS:
                    raise
            else:
                if response.status not in _RETRIED or attempt == ATTEMPTS:
                    return response
                response.close()
            await ticket.move()
        raise AssertionError("unreachable")

    def _engine(self, ticket: Ticket) -> Engine:
        grant = ticket.grant
        engine = ticket.pool.monitor.engine(grant.lane, grant.engine) if grant else None
        if engine is None:
            raise BadGateway("the granted engine is not in this gateway's configuration")
        return engine

    async def _post(self, scope: Scope, ticket: Ticket, engine: Engine) -> aiohttp.ClientResponse:
        grant = ticket.grant
        assert grant is not None  # noqa: S101 — the middleware admits before it calls us
        lane = ticket.pool.lanes[grant.lane]
        body = rewrite(
            ticket.body,
            ticket.call,
            model=lane.model or grant.lane,
            include_usage=True,
            priority=grant.priority if engine.priority else None,
        )
        timeout_s = self._runtime.config.timeouts.first_byte_s
        try:
            async with asyncio.timeout(timeout_s):
                return await self._runtime.session.post(
                    engine.url + scope["path"],
                    data=body,
                    headers=_request_headers(scope, ticket, engine),
                    allow_redirects=False,
                )
        except TimeoutError:
            raise GatewayTimeout(f"the engine sent nothing within {timeout_s:g} s") from None
        except aiohttp.ClientConnectorError as error:
            ticket.pool.monitor.failed(grant.lane, engine.name)
            raise BadGateway(f"the engine cannot be reached ({type(error).__name__})") from error
        except (aiohttp.ClientError, OSError) as error:
            raise BadGateway(f"the engine failed ({type(error).__name__})") from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    try:
        return await response.read()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise BadGateway(f"the engine broke off ({type(error).__name__})") from error


async def _stream(response: aiohttp.ClientResponse, send: Send) -> None:
    """All but the end of the answer. A client that reads slowly slows the engine's sending."""
    await send(_start(response))
    try:
        async for chunk in response.content.iter_any():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise BadGateway(f"the engine broke off ({type(error).__name__})") from error


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
