"""How this process reaches engines over HTTP: connections are kept for the next request."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections import defaultdict
from functools import cached_property
from typing import NamedTuple, Self

import aiohttp

from fairgate.engines.http_connection import Connection, ConnectionLostUnused, HttpAnswer
from fairgate.errors import EngineUnreachable
from fairgate.within import Deadlines, Within

FREE_S = 4.0
"""An idle connection is kept so long; uvicorn, and so vLLM, closes idle ones after five seconds."""


class Origin(NamedTuple):
    """Where a server listens."""

    scheme: str
    host: str
    port: int


class HttpClient:
    """All connections of one process to its engines; a context manager that closes them.

    Requests for users go by :meth:`post`, all else (health, metrics) by :attr:`session`.
    """

    session: aiohttp.ClientSession

    def __init__(self, *, connect_s: float = 10.0, max_answer_bytes: int = sys.maxsize) -> None:
        """``connect_s``: longest wait for a connection, TLS included. An answer of more than
        ``max_answer_bytes`` fails."""
        self._connect_s = connect_s
        self._max_answer_bytes = max_answer_bytes
        self._free: defaultdict[Origin, list[Connection]] = defaultdict(list)
        self._all: set[Connection] = set()
        self._pruning: asyncio.TimerHandle | None = None
        self._deadlines = Deadlines()

    async def post(self, origin: Origin, head: bytes, body: bytes) -> HttpAnswer:
        """Send ``head`` (with its blank line) and ``body``, wait for the answer to begin.

        Raises ``EngineUnreachable`` where no connection can be made, ``EngineError`` when the
        engine breaks off. Cancelled: the connection is closed, which tells the engine.
        """
        while connection := self._take(origin):
            try:
                return await _ask(connection, head, body)
            except ConnectionLostUnused:
                continue  # it was closed while nobody used it
        return await _ask(await self._connect(origin), head, body)

    async def __aenter__(self) -> Self:
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_s),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections, those in use as well."""
        if self._pruning is not None:
            self._pruning.cancel()
        for connection in list(self._all):
            connection.close()
        self._free.clear()
        await self.session.close()

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    def _take(self, origin: Origin) -> Connection | None:
        free = self._free[origin]
        oldest = asyncio.get_running_loop().time() - FREE_S
        while free:
            connection = free.pop()
            if connection.usable and connection.free_since > oldest:
                return connection
            connection.close()
        return None

    async def _connect(self, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()

        def freed(connection: Connection) -> None:
            connection.free_since = loop.time()
            self._free[origin].append(connection)
            if self._pruning is None:
                self._pruning = loop.call_later(FREE_S, self._prune)

        def lost(connection: Connection) -> None:
            self._all.discard(connection)

        tls = self._tls if origin.scheme == "https" else None
        try:
            with Within(self._deadlines.of(self._connect_s)):
                _, connection = await loop.create_connection(
                    lambda: Connection(freed, lost, max_answer_bytes=self._max_answer_bytes),
                    origin.host,
                    origin.port,
                    ssl=tls,
                )
        except OSError as error:
            raise EngineUnreachable(type(error).__name__) from error
        self._all.add(connection)
        return connection

    def _prune(self) -> None:
        """Close what has been free for too long."""
        loop = asyncio.get_running_loop()
        for origin, free in list(self._free.items()):
            kept = [c for c in free if c.usable and c.free_since > loop.time() - FREE_S]
            for connection in set(free).difference(kept):
                connection.close()
            self._free[origin] = kept
            if not kept:
                del self._free[origin]
        self._pruning = loop.call_later(FREE_S, self._prune) if self._free else None


async def _ask(connection: Connection, head: bytes, body: bytes) -> HttpAnswer:
    answer = connection.ask(head, body)
    try:
        await answer.begun()
    except BaseException:
        answer.close()
        raise
    return answer
