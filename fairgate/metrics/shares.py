"""How service is shared among tenants: their parts, their due, and how evenly it is met."""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from fairgate.metrics import catalogue
from fairgate.metrics.tenants import Tenants
from fairgate.pool import Pool

WINDOW_S = 60.0
"""How far back shares look, at least: to the scrape before that, or the start."""

_MOST_MARKS = 128


@dataclass(frozen=True, slots=True)
class Share:
    """One tenant's share of a pool's service in a while. In service units, prices counted."""

    served: float
    due: float

    @property
    def satisfied(self) -> float:
        """Of its due, what it got, 0 to 1."""
        return min(1.0, self.served / self.due)


def jain_index(values: Sequence[float]) -> float:
    """Jain's index (Σx)² / (n·Σx²): 1 when all are equal, 1/n when one has everything.

    Jain, Chiu, Hawe 1984 (DEC-TR-301). 1 for no values, and where nobody has anything.
    """
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def due_shares(
    demands: Mapping[str, float], weights: Mapping[str, float], capacity: float
) -> dict[str, float]:
    """Weighted max-min shares: min(demand, level · weight) with the level that uses ``capacity``.

    Max-min fairness as in Bertsekas, Gallager, Data Networks, §6.5.2.
    """
    shares = {}
    left, weight = capacity, math.fsum(weights[name] for name in demands)
    for name in sorted(demands, key=lambda name: demands[name] / weights[name]):
        shares[name] = min(demands[name], max(0.0, left) * weights[name] / weight)
        left -= shares[name]
        weight -= weights[name]
    return shares


def shares_of(
    served: Mapping[str, float], unserved: Mapping[str, float], weights: Mapping[str, float]
) -> dict[str, Share]:
    """The share of every tenant that asked for something.

    Its demand is what it was served and what it was not (refused, or waiting); its due is the
    weighted max-min share of all that was served.
    """
    demands = {name: served[name] + unserved.get(name, 0.0) for name in served}
    demands = {name: demand for name, demand in demands.items() if demand > 0}
    due = due_shares(demands, weights, math.fsum(served.values()))
    return {name: Share(served[name], due[name]) for name in demands if due[name] > 0}


@dataclass(frozen=True, slots=True)
class _Mark:
    at: float
    sums: Mapping[tuple[str, str, str], tuple[float, float]]
    """Served and unserved service by tenant, pool and lane, since the start."""


class Shares(Collector):
    """Shares in about the last minute, of what this process serves; made when somebody asks."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants
        self._marks: deque[_Mark] = deque(maxlen=_MOST_MARKS)
        self._of: dict[str, dict[str, Share]] = {}

    def look(self, pools: Mapping[str, Pool], now: float | None = None) -> None:
        """Bring the shares up to date; ``now`` is seconds by any clock."""
        now = time.monotonic() if now is None else now
        mark = _Mark(now, self._sums())
        while len(self._marks) > 1 and self._marks[1].at <= now - WINDOW_S:
            self._marks.popleft()
        before = self._marks[0].sums if self._marks else {}
        if not self._marks or now - self._marks[-1].at >= WINDOW_S / _MOST_MARKS:
            self._marks.append(mark)
        self._note_waiting(pools)
        self._of = {name: self._in(pool, before, mark.sums) for name, pool in pools.items()}

    def _note_waiting(self, pools: Mapping[str, Pool]) -> None:
        """Who still waits for the first answer has a share, too."""
        for pool in pools.values():
            for tenant, line in pool.admission.waiting().items():
                self._tenants.series(tenant).weight = line.weight

    def _in(
        self,
        pool: Pool,
        before: Mapping[tuple[str, str, str], tuple[float, float]],
        now: Mapping[tuple[str, str, str], tuple[float, float]],
    ) -> dict[str, Share]:
        weights = {tenant: series.weight or 0.0 for tenant, series in self._tenants.own()}
        served, unserved = dict.fromkeys(weights, 0.0), defaultdict[str, float](float)
        for (tenant, of, lane), (given, missed) in now.items():
            if of != pool.name or lane not in pool.lanes:
                continue
            price = pool.lanes[lane].price
            given_before, missed_before = before.get((tenant, of, lane), (0.0, 0.0))
            served[tenant] += price * (given - given_before)
            unserved[tenant] += price * (missed - missed_before)
        for tenant, line in pool.admission.waiting().items():
            unserved[tenant] += line.service
        return shares_of(served, unserved, weights)

    def _sums(self) -> dict[tuple[str, str, str], tuple[float, float]]:
        return {
            (tenant, pool, lane): (use.service, use.unserved)
            for tenant, series in self._tenants.own()
            for (pool, lane), use in series.at.items()
        }

    def collect(self) -> Iterator[Metric]:
        share, due = catalogue.SHARE.family(), catalogue.DUE.family()
        satisfied, jain = catalogue.SATISFIED.family(), catalogue.JAIN.family()
        for pool, shares in self._of.items():
            total = math.fsum(it.served for it in shares.values())
            for tenant, it in shares.items():
                where = (pool, tenant)
                share.add_metric(where, it.served / total if total else 0.0)
                due.add_metric(where, it.due / total if total else 0.0)
                satisfied.add_metric(where, it.satisfied)
            jain.add_metric((pool,), jain_index([it.satisfied for it in shares.values()]))
        yield from (share, due, satisfied, jain)
