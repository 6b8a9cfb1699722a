"""``loadgen replay`` against a real HTTP server that streams server-sent events."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from loadgen.client import Client, Request, base_url, open_session
from loadgen.job import choose_model
from loadgen.prompts import Prompts
from loadgen.records import Call, Chain, Outcome
from loadgen.replay import Clock, Replay

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
KEYS = {"acme": "key-a", "globex": "key-b"}


class Target:
    """An OpenAI-compatible server whose answers a test may replace; it keeps what it was sent."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Answer = self.stream
        self.gone = asyncio.Semaphore(0)
        """Released for each request whose client went away."""
        self.arrived = asyncio.Event()
        self._server: TestServer | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return str(self._server.make_url("/")).rstrip("/")

    async def start(self) -> None:
        app = web.Application(client_max_size=2**24)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/{_:.*}", self._post)
        self._server = TestServer(app)
        await self._server.start_server()

    async def stop(self) -> None:
        assert self._server is not None
        await self._server.close()

    async def stream(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "x-fairgate-queue-ms": "1.5"}
        )
        await response.prepare(request)
        said = body.get("prompt") or body["messages"][0]["content"]
        usage = {"prompt_tokens": len(said.split()), "completion_tokens": body["max_tokens"]}
        token = {"choices": [{"index": 0, "delta": {"content": "word "}}], "usage": None}
        for event in [token] * body["max_tokens"] + [{"choices": [], "usage": usage}]:
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    async def hang(self, request: web.Request) -> web.StreamResponse:
        """Begin an answer and never end it."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n')
        await asyncio.Event().wait()
        return response

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "only-model"}]})

    async def _post(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        self.arrived.set()
        try:
            return await self.answer(request)
        except asyncio.CancelledError:
            self.gone.release()
            raise


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    running = Target()
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    rows = [
        f"2023-11-16 18:15:{i // 20:02}.{i % 20 * 5:02}0,{100 + i},{3 + i % 4}" for i in range(60)
    ]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    return path


class Ended:
    def __init__(self, code: int | None, out: bytes, err: bytes) -> None:
        self.code, self.out, self.err = code, out.decode(), err.decode()


async def start_loadgen(*arguments: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from loadgen.cli import main; main()",
        "replay",
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def loadgen(*arguments: object) -> Ended:
    process = await start_loadgen(*arguments)
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return Ended(process.returncode, out, err)


async def replay(
    target: Target, plan: Sequence[Chain], *, max_duration_s: float | None = None, **request: Any
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    clock = Clock()
    async with open_session() as session, asyncio.timeout(60):
        client = Client(
            session,
            target.url,
            KEYS,
            Request(model="m", **request),
            prompts=Prompts("run"),
            clock=clock,
            run="run",
        )
        await Replay(plan, client.send, outcomes.append, clock=clock).run(max_duration_s)
    return outcomes


def single(index: int, start_s: float = 0.0, tenant: str = "acme") -> Chain:
    return Chain(start_s, (Call(index, tenant, None, None, 20, 5),))


def interaction(calls: int, think_s: float = 0.0) -> Chain:
    return Chain(
        0.0,
        tuple(
            Call(n, "acme", "u1", "agent", 20, 5, "i1", n, calls, think_s if n else 0.0)
            for n in range(calls)
        ),
    )


async def test_a_whole_replay(target: Target, trace: Path, tmp_path: Path) -> None:
    figures, record = tmp_path / "r.json", tmp_path / "r.jsonl"
    ended = await loadgen(
        trace,
        *("--target", target.url + "/v1/", "--tenants", "acme=key-a:1,globex=key-b:1"),
        *("--rate", 60, "--scale-tokens", 0.5, "--flood", "globex:3@0.2-0.8", "--seed", 4),
        *("--json", figures, "--record", record),
    )
    assert ended.code == 0, ended.err
    got = json.loads(figures.read_text())
    tenants = got["tenants"]
    assert sum(tenant["requests"] for tenant in tenants.values()) == len(target.bodies) > 60
    assert all(tenant["completed"] == tenant["requests"] for tenant in tenants.values())
    assert tenants["globex"]["requests"] > tenants["acme"]["requests"] > 10
    for key, name in (("key-a", "acme"), ("key-b", "globex")):
        sent = [h for h in target.headers if h["Authorization"] == f"Bearer {key}"]
        assert len(sent) == tenants[name]["requests"]
    words = sum(len(body["messages"][0]["content"].split()) for body in target.bodies)
    assert sum(tenant["prompt_tokens"] for tenant in tenants.values()) == words
    outputs = sum(body["max_tokens"] for body in target.bodies)
    assert sum(tenant["completion_tokens"] for tenant in tenants.values()) == outputs
    assert tenants["acme"]["queue_ms"]["p50"] == 1.5
    assert 0 < tenants["acme"]["ttft_ms"]["p50"] <= tenants["acme"]["e2e_ms"]["p50"]
    assert len(record.read_text().splitlines()) == len(target.bodies)
    assert "acme" in ended.out
    assert "generator CPU" in ended.out
    assert {body["model"] for body in target.bodies} == {"only-model"}


async def test_what_is_asked_of_the_target(target: Target) -> None:
    await replay(target, [interaction(1)])
    body, headers = target.bodies[0], target.headers[0]
    assert len(body.pop("messages")[0]["content"].split()) == 20
    assert body == {
        "model": "m",
        "max_tokens": 5,
        "min_tokens": 5,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert headers["Authorization"] == "Bearer key-a"
    assert headers["X-Fairgate-User"] == "u1"
    assert headers["X-Fairgate-App"] == "agent"
    assert headers["X-Fairgate-Interaction"] == "run-i1"


async def test_completions_and_natural_length(target: Target) -> None:
    (outcome,) = await replay(target, [single(0)], api="completions", natural_length=True)
    assert outcome.result == "completed"
    assert set(target.bodies[0]) == {"model", "prompt", "max_tokens", "stream", "stream_options"}


async def test_a_target_that_answers_nobody_is_still_sent_everything(target: Target) -> None:
    """Answers begin only when the last request has come: a closed loop would wait for ever."""
    everybody = asyncio.Barrier(30)

    async def late(request: web.Request) -> web.StreamResponse:
        await everybody.wait()
        return await target.stream(request)

    target.answer = late
    outcomes = await replay(target, [single(i, i * 0.01) for i in range(30)])
    assert {outcome.result for outcome in outcomes} == {"completed"}
    last_sent_s = max(outcome.sent_s for outcome in outcomes)
    for outcome in outcomes:
        assert outcome.first_token_s is not None
        assert outcome.first_token_s >= last_sent_s
    earliest = min(outcomes, key=lambda outcome: outcome.intended_s)
    assert (earliest.first_token_s or 0) - earliest.intended_s >= 0.28  # waiting is not hidden


async def test_calls_of_an_interaction_follow_each_other(target: Target) -> None:
    outcomes = await replay(target, [interaction(4, think_s=0.02)])
    assert [outcome.number for outcome in outcomes] == [0, 1, 2, 3]
    for before, after in pairwise(outcomes):
        assert after.intended_s >= before.end_s + 0.02
        assert after.sent_s >= after.intended_s - 0.002


async def test_a_lost_call_ends_its_interaction(target: Target) -> None:
    async def second_is_refused(request: web.Request) -> web.StreamResponse:
        if len(target.bodies) == 2:
            return web.json_response({"error": {"code": "rate_limit_exceeded"}}, status=429)
        return await target.stream(request)

    target.answer = second_is_refused
    outcomes = await replay(target, [interaction(4)])
    assert [outcome.result for outcome in outcomes] == ["completed", "throttled"]
    assert outcomes[1].reason == "http_429:rate_limit_exceeded"


async def test_retries_honour_retry_after(target: Target) -> None:
    async def refused_twice(request: web.Request) -> web.StreamResponse:
        if len(target.bodies) <= 2:
            return web.Response(status=429, headers={"Retry-After": "0.05"})
        return await target.stream(request)

    target.answer = refused_twice
    (outcome,) = await replay(target, [single(0)], retries=3)
    assert (outcome.result, outcome.retries) == ("completed", 2)
    assert (outcome.first_token_s or 0) - outcome.intended_s >= 0.1
    assert (outcome.first_token_s or 0) - outcome.sent_s >= 0.1  # the first attempt's time


async def test_failures_are_told_apart(target: Target) -> None:
    async def by_index(request: web.Request) -> web.StreamResponse:
        case = len(target.bodies)
        if case == 1:
            return await target.hang(request)
        if case == 2:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n')
            return response
        if case == 3:
            assert request.transport is not None
            request.transport.close()
        return web.Response(status=503, text="busy")

    target.answer = by_index
    outcomes = await replay(target, [single(0)], timeout_s=2.0)
    for index in range(1, 4):
        outcomes += await replay(target, [single(index)])
    assert {outcome.result for outcome in outcomes} == {"error"}
    reasons = [outcome.reason for outcome in outcomes]
    assert reasons == ["timeout", "truncated", "disconnected", "http_503"]
    assert [outcome.completion_tokens for outcome in outcomes] == [1, 1, 0, 0]


async def test_max_duration_cuts_off_and_tells_the_target(target: Target) -> None:
    target.answer = target.hang
    plan = [single(0), single(1), single(2, start_s=3600)]
    outcomes = await replay(target, plan, max_duration_s=1.0)
    assert [outcome.reason for outcome in outcomes] == ["cut_off", "cut_off"]
    async with asyncio.timeout(10):
        await target.gone.acquire()
        await target.gone.acquire()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_ends_it_with_what_it_has(
    target: Target, trace: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    target.answer = target.hang
    process = await start_loadgen(
        *(trace, "--target", target.url, "--tenants", "acme=key-a"),
        *("--rate", 1, "--json", tmp_path / "r.json"),
    )
    async with asyncio.timeout(60):
        await target.arrived.wait()
        process.send_signal(number)
        out, _ = await process.communicate()
    assert process.returncode == code
    assert b"cut_off" in out
    assert json.loads((tmp_path / "r.json").read_text())["tenants"]["acme"]["errors"] >= 1


async def test_nobody_at_the_address(trace: Path) -> None:
    url = f"http://127.0.0.1:{unused_port()}"
    ended = await loadgen(trace, "--target", url, "--tenants", "a=k")
    assert ended.code == 3
    assert f"{url} does not answer" in ended.err
    assert "Traceback" not in ended.err


async def test_refused_keys_fail_the_run(target: Target, trace: Path) -> None:
    async def refuse(_request: web.Request) -> web.Response:
        return web.json_response({"error": {"code": "invalid_api_key"}}, status=401)

    target.answer = refuse
    ended = await loadgen(
        trace, "--target", target.url, "--tenants", "a=wrong", "--limit", 5, "--duration", 0.1
    )
    assert ended.code == 1
    assert "no call was served: 5 × http_401:invalid_api_key" in ended.err  # noqa: RUF001


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tenants", "a=k", "--flood", "b:2@0-1"], "--flood b:2@0-1: no such tenant"),
        (["--tenants", "nobody"], "neither a file nor"),
        (["--tenants", "a=k", "--json", "no/such/folder/x"], "cannot be written"),
    ],
)
async def test_wrong_options_are_told_before_anything_is_sent(
    trace: Path, arguments: list[str], message: str
) -> None:
    ended = await loadgen(trace, "--target", "http://127.0.0.1:9", *arguments)
    assert ended.code == 2
    assert message in ended.err


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("localhost:8080", "http://localhost:8080"),
        ("http://h/v1/", "http://h"),
        ("https://h/llm", "https://h/llm"),
    ],
)
def test_addresses(address: str, url: str) -> None:
    assert base_url(address) == url


def test_the_only_model_else_auto() -> None:
    assert choose_model(["small"]) == "small"
    assert choose_model(["small", "large"]) == choose_model([]) == "auto"
