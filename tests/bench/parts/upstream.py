"""``python -m tests.bench.parts.upstream PORT``: an engine that costs next to nothing.

A request gets the same answer at once. One with ``"stream": true`` gets ``max_tokens`` chunks, the
first at once and the others :data:`PACE_S` apart, so that each is a write of its own.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import cast

import httptools
import uvloop

from tests.bench.parts.answers import ANSWER, CHUNK, DONE, LAST_CHUNK, MODELS, usage_chunk

PACE_S = 0.005

_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_STREAMED = re.compile(rb'"stream":\s*true')
_MAX_TOKENS = re.compile(rb'"max_(?:completion_)?tokens":\s*(\d+)')
_PLAIN: dict[bytes, bytes] = {b"/v1/models": MODELS}


class Canned(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpRequestParser(self)
        self._timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def on_message_begin(self) -> None:
        self._url = b""
        self._body: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._parser.get_method() != b"POST":
            self._whole(_PLAIN.get(self._url, b""))
            return
        body = b"".join(self._body)
        if b'"stream"' in body and _STREAMED.search(body):
            wanted = _MAX_TOKENS.search(body)
            self._left = self._wanted = int(wanted[1]) if wanted else 16
            self._usage = b'"include_usage"' in body
            self._transport.write(_STREAM)
            self._next()
        else:
            self._whole(ANSWER)

    def _whole(self, body: bytes) -> None:
        self._transport.write(_OK % (len(body), body))

    def _next(self) -> None:
        self._left -= 1
        if self._left > 0:
            self._transport.write(_chunk(CHUNK))
            self._timer = asyncio.get_running_loop().call_later(PACE_S, self._next)
            return
        usage = usage_chunk(self._wanted) if self._usage else b""
        self._transport.write(_chunk(CHUNK) + _chunk(LAST_CHUNK + usage + DONE) + b"0\r\n\r\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def main() -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Canned, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
