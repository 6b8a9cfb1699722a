"""Watches a pool's engines: what capacity the ledger may count on, as probes and requests tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

import structlog
from msgspec.structs import replace

from fairgate.admission.model import EngineReport
from fairgate.config import Engine as EngineSettings
from fairgate.config import Lane
from fairgate.config.server import Breaker as BreakerSettings
from fairgate.engines.base import Engine, EngineStatus
from fairgate.engines.breaker import Breaker
from fairgate.engines.pressure import pressure

UNTOLD_MAX_NUM_SEQS = 256
"""Sequences of an engine that does not tell: vLLM's own default, until the limit learns better."""

_FAILURES = 3
"""Probes in a row that must fail before an engine counts as down: a busy one answers late."""

_JOINING_S = 0.4
"""An added engine is granted to nobody for so long: by then all replicas have heard of it."""

_LEAVING_ROUNDS = 5
"""Rounds of probes that an engine which was removed stays for, even if it runs nothing: by then the
other replicas, who may grant it, have heard of it."""


class Fleet(Protocol):
    """Whose the engines are: makes those that are added while it runs, and puts them away."""

    def add_engine(self, lane: str, name: str, spec: Lane, settings: EngineSettings) -> Engine:
        """Make the engine ``name``, and have it started."""

    def remove_engine(self, engine: Engine) -> None:
        """Have one stopped that runs nothing any more."""


log = structlog.get_logger("fairgate.engines")


class _Watched:
    def __init__(
        self, lane: str, engine: Engine, settings: EngineSettings, breaker: Breaker
    ) -> None:
        self.lane = lane
        self.engine = engine
        self.settings = settings
        self.breaker = breaker
        self.status = EngineStatus(up=False, detail="not probed yet")
        self.up = False
        self.failures = 0
        self.joining = False
        """It was added a moment ago."""
        self.leaving = 0
        """Rounds for which it still stays; 0: it was not removed."""
        self.last: AbstractSet[str] | None = None
        """Requests that ran when another engine took its name; ``None``: none did."""

    def report(self) -> EngineReport:
        s = self.status
        kv_cache_tokens = self.settings.kv_cache_tokens
        if kv_cache_tokens is None:
            kv_cache_tokens = s.kv_cache_tokens or 0
        circuit = self.breaker.circuit
        max_num_seqs = self.settings.max_num_seqs or s.max_num_seqs or UNTOLD_MAX_NUM_SEQS
        return EngineReport(
            lane=self.lane,
            name=self.engine.name,
            up=self.up and circuit != "open" and self._is_in(),
            max_num_seqs=1 if circuit == "half-open" else max_num_seqs,
            kv_cache_tokens=kv_cache_tokens,
            pressure=pressure(s, max_num_seqs) if s.up else -1.0,
        )

    def _is_in(self) -> bool:
        return not (self.joining or self.leaving or self.settings.drained)


