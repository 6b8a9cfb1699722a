"""One HTTP/1.1 connection to an engine: requests one after the other, answers as they come.

The parser is httptools', which uvicorn reads requests with. A general client costs a proxy more
than all of admission; this one knows a single kind of request, a POST whose body is at hand.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from fairgate.errors import EngineError
from fairgate.pipe import Put
from fairgate.within import SECOND_LOOK_S, stood_still

HIGH_WATER_BYTES = 256 * 1024
"""Of an answer that nobody takes; beyond this the engine's sending is slowed."""

MAX_HEAD_BYTES = 64 * 1024

_JOINED_BYTES = 64 * 1024
_TOO_LONG = "it sends more than an answer may have"
_CONTINUE = 200  # statuses below announce the real one


class ConnectionLostUnused(EngineError):
    """A connection that had served before ended before any byte of this answer came: most likely
    the engine had just closed it, as servers do with idle ones."""


class Connection(asyncio.Protocol):
    """One connection.

    ``freed`` is called when it may take another request, ``lost`` when it has ended.
    """

    def __init__(
        self,
        freed: Callable[[Connection], None],
        lost: Callable[[Connection], None],
        *,
        max_answer_bytes: int,
    ) -> None:
        self._freed = freed
        self._lost = lost
        self.max_answer_bytes = max_answer_bytes
        self._transport: asyncio.Transport
        self.loop: asyncio.AbstractEventLoop
        self._answer: HttpAnswer | None = None
        self._parts: list[bytes] = []
        """Of the answer, out of the bytes that are parsed now."""
        self.on_body = self._parts.append
        self._parser = HttpResponseParser(self)  # takes `on_body` as it is by now
        self._head_bytes = 0
        self.served = 0
        """Requests that it has carried."""
        self.free_since = 0.0

    @property
    def usable(self) -> bool:
        """It can take a request."""
        return self._answer is None and not self._transport.is_closing()

    def ask(self, head: bytes, body: bytes) -> HttpAnswer:
        """Send a request. The answer has not begun yet; see :meth:`HttpAnswer.begun`."""
        self._answer = answer = HttpAnswer(self)
        self._head_bytes = 0
        self.served += 1
        if len(body) <= _JOINED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        return answer

    def pause(self) -> None:
        self._transport.pause_reading()

    def resume(self) -> None:
        self._transport.resume_reading()

    def close(self) -> None:
        """Give it up: an engine that is still at work on the answer is told by that, now. Its place
        there may be somebody else's as soon as this returns."""
        answer, self._answer = self._answer, None
        if answer is not None:
            _hang_up(self._transport)
        self._transport.abort()  # which happens in a later turn of the loop
        if answer is not None:
            answer.fail(EngineError("closed"))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.loop = asyncio.get_running_loop()  # to be told each time takes a system call

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            self.close()  # nothing was asked
            return
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._hand_over()
            self._fail(EngineError(f"no readable HTTP: {error}"))
            return
        if self._parts:
            self._hand_over()

    def eof_received(self) -> None:
        answer = self._answer
        if answer is not None and answer.has_begun and _is_open_ended(answer.headers):
            self._answer = None
            answer.end(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(self)
        answer, self._answer = self._answer, None
        if answer is None:
            return
        if self.served > 1 and not answer.heard:
            answer.fail(ConnectionLostUnused("connection closed"))
        else:
            answer.fail(EngineError(type(exc).__name__ if exc else "connection closed"))

    def _hand_over(self) -> None:
        """Give the answer what came of it: once for all that was read together."""
        data = self._parsed()
        if data and self._answer is not None:
            self._answer.take(data)

    def _parsed(self) -> bytes:
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return data

    def _fail(self, error: EngineError) -> None:
        if self._answer is not None:
            self._answer.fail(error)
        self.close()

    # httptools; exceptions here come out of feed_data as an HttpParserError

    def on_message_begin(self) -> None:
        if self._answer is None:
            raise ValueError("an answer that nobody asked for")
        self._answer.heard = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError(f"more than {MAX_HEAD_BYTES} bytes of headers")
        assert self._answer is not None  # noqa: S101 — see on_message_begin
        self._answer.headers.append((name, value))

    def on_headers_complete(self) -> None:
        assert self._answer is not None  # noqa: S101 — see on_message_begin
        status = self._parser.get_status_code()
        if status < _CONTINUE:
            self._answer.headers.clear()
        else:
            self._answer.begin(status)

    def on_message_complete(self) -> None:
        answer = self._answer
        if answer is None or not answer.has_begun:
            return
        self._answer = None
        answer.end(self._parsed())
        if self._parser.should_keep_alive():
            self._freed(self)
        else:
            self._transport.close()


def _is_open_ended(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """An answer without a length ends with the connection."""
    names = {name.lower() for name, _ in headers}
    return names.isdisjoint((b"content-length", b"transfer-encoding"))


class HttpAnswer:
    """See :class:`fairgate.engines.transport.Answer`. One task reads it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._loop = connection.loop
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.heard = False
        """Some bytes of it came."""
        self._parts: list[bytes] = []
        self._held_bytes = 0
        self._paused = False
        self._wants_all = False
        self._complete = False
        self._failure: Exception | None = None
        self._put: Put | None = None
        """Takes parts in place of the reader."""
        self._waiter: asyncio.Future[None] | None = None
        self._silence: asyncio.TimerHandle | None = None
        self._left_bytes = connection.max_answer_bytes
        self._idle_s = 0.0
        self._heard_at = 0.0
        self._ends_at = 0.0

    @property
    def has_begun(self) -> bool:
        """Its status and headers are known."""
        return self.status != 0

    @property
    def complete(self) -> bool:
        return self._complete and not self._parts

    async def begun(self) -> None:
        """Wait until :attr:`has_begun`. Raises ``EngineError``."""
        while not self.has_begun:
            await self._more()

    async def read(self) -> bytes:
        self._wants_all = True
        while not self._complete:
            self._go_on()
            await self._more()
        return self._taken()

    async def part(self, put: Put | None = None) -> bytes:
        parts = self._parts
        while not parts and not self._complete:
            if self._failure is not None:
                raise self._failure
            self._put = put
            self._waiter = waiter = self._loop.create_future()
            try:
                await waiter
            finally:
                self._put = None
        if len(parts) == 1 and not self._paused:
            self._held_bytes = 0
            return parts.pop()
        return self._taken()

    def limit_time(self, *, idle_s: float, total_s: float) -> None:
        self._idle_s, self._heard_at = idle_s, self._loop.time()
        self._ends_at = self._heard_at + total_s
        if not self._complete:
            self._look_in(min(idle_s, total_s), self._heard_at)

    def close(self) -> None:
        self._stop_listening()
        if not self._complete and self._failure is None:
            self._failure = EngineError("closed")
            self._connection.close()

    # The reader's side

    async def _more(self) -> None:
        """Wait until something changes. Cancelled: nothing is lost."""
        if self._failure is not None:
            raise self._failure
        self._waiter = self._loop.create_future()
        await self._waiter

    def _taken(self) -> bytes:
        if not self._parts and self._failure is not None:
            raise self._failure
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._held_bytes = 0
        self._go_on()
        return data

    def _go_on(self) -> None:
        if self._paused:
            self._paused = False
            self._heard_at = self._loop.time()
            if not self._complete and self._failure is None:
                self._connection.resume()

    def _look_in(self, seconds: float, now: float) -> None:
        self._silence = self._loop.call_later(seconds, self._check_time, now + seconds)

    def _check_time(self, due: float) -> None:
        if stood_still(due, self._loop.time()):
            self._silence = self._loop.call_later(SECOND_LOOK_S, self._judge_time)
        else:
            self._judge_time()

    def _judge_time(self) -> None:
        now = self._loop.time()
        left_s = self._heard_at + self._idle_s - now
        if self._paused:
            left_s = self._idle_s  # it is we who do not listen
        if now >= self._ends_at:
            self._break_off(EngineError("no end in time"))
        elif left_s <= 0:
            self._break_off(EngineError(f"silent for {self._idle_s:g} s"))
        else:
            self._look_in(min(left_s, self._ends_at - now), now)

    def _break_off(self, error: Exception) -> None:
        self.fail(error)
        self._connection.close()

    # The connection's side

    def begin(self, status: int) -> None:
        self.status = status
        self._wake()

    def take(self, data: bytes) -> None:
        """The next bytes, which are not the last."""
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            self._break_off(EngineError(_TOO_LONG))
            return
        if self._silence is not None:
            self._heard_at = self._loop.time()
        if (put := self._put) is None:
            self._keep(data)
            return
        try:
            if not put(data):
                self._put = None
        except Exception as error:
            self._break_off(error)  # it is for who waits for the part

    def _keep(self, data: bytes) -> None:
        self._parts.append(data)
        self._held_bytes += len(data)
        if not self._wants_all:
            self._wake()
            if self._held_bytes > HIGH_WATER_BYTES and not self._paused:
                self._paused = True
                self._connection.pause()

    def end(self, rest: bytes) -> None:
        """All of it came, with ``rest``."""
        if len(rest) > self._left_bytes:
            self._break_off(EngineError(_TOO_LONG))
            return
        if rest:
            self._parts.append(rest)
        self._complete = True
        self._stop_listening()
        if self._paused:
            self._paused = False
            self._connection.resume()
        self._wake()

    def fail(self, error: Exception) -> None:
        if not self._complete and self._failure is None:
            self._failure = error
            self._stop_listening()
            self._wake()

    def _stop_listening(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _hang_up(transport: asyncio.Transport) -> None:
    # uvloop's stand-in for the socket has a number, and no `shutdown`.
    with suppress(OSError), socket.socket(fileno=os.dup(_descriptor(transport))) as line:
        line.shutdown(socket.SHUT_RDWR)


def _descriptor(transport: asyncio.Transport) -> int:
    sock: socket.socket | None = transport.get_extra_info("socket")
    return sock.fileno() if sock is not None else -1
