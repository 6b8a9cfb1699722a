"""What a pool looked like over the last minutes, second by second, as this process saw it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from fairgate.admission.look import PoolLook

SAMPLES = 900
"""At one a second, 15 minutes."""

_AVERAGED_MS = 10_000.0
_BUSY = 120
"""Samples among which the busiest are looked for."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look, reduced to numbers."""

    at_ms: float
    tenants: Mapping[str, tuple[int, int]]
    """Requests running and in line, by tenant."""
    lanes: Mapping[str, tuple[int, float, int]]
    """Running, limit and in line, by lane."""


class Recent:
    """The samples of one pool."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)

    def take(self, look: PoolLook) -> Sample:
        """Add ``look``."""
        sample = Sample(
            at_ms=look.now_ms,
            tenants={t.name: (max(0, t.flight - t.waiting), t.waiting) for t in look.tenants},
            lanes={
                lane.name: (
                    sum(e.running for e in lane.engines),
                    sum(e.limit for e in lane.engines if e.up),
                    lane.waiting,
                )
                for lane in look.lanes
            },
        )
        self._samples.append(sample)
        return sample

    def means(self, tenant: str) -> tuple[float, float]:
        """Requests of ``tenant`` running and in line, on average over the last ten seconds."""
        since = self._samples[-1].at_ms - _AVERAGED_MS if self._samples else 0.0
        running = waiting = seen = 0
        for sample in reversed(self._samples):
            if sample.at_ms < since:
                break
            now = sample.tenants.get(tenant, (0, 0))
            running, waiting, seen = running + now[0], waiting + now[1], seen + 1
        return (running / seen, waiting / seen) if seen else (0.0, 0.0)

    def busiest(self, most: int) -> list[str]:
        """Tenants with most requests in line lately, at most ``most``, those with none left out."""
        peaks: dict[str, int] = {}
        first = max(0, len(self._samples) - _BUSY)
        for sample in islice(self._samples, first, None):
            for tenant, (_, waiting) in sample.tenants.items():
                if waiting > peaks.get(tenant, 0):
                    peaks[tenant] = waiting
        return sorted(peaks, key=lambda name: -peaks[name])[:most]
