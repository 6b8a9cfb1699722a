"""``python -m tests.faults``: makes every fault happen and prints what became of the requests."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import msgspec
import typer

from loadgen.report import plain_table
from tests.bench.machine import describe
from tests.bench.parts.processes import allow_open_files
from tests.faults.faults import Fault
from tests.faults.measure import Figures, Round
from tests.faults.promises import legend
from tests.faults.report import details, table
from tests.faults.rows import FAULTS
from tests.faults.site import Plan, StoreKind, site


def main(
    only: Annotated[
        str, typer.Option(help="Names, or parts of them, with commas between; default: all.")
    ] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Times that each is injected.")] = 2,
    in_flight: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 300,
    gateways: Annotated[int, typer.Option(min=2, max=4)] = 2,
    on_failure: Annotated[
        str, typer.Option(help="store.on_failure of the gateways; default: theirs.")
    ] = "",
    json: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("build/faults.json"),
    folder: Annotated[Path | None, typer.Option(help="Where logs stay.")] = None,
    names: Annotated[bool, typer.Option("--list", help="Only list the faults.")] = False,
) -> None:
    """Exit status 1 where a request was lost, granted twice, or something leaked.

    Real processes on the loopback: a Valkey server, simulated engines, gateways, and clients that
    keep requests in flight. Two rounds of all faults take about fifteen minutes. Where recovery is
    promised in so many seconds the table says so, with what a request may take on this machine
    where nothing is wrong; LATE marks a longer one, and does not change the exit status. Beneath
    the table stands what is promised to users, and which row or test shows it.
    """
    chosen = _chosen(only)
    if names:
        typer.echo("\n".join(f"{fault.name:36} {fault.shows}" for fault in chosen))
        return
    allow_open_files(8_192)
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
        plan = Plan(gateways=gateways, in_flight=in_flight, on_failure=on_failure)
        figures = asyncio.run(_measure(chosen, rounds, plan, folder or Path(temporary)))
    json.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": describe(), "plan": plan, "faults": figures}
    json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    typer.echo(plain_table(table(figures)))
    typer.echo("what they show, and what tests do (SECURITY.md names its own):")
    for line in legend():
        typer.echo(line)
    for line in details(figures):
        typer.echo(line)
    if not all(row.good for row in figures):
        raise typer.Exit(1)


async def _measure(chosen: Sequence[Fault], rounds: int, plan: Plan, folder: Path) -> list[Figures]:
    """Those of one kind of store together; a site where something went wrong is not used again."""
    figures = [
        Figures(fault=fault.name, shows=fault.shows, promised_s=fault.recovers_s)
        for fault in chosen
    ]
    left = [
        (fault, row)
        for kind in get_args(StoreKind)
        for fault, row in zip(chosen, figures, strict=True)
        for _ in range(rounds)
        if fault.store == kind
    ]
    number = 0
    while left:
        number += 1
        kind = left[0][0].store
        its_plan = msgspec.structs.replace(plan, store=kind, seed=number)
        async with site(folder / str(number), its_plan) as it:
            measured = Round(it)
            await measured.warm_up()
            fit = True
            while fit and left and left[0][0].store == kind:
                fault, row = left.pop(0)
                typer.echo(f"{fault.name} …", err=True)
                fit = await measured.of(fault, row)
    return figures


def _chosen(only: str) -> list[Fault]:
    wanted = [part.strip().lower() for part in only.split(",") if part.strip()]
    unknown = [part for part in wanted if not any(part in name.lower() for name in FAULTS)]
    if unknown:
        raise typer.BadParameter(f"--only {unknown[0]}: no fault is called so; see --list")
    return [
        fault
        for name, fault in FAULTS.items()
        if not wanted or any(part in name.lower() for part in wanted)
    ]


if __name__ == "__main__":
    typer.run(main)
