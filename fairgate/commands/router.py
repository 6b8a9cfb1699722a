"""``fairgate router``: trains, checks and feeds the difficulty router."""

from __future__ import annotations

import typer

from fairgate.commands.router_live import label, record

router_app = typer.Typer(name="router", no_args_is_help=True)


@router_app.callback()
def _group() -> None:
    """Train, check and feed the difficulty router."""


router_app.command()(record)
router_app.command()(label)
