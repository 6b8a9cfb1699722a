"""``fairgate config``: checks and describes the configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from fairgate.config import Config, reading
from fairgate.errors import ConfigError

config_app = typer.Typer(name="config", no_args_is_help=True)


@config_app.callback()
def _group() -> None:
    """Check and describe the configuration file."""


@config_app.command()
def check(file: Annotated[Path, typer.Argument(help="The configuration file.")]) -> None:
    """Check FILE; print every problem and exit with 1 if there is one."""
    try:
        config = reading.load(file)
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    typer.echo(f"ok: {_summary(config)}")


@config_app.command()
def schema() -> None:
    """Print the JSON Schema of the configuration file, for editors."""
    typer.echo(msgspec.json.format(msgspec.json.encode(reading.schema()), indent=2))


def _summary(config: Config) -> str:
    lanes = [lane for pool in config.pools.values() for lane in pool.lanes.values()]
    counts = {
        "tenant": len(config.tenants),
        "lane": len(lanes),
        "engine": sum(len(lane.engines) for lane in lanes),
    }
    return ", ".join(f"{n} {what}" + ("" if n == 1 else "s") for what, n in counts.items())
