"""SIGTERM: what runs ends, what waits is served or told to come back, and nothing stays leased."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web
from support.gateway import (
    MODEL,
    Gateway,
    LedgerView,
    bearer,
    chat,
    config,
    eventually,
    fake_engine,
    gateway,
    key_of,
    lane,
)

from fairgate.engines.process import free_port

CHAT = "/v1/chat/completions"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
DRAIN_S = 1.5

Start = Callable[..., Awaitable[Gateway]]


class Engine:
    """Streams one event, then waits for :attr:`release`."""

    def __init__(self) -> None:
        self.release = asyncio.Event()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(EVENT)
        await self.release.wait()
        await response.write(DONE)
        return response


@pytest.fixture
def ledger(valkey_server: str) -> Iterator[LedgerView]:
    with LedgerView(valkey_server, "drain") as it:
        yield it


@pytest.fixture
def start(tmp_path: Path, valkey_server: str) -> Iterator[Start]:
    """Starts gateways of one pool before an engine at a port, without blocking the event loop."""
    with ExitStack() as stack:
        numbers = itertools.count()

        def enter(port: int, max_num_seqs: int) -> Gateway:
            small = lane(f"http://127.0.0.1:{port}", max_num_seqs=max_num_seqs)
            timeouts = {"drain_s": DRAIN_S}
            settings = config(
                {"small": small}, store=valkey_server, pool="drain", timeouts=timeouts
            )
            return stack.enter_context(gateway(tmp_path / f"gw-{next(numbers)}", settings))

        async def start(port: int, max_num_seqs: int = 1) -> Gateway:
            return await asyncio.to_thread(enter, port, max_num_seqs)

        yield start


async def post(http: aiohttp.ClientSession, gate: Gateway) -> tuple[int, Any, bytes]:
    body = chat(stream=True)
    async with http.post(gate.url + CHAT, json=body, headers=bearer()) as answer:
        return answer.status, answer.headers, await answer.read()


async def read_by_openai(gate: Gateway, begun: asyncio.Event) -> None:
    url = f"{gate.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=key_of("acme"), max_retries=0) as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Ferns?"}], stream=True
        )
        async for _ in stream:
            begun.set()


async def ended(gate: Gateway) -> bool:
    """Wait until it has; whether as it should."""
    return await asyncio.to_thread(gate.wait) == 0


async def test_a_stream_ends_in_peace_and_who_waits_is_served(start, ledger, http):
    engine, port = Engine(), free_port()
    async with fake_engine(port, engine) as fake:
        gate = await start(port)
        first = asyncio.create_task(post(http, gate))
        await eventually(lambda: fake.bodies)
        second = asyncio.create_task(post(http, gate))
        await eventually(lambda: ledger.waiting() == 1)
        gate.send(signal.SIGTERM)
        await eventually(lambda: refuses_connections(gate))
        assert not first.done()
        engine.release.set()
        for status, _, body in await asyncio.gather(first, second):
            assert (status, body) == (200, EVENT + DONE)
        assert await ended(gate)
    assert ledger.idle()
    assert len(fake.bodies) == 2


async def test_what_takes_too_long_is_told_before_the_end(start, ledger, http):
    engine, port = Engine(), free_port()
    async with fake_engine(port, engine) as fake:
        gate, begun = await start(port), asyncio.Event()
        running = asyncio.create_task(read_by_openai(gate, begun))
        await begun.wait()
        waiting = asyncio.create_task(post(http, gate))
        await eventually(lambda: ledger.waiting() == 1)
        gate.send(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="shutting down"):
            await running
        status, headers, body = await waiting
        assert (status, json.loads(body)["error"]["code"]) == (503, "draining")
        assert 1 <= int(headers["retry-after"]) <= 120
        assert await ended(gate)
        assert {line["outcome"] for line in gate.logs("request")} == {"error", "refused"}
        assert len(fake.bodies) == 1, "who waited was not served"
        engine.release.set()
    assert ledger.idle()
    (paid,) = [line for line in gate.logs("request") if line["outcome"] == "error"]
    assert ledger.tokens() == paid["prompt_tokens"] + paid["output_tokens"] > 0


async def refuses_connections(gate: Gateway) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", gate.port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


class Load:
    """Clients that ask one replica after the other, and the next one where one refuses."""

    def __init__(self, http: aiohttp.ClientSession, gates: list[Gateway], clients: int) -> None:
        self.gates = gates
        self.served = 0
        self._http = http
        self._stopping = False
        self._clients = [asyncio.create_task(self._ask(number)) for number in range(clients)]

    async def _ask(self, number: int) -> None:
        for turn in itertools.count(number):
            if self._stopping:
                return
            try:
                status, headers, body = await post(self._http, self.gates[turn % len(self.gates)])
            except aiohttp.ClientConnectionError:
                continue  # refused before it was taken: else there would be a log line too many
            if status == 503:
                assert int(headers["retry-after"]) >= 1
                assert json.loads(body)["error"]["code"] == "draining"
                continue
            assert (status, body) == (200, EVENT + DONE)
            self.served += 1

    async def end(self) -> None:
        """Raises what went wrong."""
        self._stopping = True
        await asyncio.gather(*self._clients)


async def test_a_rolling_restart_loses_no_request(start, ledger, http):
    """A replica is replaced under load: whatever it took it serves, and counts."""

    async def answer(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.02)
        return web.Response(body=EVENT + DONE, content_type="text/event-stream")

    port = free_port()
    async with fake_engine(port, answer):
        old, new = await asyncio.gather(start(port, 4), start(port, 4))
        load = Load(http, [old], clients=8)
        await eventually(lambda: load.served > 20)
        load.gates = [new, old]
        old.send(signal.SIGTERM)
        assert await ended(old)
        load.gates, before = [new], load.served
        await eventually(lambda: load.served > before + 20)
        await load.end()

        def completed() -> int:
            lines = [line for gate in (old, new) for line in gate.logs("request")]
            return sum(line["outcome"] == "completed" for line in lines)

        await eventually(lambda: completed() == load.served)
        await eventually(ledger.idle)
