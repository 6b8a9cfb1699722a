"""``loadgen simulate``: what every policy would do with a load, in virtual time."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from loadgen.commands import options
from loadgen.commands.common import EXIT_USAGE, check_writable, say
from loadgen.errors import LoadgenError, SpecError
from loadgen.report import markdown_table, plain_table
from loadgen.simulation.campaign import Experiment, Result, experiments, run_all
from loadgen.simulation.goals import goal_rows, goals
from loadgen.simulation.modelled import check_profile
from loadgen.simulation.output import write_report, write_runs
from loadgen.simulation.own_site import (
    Site,
    check_scenario,
    read_shares,
    read_site,
    with_scenario,
    with_trace,
)
from loadgen.simulation.policies import named_policies
from loadgen.simulation.scenarios import SCENARIOS, Build, Scenario, of_trace
from loadgen.simulation.sources import Source, find_traces
from loadgen.simulation.table import table_of

ALL = "all"

_SYNTHETIC = "synthetic:"
_FEW = 100


def simulate(
    scenarios: Annotated[
        list[str],
        typer.Argument(
            metavar="SCENARIO|TRACE...",
            help=f"all, {', '.join(SCENARIOS)}; or a trace as for replay (APP=FILE names its app).",
        ),
    ],
    policy: options.Policies = ALL,
    seeds: options.Seeds = 3,
    calls: Annotated[
        int,
        typer.Option(min=100, help="About so many calls per run.", rich_help_panel=options.LOAD),
    ] = 4000,
    load: options.Load = None,
    config: options.OwnConfig = None,
    pool: options.PoolOfFile = "",
    profile: options.OwnProfile = "",
    shares: options.Shares = "",
    headroom: options.Headroom = "",
    retries: options.Retries = 0,
    data: options.Data = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: one for each core.")
    ] = None,
    report: options.Report = None,
    json: options.Json = None,
    markdown: options.Markdown = False,
) -> None:
    """Simulate scenarios or traces under several policies and print what each of them gives.

    The policies are fairgate's own scripts on an embedded store; engines and time are simulated.
    With --config, a trace is spread over the tenants of your configuration, under their limits; a
    scenario keeps its own tenants and runs on your lanes.
    The same arguments give the same figures. Ends with 0, or 2 for wrong options.
    """
    try:
        check_writable(
            json, report and report / "report.json" if report and report.is_dir() else None
        )
        site = _site(config, pool, profile, shares)
        chosen = _chosen(scenarios, site, shares)
        planned = experiments(
            chosen, named_policies(policy, None if site is None else site.policy), seeds,
            load=load, calls=calls, source=Source(find_traces(data)), retries=retries,
            headrooms=_headrooms(headroom),
        )  # fmt: skip
    except LoadgenError as error:
        say(f"loadgen: {error}")
        raise typer.Exit(EXIT_USAGE) from error
    results = _run(planned, jobs or os.cpu_count() or 1)
    runs = [result.run for result in results]
    if json is not None:
        write_runs(runs, json)
    if report is not None:
        about = {scenario.name: scenario.about for scenario in chosen}
        write_report("fairgate: policies compared in simulation", runs, report, about, results)
    for rows in (table_of(runs), goal_rows(goals(runs))):
        typer.echo(markdown_table(rows) if markdown else plain_table(rows))


def _site(config: Path | None, pool: str, profile: str, shares: str) -> Site | None:
    if config is not None:
        check_profile(profile)
        return read_site(config, pool, profile)
    for option, value in (("--pool", pool), ("--profile", profile), ("--shares", shares)):
        if value:
            raise SpecError(
                f"{option} {value}: says something of --config FILE, which is not given"
            )
    return None


def _headrooms(text: str) -> list[float | None]:
    return list(_shares(text)) if text else [None]


def _shares(text: str) -> list[float]:
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = [-1.0]
    if not all(0 <= share < 1 for share in shares):
        raise SpecError(f"--headroom {text}: expected shares from 0 to below 1, commas between")
    return shares


def _chosen(names: Sequence[str], site: Site | None, shares: str) -> list[Scenario]:
    chosen: list[Scenario] = []
    traces = []
    for name in names:
        if name == ALL:
            chosen += [_on_site(scenario, site) for scenario in SCENARIOS.values()]
        elif name in SCENARIOS:
            chosen.append(_on_site(SCENARIOS[name], site))
        elif _SYNTHETIC in name or Path(name.partition("=")[2] or name).is_file():
            traces.append(name)
        else:
            raise SpecError(
                f"{name}: neither a scenario nor a file; scenarios: {', '.join(SCENARIOS)}"
            )
    if traces:
        label = "+".join(map(_label, traces))
        chosen.append(Scenario(label, _of_trace(traces, site, shares), load=0.8))
    elif shares:
        raise SpecError(f"--shares {shares}: are those of a trace's requests; no trace is given")
    return chosen


def _label(trace: str) -> str:
    return "synthetic" if _SYNTHETIC in trace else Path(trace.rpartition("=")[2]).stem


def _of_trace(traces: list[str], site: Site | None, shares: str) -> Build:
    build = partial(of_trace, traces)
    if site is not None:
        build = partial(with_trace, site, traces, read_shares(shares, site))
    build(_FEW, 0, Source())  # what is wrong with a trace is said now, not in the midst of the runs
    return build


def _on_site(scenario: Scenario, site: Site | None) -> Scenario:
    """On the lanes of ``site``. Raises ``SpecError`` now rather than in the middle of the runs."""
    if site is None:
        return scenario
    check_scenario(site, scenario)
    return replace(scenario, build=partial(with_scenario, site, scenario.build))


def _run(planned: Sequence[Experiment], jobs: int) -> list[Result]:
    """In the order of ``planned``, whatever the order in which they end."""
    began = time.monotonic()
    done: dict[tuple[str, str, int], Result] = {}
    for result in run_all(planned, jobs):
        run = result.run
        done[run.scenario, run.policy, run.seed] = result
        say(
            f"{len(done)}/{len(planned)} after {time.monotonic() - began:.0f} s: "
            f"{run.scenario}, {run.policy}, seed {run.seed}"
        )
    return [done[one.scenario.name, one.name, one.seed] for one in planned]
