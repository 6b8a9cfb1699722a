"""Processes of a benchmark: how they start and end, and what they cost (Linux: from /proc)."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_S = 120.0
_END_S = 15.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Process:
    """A running command, with all that it started."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self._popen = popen
        self._log = log

    @property
    def pid(self) -> int:
        """Of the command itself."""
        return self._popen.pid

    def cpu_s(self) -> float:
        """Seconds that its threads and those of its children have run, to the nanosecond."""
        return sum(_ran_s(pid) for pid in self._tree())

    def rss_mib(self) -> float:
        """Resident memory, with its children; what they share counts for each."""
        return sum(_resident(pid) for pid in self._tree()) / 2**20

    def open_files(self) -> int:
        """Descriptors of the command itself."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def check(self) -> None:
        """Raise ``RuntimeError``, with the end of its log, if it has ended."""
        if self._popen.poll() is not None:
            tail = self._log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self._popen.args!r} ended:\n{tail}")

    def _tree(self) -> list[int]:
        found, seen = [self.pid], 0
        while seen < len(found):
            found += _children(found[seen])
            seen += 1
        return found


@contextmanager
def running(
    command: Sequence[str], log: Path, environ: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """Run ``command`` until the context ends; what it prints goes to ``log``."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with log.open("wb") as output:
        popen = subprocess.Popen(
            command, env={**inherited, **(environ or {})}, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield Process(popen, log)
    finally:
        popen.terminate()
        try:
            popen.wait(_END_S)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()


async def until_ready(process: Process, attempt: Callable[[], Awaitable[object]]) -> None:
    """Return once ``attempt`` no longer fails.

    Raises ``RuntimeError`` when ``process`` ends first or :data:`START_S` passes.
    """
    deadline = time.monotonic() + START_S
    while True:
        try:
            async with asyncio.timeout(START_S):
                await attempt()
        except (OSError, RuntimeError) as error:
            process.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"not ready within {START_S:g} s: {error}") from error
        else:
            return
        await asyncio.sleep(0.2)


def allow_open_files(wanted: int) -> None:
    """Raise the limit of this process, which its children inherit, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in listed.read_text().split()]
        except OSError:
            pass  # the thread has ended
    return found


def _ran_s(pid: int) -> float:
    total = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(thread.read_text().split()[0])
        except OSError:
            pass  # the thread has ended
    return total / 1e9


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0
