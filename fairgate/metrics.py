"""The gateway's Prometheus metrics.

What every request adds to is kept in plain numbers and told when somebody asks: looking a series up
by its labels costs more than all the rest.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from fairgate.pool import Pool

OTHER = "other"

_CIRCUITS = ("closed", "half-open", "open")

_QUEUE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class TenantLabels:
    """Bounds the tenant label: the first ``most`` tenants by name, then ``other``."""

    def __init__(self, most: int = 100) -> None:
        self._most = most
        self._known: set[str] = set()

    def __call__(self, tenant: str) -> str:
        if tenant in self._known:
            return tenant
        if len(self._known) < self._most:
            self._known.add(tenant)
            return tenant
        return OTHER


class _Distribution:
    """A histogram's counts by bucket, the last one without a bound, and the sum of all values."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus has them."""
        bounds = [*map(str, map(float, self.bounds)), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.counts)), strict=True))


class _TenantSeries:
    """What one tenant's requests add up to."""

    __slots__ = ("output_tokens", "prompt_tokens", "queue", "requests", "service", "ttft")

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str], int] = {}
        """By lane and outcome."""
        self.queue = _Distribution(_QUEUE_BUCKETS)
        self.ttft = _Distribution(_TTFT_BUCKETS)
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.service = 0.0


class _Tenants(Collector):
    """The series of all tenants."""

    def __init__(self, label: TenantLabels) -> None:
        self._label = label
        self._of: dict[str, _TenantSeries] = {}

    def series(self, tenant: str) -> _TenantSeries:
        """Those of ``tenant``, or of all beyond the first hundred."""
        found = self._of.get(tenant)
        if found is None:
            found = self._of.setdefault(self._label(tenant), _TenantSeries())
        return found

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        requests = CounterMetricFamily(
            "fairgate_requests", "Requests answered, by how they ended.",
            labels=("tenant", "lane", "outcome"),
        )  # fmt: skip
        tokens = CounterMetricFamily(
            "fairgate_tokens", "Tokens settled.", labels=("tenant", "kind")
        )
        service = CounterMetricFamily(
            "fairgate_service_units", "Service received, in weighted tokens at price 1.",
            labels=("tenant",),
        )  # fmt: skip
        queue = HistogramMetricFamily("fairgate_queue_seconds", "Time in line.", labels=("tenant",))
        ttft = HistogramMetricFamily(
            "fairgate_time_to_first_byte_seconds", "From the request to the answer's first byte.",
            labels=("tenant",),
        )  # fmt: skip
        for tenant, series in self._of.items():
            for (lane, outcome), count in series.requests.items():
                requests.add_metric((tenant, lane, outcome), count)
            tokens.add_metric((tenant, "prompt"), series.prompt_tokens)
            tokens.add_metric((tenant, "output"), series.output_tokens)
            service.add_metric((tenant,), series.service)
            queue.add_metric((tenant,), series.queue.buckets(), series.queue.sum)
            ttft.add_metric((tenant,), series.ttft.buckets(), series.ttft.sum)
        yield from (requests, tokens, service, queue, ttft)


class _Circuits(Collector):
    """How this process' requests fare at each engine."""

    def __init__(self) -> None:
        self.pools: Mapping[str, Pool] = {}

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        labels = ("pool", "lane", "engine")
        state = GaugeMetricFamily(
            "fairgate_circuit_state", "Of an engine's breaker: 0 closed, 1 half-open, 2 open.",
            labels=labels,
        )  # fmt: skip
        failures = CounterMetricFamily(
            "fairgate_circuit_failures", "Requests that an engine failed.", labels=labels
        )
        for name, pool in self.pools.items():
            for lane, engine, breaker in pool.monitor.circuits():
                state.add_metric((name, lane, engine), _CIRCUITS.index(breaker.circuit))
                failures.add_metric((name, lane, engine), breaker.failures)
        yield from (state, failures)


