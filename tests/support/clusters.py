"""Sentinel and cluster set-ups of real servers on the loopback."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis

from fairgate.engines.process import free_port
from support.store import PATIENCE_S, Store


def until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            if value := condition():
                return value
        except redis.RedisError:
            pass
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.02)


class Watched:
    """A master, a replica of it, and a Sentinel that may promote it."""

    def __init__(self, master: Store, replica: Store, sentinel: Store) -> None:
        self.master = master
        self.replica = replica
        self.url = f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster/0"
        self._sentinel = sentinel

    def fail_over(self) -> None:
        """Ask for the other one to be the master, as an operator does."""
        with self._sentinel.client() as client:
            client.execute_command("SENTINEL", "FAILOVER", "mymaster")

    def master_obeys(self) -> bool:
        """The old master replicates the new one."""
        try:
            with self.master.client() as client:
                return bool(client.info("replication")["role"] == "slave")
        except redis.ConnectionError:
            return False  # who becomes a replica closes its connections

    def address(self) -> int:
        """Port of whom the Sentinel takes for the master."""
        with self._sentinel.client() as client:
            return int(client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")[1])


@contextmanager
def watched(folder: Path) -> Iterator[Watched]:
    with ExitStack() as stack:
        quick = {"repl-diskless-sync-delay": 0}
        master = stack.enter_context(Store(folder / "a", port=free_port(), **quick))
        replica = stack.enter_context(
            Store(folder / "b", port=free_port(), replicaof=f"127.0.0.1 {master.port}", **quick)
        )
        file = folder / "sentinel.conf"
        port = free_port()
        file.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds mymaster 300\n"
            "sentinel failover-timeout mymaster 2000\n"
        )
        sentinel = stack.enter_context(
            Store(folder / "c", port=port, arguments=(str(file), "--sentinel"), bare=True)
        )
        it = Watched(master, replica, sentinel)
        until(lambda: _replicates(replica))
        with sentinel.client() as client:
            client.execute_command("SENTINEL", "DEBUG", "INFO-PERIOD", 100, "PING-PERIOD", 50)
            until(lambda: client.execute_command("SENTINEL", "REPLICAS", "mymaster"))
        yield it


def _replicates(replica: Store) -> bool:
    with replica.client() as client:
        return bool(client.info("replication")["master_link_status"] == "up")


class Cluster:
    """Masters and one replica of each."""

    def __init__(self, masters: list[Store], replicas: list[Store]) -> None:
        self.masters = masters
        self.replicas = replicas
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in masters)
        self.url = f"redis+cluster://{hosts}"

    def master_of(self, pool: str) -> Store:
        """Who has the pool's keys now."""
        slot = redis.crc.key_slot(f"{{{pool}}}".encode())
        for node in (*self.masters, *self.replicas):
            if node.process.poll() is None:
                with node.client() as client:
                    for first, last, primary, *_ in client.execute_command("CLUSTER", "SLOTS"):
                        if first <= slot <= last:
                            return self._at(primary[1])
        raise AssertionError(f"nobody has slot {slot}")

    def _at(self, port: int) -> Store:
        return next(n for n in (*self.masters, *self.replicas) if n.port == port)


@contextmanager
def cluster(folder: Path, size: int = 3) -> Iterator[Cluster]:
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(
                Store(
                    folder / f"n{i}",
                    port=free_port(),
                    cluster_enabled="yes",
                    cluster_port=free_port(),
                    cluster_node_timeout=500,
                    cluster_replica_validity_factor=0,
                    repl_diskless_sync_delay=0,
                )
            )
            for i in range(2 * size)
        ]
        clients = [stack.enter_context(node.client()) for node in nodes]
        masters, replicas = nodes[:size], nodes[size:]
        for i, client in enumerate(clients[:size]):
            first, last = 16384 * i // size, 16384 * (i + 1) // size - 1
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        for i, client in enumerate(clients[1:], 1):
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            bus = nodes[0]._settings["cluster_port"]
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, bus)
        until(lambda: all(_knows(client, 2 * size) for client in clients))
        for i, client in enumerate(clients[size:]):
            client.execute_command("CLUSTER", "REPLICATE", _id(clients[i]))
        until(lambda: all(_state(client) == "ok" for client in clients))
        until(lambda: all(_replicates(replica) for replica in replicas))
        yield Cluster(masters, replicas)


def announce_move(source: Store, target: Store, pool: str) -> None:
    """From now on keys of the slot of ``pool`` may be at either server."""
    slot = redis.crc.key_slot(f"{{{pool}}}".encode())
    with source.client() as old, target.client() as new:
        new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", _id(old))
        old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", _id(new))


def move_slot(source: Store, target: Store, pool: str, masters: list[Store]) -> None:
    """Give the slot of ``pool`` to another master, all its keys in one step."""
    announce_move(source, target, pool)
    slot = redis.crc.key_slot(f"{{{pool}}}".encode())
    with source.client() as old, target.client() as new:
        while keys := old.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10_000):
            moved = ("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
            old.execute_command(*moved)
        for node in (target, source, *masters):
            with node.client() as client:
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", _id(new))


def _knows(client: redis.Redis, count: int) -> bool:
    return int(_info(client)["cluster_known_nodes"]) == count


def _state(client: redis.Redis) -> str:
    return str(_info(client)["cluster_state"])


def _info(client: redis.Redis) -> dict[str, str]:
    told = client.execute_command("CLUSTER", "INFO")
    return told if isinstance(told, dict) else dict(line.split(":") for line in told.split())


def _id(client: redis.Redis) -> str:
    return str(client.execute_command("CLUSTER", "MYID"))
