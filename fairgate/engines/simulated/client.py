"""One HTTP exchange over ASGI: the body, the answer, and whether the client is still there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import orjson
from starlette.types import Receive, Scope, Send

_JSON = b"application/json"


class Client:
    """The only reader of its ``receive``: first the body, then the disconnect."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.id = self.headers.get(b"x-request-id", b"").decode("latin-1") or uuid4().hex

    async def body(self) -> bytes:
        """The whole request body; what came of it when the client went away in the middle."""
        chunks: list[bytes] = []
        more = True
        while more:
            message = await self._receive()
            chunks.append(message.get("body", b""))
            more = message.get("more_body", False)
        return b"".join(chunks)

    @contextmanager
    def watched(self, gone: Callable[[], None]) -> Iterator[None]:
        """Call ``gone`` as soon as the client disconnects inside the block."""
        watcher = asyncio.create_task(self._watch(gone))
        try:
            yield
        finally:
            watcher.cancel()

    async def send_json(self, payload: Any, status: int = 200) -> None:
        """Answer with one JSON document (``bytes`` are sent as they are)."""
        body = payload if isinstance(payload, bytes) else orjson.dumps(payload)
        await self.send_bytes(body, _JSON, status)

    async def send_bytes(self, body: bytes, content_type: bytes, status: int = 200) -> None:
        """Answer with a complete body."""
        headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def start_stream(self) -> None:
        """Send the headers of an event stream."""
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Send a part of the stream."""
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def _watch(self, gone: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        gone()
