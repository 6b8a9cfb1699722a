"""``loadgen simulate``: what every policy would do with a load, in virtual time."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from loadgen.commands import options
from loadgen.commands.common import check_writable, errors_told, say
from loadgen.report import markdown_table, plain_table
from loadgen.simulation.campaign import Experiment, Result, experiments, run_all
from loadgen.simulation.choosing import (
    ALL,
    chosen_scenarios,
    own_site,
    read_headrooms,
)
from loadgen.simulation.goals import goal_rows, goals
from loadgen.simulation.output import write_report, write_runs
from loadgen.simulation.policies import named_policies
from loadgen.simulation.scenarios import SCENARIOS, Scenario
from loadgen.simulation.sources import Source, find_traces
from loadgen.simulation.table import table_of


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
    with errors_told():
        check_writable(json, _page_within(report))
        site = own_site(config, pool, profile, shares)
        chosen = chosen_scenarios(scenarios, site, shares)
        planned = experiments(
            chosen, named_policies(policy, None if site is None else site.policy), seeds,
            load=load, calls=calls, source=Source(find_traces(data)), retries=retries,
            headrooms=read_headrooms(headroom),
        )  # fmt: skip
    results = _run(planned, jobs or os.cpu_count() or 1)
    _write(results, chosen, report, json)
    runs = [result.run for result in results]
    for rows in (table_of(runs), goal_rows(goals(runs))):
        typer.echo(markdown_table(rows) if markdown else plain_table(rows))


def _page_within(report: Path | None) -> Path | None:
    """What would be written into a folder that is there already."""
    return report / "report.json" if report and report.is_dir() else None


def _write(
    results: Sequence[Result], chosen: Sequence[Scenario], report: Path | None, json: Path | None
) -> None:
    runs = [result.run for result in results]
    if json is not None:
        write_runs(runs, json)
    if report is not None:
        about = {scenario.name: scenario.about for scenario in chosen}
        write_report("fairgate: policies compared in simulation", runs, report, about, results)


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
