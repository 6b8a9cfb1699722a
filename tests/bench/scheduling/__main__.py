"""``python -m tests.bench.scheduling``: measures every sweep and prints one table."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, TypeVar, get_args

import typer

from fairgate.admission.embedded import EmbeddedStore
from fairgate.config import Preset
from loadgen.report import markdown_table, plain_table
from tests.bench.scheduling.measure import Point, Series, measure
from tests.bench.scheduling.pool import PIPELINED
from tests.bench.scheduling.report import Report, table, write
from tests.bench.scheduling.server import Server
from tests.bench.scheduling.sweeps import SWEEPS

PRESETS: tuple[Preset, ...] = get_args(Preset)
Known = TypeVar("Known")


def main(
    sweeps: Annotated[str, typer.Option(help="Names with commas between.")] = ",".join(SWEEPS),
    policies: Annotated[str, typer.Option(help="Names with commas between.")] = "fairserve,fcfs",
    lanes: Annotated[str, typer.Option(help="Numbers of lanes.")] = "1,3",
    largest: Annotated[int, typer.Option(min=10, help="No population is larger.")] = 100_000,
    pairs: Annotated[
        int, typer.Option(min=PIPELINED, help="Settlements and admissions of each round.")
    ] = 384,
    output: Annotated[
        Path, typer.Option(help="Folder for scheduling.html and scheduling.json.")
    ] = Path("build/scheduling"),
    markdown: Annotated[bool, typer.Option(help="Print the table as Markdown.")] = False,
) -> None:
    """Measure what admission and settlement cost the store while ever more wait.

    The scripts, the ledger and the link are fairgate's own, the store an embedded Valkey. Takes
    some minutes; a machine that does nothing else gives steadier figures.
    """
    every = product(
        _known("sweeps", sweeps, SWEEPS),
        _known("policies", policies, {preset: preset for preset in PRESETS}),
        _known("lanes", lanes, {str(n): n for n in range(1, 10)}),
    )
    report = asyncio.run(_measure_all([Series(*one) for one in every], largest, pairs))
    write(report, output)
    rows = table(report.points)
    typer.echo(markdown_table(rows) if markdown else plain_table(rows))
    typer.echo(f"{report.server}; the plots are in {output / 'scheduling.html'}")


def _known(option: str, text: str, known: Mapping[str, Known]) -> list[Known]:
    for name in text.split(","):
        if name not in known:
            raise typer.BadParameter(f"--{option} {name}: expected any of {', '.join(known)}")
    return [known[name] for name in text.split(",")]


async def _measure_all(every: Sequence[Series], largest: int, pairs: int) -> Report:
    store = EmbeddedStore()
    await store.start()
    server = Server(store.url)
    try:
        points: list[Point] = []
        for number, series in enumerate(every, start=1):
            points += await measure(series, largest, store.url, server, pairs)
            typer.echo(f"{number}/{len(every)}", err=True)
            typer.echo(plain_table(table(points[-len(series.sweep.sizes(largest)) :])), err=True)
        return Report(await server.version(), pairs, points)
    finally:
        await server.close()
        await store.stop()


if __name__ == "__main__":
    typer.run(main)
