"""Answers on the gateway's connections, byte by byte, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fairgate.gateway.connection import connections_with

Header = tuple[bytes, bytes]


def start(*headers: Header, status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes = b"", *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


@asynccontextmanager
async def serving(
    *messages: Message, keep_alive_s: int = 60, protocol: type[HttpToolsProtocol] | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server whose app sends ``messages``."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    config = uvicorn.Config(
        app, port=0, http=protocol or connections_with(60.0), ws="none", lifespan="off",
        log_config=None, server_header=False, date_header=False, access_log=False,
        timeout_keep_alive=keep_alive_s, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(20):
        while not server.started:  # noqa: ASYNC110 — told by uvicorn's loop
            await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection(*server.servers[0].sockets[0].getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        server.should_exit = True
        await task


async def asked(
    *messages: Message,
    head: bytes = b"GET / HTTP/1.1\r\n",
    times: int = 1,
    protocol: type[HttpToolsProtocol] | None = None,
) -> bytes:
    """All that comes back, on a connection that the client then ends."""
    async with serving(*messages, protocol=protocol) as (reader, writer), asyncio.timeout(20):
        last = head + b"host: x\r\nconnection: close\r\n\r\n"
        writer.write((head + b"host: x\r\n\r\n") * (times - 1) + last)
        return await reader.read()


@pytest.mark.parametrize("asks", [b"GET / HTTP/1.1", b"HEAD / HTTP/1.1", b"GET / HTTP/1.0"])
@pytest.mark.parametrize(
    "messages",
    [
        (start((b"content-length", b"2")), body(b"ok")),
        (start(), body(b"ok", more=True), body(b"", more=True), body()),
        (start((b"transfer-encoding", b"chunked")), body(b"ok")),
        (start((b"connection", b"close"), (b"content-length", b"0")), body()),
        (start(status=204), body()),
        (start(status=304), body()),
        (start((b"x-a", b"1"), (b"x-a", b"2"), status=599), body(b"ok", more=True), body(b"!")),
    ],
)
async def test_answers_are_uvicorns_own_to_the_byte(
    messages: Sequence[Message], asks: bytes
) -> None:
    head = asks + b"\r\n"
    ours = await asked(*messages, head=head)
    theirs = await asked(*messages, head=head, protocol=HttpToolsProtocol)
    assert sorted_head(ours) == sorted_head(theirs)


def sorted_head(answer: bytes) -> tuple[list[bytes], bytes]:
    """Lines in order of name, as a head may have them in any; and what follows."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    return sorted(head.split(b"\r\n")), rest


async def test_an_answer_with_a_length() -> None:
    sent = await asked(start((b"content-length", b"2"), (b"x-a", b"b\tc")), body(b"ok"))
    assert sent == (
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: b\tc\r\nconnection: close\r\n\r\nok"
    )


async def test_an_answer_without_a_length_comes_in_chunks() -> None:
    parts = body(b"one", more=True), body(b"", more=True), body(b"two")
    sent = await asked(start(), *parts)
    head, _, rest = sent.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert rest == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_a_body(status: int) -> None:
    sent = await asked(start(status=status), body())
    assert b"chunked" not in sent
    assert sent.endswith(b"\r\n\r\n")


async def test_head_gets_no_body() -> None:
    sent = await asked(start((b"content-length", b"2")), body(b"ok"), head=b"HEAD / HTTP/1.1\r\n")
    assert b"content-length: 2" in sent
    assert sent.endswith(b"\r\n\r\n")


async def test_a_pipeline_is_answered_in_order() -> None:
    sent = await asked(start((b"content-length", b"2")), body(b"ok"), times=3)
    assert sent.count(b"HTTP/1.1 200 OK") == 3
    assert sent.count(b"ok") == 3


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-a", b"b\r\nset-cookie: c")],
        [(b"x-a\r\nset-cookie", b"c")],
        [(b"x-a", b"b\nset-cookie: c")],
        [(b"x-a", b"\0set-cookie")],
    ],
)
async def test_no_header_begins_another(headers: Sequence[Header]) -> None:
    assert b"set-cookie" not in await asked(start(*headers), body(b"ok"))


@pytest.mark.parametrize("data", [b"longer", b"s"])
async def test_a_body_that_is_not_as_long_as_said_ends_the_connection(data: bytes) -> None:
    async with serving(start((b"content-length", b"3")), body(data)) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(20):
            assert b"longer" not in await reader.read()


async def test_a_connection_that_asks_no_more_is_closed() -> None:
    length = (b"content-length", b"2")
    async with serving(start(length), body(b"ok"), keep_alive_s=1) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(20):
            assert (await reader.read()).endswith(b"ok")
