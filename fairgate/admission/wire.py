"""One connection to the store as bytes: commands out, replies in, in the order of the commands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, cast

import structlog
from hiredis import ProtocolError, Reader, ReplyError
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from fairgate.admission.scripts import Library, load_library

log = structlog.get_logger("fairgate.admission")


class Wire(asyncio.Protocol):
    """redis-py connects and shakes hands; from then on the transport's bytes come here.

    Reading reply by reply through redis-py takes several times as long as the scripts' callers can
    afford. ``heard`` gets every reply, errors as ``ReplyError``; ``lost`` is told why once the
    connection has ended, unless :meth:`close` ended it; ``resumed`` is told when :attr:`paused`,
    which says that the store reads too slowly, is over.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        heard: Callable[[Any], None],
        lost: Callable[[Wire, str], None],
        resumed: Callable[[], None],
        *,
        has_functions: bool,
    ) -> None:
        self.has_functions = has_functions
        """The server has the library of :func:`load_library`."""
        self._connection = connection
        self._heard = heard
        self._lost = lost
        self._resumed = resumed
        self._replies = Reader()
        writer = connection._writer  # noqa: SLF001 — redis-py has no way to hand a connection over
        assert writer is not None  # noqa: S101 — it is connected
        self._transport = cast("asyncio.Transport", writer.transport)
        self._transport.set_protocol(self)
        self.paused = False

    @classmethod
    async def connect(
        cls,
        url: str,
        connect_s: float,
        heard: Callable[[Any], None],
        lost: Callable[[Wire, str], None],
        resumed: Callable[[], None],
    ) -> Wire:
        """Connect as the server's URL says. Raises ``RedisError`` and ``OSError``.

        Cancelled: nothing stays connected.
        """
        pool: ConnectionPool = ConnectionPool.from_url(
            url, protocol=2, socket_timeout=None, socket_connect_timeout=connect_s
        )
        connection: AbstractConnection = pool.make_connection()
        try:
            await connection.connect()
            has_functions = await _provide(load_library(), connection)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return cls(connection, heard, lost, resumed, has_functions=has_functions)

    def send(self, commands: Iterable[bytes]) -> None:
        """Write all at once. Does not wait; see :attr:`paused`."""
        self._transport.write(b"".join(commands))

    def close(self) -> None:
        """Give it up, with whatever may still arrive on it."""
        self._lost = _nobody
        self._connection._close()  # noqa: SLF001 — there is no public one that does not wait

    def data_received(self, data: bytes) -> None:
        replies = self._replies
        replies.feed(data)
        try:
            while (reply := replies.gets()) is not False:
                self._heard(reply)
        except ProtocolError as error:
            self._lost(self, str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(self, str(exc) if exc else "connection closed by the store")

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._resumed()


async def _provide(library: Library, connection: AbstractConnection) -> bool:
    """See to it that the server has ``library``. False where it takes none: too old, of another
    make, full, or these are not for us."""
    try:
        if not await _has(library, connection):
            await connection.send_command("FUNCTION", "LOAD", "REPLACE", library.text)
            await connection.read_response()
    except ResponseError as error:
        log.info("the store takes no functions; it is sent scripts instead", error=str(error))
        return False
    return True


async def _has(library: Library, connection: AbstractConnection) -> bool:
    try:
        await connection.send_command("FCALL", library.presence, 0)
        await connection.read_response()
    except ResponseError as error:
        if "Function not found" in str(error):
            return False
        raise
    return True


def is_no_script(reply: ReplyError) -> bool:
    """The server does not have the script or function that was called."""
    return str(reply).startswith(("NOSCRIPT", "ERR Function not found"))


def is_elsewhere(reply: ReplyError) -> bool:
    """The call did not run, since this server does not take the pool's writes any more."""
    return str(reply).startswith(("MOVED ", "READONLY "))


def _nobody(wire: Wire, why: str) -> None:
    """Nobody needs to know."""
