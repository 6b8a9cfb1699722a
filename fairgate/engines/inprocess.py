"""An engine whose server is an app in this process; its engine process is supervised."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import time
from contextlib import AsyncExitStack

import structlog

from fairgate import config
from fairgate.engines.asgi_transport import AsgiTransport
from fairgate.engines.base import EngineStatus
from fairgate.engines.process import Restarts
from fairgate.engines.vllm import vllm_arguments, vllm_defaults
from fairgate.engines.vllm_app import VllmApp, vllm_app
from fairgate.errors import EngineStartError

_POLL_S = 0.5

log = structlog.get_logger("fairgate.engines")


class InProcessEngine:
    """See :class:`fairgate.engines.base.Engine`."""

    def __init__(
        self,
        name: str,
        settings: config.InProcessEngine,
        model_name: str,
        *,
        restarts: Restarts | None = None,
    ) -> None:
        self._name = name
        self._settings = settings
        self._arguments = vllm_arguments(settings, model_name)
        self._env = _environment(settings)
        self._restarts = restarts or Restarts()
        self._transport = AsgiTransport(lambda: self._served.app if self._served else None)
        self._served: VllmApp | None = None
        self._trouble = "not started"
        self._stack = AsyncExitStack()
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def transport(self) -> AsgiTransport:
        return self._transport

    @property
    def priority(self) -> bool:
        return self._settings.priority

    async def start(self) -> None:
        """Build it, then keep it running until :meth:`stop`.

        Raises ``EngineStartError`` when that fails or takes longer than ``start_timeout_s``.
        Cancelled: an engine that is starting is ended once it is up, before this returns.
        """
        if self._supervisor is not None:
            raise RuntimeError(f"engine {self._name} is already started")
        await self._bring_up()
        self._supervisor = asyncio.create_task(self._supervise(), name=f"engine {self._name}")

    async def probe(self) -> EngineStatus:
        """How its engine is, by what it sends with its answers; asks nobody."""
        if self._served is None:
            return EngineStatus(up=False, detail=self._trouble)
        return await self._served.stats.status()

    async def stop(self) -> None:
        """Cancel its requests and end its engine. Idempotent."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.wait({supervisor})
        self._trouble = "stopped"
        await self._put_away()

    async def _supervise(self) -> None:
        """Build the engine again whenever its process ended by itself."""
        failures = 0
        while True:
            since = time.monotonic()
            while self._served is not None and not self._served.dead:  # noqa: ASYNC110 - no event
                await asyncio.sleep(_POLL_S)
            if time.monotonic() - since >= self._restarts.stable_s:
                failures = 0
            failures = await self._bring_back("its engine process ended", failures)

    async def _bring_back(self, reason: str, failures: int) -> int:
        while True:
            delay_s = self._restarts.delay_s(failures)
            failures += 1
            self._trouble = f"{reason}; started again after {delay_s:.1f} s"
            log.error(
                "engine ended",
                engine=self._name,
                reason=reason,
                failures=failures,
                restart_in_s=round(delay_s, 3),
            )
            await self._put_away()
            await asyncio.sleep(delay_s)
            try:
                await self._bring_up()
            except EngineStartError as error:
                reason = str(error)
            else:
                log.info("engine started again", engine=self._name, failures=failures)
                return failures

    async def _bring_up(self) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise EngineStartError(f"engine {self._name}: vLLM is not installed beside fairgate")
        timeout_s = self._settings.start_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                self._served = await self._stack.enter_async_context(
                    vllm_app(self._arguments, self._env)
                )
        except TimeoutError:
            trouble = f"engine {self._name} did not start within {timeout_s:g} s"
            raise EngineStartError(trouble) from None
        except EngineStartError as error:
            raise EngineStartError(f"engine {self._name} {error}") from error

    async def _put_away(self) -> None:
        """Cancel what still runs in the app, and end its engine."""
        self._served = None
        await self._transport.stop()
        await self._stack.aclose()


def _environment(settings: config.InProcessEngine) -> dict[str, str]:
    defaults = {
        **vllm_defaults(settings.model),
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork would hold our sockets
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # standard output is the gateway's own
    }
    unset = {name: value for name, value in defaults.items() if name not in os.environ}
    return {**unset, **settings.env}
