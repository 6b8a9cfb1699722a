"""Everything that runs: a store, engines, gateways and the clients before them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import aiohttp
import msgspec
import yaml
from redis.exceptions import RedisError

from fairgate.engines.process import free_port
from tests.faults.engine import NAMELESS
from tests.faults.ledger import Look, look
from tests.faults.load import Client, Door, Load, key_of
from tests.faults.programs import Program, module, port_answers
from tests.faults.replicated import ClusterStore, SentinelStore
from tests.faults.store import Store, StoreProxy
from tests.faults.waiting import wait_until

MODEL = "tiny"
POOL = "main"
LANE = "small"
TENANTS = {"acme": 2.0, "globex": 1.0, "initech": 1.0}
GUEST, PROBE = "guest", "probe"
HEARTBEAT_S = 0.4
SLOW_HEARTBEAT_S = 2.0
"""Of gateways that are cut off for part of a lease; its parts are longer than a machine's noise."""
STORE_TIMEOUT_S = 1.0
QUEUE_S = 20.0
KV_CACHE_TOKENS = 65_536
_BUGS = ("never retrieved", "never awaited", "was destroyed", "Warning:")
_SECTIONS: dict[str, Any] = {
    "timeouts": {
        "connect_s": 1, "first_byte_s": 6, "idle_s": 3, "body_s": 3, "drain_s": 15,
    },
    "server": {"max_body_bytes": 1_000_000},
}  # fmt: skip


StoreKind = Literal["plain", "proxied", "relayed", "sentinel", "cluster"]
"""One server; the same behind a proxy; behind a proxy for each gateway; a master with a Sentinel; a
cluster."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How large a site is."""

    gateways: int = 2
    engines: int = 2
    max_num_seqs: int = 16
    in_flight: int = 300
    """Clients, each with one request at a time."""
    store: StoreKind = "plain"
    on_failure: str = ""
    """``store.on_failure``; empty: the gateways' default."""
    seed: int = 0


class Gate:
    """A gateway process and its door."""

    def __init__(self, folder: Path, number: int) -> None:
        self.config_file = folder / f"fairgate-{number}.yaml"
        self.door = Door(free_port())
        self.tasks_file = folder / f"gateway-{number}.tasks"
        options = (
            "serve",
            "--config",
            str(self.config_file),
            "--port",
            str(self.door.port),
        )
        command = module("tests.faults.gate", str(self.tasks_file), *options)
        log = folder / f"gateway-{number}.log"
        self.program = Program(f"gateway {number}", command, log)
        self.killed_at = 0.0
        """Seconds since the epoch; 0: never."""
        self._read = 0

    async def start(self) -> None:
        """Start it; its door opens once it serves."""
        marks = self._marks()
        await self.program.start(lambda: self._ready(marks))
        self.door.open, self.door.fell = True, False

    async def kill(self) -> None:
        """SIGKILL."""
        self.door.open, self.door.fell = False, True
        self.killed_at = time.time()
        await self.program.kill()

    async def stop(self) -> int:
        """SIGTERM: clients know of it as soon as it is sent. The exit status."""
        self.door.open = False
        return await self.program.stop()

    async def degraded(self) -> int:
        """Requests that it served without the store so far."""
        url = f"http://127.0.0.1:{self.door.port}/metrics"
        async with aiohttp.ClientSession() as http, http.get(url) as answer:
            lines = (await answer.text()).splitlines()
        counted = (line for line in lines if line.startswith("fairgate_degraded_requests_total{"))
        return sum(int(float(line.rpartition(" ")[2])) for line in counted)

    async def tasks(self) -> list[str]:
        """The tasks of its event loop, now."""
        self.tasks_file.unlink(missing_ok=True)
        self.program.send(signal.SIGUSR2)
        await wait_until(self.tasks_file.exists, 5)
        names: list[str] = json.loads(self.tasks_file.read_text())
        return names

    def lines(self, event: str) -> Iterator[dict[str, Any]]:
        """Lines of its log about ``event``."""
        with self.program.log.open(errors="replace") as lines:
            for line in lines:
                if line.startswith("{") and f'"event":"{event}"' in line:
                    yield json.loads(line)

    def bugs(self) -> list[str]:
        """Lines of its log since the last call that no outside event excuses.

        A traceback is told by its last line.
        """
        with self.program.log.open(errors="replace") as log:
            log.seek(self._read)
            lines = log.read().splitlines()
            self._read = log.tell()
        found = [line for line in lines if any(mark in line for mark in _BUGS)]
        for at, line in enumerate(lines):
            if line.startswith("Traceback"):
                after = (text for text in lines[at + 1 :] if not text.startswith(" "))
                found.append(next(after, "a traceback without an end"))
        return found

    def _marks(self) -> int:
        log = self.program.log
        return log.read_text(errors="replace").count("ready http") if log.exists() else 0

    async def _ready(self, marks: int) -> bool:
        return self._marks() > marks


