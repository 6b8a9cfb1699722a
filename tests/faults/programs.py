"""Processes that are killed, stopped and started anew at the same address."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

START_S = 60.0
_END_S = 20.0
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_ROOT = Path(__file__).parents[2]


class Program:
    """One command; every start appends to the same log."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self._environ = {**os.environ, **(environ or {}), "PYTHONPATH": str(_ROOT)}
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self._popen is not None, f"{self.name} was never started"
        return self._popen.pid

    @property
    def runs(self) -> bool:
        """It has been started and has not ended."""
        return self._popen is not None and self._popen.poll() is None

    def launch(self) -> None:
        """Start it without waiting for anything."""
        with self.log.open("ab") as output:
            self._popen = subprocess.Popen(
                self.command, env=self._environ, cwd=_ROOT, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True, preexec_fn=_end_with_parent,
            )  # fmt: skip

    async def start(self, ready: Callable[[], Awaitable[bool]]) -> None:
        """Start it and return once ``ready``. Raises ``RuntimeError`` where it ends or hangs."""
        self.launch()
        until = time.monotonic() + START_S
        while not await ready():
            if not self.runs or time.monotonic() > until:
                raise RuntimeError(f"{self.name} did not start:\n{self.tail()}")
            await asyncio.sleep(0.05)

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing if it has ended."""
        if self.runs:
            os.kill(self.pid, number)

    async def kill(self) -> None:
        """As a crash would end it."""
        self.send(signal.SIGKILL)
        await self.ended()

    async def ended(self, within_s: float = _END_S) -> int:
        """Its exit status. Raises ``RuntimeError`` when it does not end in time."""
        assert self._popen is not None, f"{self.name} was never started"
        until = time.monotonic() + within_s
        while (status := self._popen.poll()) is None:
            if time.monotonic() > until:
                raise RuntimeError(f"{self.name} did not end within {within_s:g} s:\n{self.tail()}")
            await asyncio.sleep(0.02)
        return status

    async def stop(self) -> int:
        """End it as an operator would; its exit status. Kills it where that takes too long."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            return await self.ended()
        except RuntimeError:
            self.send(signal.SIGKILL)
            raise

    def open_files(self) -> int:
        """Descriptors that it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def rss_mib(self) -> float:
        """Resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""


def _end_with_parent() -> None:
    """Linux: SIGKILL as soon as the harness ends, in whatever way."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def module(name: str, *options: str) -> list[str]:
    """The command that runs a module of ours."""
    return [sys.executable, "-m", name, *options]


async def port_answers(port: int) -> bool:
    """Somebody listens there."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
