"""Sends requests by the ten thousand, then streams whose client leaves, and looks at memory."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
from redis.asyncio import Redis

from fairgate.engines.process import free_port
from tests.bench.hotpath.cases import SMALL, Case
from tests.bench.hotpath.subjects import CHAT, KEYS, ROOT, gateway_command, imported_from
from tests.bench.parts.load import Fleet, ask_once, request_bytes
from tests.bench.parts.processes import Process, allow_open_files, running, until_ready
from tests.bench.parts.valkey import valkey

STEPS = 10
"""Looks while requests are sent, and again while streams are aborted."""
_CONNECTIONS = 64
_ABORTS_AT_ONCE = 64
_SETTLE_S = 3.0  # heartbeats pass, so that what the dead left is gone
_STREAM = Case("aborted", "", chunks=200)


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """Memory at one time."""

    after: str
    seconds: float
    rss_mib: float
    """Of the gateway."""
    open_files: int
    """Of the gateway."""
    store_mib: float
    keys: int
    kinds: dict[str, int]
    """Keys by kind: the part of their name behind the pool's hash tag."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to send."""

    requests: int
    aborted: int
    users: int
    """Different end users that the requests name."""


class Soak:
    """A gateway with a store of its own, and looks at both."""

    def __init__(self, gateway: Process, store: Redis, port: int, plan: Plan) -> None:
        self._gateway = gateway
        self._store = store
        self._port = port
        self._plan = plan
        self._began = time.monotonic()

    async def looks(self) -> AsyncIterator[Look]:
        """Before, while requests are sent, while streams are aborted, and after a rest."""
        yield await self._look("start")
        plan, requests = self._plan, _of_users(self._plan.users)
        async with await Fleet.open(self._port, _CONNECTIONS) as fleet:
            for step in range(STEPS):
                some = plan.requests // STEPS
                mine = [requests[(step * 7 + i) % len(requests)] for i in range(_CONNECTIONS)]
                await fleet.drive(mine, seconds=3600, most=some)
                yield await self._look(f"{(step + 1) * some:,} requests")
        for step in range(STEPS):
            some = plan.aborted // STEPS
            await _abort(self._port, some)
            yield await self._look(f"{(step + 1) * some:,} aborted streams")
        await asyncio.sleep(_SETTLE_S)
        yield await self._look("a rest")

    async def _look(self, after: str) -> Look:
        names = [key async for key in self._store.scan_iter(count=1000)]
        return Look(
            after=after,
            seconds=time.monotonic() - self._began,
            rss_mib=self._gateway.rss_mib(),
            open_files=self._gateway.open_files(),
            store_mib=(await self._store.info("memory"))["used_memory"] / 2**20,
            keys=len(names),
            kinds=dict(Counter(_kind(name.decode()) for name in names)),
        )


async def soak(plan: Plan, seen: Callable[[Look], None]) -> list[Look]:
    """Run it. Raises ``RuntimeError`` when an answer is not 200."""
    allow_open_files(8_192)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = await stack.enter_async_context(valkey())
        upstream_port, port = free_port(), free_port()
        command = (sys.executable, "-m", "tests.bench.parts.upstream", str(upstream_port))
        upstream = stack.enter_context(running(command, folder / "upstream.log"))
        await until_ready(upstream, lambda: ask_once(upstream_port, _of_users(1)[0]))
        serve = gateway_command(folder, server.url, f"http://127.0.0.1:{upstream_port}", port)
        gateway = stack.enter_context(running(serve, folder / "gateway.log", imported_from(ROOT)))
        await until_ready(gateway, lambda: ask_once(port, _of_users(1)[0]))
        async with Redis.from_url(server.url) as store:
            looks: list[Look] = []
            async for look in Soak(gateway, store, port, plan).looks():
                seen(look)
                looks.append(look)
            return looks


def _of_users(users: int) -> list[bytes]:
    """A request of each, by turns of two tenants."""
    body = SMALL.body()[:-1]
    return [
        request_bytes(CHAT, KEYS[i % len(KEYS)], body + b',"user":"user-%d"}' % i)
        for i in range(users)
    ]


async def _abort(port: int, times: int) -> None:
    """Open a stream, read its beginning, leave; ``times``."""
    request = request_bytes(CHAT, KEYS[0], _STREAM.body())
    left = times

    async def leave() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            begun = await reader.readuntil(b"data: ")
            writer.transport.abort()
            if b" 200 " not in begun.split(b"\r\n", 1)[0]:
                raise RuntimeError(f"expected 200, got {begun[:300]!r}")

    await asyncio.gather(*(leave() for _ in range(_ABORTS_AT_ONCE)))


def _kind(key: str) -> str:
    """``x:{pool}:lease:abc`` is one of ``lease``."""
    return (key.partition("}")[2].strip(":") or key).split(":")[0]
