"""Engines that fail before, at and after the first byte of their answer."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web
from support.gateway import (
    MODEL,
    FakeEngine,
    Gateway,
    LedgerView,
    SimulatedEngine,
    bearer,
    chat,
    config,
    engine,
    eventually,
    fake_engine,
    gateway,
    key_of,
    lane,
    long_chat,
    metrics,
    running,
    tenant,
)

from fairgate.engines.process import free_port

ANSWER = {
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}}],
    "usage": {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9},
}
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Pair:
    """A gateway with one lane of two engines, whose ports a test takes for engines of its own."""

    def __init__(self, gate: Gateway, ports: tuple[int, int], ledger: LedgerView) -> None:
        self.gate = gate
        self.ports = ports
        self.ledger = ledger


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, valkey_server: str) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("failover")
    ports = free_port(), free_port()
    pool = "fakes"
    settings = config(
        {"small": lane(*(f"http://127.0.0.1:{port}" for port in ports), max_num_seqs=2)},
        store=valkey_server,
        pool=pool,
        tenants={
            "acme": tenant("acme", limits={"rpm": 10_000}),
            "unlucky": tenant("unlucky"),
            "single": tenant("single", limits={"concurrency": 1}),
        },
        timeouts={"first_byte_s": 1.2, "idle_s": 0.3},
        breaker={"failures": 10_000},
    )
    with LedgerView(valkey_server, pool) as ledger, gateway(folder, settings, ready=False) as gate:
        yield Pair(gate, ports, ledger)


@pytest.fixture
async def start(pair: Pair, http: aiohttp.ClientSession) -> AsyncIterator[Any]:
    """Starts the two engines, each with its way to answer, and waits until they are up."""
    async with AsyncExitStack() as stack:

        async def start(first: Answer, second: Answer) -> list[FakeEngine]:
            fakes = [
                await stack.enter_async_context(fake_engine(port, answer))
                for port, answer in zip(pair.ports, (first, second), strict=True)
            ]
            await eventually(lambda: engines_up(http, pair.gate, 2))
            return fakes

        yield start


async def engines_up(http: aiohttp.ClientSession, gate: Gateway, count: int) -> bool:
    samples = await metrics(http, gate.url)
    return samples["fairgate_lane_engines_up{lane=small,pool=fakes}"] == count


async def post(
    http: aiohttp.ClientSession, gate: Gateway, body: dict[str, Any], name: str = "acme"
) -> tuple[int, Any, bytes]:
    url = f"{gate.url}/v1/chat/completions"
    async with http.post(url, json=body, headers=bearer(name)) as answer:
        return answer.status, answer.headers, await answer.read()


async def well(request: web.Request) -> web.StreamResponse:
    if json.loads(await request.read()).get("stream"):
        body = EVENT + b"data: [DONE]\n\n"
        return web.Response(body=body, content_type="text/event-stream")
    return web.json_response(ANSWER)


async def busy(_: web.Request) -> web.StreamResponse:
    return web.json_response({"error": "come back later"}, status=503)


async def reset(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def reset_after_headers(request: web.Request) -> web.StreamResponse:
    """As a vLLM server that dies while a streaming request waits for its first token."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    return await reset(request)


async def refused(_: web.Request) -> web.StreamResponse:
    return web.json_response({"error": {"message": "no", "param": "top_k"}}, status=422)


def every_second(failing: Answer, pair: Pair, answered: list[int]) -> Answer:
    """Two engines with this answer let every request down once, whichever is asked first; those
    that answered well are noted."""
    asked = itertools.count()

    async def answer(request: web.Request) -> web.StreamResponse:
        if next(asked) % 2 == 0:
            return await failing(request)
        answered.append(pair.ports.index(request.url.port or 0))
        return await well(request)

    return answer


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("failing", [busy, reset, reset_after_headers])
async def test_what_fails_before_the_first_byte_is_tried_on_the_other(
    pair, http, start, failing, stream
):
    answered: list[int] = []
    answer = every_second(failing, pair, answered)
    fakes = await start(answer, answer)
    before = pair.ledger.requests()
    for tried in (1, 2, 3):
        status, headers, body = await post(http, pair.gate, chat(stream=stream))
        assert status == 200, body
        assert b"Hi" in body
        assert [len(fake.bodies) for fake in fakes] == [tried, tried]
        assert headers["x-fairgate-engine"] == f"small-{answered.pop()}"
    await eventually(pair.ledger.idle)
    assert pair.ledger.requests() == before + 3


async def test_a_second_try_is_not_a_second_request_in_flight(pair, http, start):
    answer = every_second(busy, pair, [])
    await start(answer, answer)
    for _ in range(2):
        status, _, body = await post(http, pair.gate, chat(), "single")
        assert status == 200, body


async def test_an_engine_that_is_gone_counts_as_down_at_once(pair, http):
    """Nobody listens any more; the next probe has not told so yet."""
    async with fake_engine(pair.ports[1], well):
        async with fake_engine(pair.ports[0], well):
            await eventually(lambda: engines_up(http, pair.gate, 2))
        engines = set()
        for _ in range(4):
            status, headers, _ = await post(http, pair.gate, chat())
            assert status == 200
            engines.add(headers["x-fairgate-engine"])
        assert engines == {"small-1"}


