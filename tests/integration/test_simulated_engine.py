"""The simulated engine as a process of its own, asked as clients and gateways ask vLLM."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from urllib.error import URLError

import aiohttp
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

MODEL = "tiny"
ASK = [{"role": "user", "content": "Tell me about ferns."}]
WEATHER = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "minimum": 2},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "note": {"type": "string"},
        },
        "required": ["city", "days", "unit"],
    },
}
TOOLS = [
    {"type": "function", "function": {"name": "get_time", "parameters": {}}},
    {"type": "function", "function": WEATHER},
]
WEATHER_CALL = {"city": "text", "days": 2, "unit": "celsius"}


@contextmanager
def simulated(*options: str) -> Iterator[str]:
    """A running engine's address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "fairgate.engines.simulated", "--port", str(port)]
    process = subprocess.Popen([*command, "--model", MODEL, *options])
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_up(process, url)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def wait_until_up(process: subprocess.Popen[bytes], url: str) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{url}/health") as answer:
                assert answer.status == 200
                return
        except URLError:
            assert process.poll() is None, "the engine ended at once"
            time.sleep(0.05)
    raise AssertionError("the engine did not come up")


@pytest.fixture(scope="module")
def instant() -> Iterator[str]:
    """Answers at once, unless told to fail."""
    with simulated("--profile", "instant", "--max-model-len", "4096", "--faults") as url:
        yield url


@pytest.fixture(scope="module")
def paced() -> Iterator[str]:
    """Real step times, one sequence at a time, by priority, for one key."""
    options = "--speed 4 --max-num-seqs 1 --scheduling-policy priority --api-key secret"
    with simulated(*options.split()) as url:
        yield url


@pytest.fixture
async def client(instant: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{instant}/v1", api_key="x", max_retries=0) as client:
        yield client


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"authorization": "Bearer secret"}) as session:
        yield session


async def metrics(http: aiohttp.ClientSession, url: str) -> dict[str, float]:
    """Samples by name, or by name and label for those that have a telling one."""
    async with http.get(f"{url}/metrics") as answer:
        text = await answer.text()
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            told = sample.labels.get("finished_reason") or sample.labels.get("le")
            samples[f"{sample.name}/{told}" if told else sample.name] = sample.value
    return samples


async def settled(http: aiohttp.ClientSession, url: str, name: str, value: float) -> None:
    """Wait until a metric has a value; the test's own time limit is the bound."""
    async with asyncio.timeout(10):
        while (await metrics(http, url))[f"vllm:{name}"] != value:  # noqa: ASYNC110 another process
            await asyncio.sleep(0.02)