class EngineMonitor:
    """Probes every engine each ``interval_s`` seconds, and is told how requests ended.

    ``on_change`` is called when the capacity of one comes or goes. ``fleet`` has those that are
    added later; ``requests`` names those of this process that a lane's engine of that name runs.
    """

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        engines: Mapping[str, Sequence[Engine]],
        *,
        interval_s: float,
        on_change: Callable[[], None],
        breaker: BreakerSettings | None = None,
        fleet: Fleet | None = None,
        requests: Callable[[str, str], AbstractSet[str]] = lambda lane, engine: frozenset(),
    ) -> None:
        self._breaker = breaker or BreakerSettings()
        self._fleet = fleet
        self._requests = requests
        self._watched = {
            (lane, engine.name): _Watched(
                lane, engine, lanes[lane].engines[index], Breaker(self._breaker)
            )
            for lane, members in engines.items()
            for index, engine in enumerate(members)
        }
        self._context_tokens: dict[str, int] = {}
        self._replaced: list[_Watched] = []
        """They left, and another engine has the name already."""
        self.doubted = False
        """An engine's last request failed: :meth:`went_well` wants to know of those that did."""
        self._interval_s = interval_s
        self._on_change = on_change
        self._task: asyncio.Task[None] | None = None
        self._soon = asyncio.Event()

    def engine(self, lane: str, name: str) -> Engine | None:
        """The engine of that name; ``None`` if only other gateways know it."""
        watched = self._watched.get((lane, name))
        return watched.engine if watched else None

    def context_tokens(self, lane: str) -> int | None:
        """The least that the lane's engines take, as those told that do; asked for each request."""
        return self._context_tokens.get(lane)

    def observed(self) -> list[tuple[str, str, EngineStatus]]:
        """Lane and name of every engine, and what its last probe saw."""
        return [(w.lane, w.engine.name, w.status) for w in self._watched.values()]

    def leaving(self) -> list[tuple[str, str]]:
        """Lane and name of those that were removed, and are not gone yet."""
        return [of for of, watched in self._watched.items() if watched.leaving]

    def reports(self) -> list[EngineReport]:
        """Capacity of every engine, for the heartbeat."""
        return [watched.report() for watched in self._watched.values()]

    def circuits(self) -> list[tuple[str, str, Breaker]]:
        """Lane and name of every engine, and its circuit breaker."""
        return [(w.lane, w.engine.name, w.breaker) for w in self._watched.values()]

    def unreachable(self, lane: str, name: str, granted_at: float) -> None:
        """A request could not reach the engine: it is down until a probe says otherwise."""
        watched = self._watched.get((lane, name))
        if watched is not None:
            watched.failures = _FAILURES
            self._set(watched, up=False)
            self.failed(lane, name, granted_at)

    def failed(self, lane: str, name: str, granted_at: float) -> None:
        """The engine failed a request that was granted then (``time.perf_counter()``)."""
        watched = self._watched.get((lane, name))
        if watched is None:
            return
        self.doubted = True
        wait_s = watched.breaker.failed(granted_at)
        if wait_s is not None:
            log.error(
                "engine keeps failing",
                lane=lane,
                engine=name,
                failures=watched.breaker.in_row,
                tried_again_in_s=round(wait_s, 1),
            )
            self._on_change()

    def went_well(self, lane: str, name: str) -> None:
        """The engine served a request in whole; to be told while :attr:`doubted`."""
        watched = self._watched.get((lane, name))
        if watched is None:
            return
        closed = watched.breaker.went_well()
        self.doubted = any(w.breaker.in_row for w in self._watched.values())
        if closed:
            log.info("engine serves again", lane=lane, engine=name)
            self._on_change()

    def apply(self, lanes: Mapping[str, Lane]) -> None:
        """Take up the engines as configured: capacity, those that are drained, new ones.

        Those that are not there any more get no new requests, and go once they run none.
        """
        wanted = {
            (lane, name): settings
            for lane, spec in lanes.items()
            for name, settings in spec.engines_of(lane).items()
        }
        for of, watched in list(self._watched.items()):
            settings = wanted.get(of)
            if settings is None:
                watched.leaving = watched.leaving or _LEAVING_ROUNDS
            elif _is_same(watched.settings, settings):
                watched.settings, watched.leaving = settings, 0
            else:
                watched.leaving = _LEAVING_ROUNDS
                watched.last = self._requests(*of)
                self._replaced.append(watched)
                self._watched[of] = self._new(of, lanes[of[0]], settings)
        for of, settings in wanted.items():
            if of not in self._watched:
                self._watched[of] = self._new(of, lanes[of[0]], settings)
        self._context_tokens = self._least_context()

    def _new(self, of: tuple[str, str], lane: Lane, settings: EngineSettings) -> _Watched:
        assert self._fleet is not None  # noqa: S101 — where engines are added, somebody has them
        engine = self._fleet.add_engine(*of, lane, settings)
        watched = _Watched(of[0], engine, settings, Breaker(self._breaker))
        watched.joining = True
        asyncio.get_running_loop().call_later(_JOINING_S, self._let_in, watched)
        self._soon.set()
        return watched

    def _let_in(self, watched: _Watched) -> None:
        watched.joining = False
        self._on_change()

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
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._soon.wait()
            except TimeoutError:
                pass
            self._soon.clear()
            await self._round()

    async def _round(self) -> None:
        await asyncio.gather(*(self._probe(watched) for watched in self._watched.values()))
        for watched in [*self._replaced, *(w for w in self._watched.values() if w.leaving)]:
            self._let_go(watched)

    def _least_context(self) -> dict[str, int]:
        least: dict[str, int] = {}
        for watched in self._watched.values():
            if tokens := watched.status.context_tokens:
                least[watched.lane] = min(tokens, least.get(watched.lane, tokens))
        return least

    def _let_go(self, watched: _Watched) -> None:
        """One that was removed goes when it runs nothing of ours any more."""
        of = watched.lane, watched.engine.name
        if watched.leaving > 1:
            watched.leaving -= 1
        elif watched.leaving and not self._is_in_use(watched):  # it may be back by now
            if watched in self._replaced:
                self._replaced.remove(watched)
            else:
                del self._watched[of]
                self._context_tokens = self._least_context()
            log.info("engine is gone", lane=of[0], engine=of[1])
            assert self._fleet is not None  # noqa: S101 — as in _new
            self._fleet.remove_engine(watched.engine)

    def _is_in_use(self, watched: _Watched) -> bool:
        running = self._requests(watched.lane, watched.engine.name)
        return bool(running if watched.last is None else running & watched.last)

    async def _probe(self, watched: _Watched) -> None:
        before, watched.status = watched.status, await watched.engine.probe()
        if watched.status.context_tokens != before.context_tokens:
            self._context_tokens = self._least_context()
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


def _is_same(old: EngineSettings, new: EngineSettings) -> bool:
    """They differ in nothing but what can be changed of an engine while it runs."""
    if type(old) is not type(new):
        return False
    return new == replace(
        old, name=new.name, drained=new.drained, max_num_seqs=new.max_num_seqs,
        kv_cache_tokens=new.kv_cache_tokens,
    )  # fmt: skip
