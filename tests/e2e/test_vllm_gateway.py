"""The gateway before a real vLLM engine that it starts, as a server of its own or as an app in
its process: the same tests over both, real clients, real aborts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import openai
import pytest
from support.gateway import (
    Gateway,
    LedgerView,
    bearer,
    chat,
    config,
    engine_metric,
    eventually,
    gateway,
    key_of,
    long_chat,
    metrics,
)

from fairgate.engines.process import free_port

pytestmark = pytest.mark.vllm

SEQS = 2
START_S = 300.0
POOL = "vllm"
NOT_OURS = ("/site-packages/", "/multiprocessing/", ".cpp:", "zmq.Context", "Enable tracemalloc")
"""What vLLM and the libraries under it warn about, in the gateway's process."""


@dataclass(frozen=True)
class Site:
    """A gateway with one engine, and their ledger."""

    gate: Gateway
    ledger: LedgerView
    engine_url: str
    """Empty where the engine has no socket."""

    async def load(self, http: aiohttp.ClientSession, kind: str) -> float:
        """Requests that vLLM says it has ``running`` or ``waiting``."""
        samples = await metrics(http, self.gate.url)
        labels = f"engine=small-0,lane=small,pool={POOL}"
        return samples[f"fairgate_engine_{kind}_requests{{{labels}}}"]


@pytest.fixture(scope="module", params=["vllm", "vllm-inprocess"])
def site(
    request: pytest.FixtureRequest,
    smollm2: Path,
    valkey_server: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    engine = {
        "type": request.param,
        "model": str(smollm2),
        "max_num_seqs": SEQS,
        "args": ["--enforce-eager", "--max-model-len", "1024"],
        "env": {"VLLM_CPU_KVCACHE_SPACE": "1"},
        "start_timeout_s": START_S,
    }
    url = ""
    if request.param == "vllm":
        engine["port"] = free_port()
        url = f"http://127.0.0.1:{engine['port']}"
    queue = {"timeout_s": 60}
    settings = config(
        {"small": {"model": "tiny", "engines": [engine], "queue": queue}},
        store=valkey_server,
        pool=POOL,
    )
    settings["pools"][POOL]["best_of"] = {"max_samples": 3}
    folder = tmp_path_factory.mktemp("vllm")
    with (
        LedgerView(valkey_server, POOL) as ledger,
        gateway(folder, settings, ready_within_s=START_S, not_ours=NOT_OURS) as gate,
    ):
        yield Site(gate, ledger, url)


@pytest.fixture
async def client(site: Site) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{site.gate.url}/v1", api_key=key_of("acme"), max_retries=0
    ) as made:
        yield made


