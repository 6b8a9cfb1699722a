"""An engine that fairgate spawns as a process on the loopback interface, supervises and stops."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from fairgate.child import Child, Command, log_tail, open_log
from fairgate.engines.base import EngineStatus
from fairgate.engines.http_client import HttpClient
from fairgate.engines.http_transport import HttpTransport
from fairgate.engines.probe import probe
from fairgate.errors import EngineStartError

_HOST = "127.0.0.1"
_POLL_S = 0.25
# Below Linux's range of ephemeral ports: no outgoing connection takes the port while the engine is
# away for a restart.
_PORTS = range(20_000, 32_768)

log = structlog.get_logger("fairgate.engines")


@dataclass(frozen=True, slots=True)
class Restarts:
    """How soon an engine that ended by itself is started again."""

    first_s: float = 1.0
    factor: float = 2.0
    longest_s: float = 60.0
    stable_s: float = 120.0
    """After a run of so many seconds the delay starts again at ``first_s``."""

    def delay_s(self, failures: int) -> float:
        """Seconds to wait after so many short runs in a row; half of it is jitter."""
        longest = min(self.longest_s, self.first_s * self.factor ** min(failures, 32))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for an engine, in seconds."""

    start_s: float = 600.0
    """From its spawn until it answers."""
    grace_s: float = 15.0
    """From SIGTERM to SIGKILL."""


class SpawnedEngine:
    """See :class:`fairgate.engines.base.Engine`.

    ``command`` gives what to run for a port. The process, and all that it starts, ends with
    :meth:`stop` and also when this process is killed. It keeps its port, and so its ``url``, for
    life; what it prints goes to the ``log_file``.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[int], Command],
        http: HttpClient,
        log_file: Path,
        *,
        port: int | None = None,
        priority: bool = False,
        patience: Patience = Patience(),
        restarts: Restarts = Restarts(),
    ) -> None:
        self._name = name
        self._port = free_port() if port is None else port
        self._command = command(self._port)
        self._http = http
        self._transport = HttpTransport(http, self.url)
        self._log_file = log_file
        self._priority = priority
        self._patience = patience
        self._restarts = restarts
        self._supervisor: asyncio.Task[None] | None = None
        self._trouble = ""
        self._child: Child | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def url(self) -> str:
        """Base address; stable across restarts."""
        return f"http://{_HOST}:{self._port}"

    @property
    def transport(self) -> HttpTransport:
        return self._transport

    @property
    def priority(self) -> bool:
        return self._priority

    @property
    def process_group(self) -> int | None:
        """Id of the process group of the present run, if there is one."""
        return self._child.group if self._child else None

    async def start(self) -> None:
        """Spawn it, wait until it answers, then keep it running until :meth:`stop`.

        Raises ``EngineStartError``, with the end of its log, when it ends or does not answer within
        ``patience.start_s``; nothing is left running then, nor when this is cancelled.
        """
        if self._supervisor is not None:
            raise RuntimeError(f"engine {self._name} is already started")
        child = await self._bring_up()
        self._supervisor = asyncio.create_task(self._supervise(child), name=f"engine {self._name}")

    async def probe(self) -> EngineStatus:
        """Ask it how it is; while it is away, ``detail`` says why and what is done about it."""
        status = await probe(self._http.session, self.url, {})
        if status.up or not self._trouble:
            return status
        return replace(status, detail=self._trouble)

    async def stop(self) -> None:
        """End it: SIGTERM, then SIGKILL to its process group. Idempotent.

        Cancelled: its process group gets SIGKILL at once.
        """
        supervisor, self._supervisor = self._supervisor, None
        child, self._child = self._child, None
        try:
            if supervisor is not None:
                supervisor.cancel()
                await asyncio.wait({supervisor})
        finally:
            if child is not None:
                await child.end()

    async def _supervise(self, child: Child) -> None:
        """Start the engine again whenever it ends by itself."""
        failures = 0
        while True:
            since = time.monotonic()
            how = await child.wait()
            if time.monotonic() - since >= self._restarts.stable_s:
                failures = 0
            child, failures = await self._bring_back(f"its process {how}", failures)

    async def _bring_back(self, reason: str, failures: int) -> tuple[Child, int]:
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
            await asyncio.sleep(delay_s)
            try:
                child = await self._bring_up()
            except EngineStartError as error:
                reason = str(error)
            else:
                log.info("engine started again", engine=self._name, failures=failures)
                return child, failures

    async def _bring_up(self) -> Child:
        child, log_start = await self._spawn()
        self._child = child
        try:
            async with asyncio.timeout(self._patience.start_s):
                trouble = await self._until_up(child)
        except TimeoutError:
            trouble = f"did not answer within {self._patience.start_s:g} s"
        except BaseException:
            await self._abandon(child)
            raise
        if trouble:
            await self._abandon(child)
            raise EngineStartError(self._start_report(trouble, log_start))
        self._trouble = ""
        return child

    async def _spawn(self) -> tuple[Child, int]:
        if not _is_free(self._port):
            message = f"engine {self._name}: port {self._port} is taken by another process"
            raise EngineStartError(message)
        try:
            log_start = open_log(self._log_file)
            child = await Child.spawn(self._command, self._log_file, grace_s=self._patience.grace_s)
        except OSError as error:
            raise EngineStartError(f"engine {self._name}: cannot be spawned: {error}") from error
        return child, log_start

    async def _abandon(self, child: Child) -> None:
        self._child = None
        await child.end()

    async def _until_up(self, child: Child) -> str:
        """Wait until the engine answers; return why that will not happen, else nothing."""
        ended = asyncio.create_task(child.wait())
        try:
            while not ended.done():
                if (await self.probe()).up:
                    return ""
                await asyncio.wait({ended}, timeout=_POLL_S)
            return ended.result()
        finally:
            ended.cancel()

    def _start_report(self, trouble: str, log_start: int) -> str:
        tail = log_tail(self._log_file, log_start)
        end = f"its log ends:\n{tail}" if tail else "it printed nothing"
        return f"engine {self._name} {trouble} while starting ({self._log_file}); {end}"


def free_port() -> int:
    """Return a loopback port on which nobody listens; ``OSError`` if none is found."""
    for port in random.sample(_PORTS, 100):
        if _is_free(port):
            return port
    raise OSError(f"no free port found on {_HOST}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe_socket:
        # As the engine will do: a port whose old connections still linger is free.
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind((_HOST, port))
        except OSError:
            return False
    return True
