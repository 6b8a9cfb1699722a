"""Every metric that fairgate counts itself, with its labels: the page of metrics is made from it.

Those of the routers are in :mod:`fairgate.routing.metrics`.
"""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily


@dataclass(frozen=True, slots=True)
class Described:
    """A metric's name, as exported, what it tells, and its labels."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


class Counter(Described):
    """Only grows."""

    def family(self) -> CounterMetricFamily:
        """Without samples."""
        return CounterMetricFamily(self.name, self.help, labels=self.labels)


class Gauge(Described):
    """Goes up and down."""

    def family(self) -> GaugeMetricFamily:
        """Without samples."""
        return GaugeMetricFamily(self.name, self.help, labels=self.labels)


class Histogram(Described):
    """Counts by size."""

    def family(self) -> HistogramMetricFamily:
        """Without samples."""
        return HistogramMetricFamily(self.name, self.help, labels=self.labels)


_TENANT = ("tenant",)
_USE = ("tenant", "pool", "lane")
_POOL = ("pool",)
_POOL_TENANT = ("pool", "tenant")
_LANE = ("pool", "lane")
_ENGINE = ("pool", "lane", "engine")

REQUESTS = Counter(
    "fairgate_requests_total",
    "Requests that ended, by how: completed, throttled (429), refused (another 4xx or 5xx of ours),"
    " client_gone, error (the answer broke off).",
    (*_USE, "outcome"),
)
TOKENS = Counter("fairgate_tokens_total", "Tokens charged: prompt or output.", (*_USE, "kind"))
SERVICE = Counter(
    "fairgate_service_units_total", "Service charged, in weighted tokens at price 1.", _USE
)
UNSERVED = Counter(
    "fairgate_unserved_service_units_total",
    "Expected service of requests that asked for capacity and were served nothing.",
    _USE,
)
WASTED = Counter(
    "fairgate_wasted_tokens_total",
    "Tokens of served calls of interactions that lost a call (429, 5xx, broken off), as far as this"
    " process served them.",
    _TENANT,
)
THROTTLED = Counter(
    "fairgate_throttled_total",
    "Requests refused with 429, by cause: the limit reached (such as user.rpm), queue (a full"
    " line), queue_timeout, or interaction (its first call was refused).",
    (*_TENANT, "limit"),
)
DEGRADED = Counter(
    "fairgate_degraded_requests_total",
    "Requests admitted without the shared store, which was away.",
    _TENANT,
)
QUEUE = Histogram("fairgate_queue_seconds", "Time in line.", _TENANT)
FIRST_BYTE = Histogram(
    "fairgate_time_to_first_byte_seconds",
    "From the request to the answer's first byte: of a stream, its first token.",
    _TENANT,
)

WEIGHT = Gauge("fairgate_tenant_weight", "As configured.", _TENANT)
SHARE = Gauge(
    "fairgate_tenant_share_ratio",
    "Of the pool's service in about the last minute, this tenant's part.",
    _POOL_TENANT,
)
DUE = Gauge(
    "fairgate_tenant_due_ratio",
    "The part that was its due: the weighted max-min share, for what all asked for.",
    _POOL_TENANT,
)
SATISFIED = Gauge(
    "fairgate_tenant_satisfied_share_ratio",
    "Of its due, what it got, at most 1; tenants who asked for nothing are left out.",
    _POOL_TENANT,
)
JAIN = Gauge(
    "fairgate_jain_index",
    "Jain's index over the tenants' satisfied shares: 1 is fair, 1/n is one tenant having it all.",
    _POOL,
)
TENANT_WAITING = Gauge(
    "fairgate_tenant_waiting_requests", "In line, of this process.", _POOL_TENANT
)

GRANT = Histogram(
    "fairgate_grant_seconds",
    "From asking for capacity to having it, of requests that found some free: what admission costs"
    " where nobody waits.",
)
GATEWAYS = Gauge("fairgate_gateways", "Gateway processes alive, as the store counts them.", _POOL)
APP_COST = Gauge(
    "fairgate_app_expected_service_units",
    "Service of a typical request of this app, as learned.",
    ("pool", "app"),
)
OWED = Gauge("fairgate_settlements_owed", "Settlements that the store has not taken yet.", _POOL)
HELD = Gauge("fairgate_held_requests", "Granted and not settled yet, of this process.", _POOL)

STORE_UP = Gauge("fairgate_store_up", "1: the store answered when it was last asked.", _POOL)
STORE_OUTAGES = Counter("fairgate_store_outages_total", "Times that the store went away.", _POOL)
STORE_AWAY = Counter(
    "fairgate_store_outage_seconds_total",
    "Time without the store, the present outage's too.",
    _POOL,
)
STORE_CONNECTIONS = Counter(
    "fairgate_store_connections_total",
    "Connections made for calls; all but the first are reconnects.",
    _POOL,
)
STORE_CALLS = Counter("fairgate_store_calls_total", "Script calls sent.", _POOL)
STORE_ROUND_TRIP = Histogram(
    "fairgate_store_round_trip_seconds",
    "From sending a batch of script calls to its first reply.",
    _POOL,
)

LANE_WAITING = Gauge("fairgate_lane_waiting_requests", "In line, of all replicas.", _LANE)
LANE_RUNNING = Gauge("fairgate_lane_running_requests", "Granted, of all replicas.", _LANE)
LANE_LIMIT = Gauge("fairgate_lane_limit_sequences", "May run at once: the lane's capacity.", _LANE)
LANE_SATURATION = Gauge(
    "fairgate_lane_saturation_ratio",
    "Running and waiting requests over the limit: above 1 a line stands. NaN: no engine is up.",
    _LANE,
)
LANE_ENGINES = Gauge("fairgate_lane_engines_up", "Engines that are up.", _LANE)

ENGINE_UP = Gauge("fairgate_engine_up", "1: it answers.", _ENGINE)
ENGINE_SEQUENCES = Gauge(
    "fairgate_engine_capacity_sequences", "Sequences that it may run at once.", _ENGINE
)
ENGINE_KV = Gauge(
    "fairgate_engine_capacity_kv_tokens", "KV tokens that it holds; 0: not limited.", _ENGINE
)
ENGINE_PRESSURE = Gauge(
    "fairgate_engine_pressure_ratio",
    "By its own metrics, 1 is saturated; NaN: it does not tell.",
    _ENGINE,
)
ENGINE_RUNNING = Gauge("fairgate_engine_running_requests", "Running, as it tells.", _ENGINE)
ENGINE_WAITING = Gauge(
    "fairgate_engine_waiting_requests", "In its own queue, as it tells.", _ENGINE
)
ENGINE_KV_USED = Gauge(
    "fairgate_engine_kv_cache_usage_ratio", "Of its KV cache, as it tells.", _ENGINE
)

CIRCUIT = Gauge(
    "fairgate_circuit_state", "Of an engine's breaker: 0 closed, 1 half-open, 2 open.", _ENGINE
)
CIRCUIT_FAILURES = Counter(
    "fairgate_circuit_failures_total", "Requests that an engine failed.", _ENGINE
)

SAMPLES = Counter(
    "fairgate_best_of_samples_total",
    "Answers written for requests that get the best of several.",
    _LANE,
)
CASCADE = Counter(
    "fairgate_cascade_answers_total",
    "First answers of a cascade, by what became of them: kept, escalated, or not_escalated"
    " (too low, but the other lane gave none).",
    (*_LANE, "outcome"),
)

BUILD = Gauge("fairgate_build_info", "Always 1; the version is a label.", ("version",))

SECTIONS: dict[str, tuple[Described, ...]] = {
    "Requests, by tenant": (
        REQUESTS, TOKENS, SERVICE, UNSERVED, WASTED, THROTTLED, DEGRADED, QUEUE, FIRST_BYTE,
    ),
    "Shares": (WEIGHT, SHARE, DUE, SATISFIED, JAIN, TENANT_WAITING),
    "Ledger": (GRANT, GATEWAYS, APP_COST, HELD, OWED),
    "Store": (
        STORE_UP, STORE_OUTAGES, STORE_AWAY, STORE_CONNECTIONS, STORE_CALLS, STORE_ROUND_TRIP,
    ),
    "Lanes": (LANE_WAITING, LANE_RUNNING, LANE_LIMIT, LANE_SATURATION, LANE_ENGINES),
    "Engines": (
        ENGINE_UP, ENGINE_SEQUENCES, ENGINE_KV, ENGINE_PRESSURE, ENGINE_RUNNING, ENGINE_WAITING,
        ENGINE_KV_USED, CIRCUIT, CIRCUIT_FAILURES,
    ),
    "Several answers": (SAMPLES, CASCADE),
    "Process": (BUILD,),
}  # fmt: skip
"""As the page of metrics has them."""
