"""Clients that do not read, do not write, leave or come in thousands."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from support.gateway import (
    Gateway,
    LedgerView,
    bearer,
    chat,
    config,
    eventually,
    fake_engine,
    gateway,
    lane,
    tenant,
)

from fairgate.engines.process import free_port

POOL = "clients"
CHAT = "/v1/chat/completions"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 16_000 + b'"}}]}\n\n'
STREAM_BYTES = 50_000_000
WHOLE = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}}],
    "usage": {"prompt_tokens": 8, "completion_tokens": 1},
}
TENANTS = tuple(f"tenant-{i}" for i in range(20))

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Site:
    """A gateway without patience, and the port of its engine, which runs one request at a time."""

    gate: Gateway
    port: int
    ledger: LedgerView

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.gate.logs("request") if line["tenant"] == name]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, valkey_server: str) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("clients")
    port = free_port()
    settings = config(
        {"small": lane(f"http://127.0.0.1:{port}", max_num_seqs=1)},
        store=valkey_server,
        pool=POOL,
        tenants={name: tenant(name) for name in TENANTS},
        timeouts={"head_s": 1.0, "body_s": 1.0, "send_s": 3.0},
    )
    with LedgerView(valkey_server, POOL) as ledger, gateway(folder, settings, ready=False) as gate:
        yield Site(gate, port, ledger)


@pytest.fixture(scope="module")
def names() -> Iterator[str]:
    return iter(TENANTS)


@pytest.fixture
def name(names: Iterator[str]) -> str:
    """A tenant of the test's own, so that what is counted is its requests'."""
    return next(names)


class Engine:
    """Streams, answers at once, or holds requests until :attr:`release` is set."""

    def __init__(self) -> None:
        self.sent = 0
        self.asked = 0
        self.release = asyncio.Event()
        self.release.set()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        self.asked += 1
        if not body.get("stream"):
            await self.release.wait()
            return web.json_response(WHOLE)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(EVENT)
        await self.release.wait()
        while self.sent < STREAM_BYTES:
            await response.write(EVENT)
            self.sent += len(EVENT)
        await response.write(b"data: [DONE]\n\n")
        return response


@pytest.fixture
async def engine(site: Site, http: aiohttp.ClientSession) -> AsyncIterator[Engine]:
    it = Engine()
    async with fake_engine(site.port, it):

        async def ready() -> bool:
            async with http.get(f"{site.gate.url}/readyz") as answer:
                return answer.status == 200

        await eventually(ready)
        yield it
        it.release.set()
    await eventually(site.ledger.idle)


def request(name: str, **fields: Any) -> bytes:
    """A chat request as it goes over the wire."""
    body = json.dumps(chat(**fields)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
    return f"{head}authorization: {bearer(name)['authorization']}\r\n\r\n".encode() + body


def connect(site: Site, receive_bytes: int | None = None) -> socket.socket:
    it = socket.socket()
    if receive_bytes is not None:
        it.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    it.connect(("127.0.0.1", site.gate.port))
    it.setblocking(False)
    return it


async def rest(sock: socket.socket) -> bytes:
    """All that comes until the connection ends, however it does."""
    got = b""
    try:
        while part := await asyncio.get_running_loop().sock_recv(sock, 1 << 20):
            got += part
    except ConnectionError:
        pass
    return got


def peak_bytes(gate: Gateway) -> int:
    """Most memory that the process has had."""
    status = Path(f"/proc/{gate.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


async def post(site: Site, http: aiohttp.ClientSession, name: str) -> int:
    async with http.post(site.gate.url + CHAT, json=chat(), headers=bearer(name)) as answer:
        await answer.read()
        return answer.status


async def test_a_client_that_never_reads_costs_little_and_is_let_go(site, engine, http, name):
    assert await post(site, http, name) == 200  # what the first request takes is taken
    before = peak_bytes(site.gate)
    with connect(site) as sock:
        sock.send(request(name, stream=True))
        await eventually(lambda: len(site.lines(name)) == 2)
        assert peak_bytes(site.gate) - before < 8_000_000
        assert engine.sent < STREAM_BYTES, "the engine was not slowed"
        line = site.lines(name)[1]
        assert (line["outcome"], line["status"]) == ("client_gone", 200)
        await eventually(site.ledger.idle)
        assert line["output_tokens"] > 0
    assert site.gate.logs("a client does not read its answer")
    assert await post(site, http, name) == 200


async def test_a_client_that_reads_slowly_but_steadily_gets_all(site, engine, name):
    """It takes longer than ``send_s`` in all, and never that long for nothing."""
    engine.sent = STREAM_BYTES - 12_000_000
    loop = asyncio.get_running_loop()
    with connect(site, receive_bytes=128 * 1024) as sock:
        sock.send(request(name, stream=True))
        began, got = loop.time(), 0
        while loop.time() - began < 4.5:
            got += len(await loop.sock_recv(sock, 65536))
            await asyncio.sleep(0.05)
        tail = b""
        while not tail.endswith(b"0\r\n\r\n"):
            part = await loop.sock_recv(sock, 1 << 20)
            assert part, "it was cut off"
            got, tail = got + len(part), (tail + part)[-40:]
    assert got > 12_000_000
    assert b"data: [DONE]\n\n" in tail
    await eventually(lambda: site.lines(name))
    assert site.lines(name)[0]["outcome"] == "completed"


@pytest.mark.parametrize(
    "sent", [b"", b"POST /v1/chat", request("tenant-0")[:60]], ids=["nothing", "a line", "a head"]
)
async def test_a_head_that_does_not_come_is_not_waited_for(site, engine, http, sent):
    with connect(site) as sock:
        sock.send(sent)
        async with asyncio.timeout(10):
            got = await rest(sock)
    assert got.startswith(b"HTTP/1.1 408 ") if sent else got == b""


async def test_a_head_that_drips_is_not_waited_for(site, engine, http, name):
    """After an answer, on the same connection."""
    loop = asyncio.get_running_loop()
    with connect(site) as sock:
        sock.send(request(name))
        assert b" 200 " in await loop.sock_recv(sock, 1 << 16)
        got = asyncio.ensure_future(rest(sock))
        for byte in request(name):
            if got.done():
                break
            await loop.sock_sendall(sock, bytes([byte]))
            await asyncio.wait({got}, timeout=0.1)
        assert (await got).startswith(b"HTTP/1.1 408 ")
    assert len(site.lines(name)) == 1


async def test_a_body_that_drips_is_not_waited_for(site, engine, name):
    head, _, body = request(name).partition(b"\r\n\r\n")
    with connect(site) as sock:
        sock.send(head + b"\r\n\r\n")
        got = asyncio.ensure_future(rest(sock))
        for byte in body:
            if got.done():
                break
            try:
                await asyncio.get_running_loop().sock_sendall(sock, bytes([byte]))
            except ConnectionError:
                break
            await asyncio.wait({got}, timeout=0.1)
        assert b'"body_timeout"' in await got, "told, and then let go"
    assert site.lines(name)[0]["outcome"] == "refused"
    assert site.ledger.requests(name) == 0


async def test_idle_connections_are_no_hindrance(site, engine, http, name):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 4096:
        pytest.skip(f"the system allows {most} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    before = peak_bytes(site.gate)
    async with AsyncExitStack() as stack:
        idle = [stack.enter_context(connect(site)) for _ in range(1000)]
        for sock in idle:
            sock.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        for sock in idle:
            assert b" 200 " in await asyncio.get_running_loop().sock_recv(sock, 4096)
        idle += [stack.enter_context(connect(site)) for _ in range(1000)]
        assert await asyncio.gather(*(post(site, http, name) for _ in range(20))) == [200] * 20
        assert peak_bytes(site.gate) - before < 60_000_000


async def test_pipelined_requests_are_answered_in_their_order(site, engine, name):
    with connect(site) as sock:
        listed = b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: "
        listed += bearer(name)["authorization"].encode() + b"\r\n\r\n"
        sock.send(request(name) + request("nobody") + request(name) + listed)
        async with asyncio.timeout(15):
            got = await rest(sock)
    statuses = [part[:3] for part in got.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"401", b"200", b"200"]
    assert engine.asked == 2
    assert site.ledger.requests(name) == 2


async def test_pipelining_on_and_then_leaving_frees_all(site, engine, name):
    engine.release.clear()
    with connect(site) as sock:
        sock.send(request(name) * 3)
        await eventually(lambda: engine.asked == 1)
    await eventually(site.ledger.idle)
    engine.release.set()
    await eventually(lambda: site.lines(name))
    assert {line["outcome"] for line in site.lines(name)} == {"client_gone"}


def half_close(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


def close(sock: socket.socket) -> None:
    sock.close()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


LEAVING = (half_close, close, reset)


@pytest.mark.parametrize("leave", LEAVING)
@pytest.mark.parametrize("stage", ["head", "body", "line", "answer", "stream"])
async def test_who_leaves_at_any_stage_holds_nothing(site, engine, http, stage, leave):
    """A client that closes its side of the connection has left as well: TCP does not tell."""
    name, sent = TENANTS[-1], request(TENANTS[-1], stream=stage == "stream")
    before = len(site.gate.logs("request"))
    engine.release.clear()
    holding = asyncio.ensure_future(post(site, http, TENANTS[-2])) if stage == "line" else None
    if holding is not None:
        await eventually(lambda: engine.asked == 1)
    sock = connect(site)
    sock.send(sent[:40] if stage == "head" else sent[:-10] if stage == "body" else sent)
    match stage:
        case "line":
            await eventually(lambda: site.ledger.waiting() == 1)
        case "answer":
            await eventually(lambda: engine.asked == 1)
        case "stream":
            assert b" 200 " in await asyncio.get_running_loop().sock_recv(sock, 4096)
    leave(sock)
    if stage != "head":
        await eventually(lambda: site.lines(name) and len(site.gate.logs("request")) > before)
        assert site.lines(name)[-1]["outcome"] == "client_gone"
    if holding is not None:
        await eventually(lambda: site.ledger.waiting() == 0)
        engine.release.set()
        assert await holding == 200
    await eventually(site.ledger.idle)
    sock.close()
    assert engine.asked == (0 if stage in ("head", "body") else 1)
