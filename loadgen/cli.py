"""The command ``loadgen``."""

from __future__ import annotations

import typer

from loadgen.commands.compare import compare
from loadgen.commands.measure import measure
from loadgen.commands.profile import profile
from loadgen.commands.replay import replay
from loadgen.commands.simulate import simulate

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (replay, simulate, measure, compare, profile):
    app.command()(command)


def main() -> None:
    """Entry point of the console script."""
    app()


@app.callback()
def _group() -> None:
    """Load for LLM gateways, tenant by tenant."""
