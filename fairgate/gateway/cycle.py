"""A request and its answer on a client's connection, for less than uvicorn's own.

uvicorn looks at each header of an answer with two regular expressions, writes its head apart from
its body, and starts a timer after each request, for the case that no other follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from fairgate.pipe import Pipe, Put
from fairgate.within import Deadlines

_NO_BODY = frozenset((204, 304))


class Cycle(RequestResponseCycle, Pipe):
    """Writes the head of an answer with what follows it, or at the end of the event loop's turn:
    each write is a system call that wakes the client. Takes names of headers in lower case, as ASGI
    has them."""

    loop: asyncio.AbstractEventLoop
    _head = b""

    async def send(self, message: MutableMapping[str, Any]) -> None:  # type: ignore[override]
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if kind == "http.response.body" and self.response_started and not self.response_complete:
            self._go_on(message.get("body", b""), message.get("more_body", False))
        elif kind == "http.response.start" and not self.response_started:
            self._begin(message["status"], [*self.default_headers, *message.get("headers", ())])
        else:
            raise RuntimeError(f"an app may not send {kind!r} now")

    def putting(self) -> Put | None:
        """Of bodies in chunks, whose length nobody has to watch."""
        return self._put if self.chunked_encoding and self.scope["method"] != "HEAD" else None

    def _put(self, chunk: bytes) -> bool:
        if self.disconnected:
            return True
        if self._head:
            self._write_head()
        self.transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        return not self.flow.write_paused

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        fields = dict(headers)
        if (connection := fields.get(b"connection")) is not None:
            self.keep_alive = self.keep_alive and b"close" not in connection.lower()
            headers = [header for header in headers if header[0] != b"connection"]
        self._measure(fields)
        lines = [STATUS_LINE[status][:-2], *map(b": ".join, headers)]
        if not self.keep_alive:
            lines.append(b"connection: close")
        if self.chunked_encoding is None and not self._has_no_body(status):
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked")
        lines += (b"", b"")
        head = b"\r\n".join(lines)
        ends = len(lines) - 1
        if head.count(b"\n") != ends or head.count(b"\r") != ends or b"\0" in head:
            raise RuntimeError("a header holds a line end or a zero")
        self._head = head
        self.loop.call_soon(self._write_head)

    def _measure(self, fields: Mapping[bytes, bytes]) -> None:
        """Take up where the body ends, as far as the app's headers say."""
        if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
            self.chunked_encoding = True
        elif (length := fields.get(b"content-length")) is not None:
            self.expected_content_length = int(length)
            self.chunked_encoding = False

    def _has_no_body(self, status: int) -> bool:
        return self.scope["method"] == "HEAD" or status in _NO_BODY

    def _write_head(self) -> None:
        head, self._head = self._head, b""
        if head and not self.transport.is_closing():
            self.transport.write(head)

    def _go_on(self, body: bytes, more: bool) -> None:
        if data := self._framed(body, more):
            if self._head:
                data, self._head = self._head + data, b""
            self.transport.write(data)
        if not more:
            self._end()

    def _framed(self, body: bytes, more: bool) -> bytes:
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
            return b""
        if self.chunked_encoding:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return chunk if more else chunk + b"0\r\n\r\n"
        if len(body) > self.expected_content_length:
            raise RuntimeError("the answer is longer than its content-length")
        self.expected_content_length -= len(body)
        return body

    def _end(self) -> None:
        if self.expected_content_length:
            raise RuntimeError("the answer is shorter than its content-length")
        self._write_head()
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


class Cycles(HttpToolsProtocol):
    """uvicorn's protocol with such answers; ``deadlines`` of idle connections are shared by all."""

    deadlines: Deadlines

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._idle = self.deadlines.of(self.timeout_keep_alive)
        self.is_idle = False
        """All requests that came are answered."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_keepalive_if_required()  # uvicorn leaves one that was reset to its timer
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        parser, scope = self.parser, self.scope
        version = parser.get_http_version()
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope["method"] = parser.get_method().decode("ascii")
        scope["http_version"] = version
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        before = self.cycle
        self.cycle = cycle = Cycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        cycle.loop = self.loop
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self.is_idle = True
            self._idle.start(self)

    def _unset_keepalive_if_required(self) -> None:
        if self.is_idle:
            self.is_idle = False
            self._idle.stop(self)

    def late(self) -> None:
        """No other request came."""
        self.is_idle = False
        self.timeout_keep_alive_handler()
