"""``python -m tests.bench.growth``: prints what heartbeats and accounts cost at each size."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from fairgate.admission.embedded import EmbeddedStore
from fairgate.admission.link import Link
from loadgen.report import Rows, markdown_table, plain_table
from tests.bench.growth.instructions import instructions
from tests.bench.growth.measure import Account, Beat, accounts, beats
from tests.bench.scheduling.server import Server


def main(
    engines: Annotated[str, typer.Option(help="Numbers of engines.")] = "1,10,100,1000",
    tenants: Annotated[str, typer.Option(help="Numbers of tenants.")] = "100,10000,100000",
    markdown: Annotated[bool, typer.Option(help="Print the tables as Markdown.")] = False,
    counted: Annotated[
        bool, typer.Option(help="Count instructions of a request instead (needs valgrind).")
    ] = False,
) -> None:
    """Measure what engines and tenants cost that do nothing. Takes about two minutes.

    Microseconds are CPU; take ratios between sizes rather than figures of two machines.
    """
    if counted:
        tables = [_counted_rows(asyncio.run(instructions(_numbers(tenants))))]
    else:
        found = asyncio.run(_measure(_numbers(engines), _numbers(tenants)))
        tables = [_beat_rows(found[0]), _account_rows(found[1])]
    for rows in tables:
        typer.echo(markdown_table(rows) if markdown else plain_table(rows))
        typer.echo("")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


async def _measure(engines: list[int], tenants: list[int]) -> tuple[list[Beat], list[Account]]:
    store = EmbeddedStore()
    await store.start()
    link, server = Link(store.url, timeout_s=60), Server(store.url)
    try:
        return await beats(link, server, engines), await accounts(link, server, tenants)
    finally:
        await server.close()
        await link.close()
        await store.stop()


def _beat_rows(found: list[Beat]) -> Rows:
    head = ["engines", "store µs/heartbeat", "gateway µs/heartbeat"]
    return [
        head,
        *([f"{b.engines:,}", f"{b.store_us:,.0f}", f"{b.gateway_us:,.0f}"] for b in found),
    ]


def _counted_rows(found: dict[int, int]) -> Rows:
    head = ["tenants", "store, instructions/request"]
    return [head, *([f"{tenants:,}", f"{count:,}"] for tenants, count in found.items())]


def _account_rows(found: list[Account]) -> Rows:
    head = ["tenants", "store B each", "gateway B each", "reload ms", "store µs/request"]
    return [
        head,
        *(
            [
                f"{a.tenants:,}", f"{a.store_bytes:,.0f}", f"{a.gateway_bytes:,.0f}",
                f"{a.reload_ms:,.0f}", f"{a.admit_us:,.0f}",
            ]
            for a in found
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
