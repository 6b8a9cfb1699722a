"""What a gateway tells of its requests: Prometheus metrics and access-log lines."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from support.gateway import (
    Gateway,
    bearer,
    chat,
    config,
    engine,
    eventually,
    gateway,
    key_of,
    lane,
    long_chat,
    metrics,
    running,
    tenant,
)

PROMPT = "purple-ferns-at-dawn"
STRANGER = "key-that-nobody-owns"
FIELDS = {
    "request_id", "path", "tenant", "user", "app", "key", "lane", "engine", "status", "outcome",
    "queue_ms", "engine_ms", "first_byte_ms", "total_ms", "prompt_tokens", "output_tokens",
    "service", "event", "level", "timestamp",
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, str]]:
    folder = tmp_path_factory.mktemp("telemetry")
    with engine(folder, "--speed", "8", "--max-model-len", "8192") as it:
        tenants = {
            "acme": tenant("acme", apps=["chat", "code"]),
            "spent": tenant("spent", limits={"daily_tokens": 1}),
        }
        settings = config(
            {"small": lane(it.url, price=2)}, tenants=tenants, apps={"chat": {}, "code": {}}
        )
        with gateway(folder, settings) as gate:
            yield gate, it.url


async def post(
    http: aiohttp.ClientSession, gate: Gateway, body: Any, headers: dict[str, str], status: int
) -> dict[str, Any]:
    url = f"{gate.url}/v1/chat/completions"
    async with http.post(url, json=body, headers=headers) as answer:
        assert answer.status == status, await answer.text()
        if body.get("stream"):
            await answer.read()
            return {}
        usage: dict[str, Any] = (await answer.json()).get("usage", {})
        return usage


def total(samples: dict[str, float], name: str, **labels: str) -> float:
    """Sum of a metric's samples that carry these labels."""
    wanted = {f"{k}={v}" for k, v in labels.items()}

    def matches(sample: str) -> bool:
        own, _, told = sample.partition("{")
        return own == f"fairgate_{name}" and wanted <= set(told.rstrip("}").split(","))

    return sum(value for sample, value in samples.items() if matches(sample))


async def test_metrics_and_log_tell_what_happened(site, http):
    gate, engine_url = site
    ask = chat(PROMPT, max_tokens=5, user="fern-fan")
    usage = [
        await post(http, gate, ask, bearer(x_request_id="first"), 200),
        await post(http, gate, ask, bearer(x_fairgate_app="code"), 200),
    ]
    await post(http, gate, ask | {"stream": True}, bearer(), 200)
    await post(http, gate, ask, bearer("spent"), 429)
    await post(http, gate, ask | {"max_tokens": -1}, bearer(), 400)
    await post(http, gate, ask | {"max_tokens": 100_000}, bearer(), 400)
    await post(http, gate, ask, {"authorization": f"Bearer {STRANGER}"}, 401)
    gone = asyncio.create_task(post(http, gate, long_chat(7000), bearer(), 200))
    await eventually(lambda: running(http, engine_url))
    gone.cancel()
    await eventually(lambda: len(gate.logs("request")) == 8)

    samples = await metrics(http, gate.url)
    check_metrics(samples, usage)
    check_lines(gate)
    text = gate.text()
    for secret in (PROMPT, STRANGER, key_of("acme"), key_of("spent")):
        assert secret not in text
        assert secret not in str(samples)


def check_metrics(samples: dict[str, float], usage: list[dict[str, int]]) -> None:
    assert total(samples, "requests_total", tenant="acme", lane="small", outcome="completed") == 4
    assert total(samples, "requests_total", tenant="acme", outcome="client_gone") == 1
    assert total(samples, "requests_total", tenant="acme", outcome="refused") == 1
    assert total(samples, "requests_total", tenant="-", outcome="refused") == 1
    assert total(samples, "requests_total", tenant="spent", outcome="throttled") == 1
    assert total(samples, "throttled_total", tenant="spent", limit="tenant.daily_tokens") == 1
    assert total(samples, "queue_seconds_count", tenant="acme") == 6
    # Three answers and the engine's own refusal; ours have a first byte of their own, uncounted.
    assert total(samples, "time_to_first_byte_seconds_count", tenant="acme") == 4
    prompt, output = usage[0]["prompt_tokens"], usage[0]["completion_tokens"]
    assert usage[1] == usage[0]
    # The stream's usage is the same; who left adds its own share.
    assert total(samples, "tokens_total", tenant="acme", kind="prompt") >= 3 * prompt
    assert total(samples, "tokens_total", tenant="acme", kind="output") >= 3 * output
    assert total(samples, "service_units_total", tenant="acme") >= 3 * (prompt + 2 * output)
    assert total(samples, "tokens_total", tenant="spent") == 0
    assert total(samples, "lane_engines_up", lane="small") == 1
    assert total(samples, "lane_limit_sequences", lane="small") == 4
    assert total(samples, "gateways", pool="main") == 1
    assert total(samples, "settlements_owed") == 0
    assert total(samples, "store_up") == 1


def check_lines(gate: Gateway) -> None:
    lines = gate.logs("request")
    assert all(set(line) == FIELDS for line in lines)
    first, second = lines[:2]
    told = {
        "request_id": "first", "path": "/v1/chat/completions", "tenant": "acme", "app": "chat",
        "user": "fern-fan", "lane": "small", "engine": "small-0", "status": 200,
        "outcome": "completed", "queue_ms": 0, "output_tokens": 5, "level": "info",
    }  # fmt: skip
    assert told.items() <= first.items()
    assert first["service"] == first["prompt_tokens"] + 2 * first["output_tokens"]
    assert 0 < first["engine_ms"] <= first["total_ms"]
    assert second["app"] == "code"
    by_outcome = sorted((line["outcome"], line["status"]) for line in lines)
    assert by_outcome == [
        ("client_gone", 0), ("completed", 200), ("completed", 200), ("completed", 200),
        ("completed", 400), ("refused", 400), ("refused", 401), ("throttled", 429),
    ]  # fmt: skip


async def test_the_access_log_can_be_turned_off(site, http, tmp_path):
    _, engine_url = site
    settings = config({"small": lane(engine_url)}, server={"access_log": False})
    with gateway(tmp_path, settings) as quiet:
        await post(http, quiet, chat(max_tokens=1), bearer(), 200)
        samples = await metrics(http, quiet.url)
        assert total(samples, "requests_total", outcome="completed") == 1
        assert not quiet.logs("request")