class WatchedEngine:
    """An engine process and what it wrote down."""

    def __init__(self, folder: Path, number: int, max_num_seqs: int) -> None:
        self.name = f"{LANE}-{number}"
        self.port = free_port()
        self.max_num_seqs = max_num_seqs
        self.events_file = folder / f"engine-{number}.events"
        self.events_file.touch()
        self.log = folder / f"engine-{number}.log"
        self.program = self._program(KV_CACHE_TOKENS)
        self._read = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, kv_cache_tokens: int = KV_CACHE_TOKENS) -> None:
        """Start it, perhaps with another capacity than before."""
        self.program = self._program(kv_cache_tokens)
        await self.program.start(lambda: port_answers(self.port))

    async def spoil(self, kind: str, share: float = 1.0) -> None:
        """See :mod:`tests.faults.engine`; an empty kind ends it."""
        await self._tell("/faults", kind=kind, share=str(share))

    async def disown(self) -> None:
        """Count no more what runs now; see :mod:`tests.faults.engine`."""
        await self._tell("/disown")

    async def _tell(self, path: str, **query: str) -> None:
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{self.url}{path}", params=query) as answer,
        ):
            assert answer.status == 204, answer.status

    def news(self) -> list[tuple[float, str, str]]:
        """What it wrote down since the last call: when, what, whose."""
        with self.events_file.open() as file:
            file.seek(self._read)
            lines = file.readlines()
            self._read = file.tell()
        fields = (line.split() for line in lines)
        return [(float(when), sign, name) for when, sign, name in fields]

    def _program(self, kv_cache_tokens: int) -> Program:
        options = (
            "--port", str(self.port), "--model", MODEL, "--max-num-seqs", str(self.max_num_seqs),
            "--kv-cache-tokens", str(kv_cache_tokens), "--events", str(self.events_file),
        )  # fmt: skip
        return Program(self.name, module("tests.faults.engine", *options), self.log)


