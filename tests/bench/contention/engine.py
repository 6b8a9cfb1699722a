"""``python -m tests.bench.contention.engine PORT SERVICE_S``: answers after a while, notes when.

``GET /times`` tells when each request came and when each answer was written, in seconds of the
machine's monotonic clock.
"""

from __future__ import annotations

import asyncio
import sys
import time
from random import Random
from typing import cast

import httptools
import msgspec
import uvloop

from tests.bench.parts.answers import ANSWER, MODELS

_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"


class Times(msgspec.Struct):
    """What the engine has seen, in order."""

    arrivals: list[float] = []
    ends: list[float] = []


class _Connection(asyncio.Protocol):
    def __init__(self, times: Times, random: Random, service_s: float) -> None:
        self._times = times
        self._random = random
        self._service_s = service_s
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_message_complete(self) -> None:
        if self._parser.get_method() == b"POST":
            self._times.arrivals.append(time.perf_counter())
            takes_s = self._service_s * self._random.uniform(0.5, 1.5)
            asyncio.get_running_loop().call_later(takes_s, self._end)
        elif self._url == b"/times":
            self._write(msgspec.json.encode(self._times))
        else:
            self._write(MODELS if self._url == b"/v1/models" else b"")

    def _end(self) -> None:
        self._times.ends.append(time.perf_counter())
        self._write(ANSWER)

    def _write(self, body: bytes) -> None:
        self._transport.write(_OK % (len(body), body))


async def main() -> None:
    """Serve until killed."""
    times, random, service_s = Times(), Random(7), float(sys.argv[2])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Connection(times, random, service_s), "127.0.0.1", int(sys.argv[1]), backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
