"""One pipelined connection to the store: script calls of one event-loop tick leave in one write.

Replies come back in the order of the calls, so a cancel that follows an admit never overtakes it.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Sequence
from typing import Any

from hiredis import pack_command  # redis-py's own takes six times as long
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, RedisError, ResponseError

from fairgate.admission.scripts import Script
from fairgate.errors import StoreError

Argument = str | bytes | int | float

_SECOND_LOOK = 0.2  # of the timeout


class _Call:
    __slots__ = ("args", "future", "keys", "script", "sent_at")

    def __init__(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Argument],
        future: asyncio.Future[Any],
    ) -> None:
        self.script = script
        self.keys = keys
        self.args = args
        self.future = future
        self.sent_at = 0.0

    def command(self, *, whole: bool = False) -> tuple[Argument, ...]:
        how: tuple[Argument, ...] = (
            (b"EVAL", self.script.text) if whole else (b"EVALSHA", self.script.sha)
        )
        return (*how, len(self.keys), *self.keys, *self.args)


class Link:
    """A connection that reconnects by itself and never blocks its callers.

    Every call gets a future: the script's reply (bytes), or :class:`StoreError` when the store is
    away, refuses, or stays silent for ``timeout_s`` seconds. A call that failed may or may not have
    run; the scripts are idempotent by request id, so it is safe to call again.
    """

    def __init__(self, url: str, *, timeout_s: float = 2.0) -> None:
        self._pool = ConnectionPool.from_url(
            url, protocol=2, socket_timeout=None, socket_connect_timeout=timeout_s
        )
        self._timeout_s = timeout_s
        self._connection: AbstractConnection | None = None
        self._introduced: set[bytes] = set()
        self._pending: list[_Call] = []
        self._sent: deque[_Call] = deque()
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._suspect: _Call | None = None
        self._not_before = 0.0

    def call(
        self, script: Script, keys: Sequence[str], args: Sequence[Argument]
    ) -> asyncio.Future[Any]:
        """Queue one script call. Cancelling the future drops the reply, not the call."""
        loop = asyncio.get_running_loop()
        call = _Call(script, keys, args, loop.create_future())
        self._pending.append(call)
        self._wake.set()
        if self._writer is None or self._writer.done():
            # Where the event loop ends without us, it cancels the writer and the reader first.
            self._drop(StoreError("the connection to the store was cancelled"))
            self._writer = loop.create_task(self._write_loop(), name="fairgate-store-writer")
        return call.future

    async def close(self) -> None:
        """Send what is queued, wait for its replies up to the timeout, then disconnect."""
        waiting = [c.future for c in (*self._sent, *self._pending) if not c.future.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=self._timeout_s)
        tasks = [task for task in (self._writer, self._reader) if task is not None]
        self._writer = None
        closed = StoreError("the connection to the store was closed")
        _fail(self._pending, closed)
        self._drop(closed)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pool.disconnect()

    async def _write_loop(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                connection = self._connection or await self._connect()
            except StoreError as error:
                _fail(self._pending, error)
                continue
            batch, self._pending = self._pending, []
            try:
                await self._send(connection, batch)
            except (RedisError, OSError) as error:
                self._drop(StoreError(f"store: {error}"))

    async def _send(self, connection: AbstractConnection, batch: list[_Call]) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for call in batch:
            call.sent_at = now
        self._sent.extend(batch)
        if self._watchdog is None:
            self._watchdog = loop.call_later(self._timeout_s, self._check_silence)
        packed = [_pack(self._command(call)) for call in batch]
        await connection.send_packed_command(packed, check_health=False)

    def _command(self, call: _Call) -> tuple[Argument, ...]:
        """A script's first call on a connection carries its text: the server may not have it, and
        who is told so only by the replies loses the order of its calls."""
        first = call.script.sha not in self._introduced
        self._introduced.add(call.script.sha)
        return call.command(whole=first)

    async def _connect(self) -> AbstractConnection:
        loop = asyncio.get_running_loop()
        if loop.time() < self._not_before:
            raise StoreError("store: away; not trying again yet", sent=False)
        connection: AbstractConnection = self._pool.make_connection()
        try:
            # Limits the handshake as well, for whose replies redis-py would wait without end.
            async with asyncio.timeout(self._timeout_s):
                await connection.connect()
        except (RedisError, OSError) as error:
            # Replicas that lost the same store do not all come back in the same instant.
            self._not_before = loop.time() + random.uniform(0.1, 0.4)  # noqa: S311 — jitter
            await connection.disconnect(nowait=True)
            why = str(error) or f"no connection within {self._timeout_s:g} s"
            raise StoreError(f"store: {why}", sent=False) from error
        except asyncio.CancelledError:
            await connection.disconnect(nowait=True)
            raise
        self._connection = connection
        self._introduced.clear()
        self._reader = loop.create_task(self._read_loop(connection), name="fairgate-store-reader")
        return connection

    async def _read_loop(self, connection: AbstractConnection) -> None:
        try:
            while True:
                try:
                    reply = await connection.read_response(
                        disable_decoding=True, timeout=math.inf, disconnect_on_error=False
                    )
                except NoScriptError:
                    await self._send_whole(connection)
                except ResponseError as error:
                    self._answer(StoreError(f"store: {error}"))
                else:
                    self._answer(reply)
        except (RedisError, OSError) as error:
            self._drop(StoreError(f"store: {error}"))

    async def _send_whole(self, connection: AbstractConnection) -> None:
        """The server lost the script (a flush): send the call again, with the text."""
        call = self._sent.popleft()
        self._sent.append(call)
        packed = _pack(call.command(whole=True))
        await connection.send_packed_command(packed, check_health=False)

    def _answer(self, reply: Any) -> None:
        future = self._sent.popleft().future
        if future.done():
            return
        if isinstance(reply, StoreError):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    def _check_silence(self) -> None:
        """Drop the connection once its oldest call is too old, if it is so twice in a row: where this
        process stood still, the first look comes before the replies that lie there are read."""
        self._watchdog = None
        if not self._sent:
            return
        loop = asyncio.get_running_loop()
        oldest, second_look_s = self._sent[0], self._timeout_s * _SECOND_LOOK
        left = oldest.sent_at + self._timeout_s - second_look_s - loop.time()
        if left > 0:
            self._watchdog = loop.call_later(left, self._check_silence)
        elif oldest is not self._suspect:
            self._suspect = oldest
            self._watchdog = loop.call_later(second_look_s, self._check_silence)
        else:
            self._drop(StoreError(f"store: no answer for {self._timeout_s:g} s"))

    def _drop(self, error: StoreError) -> None:
        """Give the connection up, with whatever may still arrive on it; the next call makes a new
        one."""
        connection, self._connection = self._connection, None
        reader, self._reader = self._reader, None
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        self._suspect = None
        _fail(self._sent, error)
        if reader is not None and reader is not asyncio.current_task():
            reader.cancel()
        if connection is not None:
            connection._close()  # noqa: SLF001 — there is no public one that does not wait


def _pack(words: Any) -> bytes:
    """``words`` is ``Any``: the types that hiredis states are those of a single word."""
    packed: bytes = pack_command(words)
    return packed


def _fail(calls: list[_Call] | deque[_Call], error: StoreError) -> None:
    """End all ``calls`` with ``error`` and forget them."""
    for call in calls:
        if not call.future.done():
            call.future.set_exception(error)
            call.future.exception()  # seen: nobody may be waiting any more
    calls.clear()
