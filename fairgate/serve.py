"""Runs the gateway: starts everything, serves, drains, and ends everything it started."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp

from fairgate.config import Config, InProcessEngine, SimulatedEngine, VllmEngine
from fairgate.engines.base import Engine
from fairgate.errors import EngineStartError
from fairgate.gateway.app import Gateway, Scrape
from fairgate.gateway.connection import connections_with, watch
from fairgate.reload import ConfigWatcher
from fairgate.runtime import Runtime
from fairgate.telemetry import request_log

_BREAK_OFF_S = 1.0
_OBJECTS_PER_COLLECTION = 20_000
_STARTED_HERE = (VllmEngine, SimulatedEngine, InProcessEngine)

log = structlog.get_logger("fairgate.serve")


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn would raise them again once it is done, and end the process
    before everything else is put away."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class Place:
    """The place of this process among several that serve together."""

    sockets: list[socket.socket]
    scrape: Scrape
    obey: Callable[[Runtime, Callable[[], None]], Coroutine[Any, Any, None]]
    """Runs beside the server: follows what it is told. The second argument stops the server, as a
    signal does."""
    admin_sockets: list[socket.socket]
    """For operators, where they have one of their own; else empty."""


def _drain_on_signals(server: uvicorn.Server, runtime: Runtime) -> Callable[[], None]:
    """The first signal refuses new requests and lets those under way finish, a second one does
    not wait for them. Returns what does the same without a signal."""

    def stop() -> None:
        server.force_exit = runtime.draining
        runtime.draining = server.should_exit = True

    loop = asyncio.get_running_loop()
    for sig in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sig, stop)
    return stop


async def serve(
    config: Config,
    *,
    file: Path | None = None,
    load: Callable[[], Config] | None = None,
    log_dir: Path,
    place: Place | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM.

    ``load`` makes the configuration anew when ``file`` changes or SIGHUP comes. Raises
    ``StoreError``, ``EngineStartError`` or ``OSError`` (address in use) when it cannot start; then
    and in the end nothing that it started is left running.
    """
    async with Runtime.open(config, log_dir=log_dir) as runtime:
        runtime.log_request = request_log(sys.stderr)
        _calm_garbage_collection()
        _take_all_descriptors()
        gateway = Gateway(runtime, scrape=place.scrape if place else None)
        server = _Server(_uvicorn(config, gateway.app, config.server.host, config.server.port))
        stop = _drain_on_signals(server, runtime)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(_break_off, server)
            stack.push_async_callback(runtime.stop_engines)  # which ends requests they still serve
            if file is not None and load is not None:
                watcher = ConfigWatcher(file, load, config, runtime.apply)
                _background(stack, watcher.run())
                loop = asyncio.get_running_loop()
                loop.add_signal_handler(signal.SIGHUP, watcher.request_reload)
            await stack.enter_async_context(gateway.operators.observer.running())
            if place is not None:
                _background(stack, place.obey(runtime, stop))
            _background(stack, watch(server.server_state.connections, config.timeouts.head_s))
            sockets = place.admin_sockets if place else None
            await stack.enter_async_context(_for_operators(config, gateway, sockets))
            starting = _background(stack, _start_all(runtime.engines, runtime, server))
            starting.add_done_callback(lambda task: _give_up(task, server))
            await server.serve(place.sockets if place else None)
            if starting.done() and not starting.cancelled():
                starting.result()


@contextlib.asynccontextmanager
async def _for_operators(
    config: Config, gateway: Gateway, sockets: list[socket.socket] | None
) -> AsyncIterator[None]:
    """Serve the admin API on a socket of its own, where the configuration says so."""
    admin = config.admin
    if admin.port is None or not admin.keys:
        yield
        return
    host, port = admin.host or config.server.host, admin.port
    server = _Server(_uvicorn(config, gateway.operators, host, port))
    with contextlib.ExitStack() as stack:
        if not sockets:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            own = socket.create_server((host, port), family=family, backlog=2048)
            sockets = [stack.enter_context(own)]
        serving = asyncio.create_task(server.serve(sockets), name="fairgate-admin")
        try:
            log.info("for operators", address=sockets[0].getsockname()[:2])
            yield
        finally:
            server.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)


def _calm_garbage_collection() -> None:
    """Little of what a request leaves behind is a cycle, and what was loaded at the start is none:
    looking for cycles after every 700 objects takes a tenth of the gateway's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_PER_COLLECTION, 20, 100)


def _take_all_descriptors() -> None:
    """As many connections as the system lets us have, rather than as it gives by default."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _break_off(server: uvicorn.Server) -> None:
    """End what a second signal did not wait for: requests whose engines we did not stop end as if
    their clients had left."""
    state = server.server_state
    if state.tasks:
        await asyncio.wait(state.tasks, timeout=_BREAK_OFF_S)
    for connection in list(state.connections):
        connection.transport.abort()
    if state.tasks:
        await asyncio.wait(state.tasks, timeout=_BREAK_OFF_S)


def _background(stack: contextlib.AsyncExitStack, work: object) -> asyncio.Task[None]:
    task: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[call-overload]

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(end)
    return task


async def _start_all(engines: Iterable[Engine], runtime: Runtime, server: uvicorn.Server) -> None:
    """Start the engines side by side, then say so once every lane can serve."""
    names = [engine.name for engine in engines]
    log.info("starting", engines=names, policy=_policies(runtime.config))
    await asyncio.gather(*(engine.start() for engine in engines))
    # Told by heartbeats, also of other replicas, and by uvicorn's loop.
    while runtime.closed_lanes() or not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    if server.should_exit:
        return  # told to end before it was ready
    _warn_of_engines_counted_once(runtime)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    # On standard output, apart from the log: what scripts wait for.
    print(f"ready http://{host}:{port}", flush=True)


def _warn_of_engines_counted_once(runtime: Runtime) -> None:
    """Engines of one name are one engine to the pool, whoever started them."""
    for name, pool in runtime.pools.items():
        own = [
            lane
            for lane, spec in pool.lanes.items()
            if any(isinstance(engine, _STARTED_HERE) for engine in spec.engines)
        ]
        if own and pool.admission.pool.gateways > 1:
            log.warning(
                "each replica starts engines of its own, and the pool counts them as one; start"
                " them apart and name them as type http",
                pool=name, lanes=own, replicas=pool.admission.pool.gateways,
            )  # fmt: skip


def _policies(config: Config) -> dict[str, str]:
    return {
        name: pool.policy if isinstance(pool.policy, str) else pool.policy.preset
        for name, pool in config.pools.items()
    }


def _give_up(starting: asyncio.Task[None], server: uvicorn.Server) -> None:
    if not starting.cancelled() and isinstance(starting.exception(), EngineStartError):
        server.should_exit = True


def _uvicorn(config: Config, app: ASGIApp, host: str, port: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="none",
        http=connections_with(config.timeouts.send_s),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # which proxies are trusted is said in the configuration
        server_header=False,
        backlog=2048,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=round(config.timeouts.drain_s),
    )
