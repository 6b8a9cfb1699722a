"""Sends requests through two gateways, leaves some streams, kills one gateway, and adds up."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import yaml
from redis.asyncio import Redis

from fairgate.admission.link import Link
from fairgate.admission.scripts import compose_script
from fairgate.billing.reader import BEGIN, UsageReader
from fairgate.billing.records import UsageRecord
from fairgate.billing.sums import Sums
from fairgate.config import Preset
from fairgate.config.policy import resolve_policy
from fairgate.engines.process import free_port
from tests.bench.parts.load import ask_once, request_bytes
from tests.bench.parts.processes import Process, running, until_ready
from tests.bench.parts.valkey import valkey

POOL = "main"
WEIGHTS = {"acme": 1.0, "globex": 2.0}
_CHAT = "/v1/chat/completions"
_AT_ONCE = 48
_SEQUENCES = 32
_HEARTBEAT_S = 0.3
_PATIENCE_S = 60.0

_ACCOUNT = compose_script(
    "account",
    b"""
    local a = fg.account(fg.key('tenant', ARGV[1]))
    local last, charged = fg.slice_of(fg.clock('')), 0
    for slice = last - 95, last do -- all that are kept, of ten seconds each
      local service = redis.call('ZSCORE', fg.slice_key('service', slice), ARGV[1])
      charged = charged + (tonumber(service) or 0)
    end
    return {string.format('%.17g', a.du), string.format('%.17g', charged), tostring(a.flight),
      string.format('%.17g', a.s)}
    """,
)


class TenantSums(msgspec.Struct, frozen=True):
    """What the ledger and the records say of one tenant."""

    tenant: str
    ledger_tokens: float
    """Charged in this UTC day."""
    record_tokens: int
    ledger_service: float
    """Charged in the last quarter of an hour, as the ledger's history has it."""
    record_service: float
    ledger_counter: float | None
    """Its counter times its weight, where that is a plain sum too; ``None``: the policy lifts the
    counters of those who come back from idling."""

    @property
    def exact(self) -> bool:
        tokens, service = self.record_tokens, self.record_service
        return (self.ledger_tokens, self.ledger_service) == (
            tokens,
            service,
        ) and self.ledger_counter in (None, service)


class Replay(msgspec.Struct, frozen=True):
    """How it went."""

    policy: str
    requests: int
    seconds: float
    ends: dict[str, int]
    """What clients saw."""
    records: dict[str, int]
    """Lines by status."""
    twice: int
    """Lines whose request has another one already."""
    tenants: list[TenantSums]

    @property
    def exact(self) -> bool:
        return not self.twice and all(tenant.exact for tenant in self.tenants)


