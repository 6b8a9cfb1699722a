"""A gateway that starts: what it says of a store that can never serve, and of one that is away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from support.gateway import LedgerView, config, eventually, lane
from support.replicas import TOKENS, Engine, ask, started
from support.store import Store

from fairgate.admission.embedded import EmbeddedStore
from fairgate.admission.locating import locator_of
from fairgate.admission.model import Served
from fairgate.admission.vetting import vet_store
from fairgate.config.reading import convert
from fairgate.engines.process import free_port
from fairgate.errors import StoreError
from fairgate.runtime import Runtime


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path, port=free_port(), requirepass="right") as store:
        yield store


async def vet(url: str) -> None:
    await vet_store(locator_of(url, "main"), timeout_s=5)


async def test_user_and_password_are_checked(guarded):
    await vet(f"redis://:right@127.0.0.1:{guarded.port}/0")
    with pytest.raises(StoreError, match=r"store\.url: the store refuses user or password"):
        await vet(f"redis://:wrong@127.0.0.1:{guarded.port}/0")
    with pytest.raises(StoreError, match=r"store\.url: the store refuses"):
        await vet(f"redis://127.0.0.1:{guarded.port}/0")


async def test_a_replica_takes_no_writes(guarded, tmp_path):
    master = f"127.0.0.1 {guarded.port}"
    with (
        Store(tmp_path / "b", port=free_port(), replicaof=master) as replica,
        pytest.raises(StoreError, match="expected a server that takes writes, got a replica"),
    ):
        await vet(replica.url)


async def test_a_node_of_a_cluster_is_not_the_whole_store(tmp_path):
    bus = free_port()
    with (
        Store(tmp_path, port=free_port(), cluster_enabled="yes", cluster_port=bus) as node,
        pytest.raises(StoreError, match=r"expected redis\+cluster://"),
    ):
        await vet(node.url)


async def test_an_old_server_is_refused():
    """No old server is at hand, so this one only says that it is."""
    told = b"# Server\r\nredis_version:6.2.14\r\nrole:master\r\n"

    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                words = [await reader.readline() for _ in range(2 * int(line[1:]))]
                asked = words[1] == b"INFO\r\n"
                writer.write(b"$%d\r\n%b\r\n" % (len(told), told) if asked else b"+OK\r\n")
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(
            StoreError, match=r"expected Redis or Valkey 7\.0 or newer, got version 6"
        ):
            await vet(f"redis://127.0.0.1:{port}/0")
        await ended.wait()


@asynccontextmanager
async def runtime(url: str, on_failure: str) -> AsyncIterator[Runtime]:
    lanes = {"small": lane("http://127.0.0.1:9", max_num_seqs=2)}
    fields: dict[str, Any] = {"on_failure": on_failure}
    settings = convert(config(lanes, store=url, store_fields=fields), source="test")
    async with Runtime.open(settings) as it:
        yield it


async def test_a_closed_gateway_does_not_start_without_its_store():
    with pytest.raises(StoreError):
        async with runtime(f"redis://127.0.0.1:{free_port()}/0", "closed"):
            raise AssertionError("it started")


@pytest.mark.parametrize("on_failure", ["open", "local"])
async def test_other_gateways_start_and_join_when_it_comes(on_failure, tmp_path):
    port = free_port()
    async with runtime(f"redis://127.0.0.1:{port}/0", on_failure) as it:
        admission = it.pools["main"].admission
        assert admission.away
        assert not it.shut()
        with Store(tmp_path, port=port):
            await eventually(lambda: admission.pool.gateways == 1)
            assert not admission.away


async def test_a_closed_gateway_is_not_ready_while_its_store_is_away(tmp_path):
    with Store(tmp_path) as store:
        async with runtime(store.url, "closed") as it:
            assert not it.shut()
            store.kill()
            await eventually(it.shut)
            store.start()
            await eventually(lambda: not it.shut())


async def test_an_embedded_store_that_dies_is_started_again_and_told_what_runs():
    store = EmbeddedStore()
    await store.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(store.stop)
        engine = Engine(2)
        (replica,) = await started(stack, store.url, 1, engine)
        held = await replica.acquire(ask())
        with redis.Redis.from_url(store.url) as client:
            os.kill(client.info()["process_id"], signal.SIGKILL)
        await eventually(lambda: replica.admission.statistics().outages == 1)
        await eventually(lambda: replica.admission.statistics().store_up)
        with LedgerView(store.url, wipe=False) as ledger:
            await eventually(lambda: ledger.in_use().get("engine:small:e0 seqs") == 1)
            await replica.settle(held, Served(cost=TOKENS, tokens=TOKENS, void=False))
            assert ledger.idle()
            assert ledger.tokens() == TOKENS
