"""The gateway's connections: what is written in one turn of the event loop leaves in one write.

uvicorn writes the head of an answer and its body apart. Each write is a system call that wakes the
client, so an answer that is ready as a whole should be one.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_BYTES = 64 * 1024
"""What is held is written at once beyond this, so that flow control sees it."""


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, on such a connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(JoinedWrites(transport, self.loop))


class JoinedWrites(asyncio.Transport):
    """Passes everything on to ``transport``, writes at the end of the event loop's turn."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._held_bytes = 0

    def write(self, data: Any) -> None:
        if not self._held:
            self._loop.call_soon(self._write_held)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > MOST_BYTES:
            self._write_held()

    def _write_held(self) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        if held and not self._transport.is_closing():
            self._transport.write(held[0] if len(held) == 1 else b"".join(held))

    def close(self) -> None:
        self._write_held()
        self._transport.close()

    def abort(self) -> None:
        self._held.clear()
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()
