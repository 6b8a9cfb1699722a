"""The gateway's connections: the head of an answer leaves together with what follows it.

uvicorn writes the head and the body apart. Each write is a system call that wakes the client, so an
answer that is ready as a whole should be one.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fairgate.gateway.bounded_input import BoundedInput

_HEAD = b"HTTP/1.1 "


class Protocol(BoundedInput):
    """uvicorn's protocol, on such a connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(JoinedWrites(transport, self.loop))


class JoinedWrites(asyncio.Transport):
    """Passes everything on to ``transport``, a head with the next write or at the end of the event
    loop's turn."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._head = b""

    def write(self, data: Any) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        elif data.startswith(_HEAD):
            self._head = data
            self._loop.call_soon(self._write_head)
        else:
            self._transport.write(data)

    def _write_head(self) -> None:
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)

    def close(self) -> None:
        self._write_head()
        self._transport.close()

    def abort(self) -> None:
        self._head = b""
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()
