"""One pipelined connection to the store: script calls of one event-loop tick leave in one write.

Replies come back in the order of the calls, so a cancel that follows an admit never overtakes it.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hiredis import ReplyError
from redis.exceptions import RedisError

from fairgate.admission.locating import Locator, locator_of
from fairgate.admission.scripts import Script
from fairgate.admission.wire import Wire, is_elsewhere, is_no_script
from fairgate.admission.words import Argument, Words, as_function, as_script, words_of
from fairgate.distribution import Distribution
from fairgate.errors import StoreError

_SECOND_LOOK = 0.2  # of the timeout
_TURNS = 3  # of a call that is sent from one server to the next
_ROUND_TRIP_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2)


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """What a link did so far."""

    connections: int
    calls: int
    """Sent."""
    round_trip: Distribution
    """Seconds from sending a batch to its first reply."""


class _Call:
    __slots__ = ("first", "future", "script", "sent_at", "turns", "words")

    def __init__(self, script: Script, words: Words, future: asyncio.Future[Any]) -> None:
        self.script = script
        self.words = words
        self.future = future
        self.sent_at = 0.0
        self.turns = 0
        self.first = False
        """Of its batch."""


class Link:
    """A connection that reconnects by itself and never blocks its callers.

    Every call gets a future: the script's reply (bytes), or :class:`StoreError` when the store is
    away, refuses, or stays silent for ``timeout_s`` seconds. A call that failed may or may not have
    run; the scripts are idempotent by request id, so it is safe to call again. ``store`` says where
    it is, as a URL or as a locator of one's own. A server that does not take these keys' writes any
    more is left for the one that does, and its calls go there in their order. All calls belong to
    one event loop.
    """

    def __init__(self, store: str | Locator, *, timeout_s: float = 2.0) -> None:
        self._locator = locator_of(store) if isinstance(store, str) else store
        self.guard = self._locator.guard
        """Keys that scripts name besides their own, where they must not end in the middle."""
        self.lost: Callable[[], None] = _nothing
        """Called whenever the connection has ended."""
        self._timeout_s = timeout_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wire: Wire | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._introduced: set[bytes] = set()
        self._pending: list[_Call] = []
        self._sent: deque[_Call] = deque()
        self._astray: list[_Call] = []
        self._watchdog: asyncio.TimerHandle | None = None
        self._suspect: _Call | None = None
        self._not_before = 0.0
        self._connections = 0
        self._calls = 0
        self._round_trip = Distribution(_ROUND_TRIP_BUCKETS)

    def statistics(self) -> LinkStatistics:
        """What it did so far; the distribution goes on counting."""
        return LinkStatistics(self._connections, self._calls, self._round_trip)

    def call(
        self, script: Script, keys: Sequence[str], args: Sequence[Argument]
    ) -> asyncio.Future[Any]:
        """Queue one script call. Cancelling the future drops the reply, not the call."""
        return self.call_with(script, words_of(keys, args))

    def call_with(self, script: Script, words: Words) -> asyncio.Future[Any]:
        """The same with keys and arguments that are packed already."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        future = loop.create_future()
        if not self._pending:
            loop.call_soon(self._flush)
        self._pending.append(_Call(script, words, future))
        return future

    def send(self) -> None:
        """Send what is queued now, not at the end of this turn of the event loop."""
        if self._wire is not None:
            self._flush()

    async def close(self) -> None:
        """Send what is queued, wait for its replies up to the timeout, then disconnect."""
        calls = (*self._sent, *self._astray, *self._pending)
        waiting = [call.future for call in calls if not call.future.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=self._timeout_s)
        self.lost = _nothing
        closed = StoreError("the connection to the store was closed")
        _fail(self._astray, closed)
        _fail(self._pending, closed)
        self._drop(closed)
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)

    def _flush(self) -> None:
        """Send all calls that are pending; later, where there is no connection that takes them."""
        wire = self._wire
        if wire is None:
            self._reconnect()
        elif self._pending and not wire.paused and not self._astray:
            batch, self._pending = self._pending, []
            self._send(wire, batch)

    def _send(self, wire: Wire, batch: list[_Call]) -> None:
        assert self._loop is not None  # noqa: S101 — somebody called
        now = self._loop.time()
        for call in batch:
            call.sent_at = now
        batch[0].first = True
        self._calls += len(batch)
        self._sent.extend(batch)
        if self._watchdog is None:
            wait_s = self._timeout_s * (1 - _SECOND_LOOK)
            self._watchdog = self._loop.call_later(wait_s, self._check_silence)
        wire.send([self._command(call, wire) for call in batch])

    def _command(self, call: _Call, wire: Wire) -> bytes:
        """A script's first call on a connection carries its text: the server may not have it, and
        who is told so only by the replies loses the order of its calls."""
        if wire.has_functions and call.script.function:
            return as_function(call.script, call.words)
        first = call.script.sha not in self._introduced
        if first:
            self._introduced.add(call.script.sha)
        return as_script(call.script, call.words, whole=first)

    def _reconnect(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._not_before:
            _fail(self._pending, StoreError("store: away; not trying again yet", sent=False))
        elif self._connecting is None or self._connecting.done():
            self._connecting = loop.create_task(self._connect(), name="fairgate-store")

    async def _connect(self) -> None:
        try:
            # Limits the handshake as well, for whose replies redis-py would wait without end.
            async with asyncio.timeout(self._timeout_s):
                url = await self._locator.locate()
                wire = await Wire.connect(
                    url, self._timeout_s, self._answer, self._ended, self._flush
                )
        except (RedisError, OSError) as error:
            self._locator.doubt()
            # Replicas that lost the same store do not all come back in the same instant.
            jitter_s = random.uniform(0.1, 0.4)  # noqa: S311
            self._not_before = asyncio.get_running_loop().time() + jitter_s
            why = str(error) or f"no connection within {self._timeout_s:g} s"
            _fail(self._pending, StoreError(f"store: {why}", sent=False))
        except asyncio.CancelledError:
            _fail(self._pending, StoreError("store: connecting was cancelled", sent=False))
            raise
        else:
            self._wire = wire
            self._connections += 1
            self._introduced.clear()
            self._flush()

    def _answer(self, reply: Any) -> None:
        call = self._sent.popleft()
        if call.first and self._loop is not None:
            self._round_trip.observe(self._loop.time() - call.sent_at)
        if isinstance(reply, ReplyError):
            self._answer_error(call, reply)
        elif not call.future.done():
            call.future.set_result(reply)
        if self._astray and not self._sent:
            self._drop(StoreError("store: it moved"))

    def _answer_error(self, call: _Call, reply: ReplyError) -> None:
        if is_no_script(reply) and self._wire is not None:
            self._wire.has_functions = False  # all was flushed: once more, with the text
            self._sent.append(call)
            self._wire.send([as_script(call.script, call.words, whole=True)])
        elif is_elsewhere(reply) and call.turns < _TURNS:
            call.turns += 1
            self._astray.append(call)
        elif not call.future.done():
            call.future.set_exception(StoreError(f"store: {reply}"))

    def _ended(self, wire: Wire, why: str) -> None:
        self._drop(StoreError(f"store: {why}"))

    def _check_silence(self) -> None:
        """Drop the connection once its oldest call is too old, if it is so twice in a row: where
        this process stood still, the first look comes before the replies that lie there are read.
        """
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
        """Give the connection up; whoever calls next makes a new one."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()
            self._locator.doubt()
            asyncio.get_running_loop().call_soon(self.lost)
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        self._suspect = None
        _fail(self._sent, error)
        self._pending[:0], self._astray = self._astray, []
        if self._pending:  # sent elsewhere, or held back while the store read too slowly
            self._reconnect()


def _nothing() -> None:
    """Nobody wants to know."""


def _fail(calls: list[_Call] | deque[_Call], error: StoreError) -> None:
    """End all ``calls`` with ``error`` and forget them."""
    for call in calls:
        if not call.future.done():
            call.future.set_exception(error)
            call.future.exception()  # seen: nobody may be waiting any more
    calls.clear()
