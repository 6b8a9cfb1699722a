"""Faults on demand, for tests of what stands before an engine: header ``x-sim-fault``.

status=500       answer with this status instead
hang             never answer
reset-before     reset the connection instead of answering
reset-after=3    reset it after so many parts of the body
malformed-sse    break the framing and the JSON after the first part of a stream
slow=0.5         wait so many seconds before every part of the answer
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = b"x-sim-fault"
_BROKEN = b'data: {"id": "broken\nnonsense\n\n'


class _Reset(Exception):
    """The connection was reset on purpose."""


class Faults:
    """Middleware that must be the outermost: it needs uvicorn's own ``send`` to reset."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, spoiled as its header says."""
        header = dict(scope.get("headers", ())).get(HEADER, b"").decode()
        kind, _, value = header.partition("=")
        match kind:
            case "":
                await self.app(scope, receive, send)
            case "status":
                await _fail(send, int(value))
            case "hang":
                await _until_gone(receive)
            case "reset-before":
                _reset(send)
                await _until_gone(receive)
            case _:
                try:
                    await self.app(scope, receive, _Spoiled(send, kind, value))
                except _Reset:
                    _reset(send)
                    await _until_gone(receive)


class _Spoiled:
    """A ``send`` that spoils the body on its way."""

    def __init__(self, send: Send, kind: str, value: str) -> None:
        self._send = send
        self._kind = kind
        self._value = float(value or 0)
        self._parts = 0

    async def __call__(self, message: Message) -> None:
        if self._kind == "slow":
            await asyncio.sleep(self._value)
        if message["type"] == "http.response.body":
            if self._kind == "reset-after" and self._parts >= self._value:
                raise _Reset
            self._parts += 1
            if self._kind == "malformed-sse" and self._parts > 1:
                message["body"] = _BROKEN + message["body"]
        await self._send(message)


async def _fail(send: Send, status: int) -> None:
    error = {"message": "Simulated fault.", "type": "InternalServerError", "code": status}
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": orjson.dumps({"error": error})})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _reset(send: Any) -> None:
    """Close the socket with RST. ASGI cannot say so; uvicorn's request cycle has the transport."""
    transport = send.__self__.transport
    linger = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()
