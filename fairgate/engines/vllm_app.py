"""Builds vLLM's server as an app in this process, around an engine process of its own.

vLLM is imported only when an engine is built: that takes seconds and needs it installed.
"""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import os
import threading
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, NoReturn

from starlette.types import ASGIApp, Receive, Scope, Send

from fairgate.engines.orphans import not_orphaned
from fairgate.errors import EngineStartError

if TYPE_CHECKING:
    from fairgate.engines.vllm_stats import EngineStats

# The environment belongs to the process, and engines that start on one device at the same time
# mismeasure its memory: so one starts after the other.
_starting = threading.Lock()
_POLL_S = 0.2
_END_S = 10.0
_END_POLL_S = 0.02


@dataclass(frozen=True)
class VllmApp:
    """vLLM's server without its socket."""

    app: ASGIApp
    stats: EngineStats
    client: Any
    """vLLM's ``AsyncLLM``."""

    @property
    def dead(self) -> bool:
        """Its engine process has ended."""
        return bool(self.client.errored)


@asynccontextmanager
async def vllm_app(arguments: Sequence[str], env: Mapping[str, str]) -> AsyncIterator[VllmApp]:
    """Start an engine and build its server; both end with the context.

    ``arguments`` are those of vLLM's command line, ``env`` is set while the engine starts. Raises
    ``EngineStartError``. Cancelled: an engine that is starting is ended first.
    """
    build = _Build(arguments, env)
    args, client = await _start(build)
    try:
        with not_orphaned([process.pid for process in build.processes if process.pid]):
            yield await _serve(args, client)
    finally:
        await asyncio.shield(_end(client))
        await _wait_for(build.processes)


async def _serve(args: Namespace, client: Any) -> VllmApp:
    """vLLM's app around its client."""
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app

    from fairgate.engines.vllm_stats import EngineStats

    stats = EngineStats(client)
    tasks = await client.get_supported_tasks()
    # Not its lifespan: that would only write the engine's statistics to a log now and then.
    app = build_app(args, tasks, client.model_config)
    await init_app_state(client, app.state, args, tasks)
    keys = args.api_key or [os.environ.get("VLLM_API_KEY")]
    return VllmApp(_with_key(app, keys[0]) if keys[0] else app, stats, client)


def _with_key(app: ASGIApp, key: str) -> ASGIApp:
    """``app``, and nobody but us can reach it: so it shall see the key that it asks for."""
    authorization = (b"authorization", b"Bearer " + key.encode())

    async def authorized(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "headers": [*scope["headers"], authorization]}, receive, send)

    return authorized


async def _start(build: _Build) -> tuple[Namespace, Any]:
    """Run it in a thread, since vLLM blocks for as long as its engine takes to start."""
    starting = asyncio.ensure_future(asyncio.to_thread(build.run))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        while not starting.done():
            build.abandon()
            await asyncio.wait({starting}, timeout=_POLL_S)
        if starting.exception() is None:
            await _end(starting.result()[1])
        await _wait_for(build.processes)
        raise


class _Build:
    """One start of an engine, in a thread of its own."""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str]) -> None:
        self._arguments = arguments
        self._env = env
        self._abandoned = False
        self._others: list[BaseProcess] | None = None
        """Child processes of before, while it is this one's turn."""
        self.processes: list[BaseProcess] = []
        """Those of the engine, once :meth:`run` is over."""

    def run(self) -> tuple[Namespace, Any]:
        """The parsed arguments and the client. Raises ``EngineStartError``."""
        with _starting, _environment(self._env):
            if self._abandoned:
                raise EngineStartError("was stopped before it started")
            self._others = multiprocessing.active_children()
            try:
                return _build_client(self._arguments)
            except EngineStartError:
                raise
            except Exception as error:  # whatever vLLM and what it calls may raise
                trouble = f"cannot start: {type(error).__name__}: {error}"
                raise EngineStartError(trouble) from error
            finally:
                self.processes = self._children()
                self._others = None

    def abandon(self) -> None:
        """Make :meth:`run` fail soon: a thread cannot be ended, but what it waits for can."""
        self._abandoned = True
        for child in self._children():
            child.kill()

    def _children(self) -> list[BaseProcess]:
        others = self._others
        if others is None:
            return []
        return [child for child in multiprocessing.active_children() if child not in others]


def _build_client(arguments: Sequence[str]) -> tuple[Namespace, Any]:
    # Imported here because that takes seconds, which must not be the event loop's.
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.usage.usage_lib import UsageContext
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.async_llm import AsyncLLM

    importlib.import_module("vllm.entrypoints.launchers.api_server.entry")  # for the event loop
    parser = make_arg_parser(FlexibleArgumentParser())
    parser.error = _refuse_arguments
    args = parser.parse_args(list(arguments))
    validate_parsed_serve_args(args)
    engine_args = AsyncEngineArgs.from_cli_args(args)
    usage = UsageContext.OPENAI_API_SERVER
    client = AsyncLLM.from_vllm_config(
        vllm_config=engine_args.create_engine_config(usage),
        usage_context=usage,
        enable_log_requests=engine_args.enable_log_requests,
        disable_log_stats=engine_args.disable_log_stats,
    )
    return args, client


def _refuse_arguments(message: str) -> NoReturn:
    raise EngineStartError(f"cannot start: vLLM refuses its arguments: {message}")


@contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


async def _end(client: Any) -> None:
    listener = client.output_handler
    if listener is not None:  # else it tells at length that its engine is gone
        listener.cancel()
        await asyncio.wait({listener})
    await asyncio.to_thread(client.shutdown, timeout=client.vllm_config.shutdown_timeout)


async def _wait_for(processes: Sequence[BaseProcess]) -> None:
    """Return when they have ended, or after ``_END_S``.

    Not by ``join``: vLLM's own thread waits for the same processes, and of two that wait the
    second returns before the first has noted that the process is gone.
    """
    until = time.monotonic() + _END_S
    for process in processes:
        while process.is_alive() and time.monotonic() < until:  # noqa: ASYNC110 - no event
            await asyncio.sleep(_END_POLL_S)
