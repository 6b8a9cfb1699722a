"""Fixtures of the microbenchmarks: an event loop as in production, a store of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import uvloop

from tests.bench.parts.valkey import valkey


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Runs what is measured; the benchmarks themselves are not coroutines."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner.get_loop()


@pytest.fixture(scope="module")
def store_url(loop: asyncio.AbstractEventLoop) -> Iterator[str]:
    """A Valkey of the module."""
    context = valkey()
    server = loop.run_until_complete(context.__aenter__())
    yield server.url
    loop.run_until_complete(context.__aexit__(None, None, None))
