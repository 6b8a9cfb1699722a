"""Headers and errors of every kind of answer, as clients see them (DESIGN.md §8)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from support.gateway import (
    MODEL,
    Gateway,
    bearer,
    chat,
    config,
    engine,
    eventually,
    fake_engine,
    gateway,
    lane,
    long_chat,
    running,
    tenant,
)

from fairgate.engines.process import free_port

CHAT = "/v1/chat/completions"
FERN_ID = "fern-42"
LIMITS = {
    "ratelimit-policy", "ratelimit",
    "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
}  # fmt: skip
ROUTE = {"x-fairgate-lane", "x-fairgate-engine", "x-fairgate-queue-ms"}
LANE = {"x-fairgate-lane", "x-fairgate-queue-ms"}


@dataclass(frozen=True)
class Site:
    gate: Gateway
    narrow_url: str
    broken_port: int


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Lanes: ``quick``; ``narrow``, where nobody may wait; ``broken`` (a fake engine's port) and
    ``gone``, which has no engine."""
    folder = tmp_path_factory.mktemp("headers")
    broken = free_port()
    with (
        engine(folder, "--profile", "instant") as quick,
        engine(folder, "--model", "slow", "--max-num-seqs", "1") as narrow,
    ):
        settings = config(
            {
                "quick": lane(quick.url),
                "narrow": lane(narrow.url, max_num_seqs=1, model="slow", queue={"max_waiting": 0}),
                "broken": lane(f"http://127.0.0.1:{broken}", model="broken"),
                "gone": lane(f"http://127.0.0.1:{free_port()}", model="gone"),
            },
            tenants={
                "acme": tenant("acme", apps=["chat"], limits={"rpm": 60, "tpm": 90_000}),
                "calm": tenant("calm"),
            },
            apps={"chat": {}, "code": {}},
            server={"max_body_bytes": 4000},
            breaker={"failures": 10_000},
        )
        with gateway(folder, settings, ready=False) as gate:
            yield Site(gate, narrow.url, broken)


@dataclass(frozen=True)
class Case:
    """A request, and what is told in its answer beside ``x-request-id``."""

    status: int
    told: set[str] = field(default_factory=set)
    code: str | None = None
    body: dict[str, Any] | bytes = field(default_factory=lambda: chat(max_tokens=3))
    method: str = "POST"
    path: str = CHAT
    headers: dict[str, str] = field(default_factory=bearer)


