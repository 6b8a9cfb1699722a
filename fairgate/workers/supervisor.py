"""Owns what all workers share, and keeps them running."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
from msgspec.structs import replace

from fairgate.config import Config
from fairgate.engines.http_client import HttpClient
from fairgate.engines.process import Restarts
from fairgate.errors import WorkerStartError
from fairgate.reload import ConfigWatcher
from fairgate.runtime import store_url
from fairgate.workers.address import reserved
from fairgate.workers.orders import Begin, Order, Reload, Stop, packed
from fairgate.workers.shared import build_spawned, check_shareable, shared_config

_SLACK_S = 10.0
_RESTARTS = Restarts(first_s=0.5, longest_s=30.0, stable_s=60.0)

log = structlog.get_logger("fairgate.workers")


class _Process:
    """One run of a worker."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def spawn(cls, begin: Begin) -> _Process:
        """Start it; it logs to our standard error, and terminal signals do not reach it."""
        it = cls(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "fairgate.workers.worker"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        )
        it.tell(begin)
        return it

    def tell(self, order: Order) -> None:
        """Send an order; one that has ended does not hear it."""
        pipe = self._process.stdin
        assert pipe is not None  # noqa: S101 — asked for
        if not pipe.is_closing():
            pipe.write(packed(order))

    async def until_ready(self) -> bool:
        """Whether it serves; ``False``: it ended before that."""
        output = self._process.stdout
        assert output is not None  # noqa: S101 — asked for
        while line := await output.readline():
            if line.startswith(b"ready "):
                return True
        return False

    async def wait(self) -> int:
        """Its exit status, once it ended."""
        return await self._process.wait()

    def kill(self) -> None:
        """At once, if it still runs."""
        if self._process.returncode is None:
            self._process.kill()


class Workers:
    """Several workers with the same orders; one that ends is started again.

    :meth:`run` in a task; all methods belong to one event loop.
    """

    def __init__(self, count: int, config: Config, folder: Path) -> None:
        self._count = count
        self._config = config
        self._folder = folder
        self._running: dict[int, _Process] = {}
        self._ready: set[int] = set()
        self._stopping = asyncio.Event()
        self.all_ready = asyncio.Event()
        """Each of them has served."""

    async def run(self) -> None:
        """Until every one has stopped after :meth:`stop`.

        Raises :class:`WorkerStartError` when one ends before all have served. Failed or cancelled,
        all of them are killed.
        """
        keeping = [asyncio.ensure_future(self._keep(number)) for number in range(self._count)]
        try:
            await asyncio.gather(*keeping)
        finally:
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)
            self._kill_all()
            await asyncio.gather(*(process.wait() for process in self._running.values()))

    def reload(self, config: Config) -> None:
        """Have all take up ``config``, also those that are started later."""
        self._config = config
        self._tell_all(Reload(config))

    def stop(self) -> None:
        """Drain; the second time, do not wait for requests under way."""
        if not self._stopping.is_set():
            patience_s = self._config.timeouts.drain_s + _SLACK_S
            asyncio.get_running_loop().call_later(patience_s, self._kill_all)
        self._stopping.set()
        self._tell_all(Stop())

    def _kill_all(self) -> None:
        for process in self._running.values():
            process.kill()

    def _tell_all(self, order: Order) -> None:
        for process in self._running.values():
            process.tell(order)

    async def _keep(self, number: int) -> None:
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._one_run(number)
            if self._stopping.is_set():
                return
            if not self.all_ready.is_set():
                raise WorkerStartError(f"worker {number} ended with status {code} at the start")
            if time.monotonic() - began >= _RESTARTS.stable_s:
                failures = 0
            delay_s = _RESTARTS.delay_s(failures)
            failures += 1
            log.error("worker ended", worker=number, status=code, restart_in_s=round(delay_s, 1))
            try:
                await asyncio.wait_for(self._stopping.wait(), delay_s)
            except TimeoutError:
                pass  # nobody said stop: start it again

    async def _one_run(self, number: int) -> int:
        begin = Begin(number=number, config=self._config, folder=str(self._folder))
        process = self._running[number] = await _Process.spawn(begin)
        if begin.config is not self._config:
            process.tell(Reload(self._config))  # it changed while the process was spawned
        if self._stopping.is_set():
            process.tell(Stop())
        if await process.until_ready():
            self._ready.add(number)
            if len(self._ready) == self._count:
                self.all_ready.set()
        return await process.wait()


async def serve_with_workers(
    count: int,
    config: Config,
    *,
    file: Path | None = None,
    load: Callable[[], Config] | None = None,
    log_dir: Path,
) -> None:
    """Serve with ``count`` processes until SIGINT or SIGTERM, as :func:`fairgate.serve.serve` does.

    One embedded store and one set of spawned engines serve them all. Raises what ``serve`` raises,
    ``ConfigError`` for engines that cannot be shared and :class:`WorkerStartError`; then and in the
    end nothing that it started is left running.
    """
    check_shareable(config)
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fairgate-")))
        address = stack.enter_context(reserved(config.server.host, config.server.port))
        host, port = address.getsockname()[:2]
        store = await store_url(config, stack)
        http = await stack.enter_async_context(HttpClient(connect_s=config.timeouts.connect_s))
        engines = build_spawned(config, http, log_dir)

        def shared(config: Config) -> Config:
            found = shared_config(config, store, engines)
            return replace(found, server=replace(found.server, port=port))

        workers = Workers(count, shared(config), folder)
        _stop_on_signals(workers)
        starting = [asyncio.ensure_future(engine.start()) for engine in engines.values()]
        beside = [
            *starting,
            *_watch(file, load, config, lambda new: workers.reload(shared(new))),
            asyncio.ensure_future(_say_ready(workers, host, port)),
        ]
        running = asyncio.ensure_future(workers.run())
        try:
            await _run(workers, running, starting)
        finally:
            for task in (running, *beside):
                task.cancel()
            await asyncio.gather(running, *beside, return_exceptions=True)
            await asyncio.gather(*(engine.stop() for engine in engines.values()))


async def _run(
    workers: Workers, running: asyncio.Future[None], starting: Sequence[asyncio.Future[None]]
) -> None:
    """Until the workers have stopped. Raises ``EngineStartError`` for an engine that fails."""
    waiting = {running, *starting}
    while running in waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if any(task.exception() for task in done):
            workers.stop()
    for task in (*starting, running):
        if task.done():
            task.result()


async def _say_ready(workers: Workers, host: str, port: int) -> None:
    await workers.all_ready.wait()
    print(f"ready http://{host}:{port}", flush=True)


def _stop_on_signals(workers: Workers) -> None:
    for sig in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sig, workers.stop)


def _watch(
    file: Path | None,
    load: Callable[[], Config] | None,
    config: Config,
    apply: Callable[[Config], None],
) -> list[asyncio.Future[None]]:
    if file is None or load is None:
        return []
    watcher = ConfigWatcher(file, load, config, apply)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, watcher.request_reload)
    return [asyncio.ensure_future(watcher.run())]
