"""The state of pools, lanes, engines and the store, as it stands when somebody asks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from fairgate.admission.model import LaneStatistics
from fairgate.metrics import catalogue
from fairgate.metrics.tenants import Tenants
from fairgate.pool import Pool

_CIRCUITS = ("closed", "half-open", "open")


class Pools(Collector):
    """Set :attr:`of` before it is asked."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants
        self.of: Mapping[str, Pool] = {}

    def collect(self) -> Iterator[Metric]:
        yield from self._ledger()
        yield from self._store()
        yield from self._lanes()
        yield from self._engines()

    def _ledger(self) -> Iterator[Metric]:
        gateways, app_cost = catalogue.GATEWAYS.family(), catalogue.APP_COST.family()
        owed, held = catalogue.OWED.family(), catalogue.HELD.family()
        waiting = catalogue.TENANT_WAITING.family()
        for name, pool in self.of.items():
            seen, own = pool.admission.pool, pool.admission.statistics()
            gateways.add_metric((name,), seen.gateways)
            for app, profile in seen.apps.items():
                app_cost.add_metric((name, app), profile.mean_cost)
            owed.add_metric((name,), own.owed)
            held.add_metric((name,), own.running)
            in_line = Counter[str]()
            for tenant, line in pool.admission.waiting().items():
                in_line[self._tenants.label(tenant)] += line.requests
            for tenant, requests in in_line.items():
                waiting.add_metric((name, tenant), requests)
        yield from (gateways, app_cost, owed, held, waiting)

    def _store(self) -> Iterator[Metric]:
        up, outages = catalogue.STORE_UP.family(), catalogue.STORE_OUTAGES.family()
        away = catalogue.STORE_AWAY.family()
        for name, pool in self.of.items():
            own = pool.admission.statistics()
            up.add_metric((name,), own.store_up)
            outages.add_metric((name,), own.outages)
            away.add_metric((name,), own.outage_s)
        yield from (up, outages, away)
        connections, calls = catalogue.STORE_CONNECTIONS.family(), catalogue.STORE_CALLS.family()
        round_trip = catalogue.STORE_ROUND_TRIP.family()
        for name, pool in self.of.items():
            link = pool.link.statistics()
            connections.add_metric((name,), link.connections)
            calls.add_metric((name,), link.calls)
            round_trip.add_metric((name,), link.round_trip.buckets(), link.round_trip.sum)
        yield from (connections, calls, round_trip)

    def _lanes(self) -> Iterator[Metric]:
        waiting, running = catalogue.LANE_WAITING.family(), catalogue.LANE_RUNNING.family()
        limit, engines = catalogue.LANE_LIMIT.family(), catalogue.LANE_ENGINES.family()
        saturation = catalogue.LANE_SATURATION.family()
        for name, pool in self.of.items():
            for lane in pool.lanes:
                where, it = (name, lane), pool.statistics(lane)
                waiting.add_metric(where, it.waiting)
                running.add_metric(where, it.running)
                limit.add_metric(where, it.limit)
                engines.add_metric(where, it.engines_up)
                saturation.add_metric(where, saturation_of(it))
        yield from (waiting, running, limit, engines, saturation)

    def _engines(self) -> Iterator[Metric]:
        up, sequences = catalogue.ENGINE_UP.family(), catalogue.ENGINE_SEQUENCES.family()
        kv, pressure = catalogue.ENGINE_KV.family(), catalogue.ENGINE_PRESSURE.family()
        for name, pool in self.of.items():
            for report in pool.monitor.reports():
                where = (name, report.lane, report.name)
                up.add_metric(where, report.up)
                sequences.add_metric(where, report.max_num_seqs)
                kv.add_metric(where, report.kv_cache_tokens)
                pressure.add_metric(where, report.pressure if report.pressure >= 0 else math.nan)
        yield from (up, sequences, kv, pressure)
        circuit, failures = catalogue.CIRCUIT.family(), catalogue.CIRCUIT_FAILURES.family()
        for name, pool in self.of.items():
            for lane, engine, breaker in pool.monitor.circuits():
                circuit.add_metric((name, lane, engine), _CIRCUITS.index(breaker.circuit))
                failures.add_metric((name, lane, engine), breaker.failures)
        yield from (circuit, failures)
        running, waiting = catalogue.ENGINE_RUNNING.family(), catalogue.ENGINE_WAITING.family()
        kv_used = catalogue.ENGINE_KV_USED.family()
        for name, pool in self.of.items():
            for lane, engine, status in pool.monitor.observed():
                where = (name, lane, engine)
                running.add_metric(where, _told(status.num_requests_running))
                waiting.add_metric(where, _told(status.num_requests_waiting))
                kv_used.add_metric(where, _told(status.kv_cache_usage))
        yield from (running, waiting, kv_used)


def saturation_of(lane: LaneStatistics) -> float:
    """Requests running and waiting over the lane's limit; not a number where nothing can run."""
    return (lane.running + lane.waiting) / lane.limit if lane.limit else math.nan


def _told(value: float | None) -> float:
    return math.nan if value is None else value
