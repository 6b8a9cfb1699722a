"""``fairgate engines``: shows, adds, removes and drains engines of a running gateway."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fairgate.commands.remote import (
    URL,
    AdminKey,
    AsJson,
    Url,
    client_of,
    show,
    telling_errors,
)

engines_app = typer.Typer(name="engines", no_args_is_help=True)

Lane = Annotated[str, typer.Argument(help="Its lane.")]
Engine = Annotated[str, typer.Argument(help="The engine.")]

_COLUMNS = ("lane", "name", "type", "up", "drained", "max_num_seqs", "running", "detail")


@engines_app.callback()
def _group() -> None:
    """Show engines of a running gateway, add, remove and drain them, say their capacity."""


@engines_app.command("list")
@telling_errors
def list_(url: Url = URL, key: AdminKey = "", as_json: AsJson = False) -> None:
    """Print all engines."""
    found = client_of(url, key).call("GET", "engines")["engines"]
    show(found, as_json, _COLUMNS, found)


@engines_app.command()
@telling_errors
def add(
    lane: Lane,
    engine: Engine,
    at: Annotated[
        str,
        typer.Argument(
            help="Its address, where admin.engines_at allows one. Without: an engine of the file "
            "that was removed."
        ),
    ] = "",
    max_num_seqs: Annotated[int | None, typer.Option(min=1, help="Sequences at once.")] = None,
    kv_cache_tokens: Annotated[int | None, typer.Option(min=1, help="KV tokens it holds.")] = None,
    priority: Annotated[bool, typer.Option(help="It schedules by priority.")] = False,
    cache_salt: Annotated[bool, typer.Option(help="It takes vLLM's cache_salt.")] = True,
    drained: Annotated[bool, typer.Option(help="No requests until it is undrained.")] = False,
    url: Url = URL,
    key: AdminKey = "",
    as_json: AsJson = False,
) -> None:
    """Add an engine that runs to a lane."""
    said = {
        "url": at, "max_num_seqs": max_num_seqs, "kv_cache_tokens": kv_cache_tokens,
        "priority": priority or None, "drained": drained or None,
        "cache_salt": None if cache_salt else False,
    }  # fmt: skip
    body = {"lane": lane, "name": engine, **{k: v for k, v in said.items() if v not in (None, "")}}
    found = client_of(url, key).call("POST", "engines", body=body)
    show(found, as_json, _COLUMNS, [found])


@engines_app.command()
@telling_errors
def remove(lane: Lane, engine: Engine, url: Url = URL, key: AdminKey = "") -> None:
    """No new requests for it; it goes once those that it runs have ended."""
    client_of(url, key).call("DELETE", "engines", lane, engine)
    typer.echo(f"removed {lane}/{engine}")


@engines_app.command()
@telling_errors
def drain(
    lane: Lane, engine: Engine, url: Url = URL, key: AdminKey = "", as_json: AsJson = False
) -> None:
    """No new requests for it; those that it runs end by themselves."""
    _change(lane, engine, {"drained": True}, url, key, as_json)


@engines_app.command()
@telling_errors
def undrain(
    lane: Lane, engine: Engine, url: Url = URL, key: AdminKey = "", as_json: AsJson = False
) -> None:
    """Let it have requests again."""
    _change(lane, engine, {"drained": False}, url, key, as_json)


@engines_app.command()
@telling_errors
def capacity(
    lane: Lane,
    engine: Engine,
    max_num_seqs: Annotated[int, typer.Argument(min=1, help="Sequences that it may run at once.")],
    url: Url = URL,
    key: AdminKey = "",
    as_json: AsJson = False,
) -> None:
    """Say how many sequences it may run."""
    _change(lane, engine, {"max_num_seqs": max_num_seqs}, url, key, as_json)


def _change(
    lane: str, engine: str, said: dict[str, Any], url: str, key: str, as_json: bool
) -> None:
    found = client_of(url, key).call("PATCH", "engines", lane, engine, body=said)
    show(found, as_json, _COLUMNS, [found])
