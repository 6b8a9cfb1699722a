"""The ``openai`` package, unmodified, and plain ``curl`` against a gateway with two lanes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import openai
import pytest
from support.gateway import (
    MODEL,
    Gateway,
    bearer,
    config,
    engine,
    eventually,
    gateway,
    key_of,
    lane,
    metrics,
    tenant,
)

ASK: Any = [{"role": "user", "content": "Tell me about ferns."}]
WEATHER = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 2}},
        "required": ["city", "days"],
    },
}
TOOLS: Any = [{"type": "function", "function": WEATHER}]
ENDLESS = {"ignore_eos": True}
WEATHER_CALL = {"city": "text", "days": 2}


async def narrow_has(
    http: aiohttp.ClientSession, gate: Gateway, *, running: int, waiting: int = 0
) -> None:
    """Wait until the narrow lane has so many requests."""

    async def has() -> bool:
        samples = await metrics(http, gate.url)
        kinds = {"running": running, "waiting": waiting}
        return all(
            samples[f"fairgate_lane_{kind}_requests{{lane=narrow,pool=main}}"] == count
            for kind, count in kinds.items()
        )

    await eventually(has)


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Lane ``quick``, and lane ``narrow`` whose engine runs one sequence at a time, slowly."""
    folder = tmp_path_factory.mktemp("openai")
    narrow_options = ("--model", "slow", "--max-num-seqs", "1", "--speed", "4")
    with (
        engine(folder, "--profile", "instant", "--max-model-len", "4096") as quick,
        engine(folder, *narrow_options) as narrow,
    ):
        settings = config(
            {
                "quick": lane(quick.url, aliases=["gpt-4o-mini"]),
                "narrow": lane(narrow.url, max_num_seqs=1, model="slow"),
            },
            tenants={
                "acme": tenant("acme"),
                "single": tenant("single", limits={"concurrency": 1}),
                "rated": tenant("rated", limits={"rpm": 1}),
            },
            policy={"preset": "fairserve", "patience_s": 0},
        )
        with gateway(folder, settings) as it:
            yield it


def client_of(gate: Gateway, name: str = "acme", **options: Any) -> openai.AsyncOpenAI:
    settings: dict[str, Any] = {"max_retries": 0, "timeout": 20} | options
    return openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=key_of(name), **settings)


@pytest.fixture
async def client(gate: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(gate) as client:
        yield client


async def test_chat_whole_and_streamed_say_the_same(client):
    whole = await client.chat.completions.create(model=MODEL, messages=ASK)
    stream = await client.chat.completions.create(model=MODEL, messages=ASK, stream=True)
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert whole.usage.completion_tokens > 0
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "stop"


async def test_the_usage_of_a_stream_is_told_to_those_who_ask_and_hidden_from_others(client):
    whole = await client.chat.completions.create(model=MODEL, messages=ASK)
    asked = await client.chat.completions.create(
        model=MODEL, messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    *_, last = [chunk async for chunk in asked]
    assert last.choices == []
    assert last.usage == whole.usage
    for options in ({}, {"stream_options": {"include_usage": False}}):
        stream = await client.chat.completions.create(
            model=MODEL, messages=ASK, stream=True, **options
        )
        chunks = [chunk async for chunk in stream]
        assert all(chunk.choices and chunk.usage is None for chunk in chunks)


async def test_tools_whole_and_streamed(client):
    ask = [{"role": "user", "content": "Use get_weather, please."}]
    whole = await client.chat.completions.create(model=MODEL, messages=ask, tools=TOOLS)
    (call,) = whole.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "get_weather",
        WEATHER_CALL,
    )
    async with client.chat.completions.stream(model=MODEL, messages=ask, tools=TOOLS) as stream:
        final = await stream.get_final_completion()
    (streamed,) = final.choices[0].message.tool_calls
    assert json.loads(streamed.function.arguments) == WEATHER_CALL


async def test_several_choices(client):
    whole = await client.chat.completions.create(model=MODEL, messages=ASK, n=3)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    stream = await client.chat.completions.create(model=MODEL, messages=ASK, n=3, stream=True)
    texts = ["", "", ""]
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]


async def test_completions_and_embeddings(client):
    answer = await client.completions.create(model=MODEL, prompt=["One", "Two"], max_tokens=5)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage.completion_tokens == 10
    vectors = await client.embeddings.create(model=MODEL, input=["One", "Two"], dimensions=8)
    assert [len(item.embedding) for item in vectors.data] == [8, 8]


async def test_responses_whole_and_streamed(client):
    whole = await client.responses.create(model=MODEL, input="Tell me about ferns.")
    assert whole.output_text
    stream = await client.responses.create(model=MODEL, input="Tell me about ferns.", stream=True)
    events = [event async for event in stream]
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == whole.output_text
    assert events[-1].type == "response.completed"
    assert events[-1].response.usage.output_tokens == whole.usage.output_tokens


async def test_models_by_lane_model_alias_and_auto(client):
    listed = [model.id async for model in client.models.list()]
    assert listed == ["quick", "narrow", "auto"]
    for name in ("quick", MODEL, "gpt-4o-mini", "auto"):
        assert (await client.models.retrieve(name)).id == name
        answer = await client.chat.completions.create(model=name, messages=ASK, max_tokens=2)
        assert answer.usage.completion_tokens == 2
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("gpt-99")


