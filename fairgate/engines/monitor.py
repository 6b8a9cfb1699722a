"""Watches a pool's engines: probes each, and says what capacity the ledger may count on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import structlog

from fairgate.admission.model import EngineReport
from fairgate.config import Engine as EngineSettings
from fairgate.config import Lane
from fairgate.engines.base import Engine, EngineStatus
from fairgate.engines.pressure import pressure

UNTOLD_MAX_NUM_SEQS = 256
"""Sequences of an engine that does not tell: vLLM's own default, until the limit learns better."""

_FAILURES = 3
"""Probes in a row that must fail before an engine counts as down: a busy one answers late."""

log = structlog.get_logger("fairgate.engines")


class _Watched:
    def __init__(self, lane: str, engine: Engine, settings: EngineSettings) -> None:
        self.lane = lane
        self.engine = engine
        self.settings = settings
        self.status = EngineStatus(up=False, detail="not probed yet")
        self.up = False
        self.failures = 0

    def report(self) -> EngineReport:
        s = self.status
        kv_cache_tokens = self.settings.kv_cache_tokens
        if kv_cache_tokens is None:
            kv_cache_tokens = s.kv_cache_tokens or 0
        return EngineReport(
            lane=self.lane,
            name=self.engine.name,
            up=self.up and not self.settings.drained,
            max_num_seqs=self.settings.max_num_seqs or s.max_num_seqs or UNTOLD_MAX_NUM_SEQS,
            kv_cache_tokens=kv_cache_tokens,
            pressure=pressure(s) if s.up else -1.0,
        )


class EngineMonitor:
    """Probes every engine each ``interval_s`` seconds; ``on_change`` is called when one goes up or
    down."""

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        engines: Mapping[str, Sequence[Engine]],
        *,
        interval_s: float,
        on_change: Callable[[], None],
    ) -> None:
        self._watched = {
            (lane, engine.name): _Watched(lane, engine, lanes[lane].engines[index])
            for lane, members in engines.items()
            for index, engine in enumerate(members)
        }
        self._interval_s = interval_s
        self._on_change = on_change
        self._task: asyncio.Task[None] | None = None

    def engine(self, lane: str, name: str) -> Engine | None:
        """The engine of that name; ``None`` if only other gateways know it."""
        watched = self._watched.get((lane, name))
        return watched.engine if watched else None

    def statuses(self, lane: str) -> list[EngineStatus]:
        """What the last probes of the lane's engines saw."""
        return [w.status for w in self._watched.values() if w.lane == lane]

    def observed(self) -> list[tuple[str, str, EngineStatus]]:
        """Lane and name of every engine, and what its last probe saw."""
        return [(w.lane, w.engine.name, w.status) for w in self._watched.values()]

    def reports(self) -> list[EngineReport]:
        """Capacity of every engine, for the heartbeat."""
        return [watched.report() for watched in self._watched.values()]

    def failed(self, lane: str, name: str) -> None:
        """A request could not reach the engine: it is down until a probe says otherwise."""
        watched = self._watched.get((lane, name))
        if watched is not None:
            watched.failures = _FAILURES
            self._set(watched, up=False)

    def apply(self, lanes: Mapping[str, Lane]) -> None:
        """Take up the engines' capacity as configured, and which of them are drained."""
        places: Counter[str] = Counter()
        for watched in self._watched.values():  # in the order of their lane
            watched.settings = lanes[watched.lane].engines[places[watched.lane]]
            places[watched.lane] += 1

    async def start(self) -> None:
        """Probe all once, then go on in the background."""
        await self._round()
        self._task = asyncio.create_task(self._run(), name="fairgate-engine-monitor")

    async def stop(self) -> None:
        """Stop probing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self._round()

    async def _round(self) -> None:
        await asyncio.gather(*(self._probe(watched) for watched in self._watched.values()))

    async def _probe(self, watched: _Watched) -> None:
        watched.status = await watched.engine.probe()
        watched.failures = 0 if watched.status.up else watched.failures + 1
        if watched.status.up or watched.failures >= _FAILURES:
            self._set(watched, up=watched.status.up)

    def _set(self, watched: _Watched, *, up: bool) -> None:
        if watched.up == up:
            return
        watched.up = up
        log.info(
            "engine is up" if up else "engine is down",
            lane=watched.lane,
            engine=watched.engine.name,
            detail=watched.status.detail,
        )
        self._on_change()
