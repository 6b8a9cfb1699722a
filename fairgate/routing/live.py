"""Routing in one pool while its gateway runs: what happens to requests, feedback and heartbeats."""

from __future__ import annotations

import asyncio
import contextlib
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import structlog

from fairgate.config import Lane
from fairgate.config.routing import Routing
from fairgate.errors import FairgateError, StoreError
from fairgate.routing import notes
from fairgate.routing.arms import PLAIN, make_arms, settings_by_itself
from fairgate.routing.base import LaneView, Router, RouteRequest
from fairgate.routing.best_route import Tariff
from fairgate.routing.build import Kit
from fairgate.routing.costs import LaneCosts
from fairgate.routing.debts import Debts
from fairgate.routing.drift import DriftWatch
from fairgate.routing.library import Library
from fairgate.routing.metrics import RoutingMetrics
from fairgate.routing.price_order import PriceOrder
from fairgate.routing.record import Recorder
from fairgate.routing.replicas import Replicas
from fairgate.routing.routed import Outcome, Routed
from fairgate.routing.satisfaction import Satisfaction
from fairgate.routing.sticky import Places
from fairgate.routing.store import Judged, RoutingStore
from fairgate.routing.tallies import Tallies, Tally, tallies_of

_NOTE_S = 0.2
_BY_PRICE = PriceOrder()

