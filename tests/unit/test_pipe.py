"""The short way for parts of a stream, at both of its ends, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send
from support.gateway import eventually

from fairgate.engines.http_client import HttpClient
from fairgate.engines.http_connection import HttpAnswer
from fairgate.engines.http_transport import HttpTransport
from fairgate.errors import EngineError
from fairgate.gateway.connection import connections_with
from fairgate.pipe import Put, put_of

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
START: Message = {"type": "http.response.start", "status": 200, "headers": []}
LAST: Message = {"type": "http.response.body", "body": b"last"}
MOST_BYTES = 1_000


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@asynccontextmanager
async def asked() -> AsyncIterator[tuple[HttpAnswer, asyncio.StreamWriter]]:
    """An answer in chunks that has begun, and the engine's side of its connection."""
    engines: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(CHUNKED)
        engines.put_nowait(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with HttpClient(max_answer_bytes=MOST_BYTES) as http, asyncio.timeout(20):
        answer = await HttpTransport(http, f"http://127.0.0.1:{port}").post("/", b"", {})
        engine = await engines.get()
        yield answer, engine
        answer.close()
        engine.close()
    server.close()


async def sent(engine: asyncio.StreamWriter, data: bytes, seen: Callable[[], bool]) -> None:
    engine.write(data)
    await eventually(seen)


async def test_parts_go_past_the_reader_but_for_the_last_one() -> None:
    put: list[bytes] = []
    async with asked() as (answer, engine):
        reading = asyncio.ensure_future(answer.part(lambda part: put.append(part) is None))
        await sent(engine, chunk(b"one"), lambda: put == [b"one"])
        await sent(engine, chunk(b"two") + chunk(b"three"), lambda: len(put) == 2)
        assert put == [b"one", b"twothree"]
        assert not reading.done()
        engine.write(chunk(b"last") + b"0\r\n\r\n")
        assert await reading == b"last"
        assert answer.complete


async def test_what_came_before_is_for_the_reader() -> None:
    put: list[bytes] = []
    async with asked() as (answer, engine):
        await sent(engine, chunk(b"one"), lambda: answer._held_bytes == 3)
        assert await answer.part(lambda part: put.append(part) is None) == b"one"
        assert put == []


async def test_who_takes_no_more_leaves_the_next_to_the_reader() -> None:
    put: list[bytes] = []
    async with asked() as (answer, engine):
        reading = asyncio.ensure_future(answer.part(lambda part: put.append(part) is not None))
        await sent(engine, chunk(b"one"), lambda: put == [b"one"])
        engine.write(chunk(b"two"))
        assert await reading == b"two"
        assert put == [b"one"]


@pytest.mark.parametrize("error", [EngineError("nonsense"), RuntimeError("a bug")])
async def test_what_fails_in_between_is_told_to_the_reader(error: Exception) -> None:
    def fail(part: bytes) -> bool:
        raise error

    async with asked() as (answer, engine):
        reading = asyncio.ensure_future(answer.part(fail))
        await asyncio.sleep(0)
        engine.write(chunk(b"one"))
        with pytest.raises(type(error), match=str(error)):
            await reading
        await eventually(lambda: is_told(engine))


def is_told(engine: asyncio.StreamWriter) -> bool:
    """Whether the engine finds out that nobody listens any more."""
    engine.write(chunk(b"two"))
    return engine.transport.is_closing()


async def test_nothing_goes_past_a_reader_who_gave_up() -> None:
    put: list[bytes] = []
    async with asked() as (answer, engine):
        reading = asyncio.ensure_future(answer.part(lambda part: put.append(part) is None))
        await sent(engine, chunk(b"one"), lambda: put == [b"one"])
        reading.cancel()
        await asyncio.wait({reading})
        engine.write(chunk(b"two"))
        assert await answer.part() == b"two", "and nothing is lost"
        assert put == [b"one"]


@pytest.mark.parametrize("ends", [b"", b"0\r\n\r\n"])
async def test_an_answer_that_is_too_long_breaks_off(ends: bytes) -> None:
    put: list[bytes] = []
    async with asked() as (answer, engine):
        reading = asyncio.ensure_future(answer.part(lambda part: put.append(part) is None))
        await sent(engine, chunk(b"x" * MOST_BYTES), lambda: len(put) == 1)
        engine.write(chunk(b"y") + ends)
        with pytest.raises(EngineError, match="more than an answer may have"):
            await reading


async def test_silence_breaks_off_who_passes_parts_on() -> None:
    put: list[bytes] = []
    async with asked() as (answer, engine):
        answer.limit_time(idle_s=0.2, total_s=60)
        reading = asyncio.ensure_future(answer.part(lambda part: put.append(part) is None))
        await sent(engine, chunk(b"one"), lambda: put == [b"one"])
        with pytest.raises(EngineError, match="silent"):
            await reading


# The client's side

App = Callable[[Scope, Receive, Send], Awaitable[None]]


@asynccontextmanager
async def served(app: App, ask: bytes = b"GET") -> AsyncIterator[socket.socket]:
    """A connection on which ``app`` was asked, with room for little in the system's buffers."""
    config = uvicorn.Config(
        app, port=0, http=connections_with(60.0), ws="none", lifespan="off", log_config=None,
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, server.servers[0].sockets[0].getsockname())
        await loop.sock_sendall(client, ask + b" / HTTP/1.1\r\nhost: x\r\n\r\n")
        try:
            yield client
        finally:
            client.close()
            server.should_exit = True
            await serving


async def read_all(client: socket.socket, until: bytes) -> bytes:
    loop, data = asyncio.get_running_loop(), b""
    async with asyncio.timeout(20):
        while not data.endswith(until):
            part = await loop.sock_recv(client, 1 << 20)
            assert part, data[-200:]
            data += part
    return data


async def test_a_callback_writes_to_the_client() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        put = put_of(send)
        assert put is not None
        written = asyncio.Event()

        def write() -> None:
            assert put(b"one")  # the head waits for what follows it
            assert put(b"two")
            written.set()

        asyncio.get_running_loop().call_soon(write)
        await written.wait()
        await send(LAST)

    async with served(app) as client:
        head, _, body = (await read_all(client, b"0\r\n\r\n")).partition(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        assert body == chunk(b"one") + chunk(b"two") + chunk(b"last") + b"0\r\n\r\n"


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize(
    ("asks", "fields", "offered"),
    [
        (b"GET", [], True),
        (b"GET", [(b"content-length", b"4")], False),
        (b"HEAD", [], False),
    ],
)
async def test_where_the_short_way_is_offered(
    asks: bytes, fields: list[tuple[bytes, bytes]], offered: bool, wrap: bool
) -> None:
    found: list[Put | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def wrapped(message: Message) -> None:
            await send(message)

        await send({**START, "headers": fields})
        found.append(put_of(wrapped if wrap else send))
        await send(LAST)

    async with served(app, asks) as client:
        await read_all(
            client, b"\r\n\r\n" if asks == b"HEAD" else b"last" if fields else b"0\r\n\r\n"
        )
        assert [put is not None for put in found] == [offered and not wrap]


async def test_a_slow_client_is_told_of_and_waited_for() -> None:
    part, filled = b"x" * 10_000, asyncio.Event()
    parts = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal parts
        await send(START)
        put = put_of(send)
        assert put is not None
        parts = 1
        while put(part):
            parts += 1
            await asyncio.sleep(0)  # the system takes some
        filled.set()
        await send({"type": "http.response.body", "body": b"waited", "more_body": True})
        assert put(b"again")
        await send(LAST)

    async with served(app) as client, asyncio.timeout(20):
        await filled.wait()
        data = await read_all(client, b"0\r\n\r\n")
        _, _, body = data.partition(b"\r\n\r\n")
        rest = b"".join(map(chunk, (b"waited", b"again", b"last"))) + b"0\r\n\r\n"
        assert body == chunk(part) * parts + rest


async def test_what_is_written_to_a_client_that_left_is_dropped() -> None:
    done = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        put = put_of(send)
        assert put is not None
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        assert put(b"nobody reads this")
        done.set()

    async with served(app) as client, asyncio.timeout(20):
        client.close()
        await done.wait()
