"""Spans of a running gateway, as a collector on the loopback receives them."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support.gateway import (
    Answer,
    FakeEngine,
    Gateway,
    bearer,
    chat,
    config,
    eventually,
    fake_engine,
    gateway,
    lane,
    metrics,
    tenant,
)

from fairgate.engines.process import free_port

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE, CLIENT_SPAN = PARENT.split("-")[1:3]

SERVER, CLIENT, INTERNAL = 2, 3, 1
ERROR = 2
WHOLE = "POST /v1/chat/completions"


class Span(NamedTuple):
    name: str
    kind: int
    trace: str
    id: str
    parent: str
    began: int
    ended: int
    status: int
    attributes: dict[str, Any]


class Collector:
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.service: dict[str, Any] = {}

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("content-encoding") == "gzip" and body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.service = _plain(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += map(_span, scope.spans)
        return web.Response()

    def of(self, trace: str) -> dict[str, Span]:
        """Spans of a trace, by name."""
        return {span.name: span for span in self.spans if span.trace == trace}


def _span(it: Any) -> Span:
    return Span(
        it.name, it.kind, it.trace_id.hex(), it.span_id.hex(), it.parent_span_id.hex(),
        it.start_time_unix_nano, it.end_time_unix_nano, it.status.code, _plain(it.attributes),
    )  # fmt: skip


def _plain(attributes: Any) -> dict[str, Any]:
    return {it.key: getattr(it.value, it.value.WhichOneof("value")) for it in attributes}


@pytest.fixture
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    it, port = Collector(), free_port()
    app = web.Application()
    app.router.add_post("/v1/traces", it.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield it, f"http://127.0.0.1:{port}"
    await runner.cleanup()


async def post(
    http: aiohttp.ClientSession, gate: Gateway, body: Any, headers: dict[str, str]
) -> int:
    url = f"{gate.url}/v1/chat/completions"
    async with http.post(url, json=body, headers=headers) as answer:
        await answer.read()
        return answer.status


async def answer(request: web.Request) -> web.Response:
    return web.json_response(
        {
            "id": "one",
            "object": "chat.completion",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Ferns."}}],
            "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15},
        }
    )


@asynccontextmanager
async def serving(
    folder: Path, answer: Answer, tracing: dict[str, Any] | None
) -> AsyncIterator[tuple[Gateway, FakeEngine]]:
    """A gateway before an engine of this loop, which answers its probes only when that runs."""
    port = free_port()
    settings = config(
        {"small": lane(f"http://127.0.0.1:{port}", max_num_seqs=1)},
        tenants={"acme": tenant("acme"), "spent": tenant("spent", limits={"daily_tokens": 1})},
        tracing=tracing,
    )

    async with fake_engine(port, answer) as engine:
        with gateway(folder, settings, ready=False) as gate:
            await eventually(lambda: "ready http" in gate.text())
            yield gate, engine


async def stopped(gate: Gateway) -> None:
    """It has sent all its spans."""
    assert await asyncio.to_thread(gate.stop) == 0


async def test_what_becomes_of_a_request_is_one_trace(tmp_path, collector, http):
    """The client began it, and the engine goes on with it."""
    got, url = collector
    free = asyncio.Event()

    async def as_asked(request: web.Request) -> web.Response:
        asked = (await request.json())["messages"][0]["content"]
        if asked == "wait":
            await free.wait()
        if asked == "fail":
            raise web.HTTPServiceUnavailable
        return await answer(request)

    async with serving(tmp_path, as_asked, {"endpoint": url}) as (gate, engine):
        named = bearer(traceparent=PARENT, tracestate="vendor=1", x_fairgate_interaction="run")
        assert await post(http, gate, chat(max_tokens=9), named) == 200
        holds = asyncio.create_task(post(http, gate, chat("wait"), bearer()))
        await eventually(lambda: len(engine.bodies) == 2)
        waits = asyncio.create_task(post(http, gate, chat(), bearer(traceparent=numbered(1))))
        await eventually(lambda: in_line(http, gate))
        free.set()
        assert [await holds, await waits] == [200, 200]
        spent = bearer("spent", traceparent=numbered(2))
        assert await post(http, gate, chat(), spent) == 429
        assert await post(http, gate, chat("fail"), bearer(traceparent=numbered(3))) >= 500
        not_kept = bearer(traceparent=numbered(4, kept=False))
        assert await post(http, gate, chat(), not_kept) == 200
        (first, *_) = await eventually(lambda: gate.logs("request"))
        await stopped(gate)
    assert first["trace_id"] == TRACE
    assert got.service["service.name"] == "fairgate"
    check_served(got.of(TRACE), engine)
    check_waited(got.of("1" * 32))
    check_refused(got.of("2" * 32))
    check_failed(got.of("3" * 32))
    assert not got.of("4" * 32)
    assert engine.headers[-1]["traceparent"].split("-")[1::2] == ["4" * 32, "00"]
    everything = str(got.spans)
    for secret in ("ferns", "Ferns", "secret-key"):
        assert secret not in everything


def numbered(digit: int, *, kept: bool = True) -> str:
    return f"00-{str(digit) * 32}-{CLIENT_SPAN}-0{int(kept)}"


async def in_line(http: aiohttp.ClientSession, gate: Gateway) -> float:
    told = await metrics(http, gate.url)
    return told["fairgate_lane_waiting_requests{lane=small,pool=main}"]


def check_served(spans: dict[str, Span], engine: FakeEngine) -> None:
    assert set(spans) == {WHOLE, "fairgate.admission", "chat tiny"}
    whole, admission, model = spans[WHOLE], spans["fairgate.admission"], spans["chat tiny"]
    assert [whole.kind, admission.kind, model.kind] == [SERVER, INTERNAL, CLIENT]
    assert whole.parent == CLIENT_SPAN
    assert admission.parent == model.parent == whole.id
    assert whole.began <= admission.began < admission.ended == model.began < model.ended
    assert model.ended <= whole.ended
    assert engine.headers[0]["traceparent"] == f"00-{TRACE}-{model.id}-01"
    assert engine.headers[0]["tracestate"] == "vendor=1"
    assert whole.attributes["fairgate.tenant"] == "acme"
    assert whole.attributes["fairgate.outcome"] == "completed"
    assert whole.attributes["http.response.status_code"] == 200
    assert whole.attributes["fairgate.service_units"] == 12 + 2 * 3
    told = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "tiny", "gen_ai.request.max_tokens": 9,
        "gen_ai.usage.input_tokens": 12, "gen_ai.usage.output_tokens": 3,
        "fairgate.engine": "small-0",
    }  # fmt: skip
    assert told.items() <= model.attributes.items()
    assert len(model.attributes["gen_ai.conversation.id"]) > 8
    assert "error.type" not in model.attributes


def check_waited(spans: dict[str, Span]) -> None:
    queue, admission = spans["fairgate.queue"], spans["fairgate.admission"]
    assert queue.parent == admission.id
    assert admission.began <= queue.began < queue.ended == admission.ended
    assert spans[WHOLE].attributes["fairgate.queue_seconds"] > 0


def check_refused(spans: dict[str, Span]) -> None:
    assert "chat tiny" not in spans
    assert spans[WHOLE].attributes["fairgate.outcome"] == "throttled"
    assert spans[WHOLE].attributes["error.type"] == "429"
    assert spans[WHOLE].status != ERROR, "the client's own fault is no error of the server"


def check_failed(spans: dict[str, Span]) -> None:
    assert [spans[name].status for name in (WHOLE, "chat tiny")] == [ERROR, ERROR]
    assert spans["chat tiny"].attributes["error.type"] in ("502", "503")


async def test_without_tracing_a_traceparent_passes_untouched(tmp_path, http):
    async with serving(tmp_path, answer, None) as (gate, engine):
        assert await post(http, gate, chat(), bearer(traceparent=PARENT)) == 200
    assert engine.headers[0]["traceparent"] == PARENT
