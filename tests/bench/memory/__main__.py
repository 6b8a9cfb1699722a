"""``python -m tests.bench.memory``: prints memory over a soak."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from loadgen.report import Rows, plain_table
from tests.bench.memory.soak import STEPS, Look, Plan, soak


def main(
    requests: Annotated[int, typer.Option(min=STEPS, help="Answered in full.")] = 200_000,
    aborted: Annotated[int, typer.Option(min=STEPS, help="Streams whose client leaves.")] = 20_000,
    users: Annotated[int, typer.Option(min=1, help="Different ones, of two tenants.")] = 500,
    output: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("build/memory.json"),
) -> None:
    """Send requests and aborted streams through a gateway, and print its memory and the store's.

    Takes some minutes at full size.
    """
    plan = Plan(requests, aborted, users)
    looks = asyncio.run(soak(plan, lambda look: typer.echo(f"after {look.after}", err=True)))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(msgspec.json.format(msgspec.json.encode(looks)) + b"\n")
    typer.echo(plain_table(_table(looks)))
    typer.echo("\nkeys of the store by kind, at the start, after the requests, at the end:\n")
    typer.echo(plain_table(_kinds([looks[0], looks[STEPS], looks[-1]])))


def _table(looks: Sequence[Look]) -> Rows:
    header = ["after", "s", "gateway RSS MiB", "open files", "store MiB", "keys"]
    return [header, *map(_row, looks)]


def _row(look: Look) -> list[str]:
    return [
        look.after, f"{look.seconds:.0f}", f"{look.rss_mib:.1f}", str(look.open_files),
        f"{look.store_mib:.2f}", f"{look.keys:,}",
    ]  # fmt: skip


def _kinds(looks: Sequence[Look]) -> Rows:
    names = sorted({name for look in looks for name in look.kinds})
    return [
        ["kind", *(look.after for look in looks)],
        *([name, *(f"{look.kinds.get(name, 0):,}" for look in looks)] for name in names),
    ]


if __name__ == "__main__":
    typer.run(main)
