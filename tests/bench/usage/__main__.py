"""``python -m tests.bench.usage``: prints what the records and the ledger sum up to."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, cast, get_args

import msgspec
import typer

from fairgate.config import Preset
from loadgen.report import plain_table
from tests.bench.usage.replay import Replay, replay


def main(
    requests: Annotated[int, typer.Option(min=20, help="To send, under each policy.")] = 10_000,
    policies: Annotated[str, typer.Option(help="Of these policies.")] = "fairserve,fcfs",
    output: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("build/usage.json"),
) -> None:
    """Replay, kill a gateway half way, compare. Exits with 1 unless the sums are the same."""
    found = [asyncio.run(replay(requests, policy)) for policy in _presets(policies)]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    for one in found:
        _print(one)
    if not all(one.exact for one in found):
        raise typer.Exit(1)


def _presets(text: str) -> list[Preset]:
    names = text.split(",")
    for name in names:
        if name not in get_args(Preset):
            raise typer.BadParameter(f"expected one of {', '.join(get_args(Preset))}, got {name!r}")
    return cast("list[Preset]", names)


def _print(found: Replay) -> None:
    typer.echo(f"{found.policy}: {found.requests:,} requests in {found.seconds:.0f} s")
    typer.echo(f"clients saw: {_counts(found.ends)}")
    typer.echo(f"records: {_counts(found.records)}; twice: {found.twice}\n")
    header = ["tenant", "tokens: ledger", "records", "service: ledger", "records", "exact"]
    rows = [
        [
            t.tenant, f"{t.ledger_tokens:.17g}", str(t.record_tokens), f"{t.ledger_service:.17g}",
            f"{t.record_service:.17g}", "yes" if t.exact else "NO",
        ]
        for t in found.tenants
    ]  # fmt: skip
    typer.echo(plain_table([header, *rows]) + "\n")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


if __name__ == "__main__":
    typer.run(main)
