"""Changes on one of two gateways, and requests to the other one until it has heard of them."""

from __future__ import annotations

import asyncio
import hashlib
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from fairgate.engines.process import free_port
from tests.bench.parts.load import ask_once, request_bytes
from tests.bench.parts.processes import running, until_ready
from tests.bench.parts.valkey import valkey

_ADMIN = "admin-of-the-bench"
_CHAT = "/v1/chat/completions"
_API = "/fairgate/v1"
_LOOK_S = 0.01
_LIMIT = re.compile(r"^fairgate_lane_limit\S*\{.*\} (\S+)$", re.MULTILINE)

Times = dict[str, list[float]]
"""Seconds, by what was waited for."""


async def measure(repetitions: int) -> Times:
    """Raises ``RuntimeError`` when something does not come up."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = await stack.enter_async_context(valkey())
        engines = [await _upstream(stack, folder) for _ in range(2)]
        (folder / "fairgate.yaml").write_text(_config(store.url, engines[0]))
        urls = [await _gateway(stack, folder) for _ in range(2)]
        http = await stack.enter_async_context(aiohttp.ClientSession())
        site = _Site(http, *urls)
        for number in range(repetitions):
            await site.key_comes_and_goes()
            await site.engine_comes_and_goes(f"new-{number}", engines[1])
        return site.times


class _Site:
    """Makes changes ``here`` and looks for them ``there``."""

    def __init__(self, http: aiohttp.ClientSession, here: str, there: str) -> None:
        self._http = http
        self._here = here
        self._there = there
        self.times: Times = defaultdict(list)

    async def key_comes_and_goes(self) -> None:
        made = await self._change("POST", "/tenants/acme/keys", {"name": "bench"})

        async def status() -> int:
            headers = {"authorization": f"Bearer {made['key']}"}
            body = {"model": "small", "messages": []}
            async with self._http.post(self._there + _CHAT, json=body, headers=headers) as answer:
                await answer.read()
                return answer.status

        await self._until("a new key is taken", lambda: _is(status, 200))
        await self._change("DELETE", f"/tenants/acme/keys/{made['id']}")
        await self._until("a revoked key is refused", lambda: _is(status, 401))

    async def engine_comes_and_goes(self, name: str, url: str) -> None:
        async def limit() -> int:
            # The API itself would ask the store for changes before it answers.
            async with self._http.get(f"{self._there}/metrics") as answer:
                found = _LIMIT.search(await answer.text())
            return int(float(found[1])) if found else 0

        new = {"lane": "small", "name": name, "url": url, "max_num_seqs": 32}
        await self._change("POST", "/engines", new)
        await self._until("an added engine is counted on", lambda: _is(limit, 64))
        await self._change("DELETE", f"/engines/small/{name}")
        await self._until("a removed engine is not", lambda: _is(limit, 32))

    async def _until(self, what: str, met: Callable[[], Awaitable[bool]]) -> None:
        began = time.perf_counter()
        while not await met():  # noqa: ASYNC110 — another process has to be asked
            await asyncio.sleep(_LOOK_S)
        self.times[what].append(time.perf_counter() - began)

    async def _change(self, method: str, path: str, body: object = None) -> Any:
        return await self._ask(self._here, method, path, body)

    async def _ask(self, url: str, method: str, path: str, body: object = None) -> Any:
        headers = {"authorization": f"Bearer {_ADMIN}"}
        async with self._http.request(method, url + _API + path, json=body, headers=headers) as a:
            a.raise_for_status()
            return await a.json() if a.status != 204 else None


async def _is(look: Callable[[], Awaitable[int]], wanted: int) -> bool:
    return await look() == wanted


async def _upstream(stack: AsyncExitStack, folder: Path) -> str:
    port = free_port()
    command = (sys.executable, "-m", "tests.bench.parts.upstream", str(port))
    process = stack.enter_context(running(command, folder / f"upstream-{port}.log"))
    probe = request_bytes(_CHAT, "", b'{"model":"small","messages":[]}')
    await until_ready(process, lambda: ask_once(port, probe))
    return f"http://127.0.0.1:{port}"


async def _gateway(stack: AsyncExitStack, folder: Path) -> str:
    port = free_port()
    serve = ("serve", "--config", str(folder / "fairgate.yaml"), "--port", str(port))
    command = (sys.executable, "-m", "fairgate.cli", *serve, "--log-dir", str(folder))
    process = stack.enter_context(running(command, folder / f"gateway-{port}.log"))
    ready = request_bytes("/readyz", "", b"").replace(b"POST", b"GET", 1)
    await until_ready(process, lambda: ask_once(port, ready))
    return f"http://127.0.0.1:{port}"


def _config(store: str, engine: str) -> str:
    lane = {"model": "bench", "engines": [{"type": "http", "url": engine, "max_num_seqs": 32}]}
    key = {"sha256": hashlib.sha256(_ADMIN.encode()).hexdigest()}
    settings = {
        "pools": {"main": {"lanes": {"small": lane}}},
        "tenants": {"acme": {}},
        "store": {"url": store},
        "server": {"access_log": False, "failed_keys_per_minute": 1_000_000},
        "admin": {"keys": [key], "engines_at": [{"host": "127.0.0.1"}]},
    }
    return str(yaml.safe_dump(settings))