async def test_chat_answers_the_same_whole_and_streamed(client):
    whole = await client.chat.completions.create(model=MODEL, messages=ASK)
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert whole.usage.prompt_tokens_details.cached_tokens == 0
    assert whole.choices[0].finish_reason == "stop"

    stream = await client.chat.completions.create(
        model=MODEL, messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == "stop"
    text = "".join(c.choices[0].delta.content or "" for c in chunks[:-1])
    assert text == whole.choices[0].message.content


async def test_the_number_of_tokens_follows_the_request(client):
    async def ask(**options):
        answer = await client.chat.completions.create(model=MODEL, messages=ASK, **options)
        return answer.usage.completion_tokens, answer.choices[0].finish_reason

    natural, _ = await ask()
    assert await ask(max_completion_tokens=3) == (3, "length")
    assert await ask(max_tokens=1000) == (natural, "stop")
    assert await ask(max_tokens=700, extra_body={"ignore_eos": True}) == (700, "length")
    assert await ask(extra_body={"min_tokens": natural + 7}) == (natural + 7, "stop")


async def test_choices_share_the_prompt_and_differ(client):
    whole = await client.chat.completions.create(model=MODEL, messages=ASK, n=3)
    texts = [choice.message.content for choice in whole.choices]
    assert len(set(texts)) == 3
    one = await client.chat.completions.create(model=MODEL, messages=ASK)
    assert one.choices[0].message.content == texts[0]
    assert whole.usage.prompt_tokens == one.usage.prompt_tokens
    assert whole.usage.completion_tokens > one.usage.completion_tokens

    streamed = ["", "", ""]
    async for chunk in await client.chat.completions.create(
        model=MODEL, messages=ASK, n=3, stream=True
    ):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


async def test_continuous_usage_counts_up(client):
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=ASK,
        stream=True,
        max_tokens=5,
        extra_body={"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    )
    counts = [chunk.usage.completion_tokens async for chunk in stream]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] == 5


@pytest.mark.parametrize(
    ("question", "choice", "reason"),
    [
        ("What does get_weather say?", "auto", "tool_calls"),
        ("Use get_weather, please.", "required", "tool_calls"),
        ("Whatever.", {"type": "function", "function": {"name": "get_weather"}}, "stop"),
    ],
)
async def test_tools_are_called(client, question, choice, reason):
    ask = {
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "tools": TOOLS,
        "tool_choice": choice,
    }
    whole = await client.chat.completions.create(**ask)
    (call,) = whole.choices[0].message.tool_calls
    assert whole.choices[0].finish_reason == reason
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == WEATHER_CALL

    name, arguments, last = "", "", None
    async for chunk in await client.chat.completions.create(**ask, stream=True):
        last = chunk.choices[0].finish_reason
        for part in chunk.choices[0].delta.tool_calls or []:
            name += part.function.name or ""
            arguments += part.function.arguments or ""
    assert (name, json.loads(arguments), last) == ("get_weather", WEATHER_CALL, reason)


async def test_tools_are_left_alone_without_cause(client):
    mention = {"role": "user", "content": "What does get_weather say?"}
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    answered = [
        mention,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "sunny"},
    ]
    for messages, choice in ((ASK, "auto"), ([mention], "none"), (answered, "auto")):
        answer = await client.chat.completions.create(
            model=MODEL, messages=messages, tools=TOOLS, tool_choice=choice
        )
        assert answer.choices[0].message.content
        assert not answer.choices[0].message.tool_calls


async def test_completions_take_texts_and_token_ids(client):
    many = await client.completions.create(model=MODEL, prompt=["one", "two words"], n=2)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    assert many.usage.prompt_tokens == 1 + 3
    ids = await client.completions.create(model=MODEL, prompt=[[1, 2, 3], [4]], max_tokens=2)
    assert ids.usage.prompt_tokens == 4
    stream = await client.completions.create(model=MODEL, prompt="two words", stream=True, n=2)
    texts = ["", ""]
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in many.choices[2:]]


async def test_embeddings_are_unit_vectors_of_the_text(client):
    base64 = await client.embeddings.create(model=MODEL, input=["a", "b", "a"], dimensions=32)
    floats = await client.embeddings.create(
        model=MODEL, input=["a", "b", "a"], dimensions=32, encoding_format="float"
    )
    a, b, again = [entry.embedding for entry in floats.data]
    assert a == again != b
    assert len(a) == 32
    assert math.hypot(*a) == pytest.approx(1)
    assert base64.data[0].embedding == pytest.approx(a, abs=1e-6)
    assert base64.usage.prompt_tokens == base64.usage.total_tokens == 3


async def test_responses_whole_and_streamed(client):
    whole = await client.responses.create(model=MODEL, input="Hello.", instructions="Be kind.")
    assert whole.status == "completed"
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
    async with client.responses.stream(
        model=MODEL, input="Hello.", instructions="Be kind."
    ) as stream:
        numbers = [event.sequence_number async for event in stream]
        final = await stream.get_final_response()
    assert numbers[0] == 0
    assert numbers == sorted(set(numbers))
    assert final.output_text == whole.output_text
    assert final.usage == whole.usage
    cut = await client.responses.create(model=MODEL, input="Hello.", max_output_tokens=2)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


async def test_responses_call_functions_until_answered(client):
    ask = {"model": MODEL, "tools": [{"type": "function", "strict": False, **WEATHER}]}
    question = {"role": "user", "content": "What does get_weather say?"}
    async with client.responses.stream(**ask, input=[question]) as stream:
        final = await stream.get_final_response()
    (call,) = final.output
    assert (call.type, call.name, json.loads(call.arguments)) == (
        "function_call",
        "get_weather",
        WEATHER_CALL,
    )
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    answer = await client.responses.create(**ask, input=[question, call.to_dict(), result])
    assert answer.output_text


