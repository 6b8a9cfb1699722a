"""A client's connection at moments that are hard to meet from outside."""

from __future__ import annotations

import asyncio
import socket
import struct

import uvicorn
import uvloop
from starlette.responses import PlainTextResponse
from support.gateway import eventually
from uvicorn.server import ServerState

from fairgate.gateway.connection import connections_with

ASK = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
RESET = struct.pack("ii", 1, 0)


async def reset() -> None:
    config = uvicorn.Config(
        PlainTextResponse("hello"), loop="none", ws="none", lifespan="off", log_config=None,
        http=connections_with(60.0), timeout_keep_alive=75,
    )  # fmt: skip
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: config.http_protocol_class(config, state, {}), "127.0.0.1", 0
    )
    async with server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(ASK)
        await reader.readuntil(b"hello")
        (connection,) = state.connections
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()
        assert connection.is_idle
        await eventually(lambda: not state.connections)
        assert not connection.is_idle, "nobody waits for another request"
        connection.timeout_keep_alive_handler()  # had it come first


def test_a_connection_that_was_reset_is_kept_for_nothing() -> None:
    uvloop.run(reset())
