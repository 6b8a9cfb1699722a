"""Engines that are added and removed while two gateways of one site serve."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.admin import ADMIN, admin_section, ask, forget_changes
from support.gateway import (
    Gateway,
    SimulatedEngine,
    bearer,
    chat,
    config,
    engine,
    eventually,
    gateway,
    lane,
    long_chat,
    running,
)

SITE = "admin-engines"
CHAT = "/v1/chat/completions"
HERE = {"engines_at": [{"host": "127.0.0.0/8"}]}


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[SimulatedEngine]]:
    folder = tmp_path_factory.mktemp("engines")
    with engine(folder, "--speed", "4") as first, engine(folder, "--speed", "4") as second:
        yield [first, second]


@pytest.fixture
def settings(engines: list[SimulatedEngine], valkey_server: str) -> dict[str, Any]:
    forget_changes(valkey_server, SITE)
    return config(
        {"small": lane(engines[0].url)},
        store=valkey_server,
        pool=SITE,
        admin=admin_section(SITE, **HERE),
    )


@pytest.fixture
def gates(settings: dict[str, Any], tmp_path: Path) -> Iterator[tuple[Gateway, Gateway]]:
    with gateway(tmp_path / "a", settings) as a, gateway(tmp_path / "b", settings) as b:
        yield a, b


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers=ADMIN) as session:
        yield session


async def post(http: aiohttp.ClientSession, gate: Gateway, **body: Any) -> tuple[int, str]:
    """Status of one request, and the engine that served it."""
    told = chat(max_tokens=1, **body)
    async with http.post(gate.url + CHAT, json=told, headers=bearer()) as answer:
        await answer.read()
        return answer.status, answer.headers.get("x-fairgate-engine", "")


async def names(http: aiohttp.ClientSession, gate: Gateway) -> list[str]:
    _, told = await ask(http, gate, "GET", "/engines")
    return [e["name"] for e in told["engines"]]


async def limit(http: aiohttp.ClientSession, gate: Gateway) -> int:
    _, told = await ask(http, gate, "GET", "/lanes/small")
    return int(told["limit"])


async def serves(http: aiohttp.ClientSession, gate: Gateway, engine: str) -> bool:
    return (await post(http, gate))[1] == engine


async def test_an_added_engine_serves_on_all_replicas_and_after_a_restart(
    gates, engines, settings, http, tmp_path
):
    here, there = gates
    new = {"lane": "small", "name": "new", "url": engines[1].url, "max_num_seqs": 9}
    status, made = await ask(http, here, "POST", "/engines", new)
    assert (status, made["source"], made["url"]) == (201, "live", engines[1].url)
    assert (await ask(http, here, "POST", "/engines", new))[0] == 409

    async def is_known() -> bool:
        return await limit(http, there) == 13

    await eventually(is_known)
    assert await names(http, there) == ["small-0", "new"]
    assert (await post(http, there))[1] == "new", "it has most room"
    status, told = await ask(http, here, "PATCH", "/engines/small/new", {"max_num_seqs": 10})
    assert (status, told["max_num_seqs"]) == (200, 10)
    assert (await ask(http, here, "PATCH", "/engines/small/new", {"url": "http://x"}))[0] == 422
    with gateway(tmp_path / "later", settings) as later:
        assert await names(http, later) == ["small-0", "new"]
        await eventually(lambda: serves(http, later, "new"))
    _, audit = await ask(http, there, "GET", "/audit?limit=2")
    assert [entry["action"] for entry in audit["entries"]] == ["engine.change", "engine.add"]


async def test_a_removed_engine_ends_what_it_runs_and_gets_nothing_new(gates, engines, http):
    here, there = gates
    new = {"lane": "small", "name": "new", "url": engines[1].url, "max_num_seqs": 9}
    await ask(http, here, "POST", "/engines", new)

    async def is_known() -> bool:
        return await limit(http, there) == 13

    await eventually(is_known)
    long = asyncio.create_task(post_long(http, there))

    async def runs() -> bool:
        return await running(http, engines[1].url) == 1

    await eventually(runs)
    assert (await ask(http, here, "DELETE", "/engines/small/new"))[0] == 204
    assert await names(http, here) == ["small-0"]

    async def is_gone() -> bool:
        return await names(http, there) == ["small-0"] and await limit(http, there) == 4

    await eventually(is_gone)
    assert {(await post(http, gate))[1] for gate in gates for _ in range(3)} == {"small-0"}
    assert await running(http, engines[1].url) == 1, "what it runs goes on"
    assert not there.logs("engine is gone")
    long.cancel()
    await asyncio.gather(long, return_exceptions=True)
    await eventually(lambda: all(gate.logs("engine is gone") for gate in gates))
    assert (await ask(http, here, "DELETE", "/engines/small/new"))[0] == 404
    assert (await ask(http, here, "DELETE", "/engines/small/small-0"))[0] == 409, "it is the last"


async def post_long(http: aiohttp.ClientSession, gate: Gateway) -> None:
    async with http.post(gate.url + CHAT, json=long_chat(), headers=bearer()) as answer:
        await answer.read()


async def test_an_engine_of_the_file_goes_and_comes_back(gates, engines, http):
    here, there = gates
    other = {"lane": "small", "name": "other", "url": engines[1].url, "max_num_seqs": 2}
    await ask(http, here, "POST", "/engines", other)
    assert (await ask(http, here, "DELETE", "/engines/small/small-0"))[0] == 204

    async def only_other() -> bool:
        return await limit(http, there) == 2

    await eventually(only_other)
    assert (await post(http, there)) == (200, "other")
    status, back = await ask(http, here, "POST", "/engines", {"lane": "small", "name": "small-0"})
    assert (status, back["source"], back["url"]) == (201, "file", engines[0].url)

    async def both() -> bool:
        return await limit(http, there) == 6

    await eventually(both)


async def test_what_may_not_be_added_is_refused_with_field_and_reason(gates, engines, http):
    new = {"lane": "small", "name": "new", "url": engines[1].url}
    for changed, field in (
        ({"url": "http://169.254.169.254/latest"}, "url"),
        ({"url": "http://[::1]:80"}, "url"),
        ({"url": "ftp://127.0.0.1"}, "url"),
        ({"url": engines[0].url}, "url"),
        ({"api_key": "k"}, "api_key"),
        ({"type": "vllm"}, "type"),
        ({"max_num_seqs": 0}, "max_num_seqs"),
        ({"name": "a/b"}, "name"),
    ):
        status, told = await ask(http, gates[0], "POST", "/engines", {**new, **changed})
        assert (status, [e["field"] for e in told["errors"]]) == (422, [field]), told
    assert (await ask(http, gates[0], "POST", "/engines", {**new, "lane": "nope"}))[0] == 404
    assert (await ask(http, gates[0], "POST", "/engines", {"lane": "small", "name": "x"}))[0] == 422
    assert await names(http, gates[0]) == ["small-0"]


async def test_no_engine_is_added_where_the_file_names_no_place(settings, engines, http, tmp_path):
    closed = {**settings, "admin": admin_section(SITE)}
    with gateway(tmp_path / "closed", closed) as gate:
        new = {"lane": "small", "name": "new", "url": engines[1].url}
        status, told = await ask(http, gate, "POST", "/engines", new)
        assert status == 422
        assert "admin.engines_at allows, which names none" in told["detail"]
