"""Streams pass from engine to client without the request's task: what is charged, kept and told in
all the ways in which they may end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
import yaml
from aiohttp import web
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from support.gateway import LedgerView, bearer, chat, config, eventually, fake_engine, lane

from fairgate.config.reading import loads
from fairgate.engines.process import free_port
from fairgate.gateway.app import Gateway
from fairgate.gateway.connection import connections_with
from fairgate.runtime import Runtime

POOL = "streams"
CHAT = "/v1/chat/completions"
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n'
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4}}\n\n'
DONE = b"data: [DONE]\n\n"


class Engine:
    """Streams what a test puts into :attr:`parts`; ``None`` ends an answer, ``False`` breaks it."""

    def __init__(self) -> None:
        self.parts: asyncio.Queue[bytes | bool | None] = asyncio.Queue()
        self.connections: list[Any] = []
        self.asked: web.Request

    @property
    def left(self) -> bool:
        """The gateway has left the last request."""
        return self.asked.transport is None

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.asked = request
        assert request.transport is not None
        self.connections.append(request.transport.get_extra_info("peername"))
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        while (part := await self.parts.get()) is not None:
            if part is False:
                request.transport.abort()
                break
            assert isinstance(part, bytes)
            await response.write(part)
        return response


@dataclass
class Site:
    """A gateway in this process, and its engine."""

    gateway: Gateway
    engine: Engine
    server: uvicorn.Server
    ledger: LedgerView
    logged: list[Mapping[str, Any]] = field(default_factory=list)

    async def line(self) -> Mapping[str, Any]:
        """Of the only request that has ended."""
        await eventually(lambda: self.logged and self.ledger.idle())
        (line,) = self.logged
        return line


@asynccontextmanager
async def serving(
    valkey_server: str, around: Callable[[ASGIApp], ASGIApp] = lambda app: app
) -> AsyncIterator[Site]:
    port, engine = free_port(), Engine()
    settings = config(
        {"small": lane(f"http://127.0.0.1:{port}")},
        store=valkey_server, pool=POOL, timeouts={"idle_s": 1.0, "drain_s": 5.0},
    )  # fmt: skip
    with LedgerView(valkey_server, POOL) as ledger:
        async with (
            fake_engine(port, engine),
            Runtime.open(loads(yaml.safe_dump(settings), source="test")) as runtime,
        ):
            gateway = Gateway(runtime)
            server = uvicorn.Server(uvicorn.Config(
                around(gateway.app), port=0, http=connections_with(60.0), ws="none",
                lifespan="off", log_config=None,
            ))  # fmt: skip
            site = Site(gateway, engine, server, ledger)
            runtime.log_request = site.logged.append
            task = asyncio.create_task(server.serve())
            await eventually(lambda: server.started and not runtime.closed_lanes())
            try:
                async with asyncio.timeout(20):
                    yield site
            finally:
                server.should_exit = True
                await task


@pytest.fixture
async def site(valkey_server: str) -> AsyncIterator[Site]:
    async with serving(valkey_server) as it:
        yield it


class Client:
    """A connection to the gateway, read in chunks as they come over the wire."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def ask(self, times: int = 1) -> None:
        """Ask for a stream, so often without waiting for the answer."""
        body = json.dumps(chat(stream=True)).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
        key = f"authorization: {bearer()['authorization']}\r\n\r\n"
        self.writer.write((f"{head}{key}".encode() + body) * times)

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def chunk(self) -> bytes:
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        data = await self.reader.readexactly(size)
        assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def rest(self) -> bytes:
        """What is left of an answer that has an end."""
        parts = []
        while part := await self.chunk():
            parts.append(part)
        return b"".join(parts)


@asynccontextmanager
async def connected(site: Site) -> AsyncIterator[Client]:
    address = site.server.servers[0].sockets[0].getsockname()[:2]
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


@asynccontextmanager
async def begun(site: Site) -> AsyncIterator[Client]:
    """A client that has the first event."""
    async with connected(site) as client:
        client.ask()
        site.engine.parts.put_nowait(ROLE)
        assert b"200 OK" in await client.head()
        assert await client.chunk() == ROLE
        yield client


async def passed(site: Site, client: Client, count: int) -> None:
    """So many events, one by one."""
    for _ in range(count):
        site.engine.parts.put_nowait(EVENT)
        assert await client.chunk() == EVENT


def end(site: Site, *parts: bytes) -> None:
    for part in parts:
        site.engine.parts.put_nowait(part)
    site.engine.parts.put_nowait(None)


def waits_on(site: Site) -> object:
    """What the only request's task waits for: another thing each time it has been woken."""
    (task,) = site.server.server_state.tasks
    return task._fut_waiter