async def test_the_model_is_listed_with_its_context(client, instant, http):
    (model,) = (await client.models.list()).data
    assert (model.id, model.to_dict()["max_model_len"]) == (MODEL, 4096)
    async with http.get(f"{instant}/load") as answer:
        assert await answer.json() == {"server_load": 0}
    async with http.get(f"{instant}/version") as answer:
        assert "version" in await answer.json()


@pytest.mark.parametrize(
    ("path", "body", "status", "type_", "param"),
    [
        ("chat/completions", {"model": "other", "messages": ASK}, 404, "NotFoundError", "model"),
        ("chat/completions", {"messages": ASK, "n": 0}, 400, "Bad Request", "n"),
        ("chat/completions", {"messages": []}, 400, "Bad Request", "messages"),
        (
            "chat/completions",
            {"messages": ASK, "stream_options": {"include_usage": True}},
            400,
            "BadRequestError",
            "stream_options",
        ),
        (
            "chat/completions",
            {"messages": ASK, "tool_choice": "required"},
            400,
            "BadRequestError",
            "tool_choice",
        ),
        ("chat/completions", {"messages": ASK, "priority": 3}, 400, "BadRequestError", "priority"),
        (
            "chat/completions",
            {"messages": ASK, "max_tokens": 4096},
            400,
            "BadRequestError",
            "input_tokens",
        ),
        ("completions", {"prompt": "x" * 20_000}, 400, "BadRequestError", "input_tokens"),
        ("completions", {"prompt": []}, 400, "BadRequestError", "prompt"),
        ("embeddings", {"input": "x" * 20_000}, 400, "BadRequestError", "input_tokens"),
        ("embeddings", {"input": ["a", 1]}, 400, "BadRequestError", "input"),
        ("embeddings", {"input": {}}, 400, "Bad Request", "input"),
        ("nowhere", {}, 404, "Not Found", None),
    ],
)
async def test_errors_have_the_shape_of_vllm(instant, http, path, body, status, type_, param):
    async with http.post(f"{instant}/v1/{path}", json=body) as answer:
        error = (await answer.json())["error"]
        assert (answer.status, error["type"], error["param"]) == (status, type_, param)
        assert error["code"] == status
        assert error["message"]


async def test_a_key_is_demanded_where_vllm_demands_it(paced):
    async with aiohttp.ClientSession() as stranger:
        async with stranger.get(f"{paced}/v1/models") as answer:
            assert answer.status == 401
            assert await answer.json() == {"error": "Unauthorized"}
        async with stranger.get(f"{paced}/metrics") as answer:
            assert answer.status == 200


LONG = {"messages": ASK, "max_tokens": 20_000, "ignore_eos": True}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_the_engine(paced, http, stream):
    aborted = (await metrics(http, paced))["vllm:request_success_total/abort"]
    url = f"{paced}/v1/chat/completions"
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(post(http, url, LONG | {"stream": stream})) for _ in range(2)]
        await settled(http, paced, "num_requests_running", 1)
        await settled(http, paced, "num_requests_waiting", 1)
        assert (await metrics(http, paced))["vllm:kv_cache_usage_perc"] > 0
        for call in calls:
            call.cancel()
    await settled(http, paced, "num_requests_running", 0)
    now = await metrics(http, paced)
    assert now["vllm:num_requests_waiting"] == 0
    assert now["vllm:kv_cache_usage_perc"] == 0
    assert now["vllm:request_success_total/abort"] == aborted + 2


async def post(http: aiohttp.ClientSession, url: str, body: object, **headers: str) -> bytes:
    async with http.post(url, json=body, headers=headers) as answer:
        return await answer.read()


