"""``fairgate tenants``: shows and changes tenants of a running gateway."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fairgate.commands.remote import (
    URL,
    AdminKey,
    AsJson,
    Url,
    client_of,
    limits,
    show,
    telling_errors,
)

tenants_app = typer.Typer(name="tenants", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The tenant.")]
Weight = Annotated[float | None, typer.Option(help="A larger one means more service.")]
Apps = Annotated[str | None, typer.Option(help="Apps it may name, with commas; '': any.")]
Limit = Annotated[
    list[str] | None,
    typer.Option("--limit", help="rpm=60, tpm=…, concurrency=…, daily_tokens=…; 'rpm=': none."),
]
UserLimit = Annotated[
    list[str] | None, typer.Option("--user-limit", help="The same for each of its users.")
]

_COLUMNS = ("name", "weight", "limits", "user_limits", "apps", "keys", "source")


@tenants_app.callback()
def _group() -> None:
    """Show and change tenants of a running gateway."""


@tenants_app.command("list")
@telling_errors
def list_(
    search: Annotated[str, typer.Option(help="Only names that hold this.")] = "",
    url: Url = URL,
    key: AdminKey = "",
    as_json: AsJson = False,
) -> None:
    """Print all tenants."""
    client, found, after = client_of(url, key), [], ""
    while True:
        page = client.call("GET", "tenants", query={"q": search, "after": after, "limit": 1000})
        found += page["tenants"]
        if (after := page["next"]) is None:
            break
    show(found, as_json, _COLUMNS, found)


@tenants_app.command("show")
@telling_errors
def show_(name: Name, url: Url = URL, key: AdminKey = "", as_json: AsJson = False) -> None:
    """Print one tenant."""
    _print(client_of(url, key).call("GET", "tenants", name), as_json)


@tenants_app.command()
@telling_errors
def create(
    name: Name,
    weight: Weight = None,
    apps: Apps = None,
    limit: Limit = None,
    user_limit: UserLimit = None,
    url: Url = URL,
    key: AdminKey = "",
    as_json: AsJson = False,
) -> None:
    """Create a tenant; `fairgate keys new` then makes its keys."""
    said = {"name": name, **_said(weight, apps, limit, user_limit)}
    _print(client_of(url, key).call("POST", "tenants", body=said), as_json)


@tenants_app.command("set")
@telling_errors
def set_(
    name: Name,
    weight: Weight = None,
    apps: Apps = None,
    limit: Limit = None,
    user_limit: UserLimit = None,
    url: Url = URL,
    key: AdminKey = "",
    as_json: AsJson = False,
) -> None:
    """Change what is said, leave the rest."""
    said = _said(weight, apps, limit, user_limit)
    _print(client_of(url, key).call("PATCH", "tenants", name, body=said), as_json)


@tenants_app.command()
@telling_errors
def delete(name: Name, url: Url = URL, key: AdminKey = "") -> None:
    """Delete a tenant and its keys."""
    client_of(url, key).call("DELETE", "tenants", name)
    typer.echo(f"deleted {name}")


def _said(
    weight: float | None,
    apps: str | None,
    limit: list[str] | None,
    user_limit: list[str] | None,
) -> dict[str, Any]:
    said: dict[str, Any] = {}
    if weight is not None:
        said["weight"] = weight
    if apps is not None:
        said["apps"] = [app for app in apps.split(",") if app]
    if limit:
        said["limits"] = limits(limit, "--limit")
    if user_limit:
        said["user_limits"] = limits(user_limit, "--user-limit")
    return said


def _print(tenant: dict[str, Any], as_json: bool) -> None:
    show(tenant, as_json, _COLUMNS, [tenant])
