"""``fairgate keys``: makes API keys, for the file or in a running gateway, and revokes them."""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Any

import typer
import yaml

from fairgate.admin.operations import new_key
from fairgate.commands.remote import (
    URL,
    AdminKey,
    AsJson,
    Url,
    client_of,
    show,
    telling_errors,
)
from fairgate.config import base, shape

keys_app = typer.Typer(name="keys", no_args_is_help=True)

_COLUMNS = ("id", "name", "user", "apps", "created", "source")


@keys_app.callback()
def _group() -> None:
    """Make API keys, list and revoke them."""


@keys_app.command()
@telling_errors
def new(
    tenant: Annotated[str, typer.Option(help="Tenant that owns the key.")] = "",
    name: Annotated[str, typer.Option(help="What logs call the key; default: its id.")] = "",
    admin: Annotated[bool, typer.Option("--admin", help="A key of an operator instead.")] = False,
    user: Annotated[str, typer.Option(help="With --live: pins the user of its requests.")] = "",
    live: Annotated[
        bool, typer.Option("--live", help="Create it in the running gateway, not for the file.")
    ] = False,
    url: Url = URL,
    key: AdminKey = "",
    as_json: AsJson = False,
) -> None:
    """Print a new key, this once, and what belongs in the configuration file."""
    if admin == bool(tenant):
        raise typer.BadParameter("expected either --tenant NAME or --admin", param_hint="--tenant")
    if live and admin:
        raise typer.BadParameter("admin keys belong in the file", param_hint="--live")
    _, problems = shape.fit(tenant or "admin", base.Name)
    if problems:
        raise typer.BadParameter(problems[0], param_hint="--tenant")
    if live:
        said = {"name": name, "user": user or None}
        made = client_of(url, key).call("POST", "tenants", tenant, "keys", body=said)
        show(made, as_json, ("tenant", "id", "name", "key"), [made])
        return
    text, usual_name = new_key()
    typer.echo(f"# The key. It is not stored and will not be shown again:\n{text}\n")
    typer.echo("# For the configuration file, which knows only the hash:")
    typer.echo(_snippet(tenant, name or usual_name, text), nl=False)


@keys_app.command("list")
@telling_errors
def list_(
    tenant: Annotated[str, typer.Option(help="Whose keys.")],
    url: Url = URL,
    key: AdminKey = "",
    as_json: AsJson = False,
) -> None:
    """Print the keys of a tenant of a running gateway; their texts are nowhere."""
    found = client_of(url, key).call("GET", "tenants", tenant, "keys")["keys"]
    show(found, as_json, _COLUMNS, found)


@keys_app.command()
@telling_errors
def revoke(
    key_id: Annotated[str, typer.Argument(help="Its id, as `fairgate keys list` prints it.")],
    tenant: Annotated[str, typer.Option(help="Whose key it is.")],
    url: Url = URL,
    key: AdminKey = "",
) -> None:
    """Revoke a key in the running gateways; it stops within a second."""
    client_of(url, key).call("DELETE", "tenants", tenant, "keys", key_id)
    typer.echo(f"revoked {key_id}")


def _snippet(tenant: str, name: str, text: str) -> str:
    entry = {"sha256": sha256(text.encode()).hexdigest(), "name": name}
    section: dict[str, Any] = {"admin": {"keys": [entry]}}
    if tenant:
        section = {"tenants": {tenant: {"keys": [entry]}}}
    return yaml.safe_dump(section, sort_keys=False)