log = structlog.get_logger("fairgate.routing")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a feedback."""

    lane: str
    router: str
    debt: float
    """What its tenant is owed now."""


class LiveRouting:
    """The routers of one pool, and all that they share.

    ``settings`` is the pool's ``routing`` section; until :meth:`start` has read the artefacts it
    routes as a pool without one does.
    """

    def __init__(
        self,
        pool: str,
        lanes: Mapping[str, Lane],
        settings: Routing | None,
        *,
        store: RoutingStore,
        metrics: RoutingMetrics,
        weights: Tariff,
        heartbeat_s: float,
        idle_s: float,
        library: Library | None = None,
        rng: Random | None = None,
    ) -> None:
        self._pool = pool
        self._lanes = lanes
        self._configured = settings
        self._store = store
        self._metrics = metrics
        self._weights = weights
        self._heartbeat_s = heartbeat_s
        self._library = library or Library()
        self._rng = rng or Random()  # noqa: S311 — exploration
        self._debts = Debts()
        self._learners: dict[str, Satisfaction] = {}
        self._places = Places(time.monotonic, idle_s)
        self._replicas = Replicas(store, self._debts, self._places)
        self._changed = False
        self._stamps: Mapping[str, object] = {}
        self._beat: asyncio.Task[None] | None = None
        self._background: set[asyncio.Future[Any]] = set()
        self.settings: Routing | None = None
        """In force; ``None``: nothing is configured, and no artefact knows the models."""
        self._arms = PLAIN
        self._recorder = Recorder(None)
        self._drift: DriftWatch | None = None
        self._costs = LaneCosts(lanes, "price")
        self._tallies = Tallies()

    # Life

    async def start(self) -> None:
        """Read the artefacts and begin to keep in step. Raises ``ArtifactError``."""
        await self._build()
        self._beat = asyncio.create_task(self._keep_in_step(), name="fairgate-routing")

    async def stop(self) -> None:
        """Tell the others what is not told yet, and end."""
        if self._beat is None:
            return
        self._beat.cancel()
        await asyncio.gather(self._beat, return_exceptions=True)
        self._beat = None
        if self._background:
            await asyncio.wait(self._background, timeout=self._heartbeat_s)
        await self._step()

    def apply(self, settings: Routing | None, lanes: Mapping[str, Lane]) -> None:
        """Take up a reloaded ``routing`` section and lanes' prices, with the next heartbeat."""
        if settings != self._configured or lanes != self._lanes:
            self._configured, self._lanes = settings, lanes
            self._changed = True

    async def _build(self) -> None:
        """Make the routers anew; those in force stay until all are made."""
        settings = self._configured
        if settings is None:
            settings = await settings_by_itself(self._pool, self._lanes, self._library)
        if settings is None:
            self.settings, self._arms = None, PLAIN
            return
        costs = LaneCosts(self._lanes, settings.mess_plus.cost)
        kit = Kit(
            pool=self._pool,
            lanes=self._lanes,
            settings=settings,
            debts=self._debts,
            costs=costs,
            rng=self._rng,
            weights=self._weights,
            learners=self._learners,
        )
        self._arms = await make_arms(kit, self._library, self._places)
        self._recorder.flush()
        self._recorder = Recorder(settings.record)
        self._drift = DriftWatch(self._pool, settings.drift)
        self._costs = costs
        self.settings = settings
        self._stamps = self._library.stamps()

    # A request

    def route(self, request: RouteRequest, lanes: Sequence[LaneView]) -> Routed:
        """Decide on ``request``; the shadow is asked afterwards."""
        began = time.perf_counter()
        settings = self.settings
        trial = self._arms.trial if settings is not None and self._tries(request) else None
        router = trial or self._arms.router
        try:
            decision = router.route(request, lanes)
        except Exception:
            # No request fails for want of advice; what failed is for whoever reads the log.
            log.exception("the router failed; routing by price", pool=self._pool)
            decision = _BY_PRICE.route(request, lanes)
        self._metrics.decided(self._pool, decision, time.perf_counter() - began)
        self._tallies.decided(decision)
        routed = Routed(request, decision, self._ended if settings else None, trial is not None)
        if self._arms.shadow is not None:
            asyncio.get_running_loop().call_soon(self._compare, self._arms.shadow, routed, lanes)
        return routed

    def _tries(self, request: RouteRequest) -> bool:
        trial = self.settings.trial if self.settings is not None else None
        if trial is None:
            return False
        identity = request.interaction or f"{request.tenant}:{request.id}"
        return zlib.crc32(b"trial:" + identity.encode()) < trial.share * 2**32

    def _compare(self, shadow: Router, routed: Routed, lanes: Sequence[LaneView]) -> None:
        decision = shadow.route(routed.request, lanes)
        self._metrics.shadowed(self._pool, decision, routed.decision)
        log.debug(
            "shadow", pool=self._pool, request_id=routed.request.id, router=decision.router,
            version=decision.version, lane=decision.actions[0].lane,
            obeyed=routed.decision.actions[0].lane,
        )  # fmt: skip

    def _ended(self, routed: Routed, outcome: Outcome) -> None:
        """Note what is needed when feedback comes, and record what is to be recorded."""
        settings, request = self.settings, routed.request
        if settings is None:
            return
        self._costs.note(outcome.lane, outcome.seconds)
        model = self._lanes[outcome.lane].model or outcome.lane
        recorded = self._recorder.served(routed, outcome, model)
        note = notes.encode(notes.note_of(routed, outcome, recorded=recorded))
        kept = self._store.note(
            request.tenant, request.id, note,
            kept_s=settings.feedback_s, most=settings.max_pending,
        )  # fmt: skip
        self._keep(kept)
        if outcome.score is not None:
            # Behind the note on the same connection, so the store has it by then.
            scored = self.feedback(
                request.tenant, request.id, outcome.score, agreed=request.satisfaction
            )
            self._keep(asyncio.ensure_future(scored))

    def _keep(self, work: asyncio.Future[Any]) -> None:
        """Hold on to what nobody waits for; what the store did not take is lost."""
        self._background.add(work)
        work.add_done_callback(self._done)

    def _done(self, work: asyncio.Future[Any]) -> None:
        self._background.discard(work)
        error = None if work.cancelled() else work.exception()
        if isinstance(error, StoreError):
            log.debug("feedback lost", pool=self._pool, error=str(error))
        elif error is not None:
            log.error("feedback lost", pool=self._pool, exc_info=error)

    # Feedback

    async def feedback(
        self, tenant: str, request_id: str, score: float, *, agreed: float | None
    ) -> Verdict | None:
        """A request of ``tenant`` was worth ``score``, 0 to 1; ``agreed``: its satisfaction level.

        ``None``: there is no such request, or it had its feedback, or is too old. Raises
        ``StoreError``; then it may be sent again, unless the store took it.
        """
        settings = self.settings
        if settings is None:
            return None
        level = settings.satisfaction if agreed is None else agreed
        judged = await self._judge(tenant, request_id, score, level, settings.feedback_s)
        if judged is None:
            return None
        note = notes.decode(judged.note)
        self._debts.take_in({tenant: judged.debt})
        self._learn(note, score)
        self._metrics.judged(self._pool, note.router, note.lane, score)
        self._tallies.judged(note.router, note.lane, note.predicted, score)
        self._metrics.owed(self._pool, tenant, judged.debt.debt)
        if note.recorded:
            self._recorder.scored(tenant, request_id, score)
        return Verdict(note.lane, note.router, judged.debt.debt)

    async def _judge(
        self, tenant: str, request_id: str, score: float, agreed: float, kept_s: float
    ) -> Judged | None:
        """A quick client may be here before the note of the replica that answered it."""
        for wait_s in (_NOTE_S, 0.0):
            judged = await self._store.feedback(
                tenant, request_id, score, agreed=agreed, kept_s=kept_s
            )
            if judged is not None:
                return judged
            await asyncio.sleep(wait_s)
        return None

    def _learn(self, note: notes.Note, score: float) -> None:
        features, learner = note.vector(), self._learners.get(note.version)
        if features is not None and learner is not None:
            learner.learn(note.lane, features, score)
        if self._drift is not None and note.predicted is not None:
            self._drift.note(note.lane, note.predicted, score)
            for lane, (gap, alarm) in self._drift.gaps().items():
                self._metrics.drifts(self._pool, lane, gap.mean, alarm)

    # In step with the files and the other replicas

    async def _keep_in_step(self) -> None:
        before = self._stamps
        while True:
            await asyncio.sleep(self._heartbeat_s)
            now = self._library.stamps()
            # A file counts as replaced once two looks see the same: it may still be written.
            if self._changed or (now != self._stamps and now == before):
                await self._rebuild()
            before = now
            await self._step()

    async def _rebuild(self) -> None:
        self._changed = False
        self._stamps = self._library.stamps()
        try:
            await self._build()
        except FairgateError as error:
            log.error("routing not changed", pool=self._pool, error=str(error))
        except Exception:
            # What keeps in step with the others must outlive a failing artefact.
            log.exception("routing not changed", pool=self._pool)
        else:
            log.info("routing changed", pool=self._pool, router=self._arms.router.name)

    async def tallied(self) -> list[Tally]:
        """How the routers of all replicas chose in the last hour. Raises ``StoreError``."""
        news = self._tallies.news()
        try:
            return tallies_of(await self._store.tally(news))
        except StoreError:
            self._tallies.put_back(news)
            raise

    async def _step(self) -> None:
        self._recorder.flush()
        with contextlib.suppress(StoreError):
            await self.tallied()
        if self.settings is None:
            return
        if lines := self._recorder.told():
            self._keep(self._store.tell(lines))
        for name, learner in list((self._learners or {"-": Satisfaction(())}).items()):
            wanted = await self._replicas.exchange(name, learner)
            if wanted is not None:
                self._recorder.asked(wanted)
