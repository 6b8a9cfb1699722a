"""Sends requests on connections that stay open, in closed loop or at a fixed rate, and times each
answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self, cast

import httptools

_OPEN_AT_ONCE = 128


@dataclass(frozen=True, slots=True)
class Timing:
    """What came of a load; a list has one entry per request."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    """Until the first byte of the answer's body."""
    events: int = 0
    """Server-sent events in all."""


def request_bytes(path: str, key: str, body: bytes) -> bytes:
    """A POST of ``body`` as it goes over the wire."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._done: asyncio.Future[float] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    async def ask(self, request: bytes, due: float | None = None) -> float:
        """Send it; answers in how many seconds the whole answer came, from ``due`` on, if given."""
        self._done = asyncio.get_running_loop().create_future()
        self.first_s = 0.0
        self.events = 0
        self._began = time.perf_counter() if due is None else due
        self.transport.write(request)
        return await self._done

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if not self.first_s:
            self.first_s = time.perf_counter() - self._began
        self.events += body.count(b"data: ")
        self._body = body

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._done is None or self._done.done():
            return
        if status == 200:
            self._done.set_result(time.perf_counter() - self._began)
        else:
            self._done.set_exception(RuntimeError(f"HTTP {status}: {self._body[:300]!r}"))

    def connection_lost(self, error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error or ConnectionResetError("the server closed it"))


class Fleet:
    """Connections to one server. ``async with Fleet.open(...)``."""

    def __init__(self, connections: list[_Connection]) -> None:
        self._connections = connections

    @classmethod
    async def open(cls, port: int, connections: int) -> Self:
        """Connect; raises ``OSError``."""
        loop = asyncio.get_running_loop()
        opened: list[_Connection] = []
        while len(opened) < connections:
            some = min(_OPEN_AT_ONCE, connections - len(opened))
            pairs = await asyncio.gather(
                *(loop.create_connection(_Connection, "127.0.0.1", port) for _ in range(some))
            )
            opened += [protocol for _, protocol in pairs]
        return cls(opened)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.transport.close()

    async def pace(self, requests: Sequence[bytes], *, seconds: float, per_s: float) -> Timing:
        """Send so many a second, in even steps, however long the answers take.

        Request ``i`` is ``requests[i % len(requests)]``. One that finds no free connection waits
        for it, and its time begins when it was due. Raises as :meth:`drive`.
        """
        free: asyncio.Queue[_Connection] = asyncio.Queue()
        for connection in self._connections:
            free.put_nowait(connection)
        timing = Timing()
        began = time.perf_counter()

        async def send(connection: _Connection, request: bytes, due: float | None) -> int:
            try:
                timing.latencies_s.append(await connection.ask(request, due))
                timing.first_s.append(connection.first_s)
            finally:
                free.put_nowait(connection)
            return connection.events

        sent: list[asyncio.Task[int]] = []
        for i in range(round(seconds * per_s)):
            due = began + i / per_s
            await asyncio.sleep(due - time.perf_counter())
            in_time = not free.empty()
            connection = await free.get()
            asked = send(connection, requests[i % len(requests)], None if in_time else due)
            sent.append(asyncio.create_task(asked))
        events = sum(await asyncio.gather(*sent))
        return replace(timing, seconds=time.perf_counter() - began, events=events)

    async def drive(
        self, requests: Sequence[bytes], *, seconds: float, most: int | None = None
    ) -> Timing:
        """Send for ``seconds``, or ``most`` requests if those end earlier.

        Connection ``i`` sends ``requests[i % len(requests)]`` over and over. Raises
        ``RuntimeError`` for any answer but 200, ``OSError`` for a connection that breaks.
        """
        latencies: list[float] = []
        first: list[float] = []
        events = 0
        left = most if most is not None else 1 << 62
        began = time.perf_counter()

        async def loop(connection: _Connection, request: bytes) -> None:
            nonlocal left, events
            while left > 0 and (not latencies or time.perf_counter() - began < seconds):
                left -= 1
                latencies.append(await connection.ask(request))
                first.append(connection.first_s)
                events += connection.events

        await asyncio.gather(
            *(loop(one, requests[i % len(requests)]) for i, one in enumerate(self._connections))
        )
        return Timing(time.perf_counter() - began, latencies, first, events)


async def ask_once(port: int, request: bytes) -> None:
    """Send one request on a connection of its own. Raises as :meth:`Fleet.drive` does."""
    async with await Fleet.open(port, 1) as fleet:
        await fleet.drive([request], seconds=1, most=1)
