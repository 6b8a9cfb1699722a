"""Watches whether predictions still come true, by lane: an alarm when they do not."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import structlog

from fairgate.config.routing import Drift as Settings

log = structlog.get_logger("fairgate.routing")

_CHANCE = 2.576
"""Standard errors: a two-sided 99 % bound."""


@dataclass(frozen=True, slots=True)
class Gap:
    """What was observed of a lane in the window, less what was predicted for the same requests."""

    mean: float
    error: float
    """Standard error of the mean."""
    judged: int

    def alarms(self, tolerance: float) -> bool:
        """It is larger than ``tolerance``, and chance does not explain it."""
        return abs(self.mean) > max(tolerance, _CHANCE * self.error)


class DriftWatch:
    """Of one pool in one process: feedback counts where it arrives."""

    def __init__(self, pool: str, settings: Settings) -> None:
        self._pool = pool
        self._settings = settings
        self._errors: dict[str, deque[float]] = {}
        self._alarmed: set[str] = set()

    def note(self, lane: str, predicted: float, score: float) -> None:
        """``lane`` was given ``score`` for an answer, where ``predicted`` was expected."""
        errors = self._errors.setdefault(lane, deque(maxlen=self._settings.window))
        errors.append(score - predicted)
        gap = self.gap(lane)
        if gap is None:
            return
        alarm = gap.alarms(self._settings.tolerance)
        if alarm and lane not in self._alarmed:
            self._alarmed.add(lane)
            log.warning(
                "predictions no longer come true; train the router anew",
                pool=self._pool, lane=lane, gap=round(gap.mean, 3), judged=gap.judged,
            )  # fmt: skip
        elif not alarm and lane in self._alarmed:
            self._alarmed.discard(lane)
            log.info("predictions come true again", pool=self._pool, lane=lane)

    def gap(self, lane: str) -> Gap | None:
        """``None`` until the window is full."""
        errors = self._errors.get(lane)
        if errors is None or len(errors) < self._settings.window:
            return None
        n = len(errors)
        mean = sum(errors) / n
        variance = sum((e - mean) ** 2 for e in errors) / max(1, n - 1)
        return Gap(mean, math.sqrt(variance / n), n)

    def gaps(self) -> dict[str, tuple[Gap, bool]]:
        """By lane with a full window, and whether it alarms."""
        return {
            lane: (gap, gap.alarms(self._settings.tolerance))
            for lane in self._errors
            if (gap := self.gap(lane)) is not None
        }
