"""``loadgen measure``: what ``simulate`` says of the policies, checked on engines that run."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import product
from pathlib import Path
from typing import Annotated

import structlog
import typer
import uvloop

from fairgate.admission.embedded import EmbeddedStore
from fairgate.config import Lane
from loadgen.commands import options
from loadgen.commands.common import EXIT_USAGE, check_writable, say
from loadgen.errors import LoadgenError, SpecError, TargetError
from loadgen.job import until_signal
from loadgen.measurement.campaign import Measured, Trial, run_trial
from loadgen.measurement.engines import DEMO, Engines, read_lane, started
from loadgen.measurement.order import NOISE_SHARE
from loadgen.measurement.report import Comparison, text, write_json, write_report
from loadgen.measurement.scaling import Scale, check_site
from loadgen.simulation.modelled import check_profile
from loadgen.simulation.policies import named_policies
from loadgen.simulation.scenarios import SCENARIOS, Scenario
from loadgen.simulation.sources import Source, find_traces

EXIT_DISAGREES = 1
EXIT_UNREACHABLE = 3
EXIT_SIGNAL = 128
DEFAULT_SECONDS = 60.0


def measure(
    scenarios: Annotated[
        list[str],
        typer.Argument(metavar="SCENARIO...", help=f"Of simulate: {', '.join(SCENARIOS)}."),
    ],
    engines: options.EnginesFrom = DEMO,
    lane: options.LaneOfFile = "",
    profile: options.FittedProfile = "",
    policy: options.Policies = "fcfs,vtc,fairserve",
    seeds: options.Seeds = 1,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            help=f"Time in which the calls of a run come (default {DEFAULT_SECONDS:g}); it takes "
            "up to twice that.",
            rich_help_panel=options.LOAD,
        ),
    ] = None,
    calls: Annotated[
        int | None,
        typer.Option(min=50, help="About so many calls instead.", rich_help_panel=options.LOAD),
    ] = None,
    load: options.Load = None,
    scale_tokens: options.ScaleTokens = 0.1,
    retries: options.Retries = 0,
    data: options.Data = None,
    noise: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Policies that differ by less than this share are a tie, or by less than the "
            "capacity changed during the runs.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = NOISE_SHARE,
    report: options.Report = None,
    json: options.Json = None,
    markdown: options.Markdown = False,
) -> None:
    """Run scenarios on real engines behind a real gateway, simulate the same calls, compare.

    The engines are started once; each policy gets a gateway of its own. Files are written anew
    after every scenario, and a scenario that fails leaves the others their chance. Ends with 0; 1
    when real runs and simulation order the policies in opposite ways; 2 for wrong options; 3 when
    an engine or gateway does not serve; 130 after Ctrl-C.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    try:
        check_writable(json)
        if calls is not None and seconds is not None:
            raise SpecError("--calls and --seconds: each follows from the other; give one of them")
        check_profile(profile)
        session = Session(
            lane=read_lane(engines, lane),
            profile=profile,
            trials=_trials(
                scenarios, policy, seeds, load=load, retries=retries, data=data,
                scale=Scale(
                    tokens=scale_tokens,
                    calls=calls,
                    seconds=None if calls else seconds or DEFAULT_SECONDS,
                ),
            ),
            noise=noise,
            folder=_folder(report),
            report=report,
            json=json,
        )  # fmt: skip
        stopped_by = uvloop.run(until_signal(session.run()))
    except LoadgenError as error:
        say(f"loadgen: {error}")
        code = EXIT_UNREACHABLE if isinstance(error, TargetError) else EXIT_USAGE
        raise typer.Exit(code) from error
    typer.echo(text(session.comparison, markdown=markdown), nl=False)
    if report is not None and session.comparison.measured:
        say(f"the plots are in {report / 'report.html'}")
    if stopped_by is not None:
        raise typer.Exit(EXIT_SIGNAL + stopped_by)
    if session.failed:
        raise typer.Exit(EXIT_UNREACHABLE)
    raise typer.Exit(0 if session.comparison.agrees else EXIT_DISAGREES)


class Session:
    """All trials on one set of engines. ``comparison`` holds what is measured so far."""

    def __init__(
        self, *, lane: tuple[str, Lane], profile: str, trials: Sequence[Trial], noise: float,
        folder: Path, report: Path | None, json: Path | None,
    ) -> None:  # fmt: skip
        self._lane = lane
        self._profile = profile
        self._trials = trials
        self._noise = noise
        self._folder = folder
        self._report = report
        self._json = json
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
            say(f"starting the engines of lane {self._lane[0]}, logs in {self._folder}")
            engines = await stack.enter_async_context(
                started(*self._lane, profile=self._profile, log_dir=self._folder)
            )
            for trial in self._trials:
                trial.check(engines)
            for number, trial in enumerate(self._trials, 1):
                say(f"{number}/{len(self._trials)}: {trial.scenario.name}")
                await self._try(trial, engines, store.url.removeprefix("unix://"))

    async def _try(self, trial: Trial, engines: Engines, socket: str) -> None:
        """One that fails leaves the others their chance."""
        try:
            self._measured.append(await run_trial(trial, engines, socket, self._folder, say))
        except TargetError as error:
            self.failed = True
            say(f"{trial.scenario.name}, seed {trial.seed}: {error}")
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
        say(self.comparison.verdict(self._measured[-1].calibration.scenario))


def _trials(
    names: Sequence[str], policy: str, seeds: int, *, load: float | None, scale: Scale,
    retries: int, data: Path | None,
) -> list[Trial]:  # fmt: skip
    policies, source = named_policies(policy), Source(find_traces(data))
    chosen = [_scenario(name) for name in names]
    return [
        Trial(
            scenario=scenario,
            seed=seed,
            policies=policies,
            load=scenario.load if load is None else load,
            scale=scale,
            source=source,
            retries=retries,
        )
        for scenario, seed in product(chosen, range(seeds))
    ]


def _scenario(name: str) -> Scenario:
    if name not in SCENARIOS:
        raise SpecError(f"{name}: not a scenario; they are {', '.join(SCENARIOS)}")
    check_site(SCENARIOS[name])
    return SCENARIOS[name]


def _folder(report: Path | None) -> Path:
    """Where engines and gateways log."""
    if report is None:
        return Path(tempfile.mkdtemp(prefix="loadgen-measure-"))
    try:
        report.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"--report {report}: cannot be made: {error.strerror}") from error
    return report / "logs"
