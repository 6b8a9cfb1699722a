"""``loadgen measure``: what ``simulate`` says of the policies, checked on engines that run."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated

import structlog
import typer
import uvloop

from loadgen.commands import options
from loadgen.commands.common import (
    EXIT_SIGNAL,
    EXIT_UNREACHABLE,
    check_writable,
    errors_told,
    say,
)
from loadgen.errors import SpecError
from loadgen.job import until_signal
from loadgen.measurement.campaign import Trial
from loadgen.measurement.engines import DEMO, read_lane
from loadgen.measurement.order import NOISE_SHARE
from loadgen.measurement.report import text
from loadgen.measurement.scaling import Scale, check_site
from loadgen.measurement.session import Session
from loadgen.simulation.modelled import check_profile
from loadgen.simulation.policies import named_policies
from loadgen.simulation.scenarios import SCENARIOS, Scenario
from loadgen.simulation.sources import Source, find_traces

EXIT_DISAGREES = 1
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
    with errors_told():
        check_writable(json)
        scale = _scale(scale_tokens, calls, seconds)
        check_profile(profile)
        session = Session(
            lane=read_lane(engines, lane),
            profile=profile,
            trials=_trials(
                scenarios, policy, seeds, load=load, retries=retries, data=data, scale=scale
            ),
            noise=noise,
            folder=_folder(report),
            report=report,
            json=json,
            say=say,
        )
        stopped_by = uvloop.run(until_signal(session.run()))
    typer.echo(text(session.comparison, markdown=markdown), nl=False)
    if report is not None and session.comparison.measured:
        say(f"the plots are in {report / 'report.html'}")
    raise typer.Exit(_exit_code(session, stopped_by))


def _exit_code(session: Session, stopped_by: int | None) -> int:
    if stopped_by is not None:
        return EXIT_SIGNAL + stopped_by
    if session.failed:
        return EXIT_UNREACHABLE
    return 0 if session.comparison.agrees else EXIT_DISAGREES


def _scale(tokens: float, calls: int | None, seconds: float | None) -> Scale:
    if calls is not None and seconds is not None:
        raise SpecError("--calls and --seconds: each follows from the other; give one of them")
    return Scale(tokens=tokens, calls=calls, seconds=None if calls else seconds or DEFAULT_SECONDS)


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
