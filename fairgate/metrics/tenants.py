"""What each tenant's requests add up to."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from fairgate.distribution import Distribution
from fairgate.metrics import catalogue

OTHER = "other"

_QUEUE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_FIRST_BYTE_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Use:
    """What one tenant's requests at one lane add up to."""

    __slots__ = (
        "lane",
        "outcomes",
        "output_tokens",
        "pool",
        "prompt_tokens",
        "service",
        "unserved",
    )

    def __init__(self, pool: str, lane: str) -> None:
        self.pool = pool
        self.lane = lane
        self.outcomes: dict[str, int] = {}
        """Requests."""
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.service = 0.0
        self.unserved = 0.0
        """Expected service units of those that asked and got nothing."""


class TenantSeries:
    """Those of one tenant, or of all beyond the bound."""

    __slots__ = ("at", "degraded", "first_byte", "queue", "throttled", "wasted_tokens", "weight")

    def __init__(self) -> None:
        self.weight: float | None = None
        self.at: dict[tuple[str, str], Use] = {}
        """By pool and lane."""
        self.queue = Distribution(_QUEUE_BUCKETS)
        self.first_byte = Distribution(_FIRST_BYTE_BUCKETS)
        self.throttled: dict[str, int] = {}
        """By cause."""
        self.wasted_tokens = 0
        self.degraded = 0

    def use(self, pool: str, lane: str) -> Use:
        """What was used there, to be added to."""
        where = (pool, lane)
        found = self.at.get(where)
        if found is None:
            found = self.at[where] = Use(pool, lane)
        return found


class Tenants(Collector):
    """The series of all tenants. Bounded: the first ``most`` that come have their own."""

    def __init__(self, most: int = 100) -> None:
        self._most = most
        self.of: dict[str, TenantSeries] = {}

    def series(self, tenant: str) -> TenantSeries:
        """Those of ``tenant``."""
        found = self.of.get(tenant)
        if found is None:
            name = tenant if len(self.of) < self._most else OTHER
            found = self.of.setdefault(name, TenantSeries())
        return found

    def label(self, tenant: str) -> str:
        """What its samples are labelled with."""
        return tenant if tenant in self.of else OTHER

    def own(self) -> Iterator[tuple[str, TenantSeries]]:
        """The series that are of one tenant, which is known by name and weight."""
        for tenant, series in self.of.items():
            if tenant != OTHER and series.weight is not None:
                yield tenant, series

    def collect(self) -> Iterator[Metric]:
        requests, tokens = catalogue.REQUESTS.family(), catalogue.TOKENS.family()
        service, unserved = catalogue.SERVICE.family(), catalogue.UNSERVED.family()
        wasted, throttled = catalogue.WASTED.family(), catalogue.THROTTLED.family()
        degraded, weight = catalogue.DEGRADED.family(), catalogue.WEIGHT.family()
        queue, first_byte = catalogue.QUEUE.family(), catalogue.FIRST_BYTE.family()
        for tenant, series in self.of.items():
            for use in series.at.values():
                where = (tenant, use.pool, use.lane)
                for outcome, count in use.outcomes.items():
                    requests.add_metric((*where, outcome), count)
                tokens.add_metric((*where, "prompt"), use.prompt_tokens)
                tokens.add_metric((*where, "output"), use.output_tokens)
                service.add_metric(where, use.service)
                unserved.add_metric(where, use.unserved)
            for cause, count in series.throttled.items():
                throttled.add_metric((tenant, cause), count)
            wasted.add_metric((tenant,), series.wasted_tokens)
            degraded.add_metric((tenant,), series.degraded)
            queue.add_metric((tenant,), series.queue.buckets(), series.queue.sum)
            first_byte.add_metric((tenant,), series.first_byte.buckets(), series.first_byte.sum)
        for tenant, series in self.own():
            weight.add_metric((tenant,), series.weight or 0.0)
        yield from (
            requests, tokens, service, unserved, wasted, throttled, degraded, weight, queue,
            first_byte,
        )  # fmt: skip
