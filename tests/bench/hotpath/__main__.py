"""``python -m tests.bench.hotpath``: measures every subject in turns and prints one table."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from fairgate.admission.embedded import EmbeddedStore
from fairgate.engines.process import free_port
from loadgen.report import Rows, markdown_table, plain_table
from tests.bench.hotpath.load import drive
from tests.bench.hotpath.subjects import CHAT, KEY, Subject, subjects
from tests.bench.scheduling.server import Server

_START_S = 60.0


def main(
    requests: Annotated[int, typer.Option(min=100, help="Of each subject and round.")] = 4000,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of every subject.")] = 5,
    connections: Annotated[int, typer.Option(min=1, help="At the same time.")] = 32,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
    markdown: Annotated[bool, typer.Option(help="Print the table as Markdown.")] = False,
) -> None:
    """Measure what fairgate adds to a small chat request that need not wait.

    The store is a Valkey process of its own, the engine behind the proxies one that costs next to
    nothing. Takes about a minute.
    """
    rows = asyncio.run(_measure(requests, rounds, connections))
    if json_file is not None:
        json_file.write_text(json.dumps({"connections": connections, "subjects": rows}, indent=1))
    shown = _table(rows)
    typer.echo(markdown_table(shown) if markdown else plain_table(shown))


async def _measure(requests: int, rounds: int, connections: int) -> list[dict[str, Any]]:
    store = EmbeddedStore()
    await store.start()
    server = Server(store.url)
    seen: defaultdict[str, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        try:
            upstream = free_port()
            command = (sys.executable, "-m", "tests.bench.hotpath.upstream", "{port}")
            engine = stack.enter_context(_running(command, upstream, {}))
            await _until_it_serves(upstream, CHAT, engine)
            every = subjects(Path(folder), store.url, f"http://127.0.0.1:{upstream}")
            started: list[tuple[Subject, int, int]] = []
            for one in every:
                port = free_port()
                process = stack.enter_context(_running(one.command, port, one.environ))
                await _until_it_serves(port, one.path, process)
                started.append((one, port, process.pid))
            for turn in range(rounds + 1):
                for one, port, pid in started:
                    before = _cpu_s(pid), await server.cpu_s()
                    timing = await drive(
                        port, one.path, KEY, requests=requests, connections=connections
                    )
                    after = _cpu_s(pid), await server.cpu_s()
                    if turn:  # the first only warms up
                        latencies = sorted(timing.latencies_s)
                        seen[one.name].append(
                            {
                                "cpu_us": (after[0] - before[0]) / requests * 1e6,
                                "store_us": (after[1] - before[1]) / requests * 1e6,
                                "per_s": requests / timing.seconds,
                                "p50_ms": latencies[len(latencies) // 2] * 1e3,
                                "p99_ms": latencies[len(latencies) * 99 // 100] * 1e3,
                                "rss_mib": _rss_mib(pid),
                            }
                        )
        finally:
            await server.close()
            await store.stop()
    return [_figures(one, seen) for one in every]


def _figures(one: Subject, seen: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Medians over the rounds; ratios are those of the same round."""
    own = seen[one.name]
    found: dict[str, Any] = {"name": one.name, "against": one.against}
    found |= {name: median(turn[name] for turn in own) for name in own[0]}
    if one.against is not None:
        pairs = list(zip(own, seen[one.against], strict=True))
        found["added_us"] = median(mine["cpu_us"] - base["cpu_us"] for mine, base in pairs)
        found["cpu_ratio"] = median(mine["cpu_us"] / base["cpu_us"] for mine, base in pairs)
        found["rate_ratio"] = median(mine["per_s"] / base["per_s"] for mine, base in pairs)
    return found


def _table(rows: Sequence[Mapping[str, Any]]) -> Rows:
    header = [
        "", "CPU us/request", "against", "added us", "CPU ratio", "rate ratio", "requests/s",
        "p50 ms", "p99 ms", "store us/request", "RSS MiB",
    ]  # fmt: skip
    table = [header]
    for row in rows:
        compared = row["against"] is not None
        table.append([
            row["name"], f"{row['cpu_us']:.0f}", row["against"] or "-",
            f"{row['added_us']:.0f}" if compared else "-",
            f"{row['cpu_ratio']:.2f}" if compared else "-",
            f"{row['rate_ratio']:.2f}" if compared else "-",
            f"{row['per_s']:,.0f}", f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.2f}",
            f"{row['store_us']:.0f}", f"{row['rss_mib']:.0f}",
        ])  # fmt: skip
    return table


@contextmanager
def _running(
    command: Sequence[str], port: int, environ: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    filled = [part.format(port=port) for part in command]
    process = subprocess.Popen(
        filled, env={**os.environ, **environ}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _until_it_serves(port: int, path: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            await drive(port, path, KEY, requests=1, connections=1)
        except* (OSError, EOFError, RuntimeError) as error:
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"{process.args!r} does not serve {path}") from error
        else:
            return
        await asyncio.sleep(0.2)


def _cpu_s(pid: int) -> float:
    """Time that the threads of the process have run, to the nanosecond (Linux)."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def _rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    typer.run(main)
