"""Prometheus metrics of routing: decisions, what was predicted, what came of it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from fairgate.routing.base import Decision

_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_SECONDS = (0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.002, 0.005, 0.02)
_TENANTS = 100


class RoutingMetrics:
    """Those of one gateway process, all pools together."""

    def __init__(self, registry: CollectorRegistry) -> None:
        router = ("pool", "router")
        self._decisions = Counter(
            "fairgate_router_decisions", "Requests routed, by the lane preferred and why.",
            (*router, "lane", "reason"), registry=registry,
        )  # fmt: skip
        self._confidence = Histogram(
            "fairgate_router_confidence", "How far the artefact knows such prompts.",
            router, buckets=_SHARES, registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "fairgate_router_decision_seconds", "Time that a decision took.",
            router, buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._shadow = Counter(
            "fairgate_router_shadow_decisions", "Decisions of the shadow, beside those obeyed.",
            (*router, "lane", "obeyed"), registry=registry,
        )  # fmt: skip
        self._feedback = Counter(
            "fairgate_router_feedback", "Requests that were given feedback.",
            (*router, "lane"), registry=registry,
        )  # fmt: skip
        self._score = Counter(
            "fairgate_router_score", "Sum of their scores, 0 to 1 each.",
            (*router, "lane"), registry=registry,
        )  # fmt: skip
        lane = ("pool", "lane")
        self._gap = Gauge(
            "fairgate_router_drift_gap", "Score observed less score predicted, in the window.",
            lane, registry=registry,
        )  # fmt: skip
        self._alarm = Gauge(
            "fairgate_router_drift_alarm", "1: predictions no longer come true.",
            lane, registry=registry,
        )  # fmt: skip
        self._debt = Gauge(
            "fairgate_router_debt", "Satisfaction owed, in requests.",
            ("pool", "tenant"), registry=registry,
        )  # fmt: skip
        self._tenants: set[tuple[str, str]] = set()

    def decided(self, pool: str, decision: Decision, seconds: float) -> None:
        """A decision was made, and is obeyed."""
        name = decision.router
        self._decisions.labels(pool, name, decision.actions[0].lane, decision.reason).inc()
        self._seconds.labels(pool, name).observe(seconds)
        if decision.confidence is not None:
            self._confidence.labels(pool, name).observe(decision.confidence)

    def shadowed(self, pool: str, shadow: Decision, obeyed: Decision) -> None:
        """The shadow decided as well."""
        lane, other = shadow.actions[0].lane, obeyed.actions[0].lane
        self._shadow.labels(pool, shadow.router, lane, other).inc()

    def judged(self, pool: str, router: str, lane: str, score: float) -> None:
        """Feedback came."""
        self._feedback.labels(pool, router, lane).inc()
        self._score.labels(pool, router, lane).inc(score)

    def drifts(self, pool: str, lane: str, gap: float, alarm: bool) -> None:
        """As it stands."""
        self._gap.labels(pool, lane).set(gap)
        self._alarm.labels(pool, lane).set(alarm)

    def owed(self, pool: str, tenant: str, debt: float) -> None:
        """As it stands; told of the first hundred tenants only."""
        if (pool, tenant) in self._tenants or len(self._tenants) < _TENANTS:
            self._tenants.add((pool, tenant))
            self._debt.labels(pool, tenant).set(debt)
