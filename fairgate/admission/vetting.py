"""Looks at the store once, at the start: what would never work is said then, and why."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from redis.asyncio import ConnectionPool
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from fairgate.admission.locating import FixedServer, Locator
from fairgate.errors import StoreError

_OLDEST = (7, 0)

log = structlog.get_logger("fairgate.admission")


async def vet_store(locator: Locator, *, timeout_s: float) -> None:
    """Raise :class:`StoreError` where the store is there and cannot serve: a wrong password, an old
    version, a replica, a cluster that is not addressed as one. One that is away is not judged.

    Cancelled: nothing stays connected.
    """
    try:
        async with asyncio.timeout(timeout_s):
            told = await _info(await locator.locate())
    except AuthenticationError as error:
        raise StoreError(f"store.url: the store refuses user or password: {error}") from error
    except ResponseError as error:
        raise StoreError(f"store.url: the store refuses us: {error}") from error
    except (RedisError, OSError) as error:
        log.warning("the store cannot be looked at", error=str(error) or type(error).__name__)
        return
    if problem := _problem(told, one_server=isinstance(locator, FixedServer)):
        raise StoreError(f"store.url: {problem}")
    policy = told.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        log.warning(
            "the store may evict the ledger; set maxmemory-policy noeviction", policy=policy
        )


async def _info(url: str) -> dict[str, str]:
    pool: ConnectionPool = ConnectionPool.from_url(url, protocol=2)
    connection = pool.make_connection()
    try:
        await connection.connect()
        await connection.send_command("INFO")
        text: Any = await connection.read_response()
    finally:
        await connection.disconnect(nowait=True)
    lines = (line.partition(":") for line in text.decode(errors="replace").splitlines())
    return {name: value for name, _, value in lines}


def _problem(told: dict[str, str], *, one_server: bool) -> str:
    # Valkey tells the version of Redis that it is compatible with under this name.
    version = told.get("redis_version", "0")
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        return f"expected Redis or Valkey {oldest} or newer, got version {version}"
    if one_server and told.get("role") == "slave":
        return "expected a server that takes writes, got a replica; name the master, or Sentinels"
    if one_server and told.get("cluster_enabled") == "1":
        return "expected redis+cluster:// for a server of a cluster, got its address alone"
    return ""
