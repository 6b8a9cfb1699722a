"""``python -m tests.bench``: measures everything that ``make bench`` prints."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from loadgen.report import Rows, markdown_table, plain_table
from tests.bench.contention.figures import Contention
from tests.bench.contention.measure import Plan as ContentionPlan
from tests.bench.contention.measure import measure as measure_contention
from tests.bench.goals import (
    Goal,
    contention_goals,
    goals_table,
    hotpath_goals,
    scheduling_goals,
)
from tests.bench.hotpath.cases import CASES, USUAL, Case
from tests.bench.hotpath.figures import Row, Turns, rows
from tests.bench.hotpath.measure import Plan, measure
from tests.bench.hotpath.report import table
from tests.bench.hotpath.subjects import COMPILED, GATEWAY, ROOT
from tests.bench.machine import describe
from tests.bench.parts.valkey import valkey
from tests.bench.scheduling.measure import Point, Series
from tests.bench.scheduling.measure import measure as measure_scheduling
from tests.bench.scheduling.report import table as scheduling_table
from tests.bench.scheduling.server import Server
from tests.bench.scheduling.sweeps import SWEEPS

PARTS = ("hotpath", "contention", "scheduling")
_SWEPT = ("users", "requests", "tenants")
_PAIRS = 256


class Report(msgspec.Struct):
    """What is written as JSON, again after each part: a later one may take long."""

    machine: dict[str, Any]
    rows: list[Row] = []
    turns: Turns = {}
    contention: dict[str, Contention] = {}
    """By subject."""
    scheduling: list[Point] = []
    goals: list[Goal] = []

    def save(self, file: Path) -> None:
        """Write it; the folder is made if need be."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")


def main(
    cases: Annotated[
        str, typer.Option(help=f"Names with commas between, or 'all': {', '.join(CASES)}.")
    ] = ",".join(case.name for case in USUAL),
    parts: Annotated[
        str, typer.Option(help=f"Names with commas between: {', '.join(PARTS)}.")
    ] = ",".join(PARTS),
    rounds: Annotated[int, typer.Option(min=1, help="Turns of every subject.")] = 5,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Of each turn; contention takes ten.")
    ] = 1.5,
    peers_too: Annotated[
        bool, typer.Option("--peers/--no-peers", help="Also those of `make bench-peers`.")
    ] = True,
    largest: Annotated[int, typer.Option(min=10, help="Most that wait, in scheduling.")] = 100_000,
    waiting: Annotated[int, typer.Option(min=1, help="That wait, in contention.")] = 1_000,
    compiled: Annotated[
        Path | None, typer.Option(help="What `make compiled` made; measured as well.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("build/bench.json"),
    markdown: Annotated[bool, typer.Option(help="Print tables as Markdown.")] = False,
) -> None:
    """Measure what fairgate costs, beside a bare proxy and other gateways, in the same run.

    Everything runs on this machine's loopback. The usual run takes about six minutes; other work
    on the machine disturbs all subjects of a round alike, so trust ratios before figures.
    """
    shape = markdown_table if markdown else plain_table
    wanted = _known("parts", parts, PARTS)
    if compiled is not None and not (compiled / "fairgate").is_dir():
        raise typer.BadParameter(f"--compiled {compiled}: holds no package fairgate")
    plan = Plan(_cases(cases), rounds, seconds, peers_too, compiled)
    report = Report(describe())
    asyncio.run(_measure(report, output, wanted, plan, largest, waiting))
    for part in _tables(report):
        typer.echo(shape(part) + "\n")
    typer.echo(f"load average {report.machine['load_average'][0]:.1f} at the start; {output}")


async def _measure(
    report: Report, file: Path, parts: Sequence[str], plan: Plan, largest: int, waiting: int
) -> None:
    if "hotpath" in parts:
        report.turns = await measure(plan, lambda line: typer.echo(line, err=True))
        report.rows = rows(report.turns)
        report.goals += hotpath_goals(report.turns)
        report.save(file)
    if "contention" in parts:
        typer.echo("contention: two tenants whose requests wait", err=True)
        packages = {GATEWAY: ROOT} | ({COMPILED: plan.compiled} if plan.compiled else {})
        for subject, package in packages.items():
            contention = ContentionPlan(waiting=waiting, seconds=10 * plan.seconds, package=package)
            report.contention[subject] = found = await measure_contention(contention)
            report.goals += contention_goals(found, subject)
            report.save(file)
    if "scheduling" in parts:
        report.scheduling = await _sweep(largest)
        report.goals += scheduling_goals(report.scheduling)
        report.save(file)


async def _sweep(largest: int) -> list[Point]:
    points: list[Point] = []
    async with valkey() as store:
        server = Server(store.url)
        try:
            for name in _SWEPT:
                typer.echo(f"scheduling: {SWEEPS[name].about}", err=True)
                series = Series(SWEEPS[name], "fairserve", 1)
                points += await measure_scheduling(series, largest, store.url, server, _PAIRS)
        finally:
            await server.close()
    return points


def _tables(report: Report) -> list[Rows]:
    found: list[Rows] = []
    if report.rows:
        found.append(table(report.rows))
    if report.contention:
        rows_of = [
            [subject, *map(_short, msgspec.structs.astuple(contention))]
            for subject, contention in report.contention.items()
        ]
        found.append([["subject", *Contention.__struct_fields__], *rows_of])
    if report.scheduling:
        found.append(scheduling_table(report.scheduling))
    return [*found, goals_table(report.goals)]


def _short(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}"


def _cases(text: str) -> list[Case]:
    names = list(CASES) if text == "all" else _known("cases", text, CASES)
    return [CASES[name] for name in names]


def _known(option: str, text: str, known: Sequence[str]) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"--{option} {name}: expected any of {', '.join(known)}")
    return names


if __name__ == "__main__":
    typer.run(main)
