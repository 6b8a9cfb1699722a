"""Looks at every pool once a second, for all who want to see it through this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

from fairgate.admission.ledger import Unknown
from fairgate.admission.look import NOBODY, PoolLook
from fairgate.errors import StoreError
from fairgate.inspection.history import History
from fairgate.inspection.recent import Recent
from fairgate.pool import Pool
from fairgate.routing.tallies import Tally
from fairgate.runtime import Runtime

INTERVAL_S = 1.0
MOST_TENANTS = 48
"""Tenants that are looked at beside those first in line: bounds what a look costs the store."""

_MINUTE_S = 60.0
_QUARTER_S = 900.0
_CATCH_UP = 12

log = structlog.get_logger("fairgate.inspection")


@dataclass(slots=True)
class PoolView:
    """What is known of one pool."""

    look: PoolLook | None = None
    """``None``: the store has not told yet."""
    history: History = field(default_factory=History)
    recent: Recent = field(default_factory=Recent)
    router: Sequence[Tally] = ()


class Observer:
    """The views of all pools of ``runtime``, kept fresh while :meth:`running`.

    A store that is away leaves them as they were; :attr:`stale` says so.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.views: Mapping[str, PoolView] = {name: PoolView() for name in runtime.pools}
        self.stale = ""
        """Why the last look failed; empty: it did not."""
        self._looked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Observer]:
        """Look now and then once a second, until the context ends; while there is an admin key,
        for without one nobody may see it."""
        self._task = asyncio.create_task(self._run(), name="fairgate-observer")
        try:
            yield self
        finally:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def next(self) -> None:
        """Wait for the next look, whether it succeeds or not. Cancelled: nothing happens."""
        await self._looked.wait()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            if self.runtime.config.admin.keys:
                await self.look()
            self._looked.set()
            self._looked = asyncio.Event()
            await asyncio.sleep(max(0.1, INTERVAL_S - (loop.time() - began)))

    async def look(self) -> None:
        """Look at all pools now."""
        try:
            for name, pool in self.runtime.pools.items():
                await _look(pool, self.views[name])
            self.stale = ""
        except StoreError as error:
            self.stale = str(error)
        except Exception:
            # Whatever is wrong with one look, the next one may be right.
            log.exception("could not look at the pools")
            self.stale = "internal error"


async def _look(pool: Pool, view: PoolView) -> None:
    """One look; after a start as many as it takes to read the history."""
    look = None
    for _ in range(_CATCH_UP):
        now_slice = look.slice if look else view.history.last
        since = view.history.wanted(now_slice) if now_slice else 0
        tenants = _interesting(view)
        found = await pool.ledger.inspect(tenants, since_slice=since)
        if isinstance(found, Unknown):
            raise StoreError("store: it does not know this pool yet")
        look = found
        if view.history.take(look.slices, look.slice, look.now_ms / 1000):
            break
    assert look is not None  # noqa: S101 — at least one round
    view.router = await pool.routing.tallied()
    view.look = look
    view.recent.take(look)


def _interesting(view: PoolView) -> list[str]:
    """Tenants with most service lately, those that waited or were refused first."""
    names = dict.fromkeys(view.recent.busiest(MOST_TENANTS // 4))
    refused = view.history.refused(_MINUTE_S)
    by_count = sorted(refused, key=lambda name: -sum(refused[name].values()))
    names |= dict.fromkeys(by_count[: MOST_TENANTS // 4])
    for seconds in (_MINUTE_S, _QUARTER_S):
        service = view.history.service(seconds)
        names |= dict.fromkeys(sorted(service, key=lambda name: -service[name])[:MOST_TENANTS])
    names.pop(NOBODY, None)
    return list(names)[:MOST_TENANTS]
