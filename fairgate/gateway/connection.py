"""A client's connection, which ends where the client holds it up.

uvicorn has no limit on how long a head takes, nor on how long a client does not read.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from typing import Any

import structlog
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from fairgate.gateway.bounded_input import BoundedInput
from fairgate.within import Deadlines

_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

LINGER_S = 0.25
"""For which a connection stays open that a client may take for one of use, when the server ends."""

log = structlog.get_logger("fairgate.gateway")


class Connection(BoundedInput):
    """uvicorn's protocol; a timer runs only while the client does not read fast enough."""

    send_s = 60.0
    _stalled: asyncio.TimerHandle | None = None
    _served: RequestResponseCycle | None = None
    """The request that is answered now; ``cycle`` is the last one that came, of a pipeline."""
    _ends = False

    def shutdown(self) -> None:
        """The server ends. The next answer says so; a request that is on its way while nothing is
        answered gets one, for its client cannot know whether what was cut off was taken."""
        self._ends = True
        if self.cycle is None or self.cycle.response_complete:
            self._linger()
        elif not self.cycle.response_started:
            self.cycle.keep_alive = False

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._ends:
            self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._ends and not self.transport.is_closing():
            self._linger()

    def _linger(self) -> None:
        self.loop.call_later(LINGER_S, self._close_between_requests)

    def _close_between_requests(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._go_on()
        if self._served is not None and not self._served.response_complete:
            self._served.disconnected = True
            self._served.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._served = cycle
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self.send_s, self._look, self._unsent())

    def resume_writing(self) -> None:
        self._go_on()
        super().resume_writing()

    def _go_on(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _look(self, before: int) -> None:
        unsent = self._unsent()
        if unsent < before:
            self._stalled = self.loop.call_later(self.send_s, self._look, unsent)
            return
        log.info("a client does not read its answer", unsent_bytes=unsent, for_s=self.send_s)
        self.transport.abort()

    def _unsent(self) -> int:
        """Bytes that the client has not taken, here and in the system's buffer."""
        return self.transport.get_write_buffer_size() + _queued(self.transport)

    def waits_for(self) -> tuple[object, int] | None:
        """What of its client it waits for, if for anything: that thing, and how much is left of it.

        It may be the rest of a head, the first one, or that the client takes the last bytes.
        """
        if self.transport.is_closing():
            return self, self._unsent()
        if self.is_idle:
            return None
        if self.cycle is not None and not self.cycle.response_complete:
            return None  # a pipeline ends with it
        return (self if self.headers is None else self.headers), 0

    def give_up(self) -> None:
        """What it waits for does not come."""
        if self.transport.is_closing():
            self.transport.abort()
            return
        if self.headers is not None:
            self.transport.write(_TOO_SLOW)
        self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing more is asked. What the client has not taken by now, it does not want."""
        self.transport.abort() if self._unsent() else self.transport.close()


def connections_with(send_s: float) -> type[Connection]:
    """The class of connections whose clients may read nothing for ``send_s`` seconds."""
    return type("Connection", (Connection,), {"send_s": send_s, "deadlines": Deadlines()})


async def watch(connections: set[Any], head_s: float) -> None:
    """Give up connections that wait for the same of their client for ``head_s`` to 1.25 times that.

    A look at all of them now and then costs a request nothing. Runs until cancelled.
    """
    loop = asyncio.get_running_loop()
    waiting: dict[Connection, tuple[object, int, float]] = {}
    while True:
        await asyncio.sleep(head_s / 4)
        now = loop.time()
        before, waiting = waiting, {}
        for connection in list(connections):
            found = connection.waits_for()
            if found is None:
                continue
            thing, left = found
            known = before.get(connection)
            same = known is not None and known[0] is thing and known[1] == left
            since = known[2] if same and known is not None else now
            if now - since >= head_s:
                connection.give_up()
            else:
                waiting[connection] = thing, left, since


def _queued(transport: asyncio.Transport) -> int:
    """Bytes in the system's send buffer that the other side has not acknowledged."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    descriptor = sock.fileno() if sock is not None else -1
    if descriptor < 0:
        return 0  # it is closed
    try:
        return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0" * 4))[0])
    except OSError:
        return 0  # a system that does not tell
