"""Service and refusals of one pool over the last quarter of an hour, as the store counted them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fairgate.admission.look import SLICE_S, SliceLook

SLICES = 90
"""How many are kept: 15 minutes."""

_OPEN = 2
"""Slices that may still be charged: a script that began in one may end in the next."""

_LEAST_S = 3.0
"""Of the slice that is now: a rate over less would be noise."""


class History:
    """The slices of one pool. Slices that are over are asked for once."""

    def __init__(self) -> None:
        self._service: dict[int, dict[str, float]] = {}
        self._total: dict[int, float] = {}
        self._refused: dict[int, dict[str, int]] = {}
        self._over: dict[float, tuple[int, dict[str, float]]] = {}
        self._next: int | None = None
        self._elapsed_s = SLICE_S
        self.last = 0
        """The slice that was now at the last look."""

    def wanted(self, now_slice: int) -> int:
        """The first slice that the next look should tell of."""
        first = now_slice - SLICES + 1
        return first if self._next is None else max(first, self._next)

    def take(self, slices: Iterable[SliceLook], now_slice: int, now_s: float) -> bool:
        """Take in what a look told; whether nothing is missing up to now."""
        self.last = now_slice
        self._elapsed_s = max(_LEAST_S, now_s - now_slice * SLICE_S)
        for one in slices:
            self._service[one.number] = dict(one.service)
            self._total[one.number] = sum(units for _, units in one.service)
            self._refused[one.number] = dict(one.refused)
            if one.number <= now_slice - _OPEN:
                self._over.clear()
            self._next = min(one.number + 1, now_slice - _OPEN + 1)
        oldest = now_slice - SLICES
        for kept in (self._service, self._total, self._refused):
            for number in [n for n in kept if n <= oldest]:
                del kept[number]
        return now_slice in self._service

    def service(self, seconds: float) -> dict[str, float]:
        """Units by tenant in about the last ``seconds``; never below 0."""
        recent = self._recent(seconds)
        at, over = self._over.get(seconds, (0, {}))
        if at != self.last:  # what is over is summed up once a slice
            over = self._sum({}, recent[:-_OPEN])
            self._over[seconds] = (self.last, over)
        sums = self._sum(dict(over), recent[-_OPEN:])
        return {tenant: max(0.0, units) for tenant, units in sums.items()}

    def _sum(self, sums: dict[str, float], numbers: range) -> dict[str, float]:
        for number in numbers:
            for tenant, units in self._service.get(number, {}).items():
                sums[tenant] = sums.get(tenant, 0.0) + units
        return sums

    def refused(self, seconds: float) -> dict[str, dict[str, int]]:
        """Refusals by tenant and limit in about the last ``seconds``."""
        sums: dict[str, dict[str, int]] = {}
        for number in self._recent(seconds):
            for field, count in self._refused.get(number, {}).items():
                tenant, _, limit = field.partition(" ")
                by_limit = sums.setdefault(tenant, {})
                by_limit[limit] = by_limit.get(limit, 0) + count
        return sums

    def rates(self, tenants: Iterable[str]) -> Mapping[str, list[float]]:
        """Units per second by tenant in each slice, the oldest first; ``rest``: all others."""
        named = list(tenants)
        rows: dict[str, list[float]] = {name: [] for name in (*named, "rest")}
        for number in self.numbers():
            length_s = SLICE_S if number < self.last else self._elapsed_s
            found = self._service.get(number, {})
            told = {name: found.get(name, 0.0) for name in named}
            rest = self._total.get(number, 0.0) - sum(told.values())
            for name, units in (*told.items(), ("rest", rest)):
                rows[name].append(max(0.0, units) / length_s)
        return rows

    def numbers(self) -> range:
        """The slices that are kept."""
        return range(self.last - SLICES + 1, self.last + 1)

    def _recent(self, seconds: float) -> range:
        return range(self.last - round(seconds / SLICE_S) + 1, self.last + 1)
