"""The gateway's Prometheus metrics.

What every request adds to is kept in plain numbers and told when somebody asks: looking a series up
by its labels costs more than all the rest. ``catalogue`` names and describes each, ``tenants``,
``waste`` and ``shares`` count by tenant, ``pools`` tells what stands in the pools.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from fairgate.admission.model import Served
from fairgate.distribution import Distribution
from fairgate.metrics import catalogue
from fairgate.metrics.pools import Pools
from fairgate.metrics.shares import Shares
from fairgate.metrics.tenants import Tenants
from fairgate.metrics.waste import Waste
from fairgate.pool import Pool

_GRANT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """All of them, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._tenants = Tenants()
        self._waste = Waste()
        self._shares = Shares(self._tenants)
        self._pools = Pools(self._tenants)
        self._process = _Process()
        for collector in (self._tenants, self._shares, self._pools, self._process):
            self.registry.register(collector)
        ProcessCollector(registry=self.registry)

    def ended(
        self,
        tenant: str,
        weight: float | None,
        pool: str,
        lane: str,
        outcome: str,
        *,
        queue_s: float,
        grant_s: float | None,
        first_byte_s: float | None,
        served: Served,
    ) -> None:
        """One request ended.

        ``weight`` is ``None`` where nobody knows who sent it, ``grant_s`` where it did not find
        free capacity, and ``first_byte_s`` where it got no answer.
        """
        series = self._tenants.of.get(tenant) or self._tenants.series(tenant)
        series.weight = weight
        series.queue.observe(queue_s)
        if grant_s is not None:
            self._process.grant.observe(grant_s)
        if first_byte_s is not None:
            series.first_byte.observe(first_byte_s)
        use = series.at.get((pool, lane)) or series.use(pool, lane)
        use.outcomes[outcome] = use.outcomes.get(outcome, 0) + 1
        if not served.void:
            use.prompt_tokens += served.prompt_tokens
            use.output_tokens += served.tokens - served.prompt_tokens
            use.service += served.cost

    def unserved(self, tenant: str, pool: str, lane: str, service: float) -> None:
        """A request that asked for ``service`` units got nothing."""
        self._tenants.series(tenant).use(pool, lane).unserved += service

    def throttled(self, tenant: str, cause: str) -> None:
        """One request was refused with 429."""
        throttled = self._tenants.series(tenant).throttled
        throttled[cause] = throttled.get(cause, 0) + 1

    def passed_by(self, tenant: str) -> None:
        """One request was served without the store."""
        self._tenants.series(tenant).degraded += 1

    def call_served(self, tenant: str, interaction: str, served: Served) -> None:
        """A call of an interaction was served; of one without an id, ``served`` may give it one."""
        first = interaction or served.continues_as
        wasted = self._waste.served(first, served.tokens, served.continues_as)
        self._tenants.series(tenant).wasted_tokens += wasted

    def call_lost(self, tenant: str, interaction: str) -> None:
        """A call of an interaction was refused or failed, not by a mistake of the client's."""
        self._tenants.series(tenant).wasted_tokens += self._waste.lost(interaction)

    def sampled(self, pool: str, lane: str, answers: int) -> None:
        """Several answers were written, to choose one."""
        _add(self._process.samples, (pool, lane), answers)

    def cascaded(self, pool: str, lane: str, outcome: str) -> None:
        """The first answer of a cascade was ``kept``, ``escalated`` or ``not_escalated``."""
        _add(self._process.cascade, (pool, lane, outcome), 1)

    def render(self, pools: Mapping[str, Pool]) -> bytes:
        """The exposition text, with the pools' state as of their last heartbeat."""
        self._pools.of = pools
        self._shares.look(pools)
        return generate_latest(self.registry)


class _Process(Collector):
    """What is not counted by tenant."""

    def __init__(self) -> None:
        self.grant = Distribution(_GRANT_BUCKETS)
        self.samples: dict[tuple[str, ...], int] = {}
        self.cascade: dict[tuple[str, ...], int] = {}

    def collect(self) -> Iterator[Metric]:
        grant, build = catalogue.GRANT.family(), catalogue.BUILD.family()
        grant.add_metric((), self.grant.buckets(), self.grant.sum)
        build.add_metric((version("fairgate"),), 1)
        samples, cascade = catalogue.SAMPLES.family(), catalogue.CASCADE.family()
        for where, count in self.samples.items():
            samples.add_metric(where, count)
        for where, count in self.cascade.items():
            cascade.add_metric(where, count)
        yield from (grant, build, samples, cascade)


def _add(counts: dict[tuple[str, ...], int], key: tuple[str, ...], more: int) -> None:
    counts[key] = counts.get(key, 0) + more