async def test_parts_pass_while_the_requests_task_sleeps(site: Site) -> None:
    async with begun(site) as client:
        await passed(site, client, 1)
        sleeps_on = waits_on(site)
        await passed(site, client, 3)
        assert waits_on(site) is sleeps_on
        end(site, USAGE, DONE)
        assert await client.rest() == DONE, "the usage was not asked for by the client"
        line = await site.line()
        assert (line["outcome"], line["prompt_tokens"], line["output_tokens"]) == (
            "completed", 9, 4,
        )  # fmt: skip
        assert site.ledger.tokens() == 13


async def test_who_wraps_what_is_sent_sees_every_part(valkey_server: str) -> None:
    seen: list[bytes] = []

    def around(app: ASGIApp) -> ASGIApp:
        async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
            async def look(message: Message) -> None:
                seen.append(message.get("body", b""))
                await send(message)

            await app(scope, receive, look)

        return wrapped

    async with serving(valkey_server, around) as site, begun(site) as client:
        await passed(site, client, 3)
        end(site, DONE)
        assert await client.rest() == DONE
        assert seen.count(EVENT) == 3


async def test_both_connections_serve_the_next_stream_also_of_a_pipeline(site: Site) -> None:
    async with connected(site) as client:
        client.ask(times=3)
        for _ in range(3):
            site.engine.parts.put_nowait(ROLE)
            assert b"200 OK" in await client.head()
            assert await client.chunk() == ROLE
            await passed(site, client, 2)
            end(site, DONE)
            assert await client.rest() == DONE
        await eventually(lambda: len(site.logged) == 3)
        assert [line["outcome"] for line in site.logged] == ["completed"] * 3
        assert len(set(site.engine.connections)) == 1


async def test_who_leaves_pays_for_exactly_what_passed(site: Site) -> None:
    async with begun(site) as client:
        await passed(site, client, 7)
        client.writer.transport.abort()
        line = await site.line()
        assert (line["outcome"], line["status"], line["output_tokens"]) == ("client_gone", 200, 7)
        assert site.ledger.tokens() == line["prompt_tokens"] + 7
        await eventually(lambda: site.engine.left)


async def test_half_an_event_waits_for_its_other_half(site: Site) -> None:
    async with begun(site) as client:
        await passed(site, client, 1)
        site.engine.parts.put_nowait(EVENT[:20])
        site.engine.parts.put_nowait(EVENT[20:] + EVENT[:5])
        assert await client.chunk() == EVENT
        end(site, EVENT[5:], DONE)
        assert await client.rest() == EVENT + DONE
        assert (await site.line())["output_tokens"] == 3


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (False, "broke off (connection"),
        (b"data: {no json}\n\n", "broke off (an event that is no JSON"),
        (None, "silent"),
    ],
    ids=["dies", "sends nonsense", "falls silent"],
)
async def test_an_engine_that_fails_within_a_stream(
    site: Site, harm: bytes | bool | None, code: str
) -> None:
    async with begun(site) as client:
        await passed(site, client, 3)
        if harm is not None:
            site.engine.parts.put_nowait(harm)
        last = await client.rest()
        assert last.startswith(b'\n\ndata: {"error":'), last
        assert code in last.decode()
        line = await site.line()
        assert (line["outcome"], line["output_tokens"]) == ("error", 3)
        site.engine.parts.put_nowait(None)


async def test_a_gateway_that_ends_lets_a_stream_end(site: Site) -> None:
    async with begun(site) as client:
        await passed(site, client, 2)
        site.gateway._runtime.draining = site.server.should_exit = True
        await eventually(lambda: not site.server.servers[0].is_serving())
        await passed(site, client, 2)
        end(site, DONE)
        assert await client.rest() == DONE
        assert (await site.line())["outcome"] == "completed"


async def test_a_gateway_that_does_not_wait_says_so_in_the_stream(site: Site) -> None:
    async with begun(site) as client:
        await passed(site, client, 2)
        site.gateway._runtime.draining = True
        (task,) = site.server.server_state.tasks
        task.cancel()
        assert b'"code":"draining"' in await client.rest()
        assert (await site.line())["output_tokens"] == 2
        await eventually(lambda: site.engine.left)


async def test_a_slow_reader_slows_the_engine(site: Site) -> None:
    """And gets all of it in the end."""
    large = EVENT.replace(b"Hi", b"Hi" * 16_000)
    count = 1500  # more than the system's own buffers take
    async with begun(site) as client:
        client.writer.transport.pause_reading()
        for _ in range(count):
            site.engine.parts.put_nowait(large)
        end(site, DONE)
        before = -1
        # Until it stands still; nobody tells.
        while before != (before := site.engine.parts.qsize()):  # noqa: ASYNC110
            await asyncio.sleep(0.3)
        assert before > count / 4
        client.writer.transport.resume_reading()
        assert await client.rest() == large * count + DONE
        assert (await site.line())["output_tokens"] == count
