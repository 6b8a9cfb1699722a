"""One pool in one gateway process: its lanes and engines, its share of the ledger, its router."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from fairgate.accounting import Estimate, Estimator, TokenEstimator, cost
from fairgate.admission.grants import GrantListener
from fairgate.admission.ledger import Ledger
from fairgate.admission.link import Link
from fairgate.admission.local import LocalGate
from fairgate.admission.locating import locator_of
from fairgate.admission.membership import OnFailure
from fairgate.admission.model import Ask, EngineReport, Grant, LaneStatistics, Served
from fairgate.admission.queue import Admission
from fairgate.codec import Call
from fairgate.config import App, Config, Lane
from fairgate.config.policy import resolve_policy
from fairgate.engines.base import Engine
from fairgate.engines.monitor import EngineMonitor, Fleet
from fairgate.errors import StoreError
from fairgate.failopen import OpenDoor
from fairgate.identity import Principal
from fairgate.routing.base import RouteRequest
from fairgate.routing.best_route import Tariff
from fairgate.routing.build import view_of
from fairgate.routing.live import LiveRouting
from fairgate.routing.metrics import RoutingMetrics
from fairgate.routing.routed import Routed, named
from fairgate.routing.store import RoutingStore
from fairgate.sampling import Planner
from fairgate.usage import Usage

_NO_APP = App()  # of requests whose app was deleted while their body arrived
_NO_TOKENS = Estimate(prompt_tokens=0, system_tokens=0, output_tokens=0, choices=1)


class Pool:
    """Lanes that share one ledger, as this process sees them."""

    def __init__(
        self,
        name: str,
        config: Config,
        engines: Mapping[str, Sequence[Engine]],
        *,
        link: Link,
        store_url: str,
        gateway: str,
        metrics: RoutingMetrics | None = None,
        fleet: Fleet | None = None,
    ) -> None:
        self.name = name
        self.link = link
        self._gateway = gateway
        self._applied = config.pools[name]
        self.lanes: Mapping[str, Lane] = config.pools[name].lanes
        self.policy = resolve_policy(config.pools[name].policy)
        self.planner = Planner(config.pools[name].best_of, config.pools[name].cascade)
        self._names = _names_of(self.lanes)
        self._estimators = {
            lane: Estimator(TokenEstimator(spec.tokenizer)) for lane, spec in self.lanes.items()
        }
        self._token_s: dict[str, float] = {}
        self.ledger = ledger = Ledger(link, name, gateway)
        self.monitor = EngineMonitor(
            self.lanes,
            engines,
            interval_s=config.store.heartbeat_s,
            on_change=lambda: self.admission.renew_soon(),
            breaker=config.breaker,
            fleet=fleet,
            requests=self._requests_on,
        )
        self._heartbeat_s = config.store.heartbeat_s
        usage_records = config.usage.max_records if config.usage else 0
        self.on_failure = config.store.on_failure
        self.admission = self._admission(
            ledger, self.monitor.reports, self.on_failure, usage_records
        )
        self.records_usage = config.usage is not None
        self._fallback: OpenDoor | LocalGate | None = None
        if self.on_failure == "open":
            self._fallback = OpenDoor(self.monitor)
        elif self.on_failure == "local":
            self._fallback = LocalGate(self.admission, self.monitor.reports, self._local_admission)
        self.routing = LiveRouting(
            name,
            self.lanes,
            config.pools[name].routing,
            store=RoutingStore(link, name),
            weights=Tariff(self.policy.input_weight, self.policy.output_weight),
            metrics=metrics or RoutingMetrics(CollectorRegistry()),
            heartbeat_s=config.store.heartbeat_s,
            idle_s=self.policy.interactions.idle_s,
        )
        self._listener = GrantListener(
            locator_of(store_url, name), ledger.channel, self.admission.take
        )

    def _admission(
        self,
        ledger: Ledger,
        capacity: Callable[[], list[EngineReport]],
        on_failure: OnFailure,
        usage_records: int = 0,
    ) -> Admission:
        return Admission(
            ledger,
            policy=self.policy,
            queues={lane: spec.queue for lane, spec in self.lanes.items()},
            capacity=capacity,
            heartbeat_s=self._heartbeat_s,
            headroom={lane: spec.headroom for lane, spec in self.lanes.items()},
            on_failure=on_failure,
            usage_records=usage_records,
        )

    def _local_admission(self, link: Link, capacity: Callable[[], list[EngineReport]]) -> Admission:
        return self._admission(Ledger(link, self.name, self._gateway), capacity, "closed")

    async def start(self) -> None:
        """Look at the engines, join the pool, listen for grants, read the router's artefacts.

        Raises ``StoreError`` and ``ArtifactError``.
        """
        await self.routing.start()
        self._listener.start()
        await self.monitor.start()
        await self.admission.start()

    async def stop(self) -> None:
        """Leave the pool; what is held is given up."""
        await self.routing.stop()
        await self.monitor.stop()
        if self._fallback is not None:
            await self._fallback.stop()
        await self.admission.stop()
        await self._listener.stop()

    def apply(self, config: Config) -> None:
        """Take up policy, routing, and what can be changed of lanes and engines."""
        new = config.pools[self.name]
        if new is self._applied:
            return
        self._applied = new
        self.lanes = new.lanes
        self.policy = resolve_policy(new.policy)
        self.monitor.apply(new.lanes)
        for admission in self._admissions():
            admission.apply(
                self.policy,
                {lane: spec.queue for lane, spec in new.lanes.items()},
                {lane: spec.headroom for lane, spec in new.lanes.items()},
            )
        self.routing.apply(new.routing, new.lanes)

    def refuse_keys(self, keys: Collection[str]) -> None:
        """Refuse what waits in line with one of these API keys, by their ids."""
        for admission in self._admissions():
            admission.refuse_keys(keys)

    def _requests_on(self, lane: str, engine: str) -> set[str]:
        """Ids of this process's requests that have that engine."""
        return {
            request_id
            for admission in self._admissions()
            for request_id, held in admission.held().items()
            if (held.note.lane, held.note.engine) == (lane, engine)
        }

    def _admissions(self) -> list[Admission]:
        """The one on the shared store and, while that is away, the local one."""
        local = self._fallback.admission if isinstance(self._fallback, LocalGate) else None
        return [self.admission] if local is None else [self.admission, local]

    def is_drained(self, lane: str) -> bool:
        """All its engines were told to take no new requests."""
        return all(engine.drained for engine in self.lanes[lane].engines)

    def serves(self, model: str | None) -> bool:
        """Whether ``model`` names one of its lanes."""
        return model in self._names

    def lanes_for(self, model: str | None, call: Call) -> tuple[str, ...]:
        """Lanes that may serve ``call``, the preferred first; see :meth:`route`."""
        return self.route(model, RouteRequest(call)).decision.lanes

    def route(self, model: str | None, request: RouteRequest) -> Routed:
        """Where ``request`` goes: to the lane that ``model`` names, else the router chooses."""
        lane = self._names.get(model) if model else None
        if lane is not None:
            return named(request, lane)
        views = [view_of(name, spec, self.statistics(name)) for name, spec in self.lanes.items()]
        return self.routing.route(request, views)

    def statistics(self, lane: str) -> LaneStatistics:
        """The lane at the last heartbeat; while the store is away, as this replica sees it."""
        if self.admission.away:
            return self._own_view(lane)
        return self.admission.pool.lanes.get(lane) or LaneStatistics()

    def _own_view(self, lane: str) -> LaneStatistics:
        local = self._fallback.admission if isinstance(self._fallback, LocalGate) else None
        if local is not None and lane in local.pool.lanes:
            return local.pool.lanes[lane]
        up = [r for r in self.monitor.reports() if r.lane == lane and r.up]
        return LaneStatistics(engines_up=len(up), limit=sum(r.max_num_seqs for r in up))

    def context_tokens(self, lane: str) -> int | None:
        """Longest prompt and output that the lane's engines take, as configured or as they tell."""
        told = self.lanes[lane].context_tokens
        return self.monitor.context_tokens(lane) if told is None else told

    def estimate(self, call: Call, principal: Principal, lane: str, config: Config) -> Estimate:
        """What ``call`` is expected to take on ``lane``."""
        return self._estimators[lane].estimate(
            call,
            config.apps.get(principal.app, _NO_APP),
            self.admission.pool.apps.get(principal.app),
            self.context_tokens(lane),
        )

    def ask(
        self, request_id: str, principal: Principal, lanes: Sequence[str], estimate: Estimate
    ) -> Ask:
        """The wish for capacity that ``estimate`` amounts to."""
        queue = self.lanes[lanes[0]].queue
        return Ask(
            id=request_id,
            tenant=principal.tenant,
            user=principal.user or principal.key_id,
            app=principal.app,
            key=principal.key_id,
            lanes=tuple([(lane, self.lanes[lane].price) for lane in lanes]),
            cost=self._cost(estimate, estimate.prompt_tokens, 0, estimate.total_output_tokens),
            tokens=estimate.tokens,
            kv_tokens=estimate.kv_tokens,
            tenant_weight=principal.weight,
            user_weight=principal.user_weight,
            tenant_limits=principal.limits,
            user_limits=principal.user_limits,
            app_limits=principal.app_limits,
            interaction=principal.interaction or "",
            timeout_s=queue.timeout_s,
            continuation_timeout_s=queue.longest_s,
        )

    def ask_units(
        self, request_id: str, principal: Principal, lanes: Sequence[str], units: float
    ) -> Ask:
        """The wish for capacity of a request that costs ``units`` and takes no KV tokens."""
        ask = self.ask(request_id, principal, lanes, _NO_TOKENS)
        return replace(ask, cost=units, tokens=math.ceil(units))

    def cost_of(self, usage: Usage) -> float:
        """Service units of ``usage`` on their own."""
        prompt = usage.prompt_tokens or 0
        return self._cost(_NO_TOKENS, prompt, usage.cached_tokens, usage.completion_tokens)

    async def acquire(self, ask: Ask) -> Grant:
        """Wait for capacity; see :meth:`fairgate.admission.queue.Admission.acquire`.

        Without the store, ``store.on_failure`` says who gives the grant. Every one must be settled.
        """
        try:
            return await self.admission.acquire(ask)
        except StoreError as error:
            if self._fallback is None:
                raise
            return await self._fallback.acquire(ask, error.waited_s)

    def settle(self, grant: Grant, served: Served) -> asyncio.Future[Any] | None:
        """End a granted request, once; see :meth:`fairgate.admission.queue.Admission.settle`.

        No future where nobody counts it.
        """
        if not grant.degraded:
            return self.admission.settle(grant.id, served)
        assert self._fallback is not None  # noqa: S101 — nobody else gives such grants
        return self._fallback.settle(grant, served)

    def served(self, call: Call, estimate: Estimate, usage: Usage, *, learn: bool) -> Served:
        """What ``usage`` amounts to; what the engine did not tell is taken from the estimate."""
        prompt = usage.prompt_tokens
        if prompt is None:
            prompt = estimate.prompt_tokens
        output = usage.completion_tokens
        return Served(
            cost=self._cost(estimate, prompt, usage.cached_tokens, output),
            tokens=prompt + output,
            output_tokens=output // call.choices,
            prompt_bytes=call.prompt_bytes,
            prompt_tokens=prompt,
            cached_tokens=usage.cached_tokens,
            learn=learn and usage.exact,
            void=False,
        )

    def note_pace(self, lane: str, output_tokens: int, engine_s: float) -> None:
        """A request of ``output_tokens`` per choice took the lane's engine ``engine_s`` seconds."""
        if output_tokens > 0:
            seen = engine_s / output_tokens
            known = self._token_s.get(lane, seen)
            self._token_s[lane] = known + (seen - known) / 32

    def spent(self, estimate: Estimate, lane: str, engine_s: float) -> Usage:
        """What an answer that nobody saw has cost so far: its output by the lane's usual pace.

        So leaving just before the end saves nothing, and leaving early does not cost it all.
        """
        pace = self._token_s.get(lane)
        share = (
            1.0 if pace is None else min(1.0, engine_s / (pace * max(1, estimate.output_tokens)))
        )
        return Usage(completion_tokens=round(estimate.total_output_tokens * share))

    def _cost(self, estimate: Estimate, prompt: int, cached: int, output: int) -> float:
        return cost(
            self.policy,
            prompt_tokens=prompt,
            cached_tokens=cached,
            system_tokens=estimate.system_tokens,
            output_tokens=output,
        )


def _names_of(lanes: Mapping[str, Lane]) -> dict[str | None, str]:
    """Every model name that clients may use, and the lane it means."""
    names: dict[str | None, str] = {}
    for name, lane in lanes.items():
        for known in (name, lane.model, *lane.aliases):
            if known is not None:
                names[known] = name
    return names
