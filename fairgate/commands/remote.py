"""What commands that ask a running gateway have in common: its address, the key, how they print."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

from fairgate.admin.client import AdminClient
from fairgate.errors import AdminError

Url = Annotated[
    str, typer.Option(envvar="FAIRGATE_URL", help="Address of a gateway (its admin socket).")
]
AdminKey = Annotated[
    str,
    typer.Option(envvar="FAIRGATE_ADMIN_KEY", help="An admin key; better in the environment."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

URL = "http://127.0.0.1:8080"

P = ParamSpec("P")
T = TypeVar("T")


def client_of(url: str, key: str) -> AdminClient:
    """Exits with 1 without a key."""
    if not key:
        typer.echo("fairgate: no admin key: set FAIRGATE_ADMIN_KEY", err=True)
        raise typer.Exit(1)
    return AdminClient(url, key)


def telling_errors(command: Callable[P, T]) -> Callable[P, T]:
    """``command``, which exits with 1 where the gateway refuses, and says why."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except AdminError as error:
            typer.echo(f"fairgate: {error}", err=True)
            raise typer.Exit(1) from error

    return run


def show(found: Any, as_json: bool, columns: Sequence[str], rows: Iterable[Any]) -> None:
    """``found`` as JSON, or ``rows`` of it as a table of ``columns``."""
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    cells = [[column.upper() for column in columns]]
    cells += [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(padded).rstrip())


def _cell(value: Any) -> str:
    if value in (None, "", [], {}):
        return "-"
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case dict():
            return " ".join(f"{name}={_cell(item)}" for name, item in value.items())
        case list():
            return ",".join(map(str, value))
        case _:
            return str(value)


def limits(pairs: Iterable[str], option: str) -> dict[str, int | None]:
    """``rpm=60`` and the like; ``rpm=`` takes a limit away."""
    found: dict[str, int | None] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or (text and not text.isdigit()):
            raise typer.BadParameter(
                f"expected NAME=NUMBER such as rpm=60, got '{pair}'", param_hint=option
            )
        found[name] = int(text) if text else None
    return found
