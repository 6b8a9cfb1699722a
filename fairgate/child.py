"""One run of an engine's command, from its spawn until nothing of its process group is left."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_GUARD = Path(__file__).with_name("guard.py")
_GUARD_SLACK_S = 2.0
_LOG_KEEP_BYTES = 32 * 1024 * 1024
_TAIL_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Command:
    """What to run: the arguments and the whole environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


class Child:
    """A command that runs under the guard, in a session of its own, with its output in a file.

    It ends, with every process that it started, when :meth:`end` is called or when this process
    ends, however that happens (see :mod:`fairgate.guard`).
    """

    def __init__(self, process: asyncio.subprocess.Process, grace_s: float) -> None:
        self._process = process
        self._grace_s = grace_s
        self._gone = False

    @classmethod
    async def spawn(cls, command: Command, log: Path, *, grace_s: float) -> Child:
        """Start ``command``, appending what it prints to ``log``; ``OSError`` when that fails."""
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-IS", str(_GUARD), f"{grace_s}", *command.argv),
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=dict(command.env),  # uvloop takes no other mapping
                start_new_session=True,
            )
        return cls(process, grace_s)

    @property
    def group(self) -> int:
        """Id of the process group: that of the guard that leads it."""
        return self._process.pid

    async def wait(self) -> str:
        """Wait until the command ended by itself; return how, in words. Cancelled: it runs on."""
        code = await self._process.wait()
        self._kill()
        return _in_words(code)

    async def end(self) -> None:
        """SIGTERM to the command; SIGKILL to its group once it ended or the grace period passed.

        Idempotent. Cancelled: the whole group gets SIGKILL at once.
        """
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(self._grace_s + _GUARD_SLACK_S):
                await self._process.wait()
        except TimeoutError:
            pass  # the guard itself hangs: killed with its group
        finally:
            self._kill()
            await self._process.wait()

    def _kill(self) -> None:
        # Once only: after the group is gone its id may be given to somebody else's processes.
        if self._gone:
            return
        self._gone = True
        try:
            os.killpg(self.group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # PermissionError: macOS, only zombies left
            pass


def _in_words(code: int) -> str:
    number = -code if code < 0 else code - 128
    if code < 0 or code > 128:
        try:
            return f"was killed by {signal.Signals(number).name}"
        except ValueError:
            pass  # not a signal after all
    return f"exited with code {code}"


def open_log(path: Path) -> int:
    """Set a large old log aside; return the byte of ``path`` at which new output will start."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = path.stat().st_size if path.exists() else 0
    if size > _LOG_KEEP_BYTES:
        path.replace(path.with_suffix(path.suffix + ".1"))
        return 0
    return size


def log_tail(path: Path, start: int, lines: int = 20) -> str:
    """Return the last lines that were logged after byte ``start``, as far as they can be read."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(start, end - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
