"""A line to the store on which, while it is deaf, calls arrive and their replies do not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Self

_CHUNK = 65536


class DeafLine:
    """Stands between one gateway and a store at a Unix socket; :attr:`url` is the gateway's way.

    While ``deaf``, a connection is reset as soon as the store has answered the first call on it.
    """

    def __init__(self, folder: Path, store_url: str) -> None:
        self._store = store_url.removeprefix("unix://")
        self._path = str(folder / "line")
        self.url = f"unix://{self._path}"
        self.deaf = False
        self.swallowed = 0
        """Connections that ended so."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._accept, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(self._store)
        called = False

        async def ask() -> None:
            nonlocal called
            while data := await reader.read(_CHUNK):
                called = called or b"fg:{" in data  # the key of a pool
                up_writer.write(data)

        async def answer() -> None:
            while data := await up_reader.read(_CHUNK):
                if self.deaf and called:
                    self.swallowed += 1
                    return
                writer.write(data)

        pumps = {asyncio.ensure_future(ask()), asyncio.ensure_future(answer())}
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.transport.abort()
            up_writer.transport.abort()
