"""Faults on demand, for tests of what stands before an engine: header ``x-sim-fault``.

status=500       answer with this status instead
hang             never answer
hang-after=3     say nothing more after so many parts of the body
reset-before     reset the connection instead of answering
reset-after=3    reset it after so many parts of the body
cut-after=3      the same, in the middle of the next part
no-http          answer with something that is not HTTP
malformed-sse    break the framing and the JSON after the first part of a stream
flood=50         say the first part of the body again and again, so many megabytes
endless          when all is said, go on with comments and never end
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
_MEGABYTE = 1 << 20
_COMMENT = b": still here\n\n"
_COMMENT_S = 0.1
_BROKEN = b'data: {"id": "broken\nnonsense\n\n'


class _Reset(Exception):
    """The connection was reset on purpose."""


class _Silence(Exception):
    """Nothing more is said, on purpose."""


class _Endless(Exception):
    """The answer does not end, on purpose."""


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
            case "no-http":
                _transport(send).write(b"\x16\x03\x01 no HTTP\r\n\r\n")
                await _until_gone(receive)
            case _:
                try:
                    await self.app(scope, receive, _Spoiled(send, kind, value))
                except _Reset:
                    _reset(send)
                    await _until_gone(receive)
                except _Silence:
                    await _until_gone(receive)
                except _Endless:
                    await _comment(send, receive)


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
        if message["type"] == "http.response.start" and self._kind == "endless":
            # By its length it would be complete before it went on.
            headers = [h for h in message["headers"] if h[0] != b"content-length"]
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body":
            message = await self._spoil(message)
        await self._send(message)

    async def _spoil(self, message: Message) -> Message:
        body, due = message["body"], self._parts >= self._value
        self._parts += 1
        match self._kind:
            case "hang-after" if due:
                raise _Silence
            case "reset-after" if due:
                raise _Reset
            case "cut-after" if due:
                await self._send({**message, "body": body[: len(body) // 2], "more_body": True})
                raise _Reset
            case "malformed-sse" if self._parts > 1:
                return {**message, "body": _BROKEN + body}
            case "flood" if self._parts == 1:
                again = body * (_MEGABYTE // len(body))
                for _ in range(int(self._value)):
                    await self._send({**message, "body": again, "more_body": True})
            case "endless" if not message.get("more_body", False):
                await self._send({**message, "more_body": True})
                raise _Endless
        return message


async def _fail(send: Send, status: int) -> None:
    error = {"message": "Simulated fault.", "type": "InternalServerError", "code": status}
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": orjson.dumps({"error": error})})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _comment(send: Send, receive: Receive) -> None:
    gone = asyncio.ensure_future(_until_gone(receive))
    while not gone.done():
        await asyncio.wait({gone}, timeout=_COMMENT_S)
        await send({"type": "http.response.body", "body": _COMMENT, "more_body": True})


def _transport(send: Any) -> Any:
    """ASGI has no word for it; uvicorn's request cycle has it."""
    return send.__self__.transport


def _reset(send: Send) -> None:
    """Close the socket with RST."""
    transport = _transport(send)
    linger = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()
