"""``fairgate usage``: exports usage records and adds them up."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, cast, get_args

import msgspec
import typer

from fairgate.billing.export import Format, export
from fairgate.billing.records import UsageRecord, decode, milliseconds
from fairgate.billing.sums import Sums
from fairgate.commands.remote import URL, AdminKey, AsJson, Url, client_of, show, telling_errors

usage_app = typer.Typer(name="usage", no_args_is_help=True)

Since = Annotated[str, typer.Option(help="Charged then or later: 2026-11-01 or with a time; UTC.")]
Until = Annotated[str, typer.Option(help="Charged before then.")]
Tenant = Annotated[str, typer.Option(help="Only this one's.")]
Folder = Annotated[
    Path | None, typer.Option(help="Read the files of usage.folder instead of asking a gateway.")
]

_SUMS = ("tenant", "requests", "prompt_tokens", "cached_tokens", "output_tokens", "tokens", "cost")


@usage_app.callback()
def _group() -> None:
    """Export usage records and add them up."""


@usage_app.command("export")
@telling_errors
def export_(
    form: Annotated[
        str, typer.Option("--format", help=f"One of {', '.join(get_args(Format))}.")
    ] = "jsonl",
    out: Annotated[Path | None, typer.Option(help="The file; default: standard output.")] = None,
    since: Since = "",
    until: Until = "",
    tenant: Tenant = "",
    folder: Folder = None,
    url: Url = URL,
    key: AdminKey = "",
) -> None:
    """Write all records, or those of a time or tenant."""
    if form not in get_args(Format):
        expected = ", ".join(get_args(Format))
        raise typer.BadParameter(f"expected {expected}, got '{form}'", param_hint="--format")
    records = _records(since, until, tenant, folder, url, key)
    try:
        with contextlib.nullcontext(sys.stdout.buffer) if out is None else out.open("wb") as file:
            count = export(records, cast("Format", form), file)
    except ImportError as error:
        typer.echo("fairgate: Parquet needs pyarrow: pip install 'fairgate[parquet]'", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{count} records", err=True)


@usage_app.command()
@telling_errors
def sums(
    since: Since = "",
    until: Until = "",
    tenant: Tenant = "",
    folder: Folder = None,
    url: Url = URL,
    key: AdminKey = "",
    as_json: AsJson = False,
) -> None:
    """Print what each tenant used."""
    if folder is None:
        query = {"since": since, "until": until, "tenant": tenant}
        found = client_of(url, key).call("GET", "usage", "sums", query=query)["sums"]
    else:
        counted = Sums()
        counted.add(_records(since, until, tenant, folder, url, key))
        found = msgspec.to_builtins(counted.by_tenant())
    show(found, as_json, _SUMS, found)


def _records(
    since: str, until: str, tenant: str, folder: Path | None, url: str, key: str
) -> Iterator[UsageRecord]:
    if folder is None:
        query = {"since": since, "until": until, "tenant": tenant}
        yield from map(decode, client_of(url, key).lines("usage", query=query))
        return
    begin, end = _moment(since, "--since"), _moment(until, "--until")
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as lines:
            for record in map(decode, lines):
                at = milliseconds(record.at) or 0
                in_time = (begin is None or at >= begin) and (end is None or at < end)
                if in_time and tenant in ("", record.tenant):
                    yield record


def _moment(text: str, option: str) -> int | None:
    try:
        return milliseconds(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
