"""The Runtime of a mounted FairGate: started by the app or its first request."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import structlog
from msgspec.structs import replace
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fairgate.config import AppEngine, Config, Lane, Pool, Tenant, reading
from fairgate.config.server import Server
from fairgate.errors import FairgateError
from fairgate.placement import check_mounted
from fairgate.runtime import Runtime

ConfigSource = Config | Mapping[str, Any] | str | Path

_ENDS = frozenset({"lifespan.startup.failed", "lifespan.shutdown.complete",
                   "lifespan.shutdown.failed"})  # fmt: skip

log = structlog.get_logger("fairgate.mounting")


def mounted_config(source: ConfigSource | None) -> Config:
    """The configuration that ``source`` is or names; ``None``: one lane, one tenant without a key.

    Raises ``ConfigError`` with every problem found.
    """
    if source is None:
        config = _default()
    elif isinstance(source, Config):
        config = source
    elif isinstance(source, Mapping):
        config = reading.convert(source, source="config")
    else:
        config = reading.load(Path(source))
    check_mounted(config, source=str(source) if isinstance(source, str | Path) else "config")
    server = config.server
    if server.access_log is None:
        server = replace(server, access_log=False)
    return replace(config, server=server)


def _default() -> Config:
    lane = Lane(engines=(AppEngine(),))
    return Config(
        pools={"main": Pool(lanes={"app": lane})},
        tenants={"default": Tenant()},
        anonymous="default",
        server=Server(access_log=False),
    )


class OwnRuntime:
    """A :class:`Runtime` in a task of its own, so that no request and no lifespan has to hold it.

    It ends with the app's shutdown, with :meth:`aclose`, or when its event loop ends, which cancels
    the task. What a killed process held is freed by the store as that of any dead gateway.
    """

    def __init__(self, open_runtime: Callable[[], AbstractAsyncContextManager[Runtime]]) -> None:
        self._open = open_runtime
        self._holder: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready: asyncio.Future[Runtime]
        self._stop: asyncio.Event
        self.runtime: Runtime | None = None
        """While it runs."""

    def running(self) -> Runtime | None:
        """The one that runs on this event loop, if any."""
        return self.runtime if self._loop is asyncio.get_running_loop() else None

    async def get(self) -> Runtime:
        """The running one; starts it where none runs. Those who come meanwhile share the start.

        Raises what the start raises (``StoreError``); the next call tries again. Cancelled: the
        start goes on for those who come after. Raises ``RuntimeError`` on a second event loop.
        """
        if (running := self.running()) is not None:
            return running
        holder = self._hold()
        if self.runtime is not None:
            return self.runtime
        if not self._ready.done():
            either: set[asyncio.Future[Any]] = {holder, self._ready}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self._ready.done():
            holder.result()
        return self._ready.result()

    def _hold(self) -> asyncio.Task[None]:
        """The task that holds the runtime, on this event loop."""
        loop = asyncio.get_running_loop()
        holder = self._holder
        if holder is not None and not holder.done() and not holder.get_loop().is_closed():
            if holder.get_loop() is not loop:
                raise RuntimeError("this FairGate runs on another event loop; make one for each")
            return holder
        self._loop = loop
        self._ready, self._stop = loop.create_future(), asyncio.Event()
        # In an empty context: what the first request has set is not the runtime's business.
        self._holder = loop.create_task(
            self._run(self._ready, self._stop),
            name="fairgate-runtime",
            context=contextvars.Context(),
        )
        return self._holder

    async def _run(self, ready: asyncio.Future[Runtime], stop: asyncio.Event) -> None:
        try:
            async with self._open() as self.runtime:
                ready.set_result(self.runtime)
                await stop.wait()
        finally:
            self.runtime = None

    async def aclose(self) -> None:
        """End it, if it runs. Cancelled: it ends all the same."""
        holder = self._holder
        if holder is not None and not holder.get_loop().is_closed():
            self._stop.set()
            await asyncio.wait({holder})

    async def lifespan(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a ``lifespan`` scope: start before ``app`` does, end after it did.

        ``app`` sees the scope as it came, and its failures pass on. One that knows no lifespan
        raises or returns; then its first request starts the runtime.
        """
        first = [await receive()]
        try:
            await self.get()
        except FairgateError as error:
            log.error("fairgate did not start", error=str(error))
            await send({"type": "lifespan.startup.failed", "message": f"fairgate: {error}"})
            return

        async def received() -> Message:
            return first.pop() if first else await receive()

        async def sent(message: Message) -> None:
            if message["type"] in _ENDS:
                await self.aclose()
            await send(message)

        try:
            await app(scope, received, sent)
        finally:
            await self.aclose()
