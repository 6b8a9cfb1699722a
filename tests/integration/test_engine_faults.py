"""Engines that fail in every way: the client gets an answer or a clear error, one settle, no lease
left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web
from support.gateway import (
    Gateway,
    LedgerView,
    SimulatedEngine,
    bearer,
    chat,
    config,
    eventually,
    fake_engine,
    gateway,
    key_of,
    lane,
    metrics,
    tenant,
)

from fairgate.engines.process import free_port

POOL = "faults"
BREAKING = "breaking"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
LONG_EVENT = EVENT.replace(b"Hi", b"Hi" * 16_000)
DONE = b"data: [DONE]\n\n"
WHOLE = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}}],
    "usage": {"prompt_tokens": 8, "completion_tokens": 1},
}
MOST_BYTES = 1 << 20
TENANTS = tuple(f"tenant-{i}" for i in range(60))

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Site:
    """A gateway over a lane of two engines, whose ports a test takes for engines of its own."""

    gate: Gateway
    ports: tuple[int, int]
    ledger: LedgerView
    pool: str


def site_of(
    folder: Any, valkey_server: str, pool: str, breaker: dict[str, float]
) -> Iterator[Site]:
    ports = free_port(), free_port()
    settings = config(
        {"small": lane(*(f"http://127.0.0.1:{port}" for port in ports), max_num_seqs=2)},
        store=valkey_server,
        pool=pool,
        tenants={name: tenant(name) for name in ("acme", *TENANTS)},
        timeouts={"first_byte_s": 2.0, "idle_s": 0.8, "answer_s": 2.0},
        server={"max_answer_bytes": MOST_BYTES},
        breaker=breaker,
    )
    with LedgerView(valkey_server, pool) as ledger, gateway(folder, settings, ready=False) as gate:
        yield Site(gate, ports, ledger, pool)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, valkey_server: str) -> Iterator[Site]:
    """Its breakers stay closed."""
    folder = tmp_path_factory.mktemp("faults")
    yield from site_of(folder, valkey_server, POOL, {"failures": 10_000})


@pytest.fixture(scope="module")
def breaking(tmp_path_factory: pytest.TempPathFactory, valkey_server: str) -> Iterator[Site]:
    """Its breakers open soon."""
    folder = tmp_path_factory.mktemp("breaking")
    settings = {"failures": 3, "open_s": 0.5, "longest_s": 1.0}
    yield from site_of(folder, valkey_server, BREAKING, settings)


@pytest.fixture(scope="module")
def names() -> Iterator[str]:
    return iter(TENANTS)


@pytest.fixture
def name(names: Iterator[str]) -> str:
    """A tenant of the test's own, so that what is counted is its requests'."""
    return next(names)


@pytest.fixture
async def start(http: aiohttp.ClientSession) -> AsyncIterator[Any]:
    """Starts the two engines of a site, each with its way to answer, until they are up."""
    async with AsyncExitStack() as stack:

        async def start(site: Site, *answers: Answer) -> list[Any]:
            fakes = [
                await stack.enter_async_context(fake_engine(port, answer))
                for port, answer in zip(site.ports, answers, strict=True)
            ]
            await eventually(lambda: up(http, site, 2))
            return fakes

        yield start


async def up(http: aiohttp.ClientSession, site: Site, count: int) -> bool:
    samples = await metrics(http, site.gate.url)
    return samples[f"fairgate_lane_engines_up{{lane=small,pool={site.pool}}}"] == count


async def circuit(http: aiohttp.ClientSession, site: Site, engine: str) -> float:
    """State of the engine's breaker: 0 closed, 1 half-open, 2 open."""
    samples = await metrics(http, site.gate.url)
    return samples[f"fairgate_circuit_state{{engine={engine},lane=small,pool={site.pool}}}"]


async def post(
    http: aiohttp.ClientSession, site: Site, name: str = "acme", *, stream: bool = False
) -> tuple[int, Any, bytes]:
    url, body = f"{site.gate.url}/v1/chat/completions", chat(stream=stream)
    async with asyncio.timeout(15), http.post(url, json=body, headers=bearer(name)) as answer:
        return answer.status, answer.headers, await answer.read()


async def settled_once(site: Site, name: str) -> dict[str, Any]:
    """The access-log line of the tenant's only request, which holds nothing any more and was
    charged what the line says."""

    def lines() -> list[dict[str, Any]]:
        return [line for line in site.gate.logs("request") if line["tenant"] == name]

    await eventually(lines)
    await eventually(site.ledger.idle)
    (line,) = lines()
    assert site.ledger.tokens(name) == line["prompt_tokens"] + line["output_tokens"]
    return line


