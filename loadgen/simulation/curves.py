"""What the plots of one run show over time, thinned to a few hundred points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loadgen.metrics import group_by_tenant
from loadgen.records import Outcome
from loadgen.service import Accumulated, Price

_POINTS = 160

Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Curves:
    """Points of (seconds, value)."""

    accumulated: dict[str, Points]
    """Service of each tenant so far, divided by its weight."""
    windowed: dict[str, Points]
    """Service units per second, over a twentieth of the time."""
    difference: Points
    """Largest minus smallest accumulated service."""


def curves(outcomes: Sequence[Outcome], weights: Mapping[str, float], span_s: float) -> Curves:
    """Sample a run of ``span_s`` seconds; what drains after the last arrival is left out."""
    times = [span_s * k / _POINTS for k in range(_POINTS + 1)]
    window_s = span_s / 20
    accumulated: dict[str, Points] = {}
    windowed: dict[str, Points] = {}
    for name, calls in group_by_tenant(outcomes, weights).items():
        service = Accumulated(calls, Price())
        accumulated[name] = [(t, service.through(t) / weights[name]) for t in times]
        windowed[name] = [
            (t, (service.through(t) - service.through(t - window_s)) / window_s)
            for t in times
            if t >= window_s
        ]
    levels = [[value for _, value in points] for points in accumulated.values()]
    spread = [max(values) - min(values) for values in zip(*levels, strict=True)]
    return Curves(accumulated, windowed, list(zip(times, spread, strict=True)))