class Metrics:
    """All of them, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._label = TenantLabels()
        self._tenants = _Tenants(self._label)
        self.registry.register(self._tenants)
        self._circuits = _Circuits()
        self.registry.register(self._circuits)
        r = self.registry
        self._throttled = Counter(
            "fairgate_throttled", "Requests refused, by the limit that did.",
            ("tenant", "limit"), registry=r,
        )  # fmt: skip
        self._degraded = Counter(
            "fairgate_degraded_requests", "Admitted without the shared store, which was away.",
            ("tenant",), registry=r,
        )  # fmt: skip
        lane = ("pool", "lane")
        self._waiting = Gauge("fairgate_lane_waiting_requests", "In line.", lane, registry=r)
        self._running = Gauge("fairgate_lane_running_requests", "Granted.", lane, registry=r)
        self._limit = Gauge("fairgate_lane_limit_sequences", "May run at once.", lane, registry=r)
        self._up = Gauge("fairgate_lane_engines_up", "Engines that are up.", lane, registry=r)
        engine = (*lane, "engine")
        self._load = {
            "num_requests_running": Gauge(
                "fairgate_engine_running_requests", "Running, as the engine tells.",
                engine, registry=r,
            ),
            "num_requests_waiting": Gauge(
                "fairgate_engine_waiting_requests", "In the engine's own queue, as it tells.",
                engine, registry=r,
            ),
            "kv_cache_usage": Gauge(
                "fairgate_engine_kv_cache_usage_ratio", "Of its KV cache, as the engine tells.",
                engine, registry=r,
            ),
        }  # fmt: skip
        self._gateways = Gauge("fairgate_gateways", "Replicas alive.", ("pool",), registry=r)
        self._store_up = Gauge("fairgate_store_up", "1: the store answers.", ("pool",), registry=r)
        self._owed = Gauge(
            "fairgate_settlements_owed", "Not taken by the store yet.", ("pool",), registry=r
        )

    def request(
        self,
        tenant: str,
        lane: str,
        outcome: str,
        *,
        queue_s: float,
        first_byte_s: float | None,
    ) -> None:
        """One request ended."""
        series = self._tenants.series(tenant)
        ended = (lane, outcome)
        series.requests[ended] = series.requests.get(ended, 0) + 1
        series.queue.observe(queue_s)
        if first_byte_s is not None:
            series.ttft.observe(first_byte_s)

    def throttled(self, tenant: str, limit: str) -> None:
        """One request was refused by ``limit``."""
        self._throttled.labels(self._label(tenant), limit).inc()

    def passed_by(self, tenant: str) -> None:
        """One request was served without the store."""
        self._degraded.labels(self._label(tenant)).inc()

    def served(self, tenant: str, prompt_tokens: int, output_tokens: int, service: float) -> None:
        """One request was settled."""
        series = self._tenants.series(tenant)
        series.prompt_tokens += prompt_tokens
        series.output_tokens += output_tokens
        series.service += service

    def render(self, pools: Mapping[str, Pool]) -> bytes:
        """The exposition text, with the pools' state as of their last heartbeat."""
        self._circuits.pools = pools
        for name, pool in pools.items():
            self._gateways.labels(name).set(pool.admission.pool.gateways)
            statistics = pool.admission.statistics()
            self._owed.labels(name).set(statistics.owed)
            self._store_up.labels(name).set(statistics.store_up)
            for lane in pool.lanes:
                s = pool.statistics(lane)
                self._waiting.labels(name, lane).set(s.waiting)
                self._running.labels(name, lane).set(s.running)
                self._limit.labels(name, lane).set(s.limit)
                self._up.labels(name, lane).set(s.engines_up)
            for lane, engine, status in pool.monitor.observed():
                for told, gauge in self._load.items():
                    value = getattr(status, told)
                    gauge.labels(name, lane, engine).set(math.nan if value is None else value)
        return generate_latest(self.registry)
