"""The store dies, stops, is slow, full, read-only, or forgets."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fairgate.engines.process import free_port
from tests.faults.faults import Harm, Registry
from tests.faults.site import Site

store = Registry(recovers_s=2.0)


@store.add("store killed, keeps AOF", "counters and lines outlive its process", lasts_s=1.5)
@asynccontextmanager
async def killed(site: Site) -> AsyncIterator[Harm]:
    await site.store.kill()
    yield Harm()
    await site.store.start()


@store.add("store killed, empty", "gateways make the ledger anew from what they hold", lasts_s=0)
@asynccontextmanager
async def killed_empty(site: Site) -> AsyncIterator[Harm]:
    await site.store.kill(forget=True)
    yield Harm()
    await site.store.start()


@store.add("store stopped 5 s", "calls end at the timeout, none is answered twice", lasts_s=5)
@asynccontextmanager
async def stopped(site: Site) -> AsyncIterator[Harm]:
    site.store.program.send(signal.SIGSTOP)
    try:
        yield Harm()
    finally:
        site.store.program.send(signal.SIGCONT)


@store.add("store slow", "0.3 s for each reply", lasts_s=4, store="proxied")
@asynccontextmanager
async def slow(site: Site) -> AsyncIterator[Harm]:
    await _order(site, "slow 0.3")
    try:
        yield Harm()
    finally:
        await _order(site, "pass")


@store.add(
    "store resets mid-pipeline", "replies cut in the middle, again and again",
    lasts_s=4, store="proxied",
)  # fmt: skip
@asynccontextmanager
async def resets(site: Site) -> AsyncIterator[Harm]:
    await _order(site, "cut 3000")
    try:
        yield Harm()
    finally:
        await _order(site, "pass")


@store.add("store full", "maxmemory reached, nothing evicted", lasts_s=2)
@asynccontextmanager
async def full(site: Site) -> AsyncIterator[Harm]:
    await site.store.run("CONFIG", "SET", "maxmemory", "1")
    try:
        yield Harm()
    finally:
        await site.store.run("CONFIG", "SET", "maxmemory", "0")


@store.add("SCRIPT FLUSH", "ten times in two seconds", lasts_s=2)
@asynccontextmanager
async def flushed(site: Site) -> AsyncIterator[Harm]:
    async def flush() -> None:
        for _ in range(harm.times):
            await site.store.run("SCRIPT", "FLUSH")
            await asyncio.sleep(0.15)

    harm = Harm(times=10)
    task = asyncio.create_task(flush())
    yield harm
    await task


@store.add("store read-only", "a replica of nobody: every write is refused", lasts_s=2)
@asynccontextmanager
async def read_only(site: Site) -> AsyncIterator[Harm]:
    await site.store.run("REPLICAOF", "127.0.0.1", str(free_port()))
    try:
        yield Harm()
    finally:
        await site.store.run("REPLICAOF", "NO", "ONE")


@store.add("store asks for a password", "one that gateways do not have", lasts_s=3)
@asynccontextmanager
async def locked(site: Site) -> AsyncIterator[Harm]:
    async with site.store.client() as client:  # which is let in already
        await client.config_set("requirepass", "another")
        await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        try:
            yield Harm()
        finally:
            await client.config_set("requirepass", "")


async def _order(site: Site, order: str) -> None:
    assert site.proxies, "this fault needs a proxy"
    await asyncio.gather(*(proxy.order(order) for proxy in site.proxies))
