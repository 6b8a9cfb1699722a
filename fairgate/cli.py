"""The command ``fairgate``."""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
import uvloop

from fairgate import overrides
from fairgate.commands.audit import audit
from fairgate.commands.config import config_app
from fairgate.commands.engines import engines_app
from fairgate.commands.keys import keys_app
from fairgate.commands.router import router_app
from fairgate.commands.tenants import tenants_app
from fairgate.commands.top import top
from fairgate.commands.usage import usage_app
from fairgate.config import Config, Preset, reading
from fairgate.errors import FairgateError
from fairgate.placement import check_served
from fairgate.serve import serve as serve_until_stopped
from fairgate.telemetry import configure_logging
from fairgate.workers.supervisor import serve_with_workers

app = typer.Typer(name="fairgate", no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(config_app)
app.add_typer(keys_app)
app.add_typer(router_app)
app.add_typer(tenants_app)
app.add_typer(engines_app)
app.add_typer(usage_app)
app.command()(audit)
app.command()(top)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("fairgate"))
        raise typer.Exit


@app.callback()
def _group(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Multi-tenant fairness for LLM serving."""


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(help="The configuration file.")] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            help="Address of an engine that runs (may be repeated), or 'sim' to simulate the "
            "engines of the configuration file."
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", min=0, max=65535)] = None,
    policy: Annotated[
        str | None, typer.Option(help=f"Policy of every pool: {', '.join(get_args(Preset))}.")
    ] = None,
    log_dir: Annotated[
        Path | None, typer.Option(help="Where spawned engines write their logs.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that serve the port together, one per core.")
    ] = 1,
) -> None:
    """Run the gateway until SIGINT or SIGTERM."""
    configure_logging()
    if config is None and not engine:
        raise typer.BadParameter("give --config FILE, or --engine URL", param_hint="--config")
    if policy is not None and policy not in get_args(Preset):
        raise typer.BadParameter(f"expected one of {', '.join(get_args(Preset))}, got {policy!r}")
    folder = log_dir or Path(tempfile.mkdtemp(prefix="fairgate-logs-"))

    def load() -> Config:
        return _load(config, engine or [], host, port, policy)

    try:
        if workers > 1:
            uvloop.run(serve_with_workers(workers, load(), file=config, load=load, log_dir=folder))
        else:
            uvloop.run(serve_until_stopped(load(), file=config, load=load, log_dir=folder))
    except (FairgateError, OSError) as error:
        typer.echo(f"fairgate: {error}", err=True)
        raise typer.Exit(1) from error


def _load(
    file: Path | None, engines: list[str], host: str | None, port: int | None, policy: str | None
) -> Config:
    config = reading.load(file) if file else overrides.without_file()
    if engines == [overrides.SIMULATED]:
        config = overrides.with_simulated_engines(config)
    elif engines:
        config = uvloop.run(overrides.with_running_engines(config, engines))
    if policy is not None:
        config = overrides.with_policy(config, cast("Preset", policy))
    check_served(config, source=str(file or ""))
    return overrides.with_address(config, host, port)


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
