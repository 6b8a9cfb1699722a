"""All trials on one set of engines, and what is written after each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from fairgate.admission.embedded import EmbeddedStore
from fairgate.config import Lane
from loadgen.errors import TargetError
from loadgen.measurement.campaign import Measured, Trial, run_trial
from loadgen.measurement.engines import Engines, started
from loadgen.measurement.report import Comparison, write_json, write_report


class Session:
    """Runs them one after the other. ``comparison`` holds what is measured so far; ``say`` is told
    how it goes."""

    def __init__(
        self, *, lane: tuple[str, Lane], profile: str, trials: Sequence[Trial], noise: float,
        folder: Path, report: Path | None, json: Path | None, say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._lane = lane
        self._profile = profile
        self._trials = trials
        self._noise = noise
        self._folder = folder
        self._report = report
        self._json = json
        self._say = say
        self._measured: list[Measured] = []
        self.comparison = Comparison([], "", {}, noise)
        self.failed = False
        """Some trial came to nothing."""

    async def run(self) -> None:
        """Start the engines, run the trials, stop the engines; also when cancelled."""
        async with AsyncExitStack() as stack:
            store = EmbeddedStore()
            stack.push_async_callback(store.stop)
            await store.start()
            self._say(f"starting the engines of lane {self._lane[0]}, logs in {self._folder}")
            engines = await stack.enter_async_context(
                started(*self._lane, profile=self._profile, log_dir=self._folder)
            )
            for trial in self._trials:
                trial.check(engines)
            for number, trial in enumerate(self._trials, 1):
                self._say(f"{number}/{len(self._trials)}: {trial.scenario.name}")
                await self._try(trial, engines, store.url.removeprefix("unix://"))

    async def _try(self, trial: Trial, engines: Engines, socket: str) -> None:
        """One that fails leaves the others their chance."""
        try:
            self._measured.append(await run_trial(trial, engines, socket, self._folder, self._say))
        except TargetError as error:
            self.failed = True
            self._say(f"{trial.scenario.name}, seed {trial.seed}: {error}")
        else:
            self._write(engines)

    def _write(self, engines: Engines) -> None:
        first = self._trials[0]
        about = (
            f"{engines.about}; lengths times {first.scale.tokens:g}; on {os.cpu_count()} cores. "
            f"Policies that differ by less than {100 * self._noise:g} %, or than the engines' "
            "capacity changed during the runs, are a tie. The simulation runs the same calls on an "
            "engine model whose speed is fitted to the capacity measured."
        )
        scenarios = {trial.scenario.name: trial.scenario.about for trial in self._trials}
        self.comparison = Comparison(self._measured, about, scenarios, self._noise)
        if self._report is not None:
            write_report(self.comparison, self._report)
        if self._json is not None:
            write_json(self.comparison, self._json)
        self._say(self.comparison.verdict(self._measured[-1].calibration.scenario))
