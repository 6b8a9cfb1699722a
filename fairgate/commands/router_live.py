"""``fairgate router record``: live traffic becomes training data."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from fairgate.config import reading
from fairgate.routing.listening import listen
from fairgate.runtime import EMBEDDED


def record(
    config: Annotated[Path, typer.Option(help="The gateways' configuration file.")],
    out: Annotated[Path, typer.Option(help="JSON lines are added to this file.")],
    pool: Annotated[str, typer.Option(help="Which pool; default: the first.")] = "",
    share: Annotated[float, typer.Option(min=0, max=1, help="Of the interactions.")] = 1.0,
    prompts: Annotated[
        bool, typer.Option(help="Also the text, where the pool's routing.record.prompts allows it.")
    ] = False,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="End after so long; default: on SIGINT.")
    ] = None,
) -> None:
    """Write what all gateways of a pool decide, and what comes of it, while this runs."""
    found = reading.load(config)
    if found.store.url == EMBEDDED:
        raise typer.BadParameter(
            "store.url is 'embedded', which only the gateway reaches: set routing.record.file",
            param_hint="--config",
        )
    name = pool or next(iter(found.pools))
    if name not in found.pools:
        raise typer.BadParameter(f"no pool is named '{name}'", param_hint="--pool")
    with out.open("ab") as file:
        work = listen(
            found.store.url, name, file.write, share=share, prompts=prompts, seconds=seconds
        )
        try:
            lines = asyncio.run(work)
        except KeyboardInterrupt:
            lines = None
    typer.echo(f"ended, {lines} lines" if lines is not None else "ended", err=True)
