"""``python -m fairgate.workers.worker``: one of the processes that serve a port together.

It is started by the supervisor, which tells it over standard input what to do.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import structlog
import uvloop

from fairgate.errors import FairgateError
from fairgate.runtime import Runtime
from fairgate.serve import Place, serve
from fairgate.telemetry import configure_logging
from fairgate.workers.address import bound
from fairgate.workers.orders import Begin, Order, Reload, Stop, read_orders
from fairgate.workers.scrape import Scraper

log = structlog.get_logger("fairgate.workers")


async def work(orders: AsyncIterator[Order]) -> None:
    """Serve as the first of ``orders`` says, until one says stop or they end.

    Raises what :func:`fairgate.serve.serve` raises.
    """
    begin = await anext(orders)
    assert isinstance(begin, Begin)  # noqa: S101 — the supervisor's first word
    structlog.contextvars.bind_contextvars(worker=begin.number)
    server = begin.config.server
    scraper = Scraper(Path(begin.folder), begin.number)

    async def obey(runtime: Runtime, stop: Callable[[], None]) -> None:
        async with scraper.serving(runtime):
            async for order in orders:
                if isinstance(order, Reload):
                    runtime.apply(order.config)
                elif isinstance(order, Stop):
                    stop()
            log.error("the supervisor is gone")
            stop()
            stop()  # nobody is left to wait for

    admin = begin.config.admin
    with ExitStack() as stack:
        listener = stack.enter_context(bound(server.host, server.port, shared=True))
        place = Place([listener], scraper.scrape, obey, [])
        if admin.port is not None:
            host = admin.host or server.host
            place.admin_sockets.append(stack.enter_context(bound(host, admin.port, shared=True)))
        await serve(begin.config, log_dir=Path.cwd(), place=place)


@asynccontextmanager
async def _standard_input() -> AsyncIterator[asyncio.StreamReader]:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    try:
        yield reader
    finally:
        transport.close()


async def _main() -> None:
    async with _standard_input() as reader:
        await work(read_orders(reader))


def main() -> int:
    """Exit status: 1 when it could not serve."""
    configure_logging(console=False)
    try:
        uvloop.run(_main())
    except (FairgateError, OSError) as error:
        log.error("the worker cannot serve", error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