async def test_a_chat_is_answered_and_charged_what_vllm_counted(
    site: Site, client: openai.AsyncOpenAI
) -> None:
    before = site.ledger.tokens()
    answer = await client.chat.completions.create(
        model="small", messages=[{"role": "user", "content": "What is 17 + 25?"}], max_tokens=16
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    await eventually(
        lambda: site.ledger.idle() and site.ledger.tokens() == before + answer.usage.total_tokens
    )


async def test_a_stream_carries_usage_only_if_asked(client: openai.AsyncOpenAI) -> None:
    for asked in (False, True):
        stream = await client.chat.completions.create(
            model="small",
            messages=[{"role": "user", "content": "Count to five."}],
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True} if asked else openai.omit,
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert [c.usage.completion_tokens for c in chunks if c.usage] == ([12] if asked else [])


@pytest.mark.parametrize("stream", [False, True])
async def test_the_best_of_three_is_one_request_to_vllm(
    site: Site, client: openai.AsyncOpenAI, http: aiohttp.ClientSession, stream: bool
) -> None:
    before = site.ledger.tokens()
    counted = await _asked_of_vllm(http, site)
    raw = await client.chat.completions.with_raw_response.create(
        model="small",
        messages=[{"role": "user", "content": "Name a fern."}],
        max_tokens=16,
        temperature=1.0,
        stream=stream,
        stream_options={"include_usage": True} if stream else openai.omit,
        extra_headers={"X-Fairgate-Samples": "3", "X-Fairgate-Accept-Delay": "1"},
    )
    assert raw.headers["x-fairgate-samples"] == "3"
    assert -20 < float(raw.headers["x-fairgate-score"]) < 0
    if stream:
        chunks = [chunk async for chunk in raw.parse()]
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        usage = chunks[-1].usage
    else:
        answer = raw.parse()
        (choice,) = answer.choices
        assert (choice.index, choice.logprobs) == (0, None)
        text, usage = choice.message.content, answer.usage
    assert text
    assert usage is not None
    assert 16 < usage.completion_tokens <= 48, "all three are told"
    await eventually(
        lambda: site.ledger.idle() and site.ledger.tokens() == before + usage.total_tokens
    )
    if counted:
        requests, answers = await _asked_of_vllm(http, site)
        assert (requests - counted[0], answers - counted[1]) == (1, 3)


async def _asked_of_vllm(http: aiohttp.ClientSession, site: Site) -> tuple[float, ...]:
    """Requests that vLLM has ended and the sum of their ``n``; nothing where it has no socket."""
    if not site.engine_url:
        return ()
    name = "request_params_n"
    requests = await engine_metric(http, site.engine_url, f"{name}_count")
    return requests, await engine_metric(http, site.engine_url, f"{name}_sum")


async def test_vllms_own_4xx_passes_unchanged(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="1024"):
        await client.chat.completions.create(
            model="small", messages=[{"role": "user", "content": "fern " * 2000}], max_tokens=8
        )


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_vllms_work_within_a_second(
    site: Site, http: aiohttp.ClientSession, stream: bool
) -> None:
    body = long_chat(900, stream=stream) | {"model": "small"}
    before = site.ledger.tokens()
    post = http.post(f"{site.gate.url}/v1/chat/completions", json=body, headers=bearer())
    if stream:
        async with post as answer:
            assert answer.status == 200
            await answer.content.readuntil(b"\n\n")
            await answer.content.readuntil(b"\n\n")
    else:
        request = asyncio.ensure_future(post)
        await eventually(lambda: site.load(http, "running"))
        request.cancel()
    await eventually(lambda: _none_running(http, site), within_s=2.0)
    await eventually(site.ledger.idle)
    charged = site.ledger.tokens() - before
    assert 0 < charged < 900, "it pays for what it got"


async def test_no_more_run_in_vllm_than_it_may(site: Site, http: aiohttp.ClientSession) -> None:
    async def ask(number: int) -> int:
        body = chat(f"Tell me about ferns, part {number}.", max_tokens=24, model="small")
        url = f"{site.gate.url}/v1/chat/completions"
        async with http.post(url, json=body, headers=bearer()) as answer:
            await answer.read()
            return answer.status

    asked = asyncio.gather(*(ask(number) for number in range(4 * SEQS)))
    while not asked.done():
        assert await site.load(http, "running") <= SEQS
        assert await site.load(http, "waiting") <= SEQS
        await asyncio.sleep(0.05)
    assert await asked == [200] * 4 * SEQS
    await eventually(site.ledger.idle)


async def _none_running(http: aiohttp.ClientSession, site: Site) -> bool:
    return not await site.load(http, "running")


async def test_killed_under_load_it_leaves_nobody_without_an_answer(
    site: Site, client: openai.AsyncOpenAI, http: aiohttp.ClientSession
) -> None:
    """The last test of its engine. Its process that computes is killed, its server notices."""
    if not site.engine_url:
        pytest.skip("in the gateway's process: see test_vllm_inprocess")
    tokens = [0] * SEQS

    async def ask(number: int) -> None:
        stream = await client.chat.completions.create(
            model="small",
            messages=[{"role": "user", "content": f"Tell me about fern {number}."}],
            max_tokens=900,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        async for chunk in stream:
            tokens[number] += bool(chunk.choices)

    charged = site.ledger.tokens()
    asked = [asyncio.create_task(ask(number)) for number in range(SEQS)]
    await eventually(lambda: min(tokens) > 0)
    waiting = asyncio.create_task(ask_plainly(http, site))
    await eventually(lambda: site.ledger.waiting() == 1)
    for process in engine_cores(site.gate.process.pid):
        os.kill(process, signal.SIGKILL)
    ended = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(error, openai.APIError) for error in ended), ended
    await eventually(lambda: site.gate.logs("engine ended"))
    status, headers, body = await ask_plainly(http, site)
    assert status in (502, 503), body
    assert int(headers["retry-after"]) >= 1
    status, _, body = await waiting  # it failed with the others, or waited for the engine's return
    assert status in (200, 429, 500, 502, 503), body
    assert status == 200 or json.loads(body)["error"]["message"]
    await eventually(site.ledger.idle)
    assert site.ledger.tokens() - charged >= sum(tokens), "what came is paid for"


async def ask_plainly(
    http: aiohttp.ClientSession, site: Site
) -> tuple[int, Mapping[str, str], bytes]:
    body = chat(max_tokens=8, model="small")
    url = f"{site.gate.url}/v1/chat/completions"
    async with http.post(url, json=body, headers=bearer()) as answer:
        return answer.status, answer.headers, await answer.read()


def engine_cores(pid: int) -> list[int]:
    """Those among the process' descendants that compute, as they call themselves."""
    found, parents = [], [pid]
    while parents:
        parent = parents.pop()
        for tasks in Path(f"/proc/{parent}/task").glob("*/children"):
            children = [int(child) for child in tasks.read_text().split()]
            parents += children
            found += [
                c for c in children if b"EngineCore" in Path(f"/proc/{c}/cmdline").read_bytes()
            ]
    assert found, "no EngineCore runs"
    return found
