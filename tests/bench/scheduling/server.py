"""What the store itself says it spent: CPU, commands, memory, time per script."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from redis.asyncio import Redis

from fairgate.admission.scripts import load_script

SCRIPTS = ("admit", "settle", "cancel", "renew")
_OUTSIDE = {"eval", "evalsha", "fcall", "info"}  # commands that no script calls
_LOGGED = 100_000
_QUICK_US = 20  # quicker than any script, slower than nearly all commands in one


class Server:
    """Reads the counters of the server at ``url``, which nobody else may use meanwhile."""

    def __init__(self, url: str) -> None:
        self._client = Redis.from_url(url, decode_responses=True)
        self._names = {load_script(name).function.decode(): name for name in SCRIPTS}

    async def close(self) -> None:
        """Disconnect."""
        await self._client.aclose()

    async def empty(self) -> None:
        """Forget all data."""
        await self._client.execute_command("FLUSHALL", "SYNC")  # memory is measured next

    async def version(self) -> str:
        """Name and version of the server."""
        info = await self._client.info("server")
        return f"{info['server_name']} {info['valkey_version']}"

    async def cpu_s(self) -> float:
        """CPU seconds of the whole process so far; other processes do not change it."""
        cpu = await self._client.info("cpu")
        return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])

    async def memory(self) -> int:
        """Bytes that the data takes."""
        return int((await self._client.info("memory"))["used_memory"])

    async def inner_calls(self) -> int:
        """Commands called by scripts so far."""
        stats = await self._client.info("commandstats")
        names = {f"cmdstat_{name}" for name in _OUTSIDE}
        return sum(s["calls"] for name, s in stats.items() if name not in names)

    async def log_scripts(self) -> None:
        """From now on, note how long each script call takes."""
        await self._client.config_set("slowlog-max-len", _LOGGED)
        await self._client.config_set("slowlog-log-slower-than", _QUICK_US)
        await self._client.slowlog_reset()

    async def logged(self) -> dict[str, list[int]]:
        """Microseconds of each call since :meth:`log_scripts`, by script; ends the logging."""
        await self._client.config_set("slowlog-log-slower-than", -1)
        entries: Iterable[Any] = await self._client.slowlog_get(_LOGGED)
        times: dict[str, list[int]] = defaultdict(list)
        for entry in entries:
            command, _, rest = _text(entry["command"]).partition(" ")
            function = rest.partition(" ")[0]
            if command == "FCALL" and function in self._names:
                times[self._names[function]].append(entry["duration"])
        return dict(times)


def _text(command: str | bytes) -> str:
    return command.decode(errors="replace") if isinstance(command, bytes) else command
