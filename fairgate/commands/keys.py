"""``fairgate keys``: makes API keys."""

from __future__ import annotations

import secrets
from hashlib import sha256
from typing import Annotated

import typer
import yaml

from fairgate import configbase, configshape

keys_app = typer.Typer(name="keys", no_args_is_help=True)


@keys_app.callback()
def _group() -> None:
    """Make API keys."""


@keys_app.command()
def new(
    tenant: Annotated[str, typer.Option(help="Tenant that owns the key.")],
    name: Annotated[str, typer.Option(help="What logs call the key; default: its id.")] = "",
) -> None:
    """Print a new key, this once, and what belongs in the configuration file."""
    _, problems = configshape.fit(tenant, configbase.Name)
    if problems:
        raise typer.BadParameter(problems[0], param_hint="--tenant")
    key_id = f"fg_{secrets.token_hex(4)}"
    key = f"{key_id}_{secrets.token_urlsafe(32)}"
    typer.echo(f"# The key. It is not stored and will not be shown again:\n{key}\n")
    typer.echo("# For the configuration file, which knows only the hash:")
    typer.echo(_snippet(tenant, name or key_id, key), nl=False)


def _snippet(tenant: str, name: str, key: str) -> str:
    entry = {"sha256": sha256(key.encode()).hexdigest(), "name": name}
    return yaml.safe_dump({"tenants": {tenant: {"keys": [entry]}}}, sort_keys=False)
