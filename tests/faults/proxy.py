"""``python -m tests.faults.proxy``: stands between gateways and their store, and harms what passes.

Orders come as lines on ``--control``: ``pass``, ``slow SECONDS`` (every part of a reply comes so
much later), ``cut BYTES`` (each connection is reset once about so many bytes of replies went
through, in the middle of whatever they belong to) or ``hold`` (nothing goes through either way, as
when a cable is out: what was sent arrives with the next ``pass``). Each is answered ``ok``.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import struct

_CHUNK = 65536


class Proxy:
    """All connections, under one order."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.slow_s = 0.0
        self.cut_after = 0
        self._passing = asyncio.Event()
        self._passing.set()

    def obey(self, order: str) -> None:
        """Raises ``ValueError`` for an order that it does not know."""
        match order.split():
            case ["pass"]:
                self.slow_s, self.cut_after = 0.0, 0
                self._passing.set()
            case ["hold"]:
                self._passing.clear()
            case ["slow", seconds]:
                self.slow_s = float(seconds)
            case ["cut", count]:
                self.cut_after = int(count)
            case _:
                raise ValueError(f"unknown order: {order!r}")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a gateway."""
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _reset(writer)
            return
        pumps = [
            asyncio.ensure_future(self._requests(reader, up_writer)),
            asyncio.ensure_future(self._replies(up_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            _reset(writer)
            _reset(up_writer)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            await self._passing.wait()
            writer.write(data)
            await writer.drain()

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Late parts are late by the same time each, as on a long line: they do not add up."""
        loop = asyncio.get_running_loop()
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def write() -> None:
            passed = limit = 0
            while True:
                due, data = await line.get()
                await asyncio.sleep(due - loop.time())
                await self._passing.wait()
                if not data:
                    return
                if self.cut_after:
                    limit = limit or random.randint(1, 2 * self.cut_after)
                    passed += len(data)
                    if passed >= limit:
                        writer.write(data[: len(data) // 2])
                        return
                writer.write(data)
                await writer.drain()

        async def read() -> None:
            while True:
                data = await reader.read(_CHUNK)
                line.put_nowait((loop.time() + self.slow_s, data))
                if not data:
                    return

        async with asyncio.TaskGroup() as both:
            reading = both.create_task(read())
            await write()
            reading.cancel()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if not writer.is_closing() and sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.proxy", description=__doc__)
    for name in ("--port", "--target", "--control"):
        parser.add_argument(name, type=int, required=True)
    options = parser.parse_args()
    proxy = Proxy(options.target)

    async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            proxy.obey(line.decode().strip())
            writer.write(b"ok\n")
        writer.close()

    listening = await asyncio.start_server(proxy.serve, "127.0.0.1", options.port, backlog=512)
    ordered = await asyncio.start_server(control, "127.0.0.1", options.control)
    await asyncio.gather(listening.serve_forever(), ordered.serve_forever())


if __name__ == "__main__":
    asyncio.run(main())
