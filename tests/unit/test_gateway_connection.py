"""A client's connection at moments that are hard to meet from outside."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from typing import cast

import uvicorn
import uvloop
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from support.gateway import eventually
from uvicorn.server import ServerState

from fairgate.gateway.connection import Connection, connections_with

HELLO = PlainTextResponse("hello")
ASK = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
RESET = struct.pack("ii", 1, 0)


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp,
) -> AsyncIterator[tuple[set[Connection], StreamReader, StreamWriter]]:
    """The connections of a server of ``app``, and the client's end of one."""
    config = uvicorn.Config(
        app, loop="none", ws="none", lifespan="off", log_config=None,
        http=connections_with(60.0), timeout_keep_alive=75,
    )  # fmt: skip
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: config.http_protocol_class(config, state, {}), "127.0.0.1", 0
    )
    async with server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            yield cast("set[Connection]", state.connections), reader, writer
        finally:
            writer.transport.abort()


async def reset() -> None:
    async with serving(HELLO) as (connections, reader, writer):
        writer.write(ASK)
        await reader.readuntil(b"hello")
        (connection,) = connections
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()
        assert connection.is_idle
        await eventually(lambda: not connections)
        assert not connection.is_idle, "nobody waits for another request"
        connection.timeout_keep_alive_handler()  # had it come first


def test_a_connection_that_was_reset_is_kept_for_nothing() -> None:
    uvloop.run(reset())


async def test_a_request_that_was_on_its_way_when_the_server_ended_is_answered() -> None:
    async with serving(HELLO) as (connections, reader, writer):
        writer.write(ASK)
        assert b"connection:" not in await reader.readuntil(b"hello")
        (connection,) = connections
        connection.shutdown()
        writer.write(ASK)
        assert b"connection: close" in await reader.readuntil(b"hello")
        assert await reader.read() == b""


async def test_an_idle_connection_of_a_server_that_ends_is_closed() -> None:
    async with serving(HELLO) as (connections, reader, writer):
        writer.write(ASK)
        await reader.readuntil(b"hello")
        other, unused = await asyncio.open_connection(*writer.get_extra_info("peername"))
        await eventually(lambda: len(connections) == 2)
        for connection in connections:
            connection.shutdown()
        assert (await reader.read(), await other.read()) == (b"", b"")
        unused.close()
        await eventually(lambda: not connections)


async def test_who_was_promised_another_answer_gets_it_though_the_server_ends() -> None:
    """The head that went out before the end began could not say that it is the last one."""
    last = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await last.wait()
        await send({"type": "http.response.body", "body": b"last"})

    async with serving(app) as (connections, reader, writer):
        writer.write(ASK)
        assert b"connection:" not in await reader.readuntil(b"first")
        (connection,) = connections
        connection.shutdown()
        last.set()
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(ASK)
        assert b"connection: close" in await reader.readuntil(b"0\r\n\r\n")
        assert await reader.read() == b""
