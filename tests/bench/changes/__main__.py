"""``python -m tests.bench.changes``: prints how long changes take to reach another gateway."""

from __future__ import annotations

import asyncio
import statistics
from typing import Annotated

import typer

from loadgen.report import plain_table
from tests.bench.changes.measure import measure


def main(
    repetitions: Annotated[int, typer.Option(min=1, help="Of each change.")] = 40,
    limit_s: Annotated[float, typer.Option(help="Exit with 1 above this.")] = 1.0,
) -> None:
    """Two gateway processes on one store; every change is made on one and awaited on the other."""
    found = asyncio.run(measure(repetitions))
    rows = [["from the answer to the change until", "median, ms", "longest, ms", "repetitions"]]
    rows += [
        [what, f"{1e3 * statistics.median(times):.0f}", f"{1e3 * max(times):.0f}", str(len(times))]
        for what, times in found.items()
    ]
    typer.echo(plain_table(rows))
    if max(map(max, found.values())) > limit_s:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
