"""What single versions and extensions of ASGI ask for, on a server in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.types import Message, Receive, Scope, Send
from support.asgi import CHAT, Client
from support.gateway import LedgerView, eventually, tenant
from support.mounted import app_config

from fairgate import FairGate

SPECS = ("2.0", "2.1", "2.2", "2.3", "2.4")
START: Message = {"type": "http.response.start", "status": 200, "headers": []}
Gated = Callable[[Callable[[Scope, Receive, Send], Awaitable[None]]], FairGate]


@pytest.fixture
async def gated(valkey: redis.Redis, valkey_server: str) -> AsyncIterator[Gated]:
    """Puts an app behind FairGate."""
    gates: list[FairGate] = []

    def make(app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> FairGate:
        config = app_config(valkey_server, {"app": 4}, {"acme": tenant("acme")})
        gates.append(FairGate(app, config=config))
        return gates[-1]

    yield make
    for gate in gates:
        await gate.aclose()


@pytest.fixture
def ledger(valkey_server: str) -> LedgerView:
    return LedgerView(valkey_server)


@pytest.mark.parametrize("spec", SPECS)
async def test_plain_answer(spec: str, gated: Gated, ledger: LedgerView) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200})  # no headers: they are optional
        await send({"type": "http.response.body"})

    client = Client(spec=spec)
    await client.ask(gated(app))
    assert client.headers[b"x-fairgate-lane"] == b"app"
    assert client.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    await eventually(ledger.idle)


@pytest.mark.parametrize("spec", SPECS)
async def test_client_gone_while_streaming(spec: str, gated: Gated, ledger: LedgerView) -> None:
    """Up to 2.3 sending is in vain, from 2.4 on it raises ``OSError``; the app sees just that."""
    client = Client(spec=spec)
    raised = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({**START, "headers": [(b"content-type", b"text/event-stream")]})
        client.leave()
        assert (await receive())["type"] == "http.disconnect"
        try:
            await send({"type": "http.response.body", "body": b"data: x\n\n", "more_body": True})
        except OSError as error:
            raised.append(error)

    await client.ask(gated(app))
    assert bool(raised) == (spec >= "2.4")
    assert len(client.sent) == 1
    await eventually(ledger.idle)


async def test_send_that_raises_ends_an_app_that_does_not_catch_it(
    gated: Gated, ledger: LedgerView
) -> None:
    client = Client(spec="2.4")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        client.leave()
        await send({"type": "http.response.body", "body": b"x"})

    with pytest.raises(OSError, match="the client is gone"):
        await client.ask(gated(app))
    await eventually(ledger.idle)


async def test_early_hints_and_trailers_pass_in_order(gated: Gated, ledger: LedgerView) -> None:
    hint: Message = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]}
    trailer: Message = {
        "type": "http.response.trailers",
        "headers": [(b"digest", b"1")],
        "more_trailers": False,
    }

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert "http.response.trailers" in scope["extensions"]
        await send(hint)
        await send({**START, "trailers": True})
        await send({"type": "http.response.body", "body": b"ok"})
        await send(trailer)

    client = Client(spec="2.4")
    extensions: dict[str, object] = {"http.response.trailers": {}, "http.response.early_hint": {}}
    await client.ask(gated(app), extensions=extensions)
    first, start, body, last = client.sent
    assert first == hint
    assert start["trailers"] is True
    assert body["body"] == b"ok"
    assert last == trailer
    await eventually(ledger.idle)


@pytest.mark.parametrize("kind", ["pathsend", "zerocopysend"])
async def test_a_file_sent_by_the_server_ends_the_answer(
    kind: str, gated: Gated, ledger: LedgerView
) -> None:
    file: Message = {"type": f"http.response.{kind}", "path": "/f", "file": 3}
    freed = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(file)
        freed.append(await eventually(ledger.idle))

    client = Client()
    await client.ask(gated(app), extensions={file["type"]: {}})
    assert client.sent[-1] == file
    assert freed == [True], "while the app still runs"


async def test_other_scopes_and_messages_are_the_very_same(gated: Gated) -> None:
    got: list[tuple[Scope, Receive, Send]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        got.append((scope, receive, send))

    gate, client = gated(app), Client()
    scopes = [
        {"type": "websocket", "path": CHAT, "headers": []},
        client.scope("/other"),
        client.scope(method="OPTIONS"),
        client.scope(method="HEAD"),
    ]
    for scope in scopes:
        await gate(scope, client.receive, client.send)
    assert [entry[0] for entry in got] == scopes
    assert all(s is scope for (s, _, _), scope in zip(got, scopes, strict=True))
    assert all(r == client.receive and s == client.send for _, r, s in got)
    assert gate.runtime is None, "nothing of that needs a store"


async def test_disconnect_is_told_to_every_reader_and_every_time(gated: Gated) -> None:
    client = Client()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        readers = asyncio.gather(receive(), receive())
        await asyncio.sleep(0)
        client.leave()
        kinds = {message["type"] for message in (*await readers, await receive())}
        assert kinds == {"http.disconnect"}

    await client.ask(gated(app))


@pytest.mark.parametrize("inside", [True, False])
async def test_mounts_of_starlette_match_the_path_within_the_app(
    gated: Gated, *, inside: bool
) -> None:
    async def endpoint(request: Request) -> JSONResponse:
        return JSONResponse({"metered": "fairgate" in request.scope})

    inner = Starlette(routes=[Route(CHAT, endpoint, methods=["POST"])])
    mounted = Mount("/api", app=gated(inner) if inside else inner)
    outer = Starlette(routes=[mounted])
    client = Client()
    await client.ask(outer if inside else gated(outer), f"/api{CHAT}", query_string=b"")
    assert client.json() == {"metered": inside}
