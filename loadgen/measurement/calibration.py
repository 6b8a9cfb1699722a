"""Holds the engine model against the engines, and fits its speed to the capacity they showed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from loadgen.errors import TargetError
from loadgen.measurement.engines import Engines
from loadgen.measurement.scaling import alone, on_engines
from loadgen.measurement.traffic import lost, play
from loadgen.metrics import tpot_ms
from loadgen.records import Outcome
from loadgen.simulation.capacity import burst, served_per_s
from loadgen.simulation.driver import simulate
from loadgen.simulation.policies import PRESETS
from loadgen.simulation.workload import Workload

_BATCHES = 10
_FEWEST, _MOST = 50, 600

_FCFS = PRESETS["fcfs"]


class Pace(Struct, frozen=True, kw_only=True):
    """Median time per output token, milliseconds; ``None`` where answers are too short to tell."""

    alone_ms: float | None
    """Of a call that has the engines for itself."""
    full_ms: float | None
    """Of calls in a burst that fills the engines."""


class Calibration(Struct, frozen=True, kw_only=True):
    """What the engines can do with the calls of one scenario, and what the model says of it."""

    scenario: str
    seed: int
    calls_per_s: float
    """Served by the engines in a burst under ``fcfs``, before the runs."""
    calls_per_s_after: float | None = None
    """The same burst after them: how far the machine itself changed meanwhile."""
    profile_calls_per_s: float
    """The same by the model, at the speed of its profile."""
    speed: float
    """By which the model is made faster for its runs: the first over the second."""
    pace: Pace
    """Of the engines."""
    fitted_pace: Pace
    """Of the model at that speed: what one factor cannot fit."""

    @property
    def drift(self) -> float:
        """By which share the capacity changed during the runs; 0 if not measured again."""
        after = self.calls_per_s if self.calls_per_s_after is None else self.calls_per_s_after
        return after / self.calls_per_s - 1

    @property
    def text(self) -> str:
        """In a line."""
        paces = (
            f"{what} {_ms(real)} ms, simulated {_ms(simulated)} ms"
            for what, real, simulated in (
                ("alone", self.pace.alone_ms, self.fitted_pace.alone_ms),
                ("in a burst", self.pace.full_ms, self.fitted_pace.full_ms),
            )
        )
        off = self.profile_calls_per_s / self.calls_per_s - 1
        return (
            f"capacity {self.calls_per_s:.2f} calls/s, after the runs {self.drift:+.0%}; by the "
            f"profile {self.profile_calls_per_s:.2f} ({off:+.0%}), hence simulated at speed "
            f"{self.speed:.2f}; time per output token {'; '.join(paces)}"
        )


async def calibrate(
    name: str, workload: Workload, engines: Engines, store: str, folder: Path, *, seed: int
) -> Calibration:
    """Send a few calls of ``workload`` one by one, then many at once, for real and simulated.

    ``store`` is the socket of the simulation's store. Raises ``TargetError`` as
    :func:`~loadgen.measurement.traffic.play` does, and when half of the calls fail.
    """
    probes = alone(workload, seed), _burst(workload, engines, seed)
    sites = [on_engines(probe, engines.running, engines.model) for probe in probes]
    real = await play(sites, _FCFS, folder, seed=seed)

    def simulated(speed: float) -> list[list[Outcome]]:
        models = engines.at_speed(speed)
        return [simulate(on_engines(p, models), _FCFS, store, seed=seed).outcomes for p in probes]

    calls_per_s = _served_per_s(real[1].outcomes)
    as_profile = _served_per_s((await asyncio.to_thread(simulated, 1.0))[1])
    speed = calls_per_s / as_profile
    return Calibration(
        scenario=name,
        seed=seed,
        calls_per_s=calls_per_s,
        profile_calls_per_s=as_profile,
        speed=speed,
        pace=_pace([recording.outcomes for recording in real]),
        fitted_pace=_pace(await asyncio.to_thread(simulated, speed)),
    )


async def capacity(workload: Workload, engines: Engines, folder: Path, *, seed: int) -> float:
    """Calls per second that the engines serve now, of the burst that :func:`calibrate` sent."""
    site = on_engines(_burst(workload, engines, seed), engines.running, engines.model)
    (recording,) = await play([site], _FCFS, folder, seed=seed)
    return _served_per_s(recording.outcomes)


def _served_per_s(outcomes: Sequence[Outcome]) -> float:
    done = sum(o.result == "completed" for o in outcomes)
    if done < len(outcomes) / 2:
        raise TargetError(
            f"of {len(outcomes)} calls at once the engines completed {done}: {lost(outcomes)}"
        )
    return served_per_s(outcomes)


def _burst(workload: Workload, engines: Engines, seed: int) -> Workload:
    return burst(workload, seed, min(_MOST, max(_FEWEST, _BATCHES * engines.sequences)))


def _pace(probes: Sequence[Sequence[Outcome]]) -> Pace:
    single, full = (tpot_ms(outcomes).p50 for outcomes in probes)
    return Pace(alone_ms=single, full_ms=full)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
