"""Runs one scenario under every policy, for real and then simulated, on the very same calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace as replace_struct

from fairgate.config import Policy
from loadgen.measurement.calibration import Calibration, calibrate, capacity
from loadgen.measurement.engines import Engines
from loadgen.measurement.scaling import (
    Scale,
    check_lengths,
    draw,
    on_engines,
    sample,
)
from loadgen.measurement.traffic import lost, play
from loadgen.simulation.campaign import Result
from loadgen.simulation.curves import curves
from loadgen.simulation.driver import Recording, simulate
from loadgen.simulation.figures import Conditions, figures
from loadgen.simulation.scenarios import Scenario
from loadgen.simulation.sources import Source
from loadgen.simulation.workload import Workload

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One scenario, drawn with one seed, to be run under every policy."""

    scenario: Scenario
    seed: int
    policies: Mapping[str, Policy]
    load: float
    scale: Scale
    source: Source
    retries: int = 0

    def sample(self) -> Workload:
        """A short draw, to measure what the engines can serve of it."""
        return sample(self.scenario, self.scale, self.seed, self.source)

    def check(self, engines: Engines) -> None:
        """Raises ``SpecError`` when its calls are too long for these engines."""
        check_lengths(self.sample(), engines, name=self.scenario.name, tokens=self.scale.tokens)


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of a trial; the results are in the order of the policies."""

    calibration: Calibration
    real: list[Result]
    simulated: list[Result]


async def run_trial(trial: Trial, engines: Engines, store: str, folder: Path, say: Say) -> Measured:
    """Measure the engines' capacity, send the calls under each policy, and simulate the same.

    The capacity is measured again after the real runs, to show whether the machine was quiet.
    ``store`` is the socket of the simulation's store, ``folder`` gets the gateways' logs. Raises
    ``TargetError`` when a gateway does not start or serves nothing.
    """
    return await _Run(trial, engines, store, folder, say).run()


class _Run:
    def __init__(self, trial: Trial, engines: Engines, store: str, folder: Path, say: Say) -> None:
        self._trial = trial
        self._engines = engines
        self._store = store
        self._folder = folder
        self._say = say
        self._name = trial.scenario.name

    async def run(self) -> Measured:
        trial = self._trial
        self._say(f"{self._name}, seed {trial.seed}: measuring what the engines can serve")
        calibration = await calibrate(
            self._name, trial.sample(), self._engines, self._store, self._folder, seed=trial.seed
        )
        self._say(
            f"{self._name}, seed {trial.seed}: {calibration.calls_per_s:.2f} calls/s, "
            f"{calibration.profile_calls_per_s:.2f} by the profile"
        )
        served = calibration.calls_per_s
        workload = draw(
            trial.scenario, trial.scale, trial.seed, trial.source,
            calls_per_s=trial.load * served,
        )  # fmt: skip
        models = on_engines(workload, self._engines.at_speed(calibration.speed))
        real = [await self._real(workload, models, policy, served) for policy in trial.policies]
        self._say(f"{self._name}, seed {trial.seed}: measuring what the engines can serve now")
        after = await capacity(trial.sample(), self._engines, self._folder, seed=trial.seed)
        simulated = [await self._simulated(models, policy, served) for policy in trial.policies]
        return Measured(replace_struct(calibration, calls_per_s_after=after), real, simulated)

    async def _real(
        self, workload: Workload, models: Workload, policy: str, served: float
    ) -> Result:
        """``models``: the same on the engines' models, which tell what work the calls were."""
        site = on_engines(workload, self._engines.running, self._engines.model)
        limited, rpm = site.with_limits(self._trial.policies[policy].preset)

        async def real(part: Workload, what: str) -> Recording:
            self._say(
                f"{self._name}, {policy}, seed {self._trial.seed}{what}: {part.calls} calls in "
                f"{part.span_s:.0f} s, all answered within about {2 * part.span_s:.0f} s"
            )
            settings, seed = self._trial.policies[policy], self._trial.seed
            (recording,) = await play(
                [part], settings, self._folder, seed=seed, retries=self._trial.retries
            )
            if errors := lost(recording.outcomes):
                self._say(f"{self._name}, {policy}: errors: {errors}")
            return recording

        recording = await real(limited, "")
        without = None
        if limited.abuser:
            without = await real(limited.without_abuser(), ", without the abuser")
        result = self._result(models, policy, served, rpm, recording, without)
        run = replace_struct(result.run, real=True, idle_while_waiting_s=None)
        return Result(run, result.curves)

    async def _simulated(self, workload: Workload, policy: str, served: float) -> Result:
        settings, trial = self._trial.policies[policy], self._trial
        limited, rpm = workload.with_limits(settings.preset)

        def virtual(part: Workload) -> Recording:
            return simulate(part, settings, self._store, seed=trial.seed, retries=trial.retries)

        self._say(f"{self._name}, {policy}, seed {trial.seed}: simulating the same calls")
        recording = await asyncio.to_thread(virtual, limited)
        without = None
        if limited.abuser:
            without = await asyncio.to_thread(virtual, limited.without_abuser())
        return self._result(limited, policy, served, rpm, recording, without)

    def _result(
        self, workload: Workload, policy: str, served: float, rpm: int,
        recording: Recording, without: Recording | None,
    ) -> Result:  # fmt: skip
        conditions = Conditions(
            scenario=self._name,
            policy=policy,
            seed=self._trial.seed,
            load=self._trial.load,
            capacity=served,
            rpm=rpm,
        )
        run = figures(conditions, self._trial.policies[policy], workload, recording, without)
        return Result(run, curves(recording.outcomes, workload.weights, workload.span_s))