async def test_an_unknown_key(gate):
    async with openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key="wrong") as stranger:
        with pytest.raises(openai.AuthenticationError) as caught:
            await stranger.chat.completions.create(model=MODEL, messages=ASK)
        assert caught.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            await stranger.models.list()


async def test_an_unknown_model(client):
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="gpt-99", messages=ASK)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 0),
        ("max_completion_tokens", 1.5),
        ("max_tokens", "many"),
        ("max_tokens", 10**30),
        ("n", 0),
        ("n", 100_000),
        ("stream", "yes"),
        ("user", 7),
    ],
)
async def test_a_field_out_of_range_is_named(client, field, value):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=MODEL, messages=ASK, extra_body={field: value})
    assert caught.value.param == field
    assert field in caught.value.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model": "tiny", "max_tokens": NaN, "messages": []}', "max_tokens"),
        (b'{"model": "tiny", "max_tokens": -Infinity}', "max_tokens"),
        (b'{"model": "tiny", "messages": [', None),
        (b"[1, 2]", None),
        (b"", None),
        (b'{"model": "tiny\xff"}', None),
    ],
)
async def test_what_is_not_json_is_refused(gate, http, body, param):
    async with http.post(f"{gate.url}/v1/chat/completions", data=body, headers=bearer()) as answer:
        assert answer.status == 400
        error = (await answer.json())["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


async def test_the_engines_own_refusal_passes_unchanged(gate, client, http):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=5000)
    assert "maximum context length is 4096" in caught.value.message
    assert (caught.value.type, caught.value.param) == ("BadRequestError", "input_tokens")
    # In a stream too, where the answer is not one.
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(
            model=MODEL, messages=ASK, max_tokens=5000, stream=True
        )
    assert caught.value.response.headers["x-fairgate-engine"] == "quick-0"


async def test_the_clients_own_retries_outlast_a_limit(gate, http):
    async with client_of(gate, "single", max_retries=5) as client:
        held = await client.chat.completions.create(
            model="slow", messages=ASK, stream=True, max_tokens=4000, extra_body=ENDLESS
        )
        asked = asyncio.create_task(
            client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=3)
        )
        await eventually(lambda: refusals(gate, "single"))
        await held.close()
        answer = await asked
        assert answer.usage.completion_tokens == 3


def refusals(gate: Gateway, name: str) -> list[dict[str, Any]]:
    lines = gate.logs("request")
    return [line for line in lines if (line["tenant"], line["outcome"]) == (name, "throttled")]


async def test_a_rate_limit_bites_under_overload_and_says_when_to_come_back(gate, http):
    async with client_of(gate) as acme, client_of(gate, "rated") as rated:
        held = await acme.chat.completions.create(
            model="slow", messages=ASK, stream=True, max_tokens=4000, extra_body=ENDLESS
        )
        await narrow_has(http, gate, running=1)
        small = {"model": "slow", "messages": ASK, "max_tokens": 1}
        waiting = asyncio.create_task(rated.chat.completions.create(**small))
        await narrow_has(http, gate, running=1, waiting=1)
        with pytest.raises(openai.RateLimitError) as caught:
            await rated.chat.completions.create(**small)
        headers = caught.value.response.headers
        assert caught.value.code == "rate_limit_exceeded"
        assert 1 <= int(headers["retry-after"]) <= 120
        assert headers["x-ratelimit-limit-requests"] == "1"
        assert headers["x-ratelimit-remaining-requests"] == "0"
        await held.close()
        assert (await waiting).usage.completion_tokens == 1


async def test_the_synchronous_client_works_as_well(gate):
    def ask() -> str | None:
        with openai.OpenAI(base_url=f"{gate.url}/v1", api_key=key_of("acme")) as client:
            raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=ASK)
            assert raw.headers["x-fairgate-lane"] == "quick"
            return raw.parse().choices[0].message.content

    assert await asyncio.to_thread(ask)


async def curl(gate: Gateway, *options: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "-N", "--max-time", "20", "-H", f"x-api-key: {key_of('acme')}"),
        *("-H", "content-type: application/json", *options),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def test_curl_whole_and_streamed(gate):
    url = f"{gate.url}/v1/chat/completions"
    body: dict[str, Any] = {"model": MODEL, "messages": ASK, "max_tokens": 4}
    whole = await curl(gate, "-i", "-d", json.dumps(body), url)
    head, _, answer = whole.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200")
    assert "x-fairgate-engine: quick-0" in head
    assert json.loads(answer)["usage"]["completion_tokens"] == 4
    events = (await curl(gate, "-d", json.dumps(body | {"stream": True}), url)).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: ") for event in events[:-1])
    assert not any('"usage":{' in event for event in events)


async def test_curl_posts_a_large_body(gate, tmp_path):
    file = tmp_path / "body.json"
    message = {"role": "user", "content": "fern " * 3000}
    body = {"model": MODEL, "messages": [message], "max_tokens": 4}
    file.write_text(json.dumps(body))
    answer = json.loads(
        await curl(gate, "--data-binary", f"@{file}", f"{gate.url}/v1/chat/completions")
    )
    assert answer["usage"]["prompt_tokens"] > 3000
