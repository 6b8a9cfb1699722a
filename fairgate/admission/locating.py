"""Where the server is that takes a pool's writes now: the only one, the master that Sentinels name,
a cluster's node.

All keys of a pool are in one slot, so that a cluster's node is the only server of a pool, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol

from redis.asyncio import ConnectionPool
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from fairgate.storeurl import Address, parse_address

_ASK_S = 0.5
"""How long a Sentinel or a node of the cluster may take to say where the server is."""


class Locator(Protocol):
    """Finds the server; asked anew before every connection."""

    async def locate(self) -> str:
        """Its URL, as redis-py reads them. Raises ``RedisError`` and ``OSError``.

        Cancelled: nothing stays connected.
        """

    def doubt(self) -> None:
        """The last answer did not serve, or not any more."""

    @property
    def guard(self) -> tuple[str, ...]:
        """Keys that scripts name besides their own, so as not to end in the middle; see
        :class:`ClusterNode`."""


class FixedServer:
    """The one server that there is."""

    guard: tuple[str, ...] = ()

    def __init__(self, url: str) -> None:
        self._url = url

    async def locate(self) -> str:
        return self._url

    def doubt(self) -> None:
        """There is no other."""


class SentinelMaster:
    """Whom the Sentinels call the master; they are asked before every connection."""

    guard: tuple[str, ...] = ()

    def __init__(self, address: Address) -> None:
        self._address = address
        self._sentinels = list(address.hosts)

    async def locate(self) -> str:
        said: list[str] = []
        for sentinel in list(self._sentinels):
            try:
                reply = await _ask(
                    self._address.sentinel_url(*sentinel),
                    "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.master,
                )  # fmt: skip
            except (RedisError, OSError) as error:
                said.append(f"{sentinel[0]}:{sentinel[1]}: {str(error) or type(error).__name__}")
                continue
            if reply is not None:
                self._sentinels.remove(sentinel)
                self._sentinels.insert(0, sentinel)
                return self._address.url(reply[0].decode(), int(reply[1]))
            said.append(f"{sentinel[0]}:{sentinel[1]}: knows no {self._address.master!r}")
        raise RedisConnectionError("no Sentinel names a master: " + "; ".join(said))

    def doubt(self) -> None:
        """They are asked every time."""


class ClusterNode:
    """The master of the slot that all keys of a pool are in.

    While a slot is moved key by key, its server ends a script in the middle as soon as that touches
    a key which is not there, moved or not made yet. A script that names one that never is, as
    ``guard``, is refused (``TRYAGAIN``, ``ASK``) before it begins.
    """

    def __init__(self, address: Address, pool: str) -> None:
        self.guard: tuple[str, ...] = (f"fg:{{{pool}}}:never",)
        self._address = address
        self._slot = key_slot(f"{{{pool}}}".encode())
        self._nodes = list(address.hosts)

    async def locate(self) -> str:
        said: list[str] = []
        for node in list(self._nodes):
            try:
                reply = await _ask(self._address.url(*node), "CLUSTER", "SLOTS")
            except (RedisError, OSError) as error:
                said.append(f"{node[0]}:{node[1]}: {str(error) or type(error).__name__}")
                continue
            master = self._learn(reply, node[0])
            if master is not None:
                return self._address.url(*master)
            said.append(f"{node[0]}:{node[1]}: knows no master of slot {self._slot}")
        raise RedisConnectionError("no node of the cluster serves the pool: " + "; ".join(said))

    def _learn(self, slots: Iterable[Any], asked: str) -> tuple[str, int] | None:
        """Remember every node, besides those of the configuration; the master of our slot."""
        master, known = None, dict.fromkeys(self._address.hosts)
        for first, last, *nodes in slots:
            there = [(node[0].decode() or asked, int(node[1])) for node in nodes]
            known |= dict.fromkeys(there)
            if first <= self._slot <= last:
                master = there[0]
        self._nodes = list(known)
        return master

    def doubt(self) -> None:
        """Ask another one first: this one may be cut off from the others, and not know."""
        self._nodes.append(self._nodes.pop(0))


async def _ask(url: str, *command: str) -> Any:
    pool: ConnectionPool = ConnectionPool.from_url(url, protocol=2)
    connection = pool.make_connection()
    try:
        async with asyncio.timeout(_ASK_S):
            await connection.connect()
            await connection.send_command(*command)
            return await connection.read_response()
    finally:
        await connection.disconnect(nowait=True)


def locator_of(url: str, pool: str = "") -> Locator:
    """Finds the server for the keys of ``pool`` in the store at ``url`` (``store.url``).

    Raises ``ValueError`` for an address that cannot be one.
    """
    address = parse_address(url)
    if address is None:
        return FixedServer(url)
    return SentinelMaster(address) if address.kind == "sentinel" else ClusterNode(address, pool)