@dataclass
class _Clients:
    """Sends the requests, by turns of tenants, kinds and gateways."""

    http: aiohttp.ClientSession
    urls: list[str]
    total: int
    half: Callable[[], None]
    """Called when half of the requests are sent."""
    sent: int = 0
    ends: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        await asyncio.gather(*(self._work() for _ in range(_AT_ONCE)))

    async def _work(self) -> None:
        while self.sent < self.total:
            number = self.sent
            self.sent += 1
            if self.sent == self.total // 2:
                self.half()
            self.ends[await self._one(number)] += 1

    async def _one(self, number: int) -> str:
        tenant = list(WEIGHTS)[number % 2]
        url = self.urls[(number // 2) % len(self.urls)]
        headers = {"authorization": f"Bearer {_key(tenant)}"}
        try:
            async with self.http.post(url + _CHAT, json=_body(number), headers=headers) as answer:
                if number % 20 >= 17:
                    await answer.content.readline()
                    return "left"
                await answer.read()
                return str(answer.status)
        except (aiohttp.ClientError, OSError):
            return "broken"


def _body(number: int) -> dict[str, Any]:
    """Most are plain, a quarter are streams, and of every twenty, three streams will be left."""
    kind = number % 20
    long = {"stream": True, "max_tokens": 200} if kind >= 17 else {}
    short = {"stream": True, "max_tokens": 3 + kind} if 12 <= kind < 17 else {}
    words = "Tell me about ferns. " * (1 + number % 7)
    return {"model": "small", "messages": [{"role": "user", "content": words}], **short, **long}


async def replay(requests: int, policy: Preset) -> Replay:
    """Run it, within a quarter of an hour.

    Raises ``RuntimeError`` when something does not come up or does not end.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = await stack.enter_async_context(valkey())
        upstream_port = free_port()
        command = (sys.executable, "-m", "tests.bench.parts.upstream", str(upstream_port))
        upstream = stack.enter_context(running(command, folder / "upstream.log"))
        probe = request_bytes(_CHAT, "", b'{"model":"small","messages":[]}')
        await until_ready(upstream, lambda: ask_once(upstream_port, probe))
        ports = [free_port(), free_port()]
        (folder / "fairgate.yaml").write_text(_config(store.url, upstream_port, policy))
        gates = [stack.enter_context(running(_serve(folder, p), _log(folder, p))) for p in ports]
        http = await stack.enter_async_context(aiohttp.ClientSession())
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        for gate, url in zip(gates, urls, strict=True):
            await until_ready(gate, lambda url=url: _is_ready(http, url))  # type: ignore[misc]
        client = await stack.enter_async_context(Redis.from_url(store.url))
        return await _measure(client, store.url, http, urls, gates[0], requests, policy)


async def _measure(
    store: Redis,
    store_url: str,
    http: aiohttp.ClientSession,
    urls: list[str],
    doomed: Process,
    requests: int,
    policy: Preset,
) -> Replay:
    began = time.monotonic()

    def kill() -> None:
        os.kill(doomed.pid, signal.SIGKILL)
        del urls[0]

    clients = _Clients(http, urls, requests, kill)
    await clients.run()
    await _until(lambda: _is_idle(store))
    records = await _records(store_url)
    seconds = time.monotonic() - began
    sums = Sums()
    sums.add(records)
    ids = Counter(record.id for record in records if record.status != "corrected")
    told = {found.tenant: found for found in sums.by_tenant()}
    tenants = []
    for name, weight in WEIGHTS.items():
        tokens, service, _, counter = await _account(store, name)
        found = told[name]
        summed = None if resolve_policy(policy).order == "fair" else counter * weight
        tenants.append(TenantSums(name, tokens, found.tokens, service, found.cost, summed))
    return Replay(
        policy=policy,
        requests=requests,
        seconds=seconds,
        ends=dict(sorted(clients.ends.items())),
        records=dict(sorted(Counter(record.status for record in records).items())),
        twice=sum(count - 1 for count in ids.values()),
        tenants=tenants,
    )


async def _records(store_url: str) -> list[UsageRecord]:
    link = Link(store_url)
    reader, found, after = UsageReader(link, POOL), list[UsageRecord](), BEGIN
    while records := (await reader.page(after)).records:
        found += records
        after = records[-1].entry
    await link.close()
    return found


async def _account(store: Redis, tenant: str) -> tuple[float, ...]:
    """Tokens and service charged, requests in flight, counter."""
    keys = (f"fg:{{{POOL}}}:settings",)
    told = await store.eval(_ACCOUNT.text, 1, *keys, tenant)  # type: ignore[misc]
    return tuple(map(float, told))


async def _is_idle(store: Redis) -> bool:
    """Nothing is in flight: the killed gateway's requests have been taken for lost."""
    return not any([(await _account(store, name))[2] for name in WEIGHTS])


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not await condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"requests are still in flight after {_PATIENCE_S:g} s")
        await asyncio.sleep(0.05)


async def _is_ready(http: aiohttp.ClientSession, url: str) -> None:
    try:
        async with http.get(f"{url}/readyz") as answer:
            answer.raise_for_status()
    except aiohttp.ClientError as error:
        raise OSError(str(error)) from error


def _key(tenant: str) -> str:
    return f"key-of-{tenant}"


def _config(store: str, upstream_port: int, policy: Preset) -> str:
    engine = {"type": "http", "url": f"http://127.0.0.1:{upstream_port}"}
    lane = {"engines": [{**engine, "max_num_seqs": _SEQUENCES}], "model": "bench"}
    tenants = {
        name: {"keys": [{"sha256": hashlib.sha256(_key(name).encode()).hexdigest()}], "weight": w}
        for name, w in WEIGHTS.items()
    }
    settings = {
        "pools": {POOL: {"policy": policy, "lanes": {"small": lane}}},
        "tenants": tenants,
        "store": {"url": store, "heartbeat_s": _HEARTBEAT_S, "timeout_s": 1.2},
        "server": {"access_log": False},
        "usage": {},
    }
    return str(yaml.safe_dump(settings))


def _serve(folder: Path, port: int) -> tuple[str, ...]:
    config = str(folder / "fairgate.yaml")
    serve = ("serve", "--config", config, "--port", str(port), "--log-dir", str(folder))
    return (sys.executable, "-m", "fairgate.cli", *serve)


def _log(folder: Path, port: int) -> Path:
    return folder / f"gateway-{port}.log"
