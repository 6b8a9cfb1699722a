"""Medians over seeds, with confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import median

_RESAMPLES = 1000
_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and the interval that holds it with 95 % confidence."""

    median: float
    low: float
    high: float


def over_seeds(values: Sequence[float]) -> Spread | None:
    """By the percentile bootstrap (Efron 1979); the same values give the same interval.

    ``None`` of nothing. Few seeds give a rough interval, one seed none at all.
    """
    if not values:
        return None
    random = Random(0)  # noqa: S311  a reproducible figure
    drawn = sorted(median(random.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    outside = round((1 - _LEVEL) / 2 * _RESAMPLES)
    return Spread(median(values), drawn[outside], drawn[-1 - outside])