@pytest.mark.parametrize(
    ("failing", "status"), [(busy, 503), (reset, 502)], ids=["answering 503", "resetting"]
)
async def test_where_both_fail_the_client_learns_when_to_come_back(
    pair, http, start, failing, status
):
    fakes = await start(failing, failing)
    got, headers, body = await post(http, pair.gate, chat(), "unlucky")
    assert got == status
    assert 1 <= int(headers["retry-after"]) <= 120
    assert json.loads(body)["error"]["type"] == "server_error"
    assert [len(fake.bodies) for fake in fakes] == [1, 1]
    await eventually(pair.ledger.idle)
    assert pair.ledger.tokens("unlucky") == pair.ledger.requests("unlucky") == 0


async def test_an_engines_4xx_is_its_last_word(pair, http, start):
    fakes = await start(refused, refused)
    status, headers, body = await post(http, pair.gate, chat())
    assert status == 422
    assert json.loads(body) == {"error": {"message": "no", "param": "top_k"}}
    assert headers["x-fairgate-lane"] == "small"
    assert sum(len(fake.bodies) for fake in fakes) == 1


async def test_an_engine_may_think_longer_than_it_may_pause(pair, http, start):
    """``idle_s`` limits the silence inside an answer, not the time to its first byte."""

    async def thinks(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.6)
        return await well(request)

    await start(thinks, thinks)
    for stream in (False, True):
        status, _, body = await post(http, pair.gate, chat(stream=stream))
        assert (status, b"Hi" in body) == (200, True)


async def test_an_engine_that_falls_silent_inside_an_answer(pair, http, start):
    async def pauses(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(EVENT)
        await asyncio.sleep(30)
        return response

    await start(pauses, pauses)
    status, _, body = await post(http, pair.gate, chat(stream=True))
    assert status == 200
    assert body.startswith(EVENT)
    assert json.loads(body.rpartition(b"data: ")[2])["error"]["code"] == "engine_failed"
    await eventually(pair.ledger.idle)


async def test_an_engine_that_never_begins(pair, http, start):
    async def hangs(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        raise AssertionError("unreachable")

    await start(hangs, hangs)
    async with asyncio.timeout(15):
        status, _, body = await post(http, pair.gate, chat())
    assert (status, json.loads(body)["error"]["code"]) == (504, "engine_timeout")
    await eventually(pair.ledger.idle)


async def chat_stream(client: openai.AsyncOpenAI) -> Any:
    return await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Tell me about ferns."}],
        stream=True,
        max_tokens=4000,
        extra_body={"ignore_eos": True},
    )


async def response_stream(client: openai.AsyncOpenAI) -> Any:
    return await client.responses.create(model=MODEL, input="Ferns?", stream=True)


@pytest.mark.parametrize("open_stream", [chat_stream, response_stream])
async def test_the_openai_client_raises_on_a_stream_that_breaks_off(pair, start, open_stream):
    async def breaks_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(EVENT)
        await asyncio.sleep(0.02)
        return await reset(request)

    await start(breaks_off, breaks_off)
    async with client_of(pair.gate) as client:
        seen = 0
        stream = await open_stream(client)
        with pytest.raises(openai.APIError, match="engine broke off"):  # noqa: PT012 a loop
            async for _ in stream:
                seen += 1
        assert seen == 1
    await eventually(pair.ledger.idle)


def client_of(gate: Gateway) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=key_of("acme"), max_retries=0)


async def test_engines_that_are_killed(tmp_path, valkey_server, http):
    """Two simulated engines: the first dies before an answer, the second one within a stream."""
    with engine(tmp_path) as first, engine(tmp_path) as second:
        settings = config({"small": lane(first.url, second.url)}, store=valkey_server)
        with LedgerView(valkey_server) as ledger, gateway(tmp_path, settings) as gate:
            asked = asyncio.create_task(post(http, gate, long_chat(30)))
            engines = [first, second]
            killed = await victim(http, engines)
            killed.kill()
            status, headers, body = await asked
            assert status == 200
            assert json.loads(body)["usage"]["completion_tokens"] == 30
            assert headers["x-fairgate-engine"] == f"small-{1 - engines.index(killed)}"
            await eventually(ledger.idle)
            assert ledger.requests() == 1
            charged = ledger.tokens()

            engines.remove(killed)
            async with client_of(gate) as client:
                chunks = 0
                stream = await chat_stream(client)
                with pytest.raises(openai.APIError, match="engine broke off"):  # noqa: PT012
                    async for _ in stream:
                        chunks += 1
                        if chunks == 5:
                            engines[0].kill()
            assert chunks >= 5
            await eventually(ledger.idle)
            assert ledger.tokens() > charged + 4  # what was sent is paid for
            line = gate.logs("request")[-1]
            assert (line["outcome"], line["status"]) == ("error", 200)


async def victim(http: aiohttp.ClientSession, engines: list[SimulatedEngine]) -> SimulatedEngine:
    """The engine on which the one request runs."""

    async def find() -> SimulatedEngine | None:
        counts = [await running(http, e.url) for e in engines]
        return engines[counts.index(1)] if 1 in counts else None

    found: SimulatedEngine = await eventually(find)
    return found
