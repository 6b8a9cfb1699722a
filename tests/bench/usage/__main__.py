"""``python -m tests.bench.usage``: prints what the records and the ledger sum up to."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from loadgen.report import plain_table
from tests.bench.usage.replay import replay


def main(
    requests: Annotated[int, typer.Option(min=20, help="To send.")] = 10_000,
    output: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("build/usage.json"),
) -> None:
    """Replay, kill a gateway half way, compare. Exits with 1 unless the sums are the same."""
    found = asyncio.run(replay(requests))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    typer.echo(f"{found.requests:,} requests in {found.seconds:.0f} s")
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
    typer.echo(plain_table([header, *rows]))
    if not found.exact:
        raise typer.Exit(1)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


if __name__ == "__main__":
    typer.run(main)
