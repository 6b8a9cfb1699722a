"""Fit a trace to the replay: which part of it, how fast, and texts how long."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from loadgen.errors import SpecError
from loadgen.records import TraceRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """Which part of a trace is replayed, and how fast. ``None``: not given.

    Two of ``limit``, ``duration_s`` and ``rate`` fix the third. One alone: ``limit`` takes the
    first requests and ``duration_s`` the first seconds at the trace's own speed, ``rate`` the whole
    trace at that mean rate. ``time_scale`` stretches the trace's time (2.0: twice as slow) and goes
    with ``limit`` and ``duration_s`` but not with ``rate``.
    """

    start_s: float = 0.0
    """Seconds of the trace, at its own speed, that are left out at its beginning."""
    limit: int | None = None
    duration_s: float | None = None
    rate: float | None = None
    """Mean requests per second."""
    time_scale: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start_s) and self.start_s >= 0):
            raise SpecError(f"--start: expected seconds >= 0, got {self.start_s}")
        for name, value in (
            ("--limit", self.limit),
            ("--duration", self.duration_s),
            ("--rate", self.rate),
            ("--time-scale", self.time_scale),
        ):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise SpecError(f"{name}: expected a number > 0, got {value}")
        if self.rate is not None and self.time_scale is not None:
            raise SpecError("--rate and --time-scale both set the speed: give one of them")
        if None not in (self.rate, self.limit, self.duration_s):
            raise SpecError("--limit, --duration and --rate: two of them fix the third")

    def fit(self, trace: list[TraceRequest]) -> list[TraceRequest]:
        """Cut and stretch; the first request comes at 0 s.

        Raises ``SpecError`` when nothing is left.
        """
        part = [request for request in trace if request.at_s >= self.start_s]
        if not part:
            raise SpecError(
                f"--start {self.start_s:g}: the trace has no request after that "
                f"(its last one comes at {trace[-1].at_s:.0f} s)"
            )
        part = self._cut_by_number(part)
        scale = self._scale(part)
        first_s = part[0].at_s
        scaled = [replace(request, at_s=(request.at_s - first_s) * scale) for request in part]
        if self._duration_cuts:
            scaled = [request for request in scaled if request.at_s < (self.duration_s or 0)]
        return scaled

    @property
    def _duration_cuts(self) -> bool:
        """The duration ends the replay, instead of setting its speed."""
        alone = self.rate is None and self.limit is None
        return self.duration_s is not None and (alone or self.time_scale is not None)

    def _cut_by_number(self, part: list[TraceRequest]) -> list[TraceRequest]:
        if self.rate is not None and self.duration_s is not None:
            return part[: max(1, round(self.rate * self.duration_s))]
        return part[: self.limit]

    def _scale(self, part: list[TraceRequest]) -> float:
        """Replay seconds per trace second."""
        if self.time_scale is not None:
            return self.time_scale
        duration_s = self.duration_s
        if self.rate is not None:
            duration_s = len(part) / self.rate
        span_s = part[-1].at_s - part[0].at_s
        if duration_s is None or self._duration_cuts or span_s == 0:
            return 1.0
        # The span holds one gap fewer than there are requests.
        return duration_s * (len(part) - 1) / len(part) / span_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Scale the trace's token lengths to the size of the engines."""

    scale: float = 1.0
    max_prompt: int | None = None
    max_output: int | None = None

    def __post_init__(self) -> None:
        for name, value in (
            ("--scale-tokens", self.scale),
            ("--max-prompt", self.max_prompt),
            ("--max-output", self.max_output),
        ):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise SpecError(f"{name}: expected a number > 0, got {value}")

    def fit(self, request: TraceRequest) -> TraceRequest:
        """Scale first, then cap; a request keeps at least one token each way."""
        return replace(
            request,
            prompt_tokens=_capped(request.prompt_tokens * self.scale, self.max_prompt),
            output_tokens=_capped(request.output_tokens * self.scale, self.max_output),
        )


def _capped(tokens: float, cap: int | None) -> int:
    return max(1, min(round(tokens), cap if cap is not None else round(tokens)))
