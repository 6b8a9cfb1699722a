"""Ways to an engine: the same app, reached over HTTP and called in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from fairgate.engines.asgi_transport import AsgiTransport
from fairgate.engines.http_client import HttpClient
from fairgate.engines.http_transport import HttpTransport
from fairgate.engines.process import free_port
from fairgate.engines.transport import Transport
from fairgate.errors import EngineError, EngineUnreachable

Connect = Callable[[ASGIApp], Awaitable[Transport]]


@asynccontextmanager
async def over_http(app: ASGIApp) -> AsyncIterator[Transport]:
    settings = uvicorn.Config(app, port=free_port(), log_config=None, lifespan="off")
    server = uvicorn.Server(settings)
    serving = asyncio.create_task(server._serve())
    while not server.started:  # noqa: ASYNC110 - it tells by no event
        await asyncio.sleep(0.01)
    async with HttpClient() as http:
        yield HttpTransport(http, f"http://127.0.0.1:{settings.port}", {"x-own": "key"})
    server.should_exit = True
    await serving


@asynccontextmanager
async def in_process(app: ASGIApp) -> AsyncIterator[Transport]:
    transport = AsgiTransport(lambda: app, {"x-own": "key"})
    yield transport
    await transport.stop()


@pytest.fixture(params=[over_http, in_process])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    async with AsyncExitStack() as stack:
        yield lambda app: stack.enter_async_context(request.param(app))


async def start(send: Send, status: int = 200) -> None:
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def part(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def body_of(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        body += message["body"]
        more = message.get("more_body", False)
    return body


async def test_request_and_answer(connect: Connect) -> None:
    seen: dict[str, Any] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.update(scope, body=await body_of(receive))
        await start(send, 418)
        await part(send, b"one ")
        await part(send, b"")
        await part(send, b"two", more=False)

    transport = await connect(app)
    answer = await transport.post("/v1/x", b"ask", {"x-one": "ü", "x-own": "theirs"})
    assert answer.status == 418
    assert (b"content-type", b"text/plain") in [(n.lower(), v) for n, v in answer.headers]
    assert await answer.read() == b"one two"
    assert await answer.part() == b""
    answer.close()
    headers = dict(seen["headers"])
    assert (seen["method"], seen["path"], seen["query_string"]) == ("POST", "/v1/x", b"")
    assert seen["body"] == b"ask"
    assert headers[b"x-one"] in ("ü".encode("latin-1"), "ü".encode())
    assert headers[b"x-own"] == b"key", "the engine's own headers win"
    assert headers[b"content-length"] == b"3"


async def test_parts_come_as_they_are_made(connect: Connect) -> None:
    more = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await part(send, b"first")
        await more.wait()
        await part(send, b"last", more=False)

    answer = await (await connect(app)).post("/", b"", {})
    assert await answer.part() == b"first"
    more.set()
    assert [await answer.part(), await answer.part()] == [b"last", b""]
    answer.close()


async def test_a_close_is_a_disconnect(connect: Connect) -> None:
    told = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        await start(send)
        await part(send, b"first")
        assert (await receive())["type"] == "http.disconnect"
        await part(send, b"to nobody")
        told.set()

    answer = await (await connect(app)).post("/", b"", {})
    assert await answer.part() == b"first"
    answer.close()
    answer.close()
    async with asyncio.timeout(5):
        await told.wait()


async def test_a_cancelled_post_is_a_disconnect(connect: Connect) -> None:
    asked, told = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        asked.set()
        assert (await receive())["type"] == "http.disconnect"
        told.set()

    transport = await connect(app)
    posting = asyncio.ensure_future(transport.post("/", b"", {}))
    async with asyncio.timeout(5):
        await asked.wait()
        posting.cancel()
        await told.wait()
    with pytest.raises(asyncio.CancelledError):
        await posting


async def test_who_reads_slowly_slows_the_app(connect: Connect) -> None:
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await start(send)
        for _ in range(1000):
            await part(send, b"x" * 100_000)
            sent += 1
        await part(send, b"", more=False)

    answer = await (await connect(app)).post("/", b"", {})
    await answer.part()
    held = -1
    while held != sent:  # until it stands still
        held = sent
        await asyncio.sleep(0.2)
    assert held < 900
    assert len(await answer.read()) >= (1000 - held) * 100_000
    answer.close()


async def test_an_answer_that_breaks_off(connect: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await part(send, b"first")
        raise OSError("gone")

    answer = await (await connect(app)).post("/", b"", {})
    assert await answer.part() == b"first"
    with pytest.raises(EngineError):
        await answer.part()
    answer.close()


async def test_a_silence_that_is_too_long(connect: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await part(send, b"first")
        await receive()
        await receive()

    answer = await (await connect(app)).post("/", b"", {})
    assert await answer.part() == b"first"
    answer.limit_time(idle_s=0.05, total_s=60)
    with pytest.raises(EngineError):
        await answer.part()
    answer.close()


async def test_nobody_listens() -> None:
    async with HttpClient() as http:
        for transport in (
            HttpTransport(http, f"http://127.0.0.1:{free_port()}"),
            AsgiTransport(lambda: None),
        ):
            with pytest.raises(EngineUnreachable):
                await transport.post("/", b"", {})


async def test_an_app_that_fails_at_once() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("no")

    with pytest.raises(EngineError, match="ValueError"):
        await AsgiTransport(lambda: app).post("/", b"", {})


async def test_stopping_cancels_what_runs() -> None:
    cancelled = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    transport = AsgiTransport(lambda: app)
    answer = await transport.post("/", b"", {})
    await transport.stop()
    assert cancelled.is_set()
    with pytest.raises(EngineError):
        async with asyncio.timeout(5):
            await answer.part()
