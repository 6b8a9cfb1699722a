"""Corners of the ASGI protocol: one suite over uvicorn, granian and hypercorn, on real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import pytest
from support.gateway import LedgerView, Program, bearer, chat, eventually, tenant
from support.mounted import SERVERS, app_config, serving

PATH = "/v1/chat/completions"
TARGET = "support.corner_app:app"


def settings(store: str) -> dict[str, Any]:
    return app_config(
        store,
        {"roomy": 16, "narrow": 1},
        {"acme": tenant("acme")},
        timeouts={"body_s": 1.0},
        server={"max_body_bytes": 10_000},
    )


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    valkey_server: str,
) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("corners")
    config = settings(valkey_server)
    with (
        LedgerView(valkey_server),
        serving(folder, TARGET, config, server=request.param) as it,
    ):
        yield it


@pytest.fixture
def ledger(server: Program, valkey_server: str) -> Iterator[LedgerView]:
    """Of the running server: idle before and after each test."""
    with LedgerView(valkey_server, wipe=False) as view:
        yield view


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


async def ask(
    http: aiohttp.ClientSession,
    server: Program,
    do: str,
    *,
    data: Any = None,
    path: str = PATH,
    model: str = "roomy",
    **fields: Any,
) -> Answer:
    data = json.dumps(chat(**fields) | {"model": model}) if data is None else data
    headers = bearer() | {"x-do": do}
    async with http.post(server.url + path, data=data, headers=headers) as answer:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Answer(answer.status, headers, await answer.read())


async def seen(http: aiohttp.ClientSession, server: Program, path: str = "/seen") -> dict[str, Any]:
    async with http.get(server.url + path) as answer:
        told: dict[str, Any] = json.loads(await answer.read())
        return told


@asynccontextmanager
async def raw_request(
    server: Program, do: str, *, model: str = "roomy", head: str = "", body: bytes | None = None
) -> AsyncIterator[asyncio.StreamReader]:
    """A request on a socket of its own, which is closed, and with it the client, on leaving."""
    content = json.dumps(chat() | {"model": model}).encode() if body is None else body
    lines = [
        f"POST {PATH} HTTP/1.1",
        "host: localhost",
        f"x-do: {do}",
        *(f"{name}: {value}" for name, value in bearer().items()),
        head or f"content-length: {len(content)}",
    ]
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        yield reader
    finally:
        writer.transport.abort()


async def test_body_in_many_chunks_reaches_the_app_whole(
    server: Program, http: aiohttp.ClientSession, ledger: LedgerView
) -> None:
    content = json.dumps(chat("x" * 5000) | {"model": "roomy"}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for i in range(0, len(content), 500):
            yield content[i : i + 500]
            await asyncio.sleep(0)

    answer = await ask(http, server, "echo", data=pieces())
    assert answer.json()["bytes"] == len(content)
    assert answer.json()["messages"] == 1
    await eventually(ledger.idle)


async def test_body_empty_is_refused(server: Program, http: aiohttp.ClientSession) -> None:
    answer = await ask(http, server, "echo", data=b"")
    assert answer.status == 400
    assert "not valid JSON" in answer.json()["error"]["message"]


@pytest.mark.parametrize("declared", [True, False])
async def test_body_over_the_cap_is_refused(
    server: Program, http: aiohttp.ClientSession, *, declared: bool
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 1000

    answer = await ask(http, server, "echo", data=b"x" * 30_000 if declared else pieces())
    assert answer.status == 413
    assert answer.json()["error"]["code"] == "body_too_large"


async def test_body_never_finished_is_refused(server: Program, ledger: LedgerView) -> None:
    async with raw_request(server, "echo", head="content-length: 500", body=b'{"mod') as reader:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 400 " in head.splitlines()[0]
        assert b"body_timeout" in await reader.read(1000)
    await eventually(ledger.idle)


async def test_client_gone_before_its_body_is_complete(
    server: Program, http: aiohttp.ClientSession, ledger: LedgerView
) -> None:
    async with raw_request(server, "echo", head="content-length: 500", body=b'{"mod'):
        pass
    assert (await ask(http, server, "echo")).status == 200
    await eventually(ledger.idle)


async def test_client_gone_while_queued_leaves_the_line(
    server: Program, http: aiohttp.ClientSession, ledger: LedgerView
) -> None:
    before = (await seen(http, server)).get("held", 0)
    holder = asyncio.create_task(ask(http, server, "hold", model="narrow"))
    await eventually(lambda: _held(http, server, before + 1))
    async with raw_request(server, "hold", model="narrow"):
        await eventually(lambda: ledger.waiting() == 1)
    await eventually(lambda: ledger.waiting() == 0)
    await seen(http, server, "/release")
    assert (await holder).status == 200
    await eventually(ledger.idle)
    assert await _held(http, server, before + 1), "the app never saw the one that left"


async def _held(http: aiohttp.ClientSession, server: Program, count: int) -> bool:
    return bool((await seen(http, server)).get("held", 0) == count)


async def test_queued_request_is_served_when_capacity_comes_free(
    server: Program, http: aiohttp.ClientSession, ledger: LedgerView
) -> None:
    before = (await seen(http, server)).get("held", 0)
    holder = asyncio.create_task(ask(http, server, "hold", model="narrow"))
    await eventually(lambda: _held(http, server, before + 1))
    waiter = asyncio.create_task(ask(http, server, "echo", model="narrow"))
    await eventually(lambda: ledger.waiting() == 1)
    await seen(http, server, "/release")
    assert (await holder).status == 200
    assert int((await waiter).headers["x-fairgate-queue-ms"]) > 0
    await eventually(ledger.idle)


async def test_client_gone_while_streaming_is_told_to_the_app_and_pays_what_it_got(
    server: Program, http: aiohttp.ClientSession, ledger: LedgerView
) -> None:
    before, tokens = await seen(http, server), ledger.tokens()
    body = json.dumps(chat(stream=True) | {"model": "roomy"}).encode()
    async with raw_request(server, "stream", body=body) as reader:
        await reader.readuntil(b'"content":"x"')
    await eventually(ledger.idle)
    after = await seen(http, server)
    gone = ("http.disconnect", "send raised")
    assert sum(after.get(how, 0) - before.get(how, 0) for how in gone) == 1
    sent = after["tokens"] - before.get("tokens", 0)
    assert 0 < ledger.tokens() - tokens <= sent + 50  # the prompt's estimate comes on top


async def test_client_gone_after_the_last_byte(
    server: Program, http: aiohttp.ClientSession, ledger: LedgerView
) -> None:
    before = (await seen(http, server)).get("after the end: http.disconnect", 0)
    async with raw_request(server, "linger") as reader:
        await reader.readuntil(b'"completion_tokens":7}}')
        await eventually(ledger.idle)  # the capacity is free while the app still lingers
    await eventually(lambda: _lingered(http, server, before + 1))


async def _lingered(http: aiohttp.ClientSession, server: Program, count: int) -> bool:
    told = await seen(http, server)
    return bool(told.get("after the end: http.disconnect", 0) == count)


async def test_app_raising_before_the_start_is_an_error_and_free(
    server: Program, http: aiohttp.ClientSession, ledger: LedgerView
) -> None:
    tokens, requests = ledger.tokens(), ledger.requests()
    assert (await ask(http, server, "raise-before")).status == 500
    await eventually(ledger.idle)
    assert (ledger.tokens(), ledger.requests()) == (tokens, requests)
    assert (await ask(http, server, "echo")).status == 200


async def test_app_raising_after_the_start_breaks_off_and_costs_what_was_sent(
    server: Program, ledger: LedgerView
) -> None:
    await eventually(ledger.idle)
    tokens = ledger.tokens()
    body = json.dumps(chat(stream=True) | {"model": "roomy"}).encode()
    async with raw_request(server, "raise-after", body=body) as reader:
        answer = await reader.read(-1)
    assert answer.count(b'"content":"x"') <= 3
    assert not answer.endswith(b"0\r\n\r\n"), "no client may take it for complete"
    await eventually(ledger.idle)
    assert ledger.tokens() > tokens


async def test_app_that_never_reads_the_body_answers_on_a_connection_that_goes_on(
    server: Program, http: aiohttp.ClientSession, ledger: LedgerView
) -> None:
    for _ in range(3):
        assert (await ask(http, server, "never-read")).status == 200
    await eventually(ledger.idle)


async def test_pathsend_where_the_server_offers_it(
    server: Program, http: aiohttp.ClientSession, ledger: LedgerView
) -> None:
    answer = await ask(http, server, "file")
    assert answer.body == b"f" * 5000
    await eventually(ledger.idle)
    told = await seen(http, server)
    assert bool(told.get("pathsend")) == ("granian" in server.log.name)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "GET", "PUT"])
async def test_other_methods_on_a_metered_path_are_untouched(
    server: Program, http: aiohttp.ClientSession, method: str
) -> None:
    async with http.request(method, server.url + PATH) as answer:
        assert answer.status == 200
        assert "x-fairgate-lane" not in answer.headers
        if method == "GET":
            assert json.loads(await answer.read())["metered"] is False


async def test_other_paths_are_untouched(server: Program, http: aiohttp.ClientSession) -> None:
    answer = await ask(http, server, "", path="/v1/models")
    assert answer.json()["metered"] is False
    assert "x-request-id" not in answer.headers


async def test_websocket_is_untouched(server: Program, http: aiohttp.ClientSession) -> None:
    async with http.ws_connect(server.url + PATH) as socket:
        await socket.send_str("fair")
        assert await socket.receive_str() == "riaf"
    assert (await seen(http, server))["websocket untouched"] >= 1


async def test_context_variables_reach_the_app_and_come_back(
    server: Program, http: aiohttp.ClientSession
) -> None:
    answer = await ask(http, server, "context")
    assert answer.json() == {"outer_value": "outer"}
    assert (await seen(http, server))["context came back"] >= 1


class TestLife:
    """Servers of their own, one for each test."""

    @pytest.fixture(params=SERVERS)
    def name(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture(autouse=True)
    def ledger(self, valkey_server: str) -> Iterator[LedgerView]:
        with LedgerView(valkey_server) as view:
            yield view

    async def test_lifespan_reaches_the_app_while_fairgate_runs(
        self, name: str, tmp_path: Any, valkey_server: str
    ) -> None:
        with serving(tmp_path, TARGET, settings(valkey_server), server=name) as it:
            pass
        assert "app: lifespan.startup, fairgate runs: True" in it.text()
        assert "app: lifespan.shutdown, fairgate runs: True" in it.text()

    async def test_lifespan_unknown_to_the_app_starts_with_the_first_request(
        self,
        name: str,
        tmp_path: Any,
        valkey_server: str,
        http: aiohttp.ClientSession,
        ledger: LedgerView,
    ) -> None:
        config = settings(valkey_server)
        with serving(tmp_path, TARGET, config, server=name, CORNER_LIFESPAN="absent") as it:
            answers = await asyncio.gather(*(ask(http, it, "echo") for _ in range(8)))
            assert {answer.status for answer in answers} == {200}
            await eventually(ledger.idle)
            assert it.text().count("engine is up") == 2 * 2  # two lanes, started twice

    async def test_lifespan_start_that_fails_says_why(
        self, name: str, tmp_path: Any, valkey_server: str
    ) -> None:
        config = settings("redis://127.0.0.1:1/0")
        config["store"]["on_failure"] = "closed"
        with (
            pytest.raises(AssertionError, match="fairgate did not start"),
            serving(tmp_path, TARGET, config, server=name),
        ):
            pass

    async def test_mounted_twice_charges_once(
        self,
        name: str,
        tmp_path: Any,
        valkey_server: str,
        http: aiohttp.ClientSession,
        ledger: LedgerView,
    ) -> None:
        config = settings(valkey_server)
        with serving(tmp_path, TARGET, config, server=name, CORNER_TWICE="1") as it:
            assert (await ask(http, it, "never-read")).status == 200
            await eventually(ledger.idle)
            assert ledger.tokens() == 12

    async def test_root_path_is_no_part_of_the_route(
        self, name: str, tmp_path: Any, valkey_server: str, http: aiohttp.ClientSession
    ) -> None:
        option = {"granian": "--url-path-prefix"}.get(name, "--root-path")
        config = settings(valkey_server)
        with serving(tmp_path, TARGET, config, option, "/api", server=name) as it:
            # uvicorn puts the root path before what a proxy left; the others expect it in front.
            path = PATH if name == "uvicorn" else f"/api{PATH}"
            answer = await ask(http, it, "echo", path=path)
            assert answer.headers["x-fairgate-lane"] == "roomy"
            assert answer.json()["root_path"] == "/api"
