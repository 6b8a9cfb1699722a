"""Counts of values by size, as a Prometheus histogram has them, for a fraction of the price."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate


class Distribution:
    """How many values were seen up to each of ``bounds``, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Of the values up to each bound and above the one before; the last without a bound."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """One more."""
        if value:
            self.counts[bisect_left(self.bounds, value)] += 1
            self.sum += value
        else:  # mostly: nobody waits where there is room
            self.counts[0] += 1

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds and counts, cumulative as Prometheus has them."""
        bounds = [*map(str, map(float, self.bounds)), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.counts)), strict=True))