async def streamed(site: Site, name: str) -> int:
    """Events that the openai client gives of one stream. Raises what it raises."""
    seen = 0
    url = f"{site.gate.url}/v1"
    client = openai.AsyncOpenAI(base_url=url, api_key=key_of(name), max_retries=0)
    async with client, asyncio.timeout(15):
        stream = await client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "Ferns?"}], stream=True
        )
        async for _ in stream:
            seen += 1
    return seen


async def well(request: web.Request) -> web.StreamResponse:
    if json.loads(await request.read()).get("stream"):
        return web.Response(body=EVENT + DONE, content_type="text/event-stream")
    return web.json_response(WHOLE)


async def begun(request: web.Request) -> web.StreamResponse:
    """A stream with one event."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    await response.write(EVENT)
    return response


async def stopped(request: web.Request) -> web.StreamResponse:
    """As a process that is killed: its sockets are closed."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def raw(request: web.Request, data: bytes) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.write(data)
    await asyncio.sleep(0.05)
    return await stopped(request)


def status(code: int) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": f"fault {code}"}}, status=code)

    return answer


async def no_http(request: web.Request) -> web.StreamResponse:
    return await raw(request, b"\x16\x03\x01 this is no HTTP\r\n\r\n")


async def two_lengths(request: web.Request) -> web.StreamResponse:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 4\r\n\r\n"
    return await raw(request, head + b"{}{}")


async def bad_chunk(request: web.Request) -> web.StreamResponse:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    return await raw(request, head + b"transfer-encoding: chunked\r\n\r\nnot-hex\r\n{}\r\n")


async def endless_head(request: web.Request) -> web.StreamResponse:
    return await raw(request, b"HTTP/1.1 200 OK\r\nx-long: " + b"x" * (128 << 10))