async def test_priority_passes_those_who_wait(paced, http):
    url = f"{paced}/v1/completions"
    done: list[str] = []

    async def ask(name: str, priority: int, tokens: int, **headers: str) -> None:
        body = {"prompt": "x", "max_tokens": tokens, "ignore_eos": True, "priority": priority}
        await post(http, url, body, **headers)
        done.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(ask("running", 0, 100))
        await settled(http, paced, "num_requests_running", 1)
        group.create_task(ask("late", 5, 1))
        await settled(http, paced, "num_requests_waiting", 1)
        group.create_task(ask("urgent", 5, 1, **{"x-vllm-priority": "-1"}))
        await settled(http, paced, "num_requests_waiting", 2)
    assert done == ["running", "urgent", "late"]


async def test_steps_take_the_time_of_the_profile(paced, http):
    before = await metrics(http, paced)
    began = time.monotonic()
    body = {"prompt": "x", "max_tokens": 60, "ignore_eos": True}
    await post(http, f"{paced}/v1/completions", body)
    # cpu-small at four times the speed: 204 tokens/s alone, never faster
    assert time.monotonic() - began > 59 / 205
    now = await metrics(http, paced)
    for name in ("inter_token_latency_seconds_count", "generation_tokens_total"):
        assert now[f"vllm:{name}"] - before[f"vllm:{name}"] in (59, 60)


async def test_metrics_have_the_names_and_labels_of_vllm(instant, http):
    before = await metrics(http, instant)
    body = {"prompt": "four", "n": 2, "max_tokens": 7, "ignore_eos": True}
    await post(http, f"{instant}/v1/completions", body)
    await post(http, f"{instant}/v1/embeddings", {"input": "four"})
    now = await metrics(http, instant)
    gained = {name: now[name] - before[name] for name in now}
    assert gained["vllm:prompt_tokens_total"] == 3
    assert gained["vllm:generation_tokens_total"] == 14
    assert gained["vllm:request_success_total/length"] == 2
    assert gained["vllm:request_success_total/stop"] == 1
    assert gained["vllm:time_to_first_token_seconds_count"] == 2
    assert gained["vllm:e2e_request_latency_seconds_count"] == 3
    assert gained["vllm:request_generation_tokens_bucket/10.0"] == 3
    async with http.get(f"{instant}/metrics") as answer:
        text = await answer.text()
    families = {f.name: f for f in text_string_to_metric_families(text)}
    (info,) = families["vllm:cache_config_info"].samples
    assert info.labels["block_size"] == "16"
    assert info.labels["num_gpu_blocks"] == "4096"
    assert info.labels["kv_cache_size_tokens"] == "65536"
    (running,) = families["vllm:num_requests_running"].samples
    assert running.labels == {"model_name": MODEL, "engine": "0"}


STREAM = {"messages": ASK, "max_tokens": 20, "ignore_eos": True, "stream": True}


async def faulty(http: aiohttp.ClientSession, url: str, fault: str) -> tuple[int, bytes]:
    headers = {"x-sim-fault": fault}
    url = f"{url}/v1/chat/completions"
    async with http.post(url, json=STREAM, headers=headers) as answer:
        return answer.status, await answer.read()


async def test_faults_on_demand(instant, http):
    assert (await faulty(http, instant, "status=502"))[0] == 502
    assert (await faulty(http, instant, "slow=0.001"))[1].endswith(b"data: [DONE]\n\n")
    assert b"\nnonsense\n\n" in (await faulty(http, instant, "malformed-sse"))[1]
    with pytest.raises(aiohttp.ClientConnectionError):
        await faulty(http, instant, "reset-before")
    with pytest.raises(aiohttp.ClientError):
        await faulty(http, instant, "no-http")
    for fault in ("reset-after=1", "cut-after=1"):
        with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientConnectionError)):
            await faulty(http, instant, fault)
    assert len((await faulty(http, instant, "flood=3"))[1]) > 2 << 20
    for fault in ("hang", "hang-after=1", "endless"):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await faulty(http, instant, fault)
    await settled(http, instant, "num_requests_running", 0)


async def test_faults_are_off_by_default(paced, http):
    assert (await faulty(http, paced, "status=502"))[0] == 200


def test_settings_that_make_no_sense_are_refused():
    command = [sys.executable, "-m", "fairgate.engines.simulated", "--max-model-len", "99999"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "exceeds the KV cache of 65536" in ended.stderr
