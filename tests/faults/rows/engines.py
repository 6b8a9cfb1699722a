"""An engine dies, hangs, resets, fails, talks nonsense, restarts, or changes its size."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.faults.faults import Harm, Inject, Registry
from tests.faults.site import KV_CACHE_TOKENS, LANE, Site, WatchedEngine

engines = Registry()


def _one_of(site: Site) -> WatchedEngine:
    return site.random.choice(site.engines)


@engines.add("engine killed before the first byte", "asked elsewhere, once", lasts_s=3)
@asynccontextmanager
async def killed_before(site: Site) -> AsyncIterator[Harm]:
    engine = _one_of(site)
    await engine.spoil("hang")
    await asyncio.sleep(1.0)  # what runs ends, what comes hangs
    await engine.program.kill()
    yield Harm()
    await engine.start()


@engines.add("engine killed within streams", "an error event, and no [DONE]", lasts_s=3)
@asynccontextmanager
async def killed_within(site: Site) -> AsyncIterator[Harm]:
    engine = _one_of(site)
    await engine.program.kill()
    yield Harm()
    await engine.start()


@engines.add("engine stopped", "SIGSTOP: it takes requests and is silent", lasts_s=5)
@asynccontextmanager
async def stopped(site: Site) -> AsyncIterator[Harm]:
    engine = _one_of(site)
    engine.program.send(signal.SIGSTOP)
    try:
        yield Harm()
    finally:
        engine.program.send(signal.SIGCONT)


@engines.add("engine restarted", "SIGTERM and back", lasts_s=1)
@asynccontextmanager
async def restarted(site: Site) -> AsyncIterator[Harm]:
    engine = _one_of(site)
    await engine.program.stop()
    yield Harm()
    await engine.start()


@engines.add("engine shrinks and grows", "its KV cache as it tells it, changed twice", lasts_s=3)
@asynccontextmanager
async def resized(site: Site) -> AsyncIterator[Harm]:
    engine, harm = _one_of(site), Harm(times=2)
    await engine.program.kill()
    await engine.start(kv_cache_tokens=1024)
    yield harm
    await _expect_kv(site, engine, 1024, harm)
    await engine.program.kill()
    await engine.start()
    await _expect_kv(site, engine, KV_CACHE_TOKENS, harm)


async def _expect_kv(site: Site, engine: WatchedEngine, tokens: int, harm: Harm) -> None:
    name = f"{LANE}:{engine.name}"
    for _ in range(100):
        seen = await site.look()
        told = seen.engines[name].max_kv if seen and name in seen.engines else ""
        if told == str(tokens):
            return
        await asyncio.sleep(0.05)
    if seen is None:
        return  # the store fails as well, and cannot be told
    harm.notes.append(f"{engine.name} has {tokens} KV tokens, the ledger says {told}")


def _spoiling(kind: str, share: float) -> Inject:
    @asynccontextmanager
    async def spoiled(site: Site) -> AsyncIterator[Harm]:
        engine = _one_of(site)
        await engine.spoil(kind, share)
        try:
            yield Harm()
        finally:
            await engine.spoil("")

    return spoiled


for _name, _kind, _share, _shows in (
    ("engine hangs", "hang", 0.1, "a tenth is never answered: 504 in time"),
    ("engine resets before", "reset-before", 0.5, "half are reset unanswered: asked elsewhere"),
    ("engine resets within", "reset-after=2", 0.3, "an error event, or 502"),
    ("engine sends malformed SSE", "malformed-sse", 0.3, "streams of broken events"),
    ("engine answers 500", "status=500", 0.3, "as the engine says, with its error"),
    ("engine answers 503", "status=503", 0.5, "asked elsewhere"),
    ("engine sends slowly", "slow=0.3", 0.2, "each part 0.3 s later"),
    ("engine falls silent", "hang-after=2", 0.2, "an error event once it was silent too long"),
    ("engine cuts events", "cut-after=2", 0.3, "an error event behind half an event"),
    ("engine speaks no HTTP", "no-http", 0.5, "asked elsewhere"),
    ("engine floods", "flood=20", 0.02, "twenty megabytes for an answer"),
    ("engine never ends", "endless", 0.05, "[DONE], or a whole answer, and no end"),
):
    engines.add(_name, _shows, lasts_s=4)(_spoiling(_kind, _share))