async def cut_body(request: web.Request) -> web.StreamResponse:
    """It dies within an answer that is not a stream."""
    return await raw(request, b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n" + b'{"choices"')


async def dies_after_the_head(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    return await stopped(request)


def once(failing: Answer, asked: list[int]) -> Answer:
    """Whichever engine is asked first fails; the other one does not."""

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.url.port or 0)
        return await (failing if len(asked) == 1 else well)(request)

    return answer


BEFORE_THE_FIRST_BYTE = {
    "dies": stopped,
    "500": status(500),
    "502": status(502),
    "503": status(503),
    "no HTTP": no_http,
    "two lengths": two_lengths,
    "endless head": endless_head,
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", BEFORE_THE_FIRST_BYTE)
async def test_before_the_first_byte_another_engine_answers(site, http, start, name, fault, stream):
    asked: list[int] = []
    answer = once(BEFORE_THE_FIRST_BYTE[fault], asked)
    await start(site, answer, answer)
    code, headers, body = await post(http, site, name, stream=stream)
    assert (code, b"Hi" in body) == (200, True)
    assert len(set(asked)) == len(asked) == 2
    assert headers["x-fairgate-engine"] == f"small-{site.ports.index(asked[1])}"
    assert (await settled_once(site, name))["outcome"] == "completed"
    assert site.ledger.requests(name) == 1


@pytest.mark.parametrize("failing", [cut_body, bad_chunk])
async def test_an_answer_that_is_no_stream_is_whole_or_asked_again(
    site, http, start, name, failing
):
    asked: list[int] = []
    answer = once(failing, asked)
    await start(site, answer, answer)
    code, _, body = await post(http, site, name)
    assert (code, json.loads(body)["usage"]["prompt_tokens"]) == (200, 8)
    assert len(set(asked)) == 2
    assert (await settled_once(site, name))["prompt_tokens"] == 8


async def test_a_stream_that_dies_before_its_first_event_is_asked_again(site, start, name):
    asked: list[int] = []
    answer = once(dies_after_the_head, asked)
    await start(site, answer, answer)
    assert await streamed(site, name) == 1
    assert len(set(asked)) == 2
    await settled_once(site, name)


async def hangs(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError("unreachable")


async def hangs_inside(request: web.Request) -> web.StreamResponse:
    await request.read()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{"
    assert request.transport is not None
    request.transport.write(head)
    return await hangs(request)


async def floods(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b" " * 65536)


@pytest.mark.parametrize(
    ("failing", "code", "error", "tries"),
    [
        (stopped, 502, "engine_failed", 2),
        (cut_body, 502, "engine_failed", 2),
        (no_http, 502, "engine_failed", 2),
        (floods, 502, "engine_failed", 2),
        (hangs, 504, "engine_timeout", 1),
        (hangs_inside, 504, "engine_timeout", 1),
        (status(503), 503, "engine_unavailable", 2),
    ],
)
async def test_where_all_engines_fail_the_client_gets_a_clear_error(
    site, http, start, name, failing, code, error, tries
):
    fakes = await start(site, failing, failing)
    got, headers, body = await post(http, site, name)
    assert (got, json.loads(body)["error"]["code"]) == (code, error)
    assert ("retry-after" in headers) == (code != 504)
    assert sum(len(fake.bodies) for fake in fakes) == tries
    await settled_once(site, name)
    assert site.ledger.tokens(name) == 0


@pytest.mark.parametrize(("code", "tries"), [(400, 1), (500, 2)])
async def test_the_engines_word_on_a_request_reaches_the_client(
    site, http, start, name, code, tries
):
    fakes = await start(site, status(code), status(code))
    got, _, body = await post(http, site, name)
    assert (got, json.loads(body)["error"]["message"]) == (code, f"fault {code}")
    assert sum(len(fake.bodies) for fake in fakes) == tries
    await settled_once(site, name)


def after(*parts: bytes, then: Answer) -> Answer:
    """A stream of these parts, then a fault."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await begun(request)
        for part in parts:
            await response.write(part)
        await asyncio.sleep(0.05)
        return await then(request)

    return answer


def going_on(part: bytes, pause_s: float) -> Answer:
    """A stream that never ends."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await begun(request)
        while True:
            await response.write(part)
            await asyncio.sleep(pause_s)

    return answer


async def ends_inside(request: web.Request) -> web.StreamResponse:
    response = await begun(request)
    await response.write(EVENT[:20])
    await response.write_eof()
    return response


IN_THE_STREAM: dict[str, tuple[Answer, str]] = {
    "dies": (after(then=stopped), "engine broke off"),
    "dies inside an event": (after(EVENT[:20], then=stopped), "engine broke off"),
    "dies inside a line end": (after(EVENT[:-1], then=stopped), "engine broke off"),
    "hangs": (after(then=hangs), "silent for 0.8 s"),
    "hangs inside an event": (after(EVENT[:20], then=hangs), "silent for 0.8 s"),
    "breaks the chunks": (after(then=lambda r: raw(r, b"zz\r\n")), "no readable HTTP"),
    "floods": (going_on(LONG_EVENT, 0.0), "more than an answer may have"),
    "never ends": (going_on(b": still here\n\n", 0.1), "no end in time"),
    "ends inside an event": (ends_inside, "ended inside an event"),
}


@pytest.mark.parametrize("fault", IN_THE_STREAM)
async def test_after_the_first_byte_the_client_is_told_in_the_stream(site, start, name, fault):
    failing, words = IN_THE_STREAM[fault]
    fakes = await start(site, failing, failing)
    with pytest.raises(openai.APIError, match=words):
        await streamed(site, name)
    assert sum(len(fake.bodies) for fake in fakes) == 1, "what has begun is not asked again"
    line = await settled_once(site, name)
    assert (line["outcome"], line["status"]) == ("error", 200)
    assert line["prompt_tokens"] > 0, "what came is paid for"
    assert site.ledger.requests(name) == 1


@pytest.mark.parametrize(
    "part", [b"data: {nonsense\n\n", b'event: x\ndata: {"a":\n\n', b"data: \xff\n\n"]
)
async def test_an_event_that_no_client_could_read_breaks_the_stream_off(
    site, http, start, name, part
):
    async def malformed(request: web.Request) -> web.StreamResponse:
        response = await begun(request)
        await response.write(part + EVENT + DONE)
        return response

    await start(site, malformed, malformed)
    with pytest.raises(openai.APIError, match="no JSON"):
        await streamed(site, name)
    assert (await settled_once(site, name))["outcome"] == "error"


@pytest.mark.parametrize(
    "part",
    [
        b"nonsense\n\n", b"\xff\xfe\x00\n\n", b"data\n\n:\n\n", b'data: {"a":\ndata: 1}\n\n',
        b"data:{}\r\n\r\n", b"data:\n\n",
    ],
)  # fmt: skip
async def test_what_clients_overlook_passes(site, http, start, name, part):
    """Fields of other names, events without data, JSON of several lines."""

    async def malformed(request: web.Request) -> web.StreamResponse:
        response = await begun(request)
        await response.write(part + EVENT + DONE)
        return response

    await start(site, malformed, malformed)
    code, _, body = await post(http, site, name, stream=True)
    assert (code, body) == (200, EVENT + part + EVENT + DONE)
    assert (await settled_once(site, name))["outcome"] == "completed"


async def test_a_whole_answer_that_is_no_json_passes_as_it_is(site, http, start, name):
    """Only its ``usage`` is read; it has none, so what it cost is a guess."""

    async def page(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b"<p>busy</p>", content_type="text/html")

    await start(site, page, page)
    code, headers, body = await post(http, site, name, stream=False)
    assert (code, headers["content-type"], body) == (200, "text/html", b"<p>busy</p>")
    line = await settled_once(site, name)
    assert line["outcome"] == "completed"
    assert line["prompt_tokens"] > 0
    assert site.ledger.requests(name) == 1


async def served_by(http: aiohttp.ClientSession, site: Site, stream: bool) -> str:
    code, headers, _ = await post(http, site, stream=stream)
    assert code == 200
    return str(headers["x-fairgate-engine"])


@pytest.mark.parametrize(
    ("stream", "failing"), [(True, after(then=stopped)), (False, stopped), (False, status(503))]
)
async def test_an_engine_that_keeps_failing_is_left_alone_until_it_serves(
    breaking, http, start, stream, failing
):
    """Its health check is fine all the time."""
    answers = [failing]

    async def mended(request: web.Request) -> web.StreamResponse:
        return await answers[-1](request)

    first, _ = await start(breaking, mended, well)
    await closed_again(http, breaking)

    async def opens() -> bool:
        await asyncio.gather(*(post(http, breaking, stream=stream) for _ in range(4)))
        return await circuit(http, breaking, "small-0") == 2

    await eventually(opens)
    assert breaking.gate.logs("engine keeps failing")[-1]["failures"] >= 3
    while await circuit(http, breaking, "small-0") == 2:  # half-open by itself
        asked = len(first.bodies)
        engine = await served_by(http, breaking, stream)
        assert engine == "small-1" or len(first.bodies) > asked
    answers.append(well)
    await closed_again(http, breaking)
    await eventually(breaking.ledger.idle)


async def closed_again(http: aiohttp.ClientSession, site: Site) -> None:
    async def closed() -> bool:
        await asyncio.gather(*(post(http, site) for _ in range(4)))
        states = [await circuit(http, site, engine) for engine in ("small-0", "small-1")]
        return states == [0, 0]

    await eventually(closed)
    await eventually(lambda: up(http, site, 2))


async def test_a_lane_whose_engines_all_keep_failing_refuses_at_once(breaking, http, start):
    answers: list[Answer] = [well]

    async def answer(request: web.Request) -> web.StreamResponse:
        return await answers[-1](request)

    fakes = await start(breaking, answer, answer)
    await closed_again(http, breaking)
    answers.append(status(503))

    async def refused_at_once() -> bool:
        before = sum(len(fake.bodies) for fake in fakes)
        code, headers, body = await post(http, breaking)
        assert code == 503
        assert 1 <= int(headers["retry-after"]) <= 120
        asked = sum(len(fake.bodies) for fake in fakes) - before
        return asked == 0 and json.loads(body)["error"]["code"] == "no_healthy_engine"

    await eventually(refused_at_once)
    answers.append(well)
    await closed_again(http, breaking)
    await eventually(breaking.ledger.idle)


async def test_500_alone_does_not_take_an_engine_from_the_others(breaking, http, start):
    """One tenant's poisoned requests must not close a lane."""
    await start(breaking, status(500), status(500))
    await eventually(lambda: up(http, breaking, 2))
    for _ in range(6):
        assert (await post(http, breaking))[0] == 500
    assert [await circuit(http, breaking, f"small-{i}") for i in (0, 1)] == [0, 0]


async def test_an_engine_comes_back_with_another_capacity(site, tmp_path, http):
    """It is killed and starts again on its port with a smaller KV cache: the ledger follows."""
    for kv_cache_tokens in (4096, 1024):
        options = ("--kv-cache-tokens", str(kv_cache_tokens), "--profile", "instant")
        it = SimulatedEngine(tmp_path, *options, port=site.ports[0])
        try:
            await eventually(lambda wanted=kv_cache_tokens: holds(site.ledger) == wanted)
            await eventually(lambda: up(http, site, 1))
            answers = await asyncio.gather(*(post(http, site) for _ in range(8)))
            assert {code for code, _, _ in answers} == {200}
            await eventually(site.ledger.idle)
        finally:
            it.kill()
        code, headers, _ = await post(http, site)
        assert code in (502, 503)
        assert int(headers["retry-after"]) >= 1


def holds(ledger: LedgerView) -> float:
    """KV tokens of the engine, as the ledger knows."""
    return ledger.number("engine", "small:small-0", "max_kv")
