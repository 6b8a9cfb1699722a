"""Logs and metrics: one line and a few counters per request; never a key or a prompt."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from fairgate.pool import Pool

OTHER = "other"

_QUEUE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

access = structlog.get_logger("fairgate.access")


def configure_logging(*, console: bool | None = None) -> None:
    """JSON lines on stderr, or readable ones when it is a terminal (``None`` decides by itself)."""
    pretty = sys.stderr.isatty() if console is None else console
    renderer: Any = (
        structlog.dev.ConsoleRenderer()
        if pretty
        else structlog.processors.JSONRenderer(serializer=_dumps)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _dumps(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()


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


@dataclass(frozen=True, slots=True)
class _TenantSeries:
    """What every request of a tenant adds to: looking series up by labels costs more than that."""

    queue: Histogram
    ttft: Histogram
    prompt_tokens: Counter
    output_tokens: Counter
    service: Counter
    requests: dict[tuple[str, str], Counter] = field(default_factory=dict)
    """By lane and outcome."""


class Metrics:
    """The gateway's Prometheus metrics, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._label = TenantLabels()
        self._of_tenants: dict[str, _TenantSeries] = {}
        r = self.registry
        self._requests = Counter(
            "fairgate_requests", "Requests answered, by how they ended.",
            ("tenant", "lane", "outcome"), registry=r,
        )  # fmt: skip
        self._throttled = Counter(
            "fairgate_throttled", "Requests refused, by the limit that did.",
            ("tenant", "limit"), registry=r,
        )  # fmt: skip
        self._degraded = Counter(
            "fairgate_degraded_requests", "Passed without admission, since the store was away.",
            ("tenant",), registry=r,
        )  # fmt: skip
        self._tokens = Counter("fairgate_tokens", "Tokens settled.", ("tenant", "kind"), registry=r)
        self._service = Counter(
            "fairgate_service_units", "Service received, in weighted tokens at price 1.",
            ("tenant",), registry=r,
        )  # fmt: skip
        self._queue = Histogram(
            "fairgate_queue_seconds", "Time in line.",
            ("tenant",), buckets=_QUEUE_BUCKETS, registry=r,
        )  # fmt: skip
        self._ttft = Histogram(
            "fairgate_time_to_first_byte_seconds", "From the request to the answer's first byte.",
            ("tenant",), buckets=_TTFT_BUCKETS, registry=r,
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
        series = self._series(tenant)
        ended = series.requests.get((lane, outcome))
        if ended is None:
            ended = self._requests.labels(self._label(tenant), lane, outcome)
            series.requests[lane, outcome] = ended
        ended.inc()
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
        series = self._series(tenant)
        series.prompt_tokens.inc(prompt_tokens)
        series.output_tokens.inc(output_tokens)
        series.service.inc(service)

    def _series(self, tenant: str) -> _TenantSeries:
        label = self._label(tenant)
        found = self._of_tenants.get(label)
        if found is None:
            found = self._of_tenants[label] = _TenantSeries(
                queue=self._queue.labels(label),
                ttft=self._ttft.labels(label),
                prompt_tokens=self._tokens.labels(label, "prompt"),
                output_tokens=self._tokens.labels(label, "output"),
                service=self._service.labels(label),
            )
        return found

    def render(self, pools: Mapping[str, Pool]) -> bytes:
        """The exposition text, with the pools' state as of their last heartbeat."""
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
