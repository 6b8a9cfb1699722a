"""Connections to engines, against servers that answer byte by byte what they are told to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import uvloop

from fairgate.engines.http_client import HttpClient
from fairgate.engines.http_connection import HIGH_WATER_BYTES, MAX_HEAD_BYTES
from fairgate.engines.http_transport import HttpTransport
from fairgate.errors import EngineError

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Script:
    """A server that sends ``answers`` in their order, whatever is asked; ``None`` hangs up."""

    def __init__(self, answers: Sequence[bytes | None], *, bytewise: bool, hang_up: bool) -> None:
        self._answers = iter(answers)
        self._bytewise = bytewise
        self._hang_up = hang_up
        self.url = ""
        self.connections = 0
        self.requests: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while not reader.at_eof():
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                answer = next(self._answers)
                if answer is None:
                    break
                for part in [bytes([b]) for b in answer] if self._bytewise else [answer]:
                    writer.write(part)
                    await writer.drain()
                if self._hang_up:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def served(
    *answers: bytes | None, bytewise: bool = False, hang_up: bool = False
) -> AsyncIterator[tuple[HttpTransport, Script]]:
    script = Script(answers, bytewise=bytewise, hang_up=hang_up)
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with HttpClient() as http, asyncio.timeout(10):
        yield HttpTransport(http, f"http://127.0.0.1:{port}/base/", {"x-own": "key"}), script
    server.close()
    await server.wait_closed()


async def ask(transport: HttpTransport) -> tuple[int, bytes]:
    answer = await transport.post("/v1/x", b"{}", {})
    try:
        return answer.status, await answer.read()
    finally:
        answer.close()


async def test_one_connection_serves_request_after_request() -> None:
    async with served(OK, OK, OK) as (transport, script):
        assert [await ask(transport) for _ in range(3)] == [(200, b"ok")] * 3
        assert script.connections == 1
        lines = script.requests[0].decode().split("\r\n")
        assert lines[0] == "POST /base/v1/x HTTP/1.1"
        assert lines[-1] == "{}"
        headers = {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in lines[1:-2]}
        assert headers["x-own"] == "key"
        assert headers["host"].startswith("127.0.0.1:")


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (OK, (200, b"ok")),
        (b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", (503, b"")),
        (b"HTTP/1.1 204 Nothing\r\n\r\n", (204, b"")),
        (b"HTTP/1.1 103 Early\r\nlink: <x>\r\n\r\n" + OK, (200, b"ok")),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
            b"3\r\none\r\n4;x=y\r\n two\r\n0\r\n\r\n",
            (200, b"one two"),
        ),
    ],
    ids=["length", "empty", "no content", "early hints", "chunks"],
)
async def test_forms_of_answers(answer: bytes, expected: tuple[int, bytes], bytewise: bool) -> None:
    async with served(answer, OK, bytewise=bytewise) as (transport, script):
        assert await ask(transport) == expected
        assert await ask(transport) == (200, b"ok")
        assert script.connections == 1


async def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    async with served(b"HTTP/1.1 200 OK\r\n\r\nall of it", OK, hang_up=True) as (transport, script):
        assert await ask(transport) == (200, b"all of it")
        assert await ask(transport) == (200, b"ok")
        assert script.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        OK + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfake",
        OK + b"junk",
    ],
    ids=["close", "two answers", "junk"],
)
async def test_what_is_not_clean_is_not_used_again(answer: bytes) -> None:
    async with served(answer, OK) as (transport, script):
        assert await ask(transport) == (200, b"ok")
        assert await ask(transport) == (200, b"ok"), "and not what was left on the other one"
        assert script.connections == 2


async def test_a_connection_that_was_closed_while_free_is_replaced() -> None:
    async with served(OK, OK, hang_up=True) as (transport, script):
        assert await ask(transport) == (200, b"ok")
        assert await ask(transport) == (200, b"ok")
        assert script.connections == 2


async def test_a_connection_that_is_closed_as_it_is_used_again_is_replaced() -> None:
    async with served(OK, None, OK) as (transport, script):
        assert await ask(transport) == (200, b"ok")
        assert await ask(transport) == (200, b"ok")
        assert (script.connections, len(script.requests)) == (2, 3)


async def test_a_new_connection_that_is_closed_without_an_answer_is_a_failure() -> None:
    async with served(None, OK) as (transport, script):
        with pytest.raises(EngineError, match="connection closed"):
            await ask(transport)
        assert len(script.requests) == 1, "asked once"


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no readable HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nok", "no readable"),
        (b"HTTP/1.1 200 OK\r\nx: %b\r\n\r\n" % (b"y" * MAX_HEAD_BYTES), "no readable HTTP"),
        (b"HTTP/1.1 101 Up\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "no readable HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-le", "connection closed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", "connection closed"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", "connection closed"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "no readable HTTP"),
    ],
    ids=["not http", "two lengths", "head", "upgrade", "half a head", "short", "no end", "chunk"],
)
async def test_what_breaks_off_or_is_no_http_is_a_failure(answer: bytes, what: str) -> None:
    async with served(answer, hang_up=True) as (transport, _):
        with pytest.raises(EngineError, match=what):
            await ask(transport)


async def test_a_header_cannot_begin_another() -> None:
    async with served(OK) as (transport, script):
        for value in ("a\r\nx-forged: 1", "a\nx-forged: 1", "a\rb"):
            with pytest.raises(EngineError, match="line end"):
                await transport.post("/v1/x", b"", {"x-one": value})
        with pytest.raises(EngineError, match="line end"):
            await transport.post("/v1/x", b"", {"x\r\ny": "z"})
        assert script.requests == []


async def test_paths_are_quoted() -> None:
    async with served(OK) as (transport, script):
        answer = await transport.post("/v1/ü x\r\n?a=b#c", b"", {})
        answer.close()
        assert script.requests[0].startswith(b"POST /base/v1/%C3%BC%20x%0D%0A%3Fa=b%23c HTTP/1.1")


async def test_a_large_body_goes_out_whole() -> None:
    body = bytes(range(256)) * 20_000
    async with served(OK) as (transport, script):
        answer = await transport.post("/v1/x", body, {})
        assert await answer.read() == b"ok"
        assert script.requests[0].endswith(body)


async def test_what_nobody_takes_is_not_read_without_end() -> None:
    size = 40 * HIGH_WATER_BYTES
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size
    async with served(head + b"x" * size, OK) as (transport, _):
        answer = await transport.post("/v1/x", b"", {})
        await asyncio.sleep(0.3)
        first = await answer.part()
        assert HIGH_WATER_BYTES <= len(first) < size / 4
        rest = await answer.read()
        assert len(first) + len(rest) == size
        assert await ask(transport) == (200, b"ok"), "the connection reads again"


async def test_slow_readers_are_not_taken_for_silence() -> None:
    size = 8 * HIGH_WATER_BYTES
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size
    async with served(head + b"x" * size) as (transport, _):
        answer = await transport.post("/v1/x", b"", {})
        answer.limit_time(idle_s=0.1, total_s=60)
        await asyncio.sleep(0.4)
        assert len(await answer.read()) == size


async def test_closing_the_client_ends_what_is_under_way() -> None:
    async with served(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok") as (transport, _):
        answer = await transport.post("/v1/x", b"", {})
        assert await answer.part() == b"ok"
        reading = asyncio.ensure_future(answer.part())
        await asyncio.sleep(0)
        await transport._client.__aexit__()
        with pytest.raises(EngineError):
            await reading


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_an_engine_is_hung_up_on_at_once(run: Callable[[Awaitable[None]], None]) -> None:
    """Not in a later turn of the loop: its place may be given to the next request before that."""

    async def close_within_an_answer() -> None:
        loop = asyncio.get_running_loop()
        async with HttpClient() as http:
            with socket.create_server(("127.0.0.1", 0)) as server:
                transport = HttpTransport(http, f"http://127.0.0.1:{server.getsockname()[1]}")
                asking = asyncio.create_task(transport.post("/v1/x", b"{}", {}))
                engine, _ = await loop.run_in_executor(None, server.accept)
            with engine:
                engine.settimeout(10)
                await loop.run_in_executor(None, engine.recv, 65536)
                engine.sendall(OK[:-2])
                answer = await asking
                answer.close()
                assert engine.recv(1) == b""  # the loop stands still meanwhile

    run(close_within_an_answer())