BACK = {"retry-after"}
CASES = {
    "answered": Case(200, ROUTE | LIMITS),
    "streamed": Case(200, ROUTE | LIMITS, body=chat(max_tokens=3, stream=True)),
    "engine's own refusal": Case(400, ROUTE | LIMITS, body=chat(max_tokens=10**6)),
    "models": Case(200, method="GET", path="/v1/models", body=b""),
    "malformed": Case(400, code=None, body=b"{"),
    "no key": Case(401, {"www-authenticate"}, "invalid_api_key", headers={}),
    "no key for models": Case(
        401, {"www-authenticate"}, "invalid_api_key", b"", "GET", "/v1/models", {}
    ),
    "app not allowed": Case(403, code="app_not_allowed", headers=bearer(x_fairgate_app="code")),
    "unknown model": Case(404, code="model_not_found", body=chat() | {"model": "gpt-99"}),
    "unknown route": Case(404, code="not_found", path="/v1/images"),
    "wrong method": Case(405, {"allow"}, "method_not_allowed", b"", "GET"),
    "too large": Case(413, code="body_too_large", body=chat("x" * 5000)),
    "no engine": Case(503, LANE | BACK, "no_healthy_engine", chat() | {"model": "gone"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_every_answer_tells_what_is_known(site, http, case):
    await check(site, http, case)


async def test_a_full_line_says_when_to_come_back(site, http):
    async with narrow_taken(site, http):
        body = chat(max_tokens=1) | {"model": "slow"}
        await check(site, http, Case(429, LANE | BACK | LIMITS, "rate_limit_exceeded", body))


async def test_an_engine_that_breaks_off(site, http):
    async def reset(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        await asyncio.sleep(60)
        raise AssertionError("unreachable")

    async with fake_engine(site.broken_port, reset):
        await eventually(lambda: ask(site, http, "broken", 502))
        body = chat() | {"model": "broken"}
        await check(site, http, Case(502, LANE | BACK, "engine_failed", body))


async def ask(site: Site, http: aiohttp.ClientSession, model: str, status: int) -> bool:
    body = chat() | {"model": model}
    async with http.post(f"{site.gate.url}{CHAT}", json=body, headers=bearer()) as answer:
        return answer.status == status


@asynccontextmanager
async def narrow_taken(site: Site, http: aiohttp.ClientSession) -> AsyncIterator[None]:
    """While it lasts, the only sequence of the lane ``narrow`` is in use."""
    body = long_chat(stream=True) | {"model": "slow"}
    url = f"{site.gate.url}{CHAT}"
    async with http.post(url, json=body, headers=bearer("calm")) as answer:
        assert answer.status == 200
        yield
        answer.close()

    async def free() -> bool:
        return await running(http, site.narrow_url) == 0

    await eventually(free)


async def check(site: Site, http: aiohttp.ClientSession, case: Case) -> None:
    """The case as it stands, and for a client that asks for problem details."""
    status, headers, text = await send(site, http, case, {})
    assert status == case.status, text
    assert headers.getall("x-request-id") == [FERN_ID]
    told = ROUTE | LIMITS | {"www-authenticate", "retry-after", "allow"}
    assert {name for name in told if name in headers} == case.told
    for name in case.told:
        assert len(headers.getall(name)) == 1
    if "retry-after" in headers:
        assert 1 <= int(headers["retry-after"]) <= 120
    if status < 400 or "x-fairgate-engine" in headers:
        return
    error = json.loads(text)["error"]
    assert headers["content-type"] == "application/json"
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == case.code
    await check_problem(site, http, case)


async def check_problem(site: Site, http: aiohttp.ClientSession, case: Case) -> None:
    accept = {"accept": "application/problem+json"}
    status, headers, text = await send(site, http, case, accept)
    problem = json.loads(text)
    assert status == problem["status"] == case.status
    assert headers["content-type"] == "application/problem+json"
    assert problem["code"] == case.code
    assert problem["request_id"] == FERN_ID
    assert problem["title"]
    assert problem["detail"]


async def send(
    site: Site, http: aiohttp.ClientSession, case: Case, headers: dict[str, str]
) -> tuple[int, Any, str]:
    body = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
    sent = {"x-request-id": FERN_ID, **case.headers, **headers}
    url = site.gate.url + case.path
    async with http.request(case.method, url, data=body, headers=sent) as answer:
        return answer.status, answer.headers, await answer.text()


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("req-7", True), ("ünsafe", False), ("x" * 129, False), ("a b", False), ("", False)],
)
async def test_request_ids_are_echoed_only_if_harmless(site, http, sent, kept):
    for body, status in ((chat(max_tokens=1), 200), (chat(max_tokens=0), 400)):
        headers = bearer() | {"x-request-id": sent}
        async with http.post(f"{site.gate.url}{CHAT}", json=body, headers=headers) as answer:
            assert answer.status == status
            told = answer.headers["x-request-id"]
        assert (told == sent) == kept
        assert kept or told.startswith("req_")


async def test_the_quota_headers_agree_with_each_other(site, http):
    async def remaining() -> tuple[int, int]:
        url = f"{site.gate.url}{CHAT}"
        async with http.post(url, json=chat(max_tokens=3), headers=bearer()) as answer:
            h = answer.headers
        requests, tokens = (int(h[f"x-ratelimit-remaining-{k}"]) for k in ("requests", "tokens"))
        assert h["x-ratelimit-limit-requests"] == "60"
        assert h["ratelimit-policy"] == '"requests";q=60;w=60, "tokens";q=90000;w=60'
        assert h["ratelimit"].startswith(f'"requests";r={requests};t=')
        assert f'"tokens";r={tokens};t=' in h["ratelimit"]
        return requests, tokens

    (requests, tokens), (requests_after, tokens_after) = await remaining(), await remaining()
    assert requests_after == requests - 1
    assert tokens_after < tokens


async def test_what_the_engine_says_of_itself_does_not_collide(site, http):
    """An engine that sends ids and quotas of its own, and a length for a stream."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'

    async def answer(request: web.Request) -> web.Response:
        body = event + usage + b"data: [DONE]\n\n"
        headers = {"x-request-id": "engine-id", "x-fairgate-lane": "mine", "x-engine": "kept"}
        return web.Response(body=body, content_type="text/event-stream", headers=headers)

    async with fake_engine(site.broken_port, answer):
        await eventually(lambda: ask(site, http, "broken", 200))
        body = chat(stream=True) | {"model": "broken"}
        headers = bearer() | {"x-request-id": FERN_ID}
        async with http.post(f"{site.gate.url}{CHAT}", json=body, headers=headers) as got:
            assert got.headers.getall("x-request-id") == [FERN_ID]
            assert got.headers.getall("x-fairgate-lane") == ["broken"]
            assert got.headers["x-engine"] == "kept"
            assert await got.read() == event + b"data: [DONE]\n\n"


async def test_little_of_the_request_reaches_the_engine(site, http):
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"choices": []})

    async with fake_engine(site.broken_port, answer) as fake:
        await eventually(lambda: ask(site, http, "broken", 200))
        body = chat(priority=-9, seed=10**25, future_field={"a": 1.50}) | {"model": "broken"}
        headers = bearer(cookie="c=1", x_vllm_priority="-9", traceparent="00-ab-cd-01")
        async with http.post(f"{site.gate.url}{CHAT}", json=body, headers=headers) as got:
            assert got.status == 200
        sent = {name.lower() for name in fake.headers[-1]}
        assert not sent & {"authorization", "cookie", "x-vllm-priority", "x-api-key"}
        assert "traceparent" in sent
        theirs = {k: v for k, v in fake.bodies[-1].items() if k != "cache_salt"}
        assert theirs == {k: v for k, v in body.items() if k != "priority"}


async def test_health_and_readiness(site, http):
    async with http.get(f"{site.gate.url}/healthz") as answer:
        assert answer.status == 200
    async with http.get(f"{site.gate.url}/readyz") as answer:
        assert answer.status == 503
        assert "gone" in await answer.text()
    assert MODEL not in await answer.text()
