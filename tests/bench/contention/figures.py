"""From the times that the engine noted to the latency of grants and the share of idle capacity."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import msgspec

from tests.bench.contention.engine import Times
from tests.bench.hotpath.figures import quantile


class Contention(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    waiting: int
    """Requests in line all the while."""
    sequences: int
    service_ms: float
    """Mean time that the engine takes for a request."""
    grants: int
    grant_p50_ms: float
    """From the end of an answer until the request that takes its place is at the engine."""
    grant_p90_ms: float
    grant_p99_ms: float
    idle_share: float
    """Of the capacity, while somebody waited."""
    most_at_once: int
    """Requests at the engine; more than ``sequences`` would be a mistake of the gateway."""
    cpu_us: float
    """Of the gateway, per request."""
    store_us: float


def grant_latencies_s(times: Times, sequences: int, since: float, until: float) -> list[float]:
    """For each answer that ended within the time: how long its sequence stayed free.

    The engine is full while somebody waits, so the arrival that fills the place of end ``i`` is
    number ``i + sequences``.
    """
    arrivals, ends = times.arrivals, times.ends
    first, last = bisect_left(ends, since), bisect_left(ends, until)
    last = min(last, len(arrivals) - sequences)
    return [arrivals[i + sequences] - ends[i] for i in range(first, last)]


def idle_share(times: Times, sequences: int, since: float, until: float) -> float:
    """Mean share of the sequences that were free."""
    free_s, free, last = 0.0, sequences, since
    for at, change in _steps(times):
        if at > until:
            break
        if at > last:
            free_s += free * (at - last)
            last = at
        free += change
    free_s += free * (until - last)
    return free_s / (sequences * (until - since))


def most_at_once(times: Times) -> int:
    """Requests that were at the engine together."""
    running, most = 0, 0
    for _, change in _steps(times):
        running -= change
        most = max(most, running)
    return most


def latency_quantiles_ms(latencies_s: Sequence[float]) -> tuple[float, float, float]:
    """p50, p90 and p99."""
    p50, p90, p99 = (quantile(latencies_s, share) * 1e3 for share in (0.5, 0.9, 0.99))
    return p50, p90, p99


def _steps(times: Times) -> list[tuple[float, int]]:
    """When a sequence was taken (-1) and freed (+1), in order of time."""
    taken = [(at, -1) for at in times.arrivals]
    return sorted(taken + [(at, 1) for at in times.ends])