class Site:
    """All of it. Made by :func:`site`."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.plan = plan
        self.random = random.Random(plan.seed)
        self.store = _store(plan.store, folder)
        count = {"proxied": 1, "relayed": plan.gateways}.get(plan.store, 0)
        self.proxies = [StoreProxy(folder, i, self.store.port) for i in range(count)]
        """Before the store: none, one, or one for each gateway."""
        self.heartbeat_s = SLOW_HEARTBEAT_S if plan.store == "relayed" else HEARTBEAT_S
        self.engines = [WatchedEngine(folder, i, plan.max_num_seqs) for i in range(plan.engines)]
        self._served = Counter[str]()
        self.gates = [Gate(folder, i) for i in range(plan.gateways)]
        self.load = Load([gate.door for gate in self.gates], _clients(plan), model=LANE)
        self.capacity = {f"{LANE}:{engine.name}": plan.max_num_seqs for engine in self.engines}

    async def start(self) -> None:
        """Start everything, the clients last."""
        for number, gate in enumerate(self.gates):
            gate.config_file.write_text(self._config(self._store_url(number)))
        await self.store.start()
        await asyncio.gather(*(proxy.start() for proxy in self.proxies))
        await asyncio.gather(*(engine.start() for engine in self.engines))
        await asyncio.gather(*(gate.start() for gate in self.gates))
        await self.load.start()

    async def stop(self) -> None:
        """End everything."""
        await self.load.stop()
        gates = [gate.program for gate in self.gates]
        engines = [engine.program for engine in self.engines]
        stores = [*(proxy.program for proxy in self.proxies), *self.store.programs]
        for group in (gates, engines, stores):
            running = [program for program in group if program.runs]
            await asyncio.gather(*(program.stop() for program in running), return_exceptions=True)

    async def look(self) -> Look | None:
        """The ledger now; ``None`` while the store does not answer."""
        try:
            async with self.store.client() as client:
                return await look(client, POOL)
        except (RedisError, OSError):
            return None

    def doubly_granted(self) -> list[str]:
        """What engines were given beyond their capacity or twice, as far as it was not told yet."""
        found = []
        for engine in self.engines:
            for when, sign, name in engine.news():
                if sign == "!":
                    found.append(
                        f"{engine.name} ran more than {engine.max_num_seqs} with {name} at {when}"
                    )
                elif sign == "=" and name != NAMELESS:
                    self._served[name] += 1
                    if self._served[name] > 1:
                        found.append(f"{name} was served {self._served[name]} times")
        return found

    def _store_url(self, number: int) -> str:
        """Where the gateway ``number`` connects."""
        return self.proxies[number % len(self.proxies)].url if self.proxies else self.store.url

    def _config(self, store_url: str) -> str:
        tenants = {**TENANTS, GUEST: 1.0, PROBE: 1.0}
        lane = {
            "model": MODEL,
            "engines": [
                {"type": "http", "url": engine.url, "max_num_seqs": engine.max_num_seqs}
                for engine in self.engines
            ],
            "queue": {"timeout_s": QUEUE_S, "continuation_timeout_s": QUEUE_S},
        }
        settings = {
            "pools": {POOL: {"policy": "fairserve", "lanes": {LANE: lane}}},
            "tenants": {
                name: {
                    "weight": weight,
                    "keys": [{"sha256": hashlib.sha256(key_of(name).encode()).hexdigest()}],
                }
                for name, weight in tenants.items()
            },
            "store": {
                "url": store_url,
                "heartbeat_s": self.heartbeat_s,
                "timeout_s": STORE_TIMEOUT_S,
                **({"on_failure": self.plan.on_failure} if self.plan.on_failure else {}),
            },
            "usage": {},
            **_SECTIONS,
        }
        return yaml.safe_dump(settings, sort_keys=False)


@asynccontextmanager
async def site(folder: Path, plan: Plan) -> AsyncIterator[Site]:
    """A site under load until the context ends."""
    it = Site(folder, plan)
    try:
        await it.start()
        yield it
    finally:
        await it.stop()


def _store(kind: StoreKind, folder: Path) -> Store:
    if kind == "sentinel":
        return SentinelStore(folder, POOL)
    return ClusterStore(folder, POOL) if kind == "cluster" else Store(folder)


def _clients(plan: Plan) -> Iterator[Client]:
    """A probe at each gateway, which is served soon since it asks for little, and the crowd."""
    for number in range(plan.gateways):
        yield Client(
            PROBE, f"probe-{number}", chained=False, pinned=number, tokens=(2, 2), pause_s=0.02,
            random=random.Random(f"{plan.seed} probe {number}"),
        )  # fmt: skip
    names = list(TENANTS)  # every tenth asks for long answers, which outlast short faults
    for number in range(plan.in_flight):
        yield Client(
            names[number % len(names)], f"user-{number}", chained=number % 3 == 0, first=number,
            tokens=(40, 60) if number % 10 == 9 else (6, 16),
            random=random.Random(f"{plan.seed} {number}"),
        )  # fmt: skip
