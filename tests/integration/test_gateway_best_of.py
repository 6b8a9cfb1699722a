"""Several answers in one engine request, of which the client gets one in its own shape."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
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

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@dataclass(frozen=True)
class Site:
    gate: Gateway
    ledger: LedgerView
    engine: SimulatedEngine


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, valkey_server: str) -> Iterator[Site]:
    """A gateway with one simulated engine, on which lane ``small`` may write up to four answers."""
    folder = tmp_path_factory.mktemp("bestof")
    with engine(folder, "--profile", "instant") as sim:
        tenants = {name: tenant(name) for name in ("acme", "asks-2", "asks-3", "asks-4")}
        settings = config(
            {"small": lane(sim.url)}, store=valkey_server, pool="bestof", tenants=tenants
        )
        settings["pools"]["bestof"]["best_of"] = {"max_samples": 4}
        with LedgerView(valkey_server, "bestof") as ledger, gateway(folder, settings) as gate:
            yield Site(gate, ledger, sim)


@pytest.fixture
async def client(site: Site) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{site.gate.url}/v1", api_key=key_of("acme"), max_retries=0
    ) as made:
        yield made


async def post(
    http: aiohttp.ClientSession,
    url: str,
    body: dict[str, Any],
    path: str = "/v1/chat/completions",
    who: str = "acme",
    **named: str,
) -> tuple[int, Any, Any]:
    headers = bearer(who, **{f"x_fairgate_{name}": value for name, value in named.items()})
    async with http.post(url + path, json=body, headers=headers) as answer:
        assert answer.content_type == "application/json"
        return answer.status, answer.headers, await answer.json()


async def leave(asked: asyncio.Task[Any]) -> None:
    """The client hangs up."""
    asked.cancel()
    await asyncio.wait({asked})


def best_by_logprob(answer: dict[str, Any]) -> dict[str, Any]:
    """The choice with the largest mean log-probability in an answer of the engine itself."""

    def mean(choice: dict[str, Any]) -> float:
        told = choice["logprobs"]
        values = told.get("token_logprobs") or [token["logprob"] for token in told["content"]]
        return sum(values) / len(values)

    best: dict[str, Any] = max(answer["choices"], key=mean)
    return best


@pytest.mark.parametrize("samples", [2, 3, 4])
async def test_the_likeliest_of_n_answers_comes_back_and_all_are_charged(site, http, samples):
    body = chat(f"Which fern is the best of {samples}?", max_tokens=40)
    asked = body | {"n": samples, "logprobs": True}
    async with http.post(f"{site.engine.url}/v1/chat/completions", json=asked) as answer:
        own = await answer.json()
    who = f"asks-{samples}"
    status, headers, got = await post(http, site.gate.url, body, who=who, samples=str(samples))
    assert status == 200
    best = best_by_logprob(own)
    assert best["index"] > 0 or samples < 4, "the prompts are such that the first is not the best"
    (choice,) = got["choices"]
    assert choice == {**best, "index": 0, "logprobs": None}
    assert got["usage"] == own["usage"]
    assert headers["x-fairgate-samples"] == str(samples)
    assert -3 <= float(headers["x-fairgate-score"]) <= 0
    total = got["usage"]["total_tokens"]
    await eventually(lambda: site.ledger.idle() and site.ledger.tokens(who) == total)
    assert site.ledger.requests(who) == 1


async def test_text_completions(site, http):
    body = {"model": MODEL, "prompt": "Ferns are", "max_tokens": 12}
    path = "/v1/completions"
    async with http.post(site.engine.url + path, json=body | {"n": 3, "logprobs": 0}) as answer:
        own = await answer.json()
    _, headers, got = await post(http, site.gate.url, body, path, samples="3")
    assert got["choices"] == [{**best_by_logprob(own), "index": 0, "logprobs": None}]
    assert headers["x-fairgate-samples"] == "3"


async def test_a_client_that_asks_for_logprobs_keeps_them(site, http):
    body = chat("Ferns, with figures.", max_tokens=5, logprobs=True)
    _, _, got = await post(http, site.gate.url, body, samples="3")
    assert len(got["choices"][0]["logprobs"]["content"]) == 5


@pytest.mark.parametrize(
    "fields",
    [{"n": 2}, {"temperature": 0}, {"stream": True}, {"prompt": ["a", "b"], "messages": None}],
    ids=["its own n", "no sampling", "a stream", "a batch"],
)
async def test_what_cannot_be_chosen_among_passes_as_it_came(site, http, fields):
    body = {k: v for k, v in (chat(max_tokens=4) | fields).items() if v is not None}
    path = "/v1/completions" if "prompt" in fields else "/v1/chat/completions"
    named = bearer(x_fairgate_samples="3")
    async with http.post(site.gate.url + path, json=body, headers=named) as answer:
        assert answer.status == 200
        assert "x-fairgate-samples" not in answer.headers
        text = await answer.text()
    if not fields.get("stream"):
        assert len(json.loads(text)["choices"]) == (1 if "temperature" in fields else 2)


@pytest.mark.parametrize("asked", ["0", "5", "-1", "many", "3.0"])
async def test_a_number_of_answers_out_of_range(site, http, asked):
    status, _, got = await post(http, site.gate.url, chat(), samples=asked)
    assert status == 400
    assert got["error"]["message"] == f"X-Fairgate-Samples: expected 1 to 4, got '{asked}'"


@pytest.mark.parametrize("usage", [False, True])
async def test_a_stream_that_may_wait_is_the_chosen_answer(site, client, http, usage):
    body = chat("Stream me a fern.", max_tokens=9)
    _, _, whole = await post(http, site.gate.url, body, samples="3")
    stream = await client.chat.completions.create(
        **body,
        stream=True,
        stream_options={"include_usage": True} if usage else openai.omit,
        extra_headers={"X-Fairgate-Samples": "3", "X-Fairgate-Accept-Delay": "1"},
    )
    assert stream.response.headers["x-fairgate-samples"] == "3"
    chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole["choices"][0]["message"]["content"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices] == [None, None, "length"]
    told = [c.usage.total_tokens for c in chunks if c.usage]
    assert told == ([whole["usage"]["total_tokens"]] if usage else [])
    await eventually(site.ledger.idle)


async def test_tool_calls_in_a_stream_that_may_wait(site, client):
    async with client.chat.completions.stream(
        model=MODEL,
        messages=[{"role": "user", "content": "What does weather say?"}],
        tools=[TOOL],
        extra_headers={"X-Fairgate-Samples": "2", "X-Fairgate-Accept-Delay": "yes"},
    ) as stream:
        final = await stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or ()
    assert (call.function.name, call.function.arguments) == ("weather", "{}")
    assert final.choices[0].finish_reason == "tool_calls"


async def test_a_client_that_leaves_ends_all_answers(site, http, tmp_path, valkey_server):
    with engine(tmp_path) as slow:
        settings = config({"small": lane(slow.url)}, store=valkey_server, pool="slow")
        settings["pools"]["slow"]["best_of"] = {"samples": {"small": 3}}
        with LedgerView(valkey_server, "slow") as ledger, gateway(tmp_path, settings) as gate:
            asked = asyncio.ensure_future(post(http, gate.url, long_chat(4000)))

            async def all_run() -> bool:
                return await running(http, slow.url) == 3

            await eventually(all_run)
            await leave(asked)

            async def none_runs() -> bool:
                return await running(http, slow.url) == 0

            await eventually(none_runs)
            await eventually(ledger.idle)
            assert 0 < ledger.tokens() < 12_000


# Engines and scorers that a test answers for.


def choice(index: int, text: str, logprob: float) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": text},
        "logprobs": {"content": [{"token": "x", "logprob": logprob, "top_logprobs": []}]},
        "finish_reason": "stop",
    }


def written(*choices: dict[str, Any], tokens: int = 30) -> dict[str, Any]:
    usage = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}
    return {"id": "x", "object": "chat.completion", "choices": list(choices), "usage": usage}


THREE = written(choice(0, "one", -2.0), choice(1, "two", -0.5), choice(2, "two too", -0.7))
SURE = written(choice(0, "surely", -0.1), tokens=5)
UNSURE = written(choice(0, "perhaps", -1.5), tokens=7)
LARGE = written(choice(0, "certainly", -0.1), tokens=11)


def always(answer: dict[str, Any], status: int = 200) -> Any:
    async def give(_: web.Request) -> web.StreamResponse:
        return web.json_response(answer, status=status)

    return give


@dataclass(frozen=True)
class Fakes:
    """Two lanes whose engines a test answers for, with a cascade between, and an HTTP scorer."""

    gate: Gateway
    ledger: LedgerView
    ports: dict[str, int]


@pytest.fixture(scope="module")
def fakes(tmp_path_factory: pytest.TempPathFactory, valkey_server: str) -> Iterator[Fakes]:
    ports = {name: free_port() for name in ("small", "large", "judged", "scorer")}
    lanes = {
        name: lane(f"http://127.0.0.1:{ports[name]}", max_num_seqs=1, model=MODEL, price=price)
        for name, price in (("small", 1), ("large", 10))
    }
    judged = lane(f"http://127.0.0.1:{ports['judged']}", max_num_seqs=2)
    scorer = {"type": "http", "url": f"http://127.0.0.1:{ports['scorer']}/score", "timeout_s": 0.3}
    tenants = {name: tenant(name) for name in ("acme", "streams-True", "streams-False")}
    settings = config(lanes, store=valkey_server, pool="cascade", tenants=tenants, max_choices=8)
    del settings["pools"]["cascade"]["lanes"]["large"]["model"]
    settings["pools"]["cascade"] |= {
        "best_of": {"max_samples": 3},
        "cascade": {"first": "small", "then": "large", "below": -1.0, "wait_s": 0.3},
    }
    settings["pools"]["judging"] = {
        "lanes": {"judged": judged | {"model": "judged"}},
        "best_of": {"samples": {"judged": 3}, "scorer": scorer},
    }
    folder = tmp_path_factory.mktemp("cascade")
    with (
        LedgerView(valkey_server, "cascade") as ledger,
        gateway(folder, settings, ready=False) as gate,
    ):
        yield Fakes(gate, ledger, ports)


@pytest.fixture
async def start(fakes: Fakes, http: aiohttp.ClientSession) -> AsyncIterator[Any]:
    """Starts engines (and the scorer), each with its way to answer."""
    async with AsyncExitStack() as stack:

        async def start(**answers: Any) -> dict[str, FakeEngine]:
            started = {}
            for name, answer in answers.items():
                fake = fake_engine(fakes.ports[name], answer)
                started[name] = await stack.enter_async_context(fake)
            lanes = [name for name in answers if name != "scorer"]
            await eventually(lambda: free(http, fakes.gate, lanes))
            return started

        yield start


async def free(http: aiohttp.ClientSession, gate: Gateway, lanes: list[str]) -> bool:
    """They are up, and nothing runs there as the router sees it: so ``auto`` means ``small``."""
    samples = await metrics(http, gate.url)
    labels = [f"lane={lane},pool={'judging' if lane == 'judged' else 'cascade'}" for lane in lanes]
    return all(
        samples[f"fairgate_lane_engines_up{{{of}}}"]
        and not samples[f"fairgate_lane_running_requests{{{of}}}"]
        for of in labels
    )


async def auto(http: aiohttp.ClientSession, fakes: Fakes, **fields: Any) -> tuple[int, Any, Any]:
    return await post(http, fakes.gate.url, chat("How sure?") | {"model": "auto"} | fields)


async def judged(http: aiohttp.ClientSession, fakes: Fakes, **fields: Any) -> tuple[int, Any, Any]:
    return await post(http, fakes.gate.url, chat("Judge!") | {"model": "judged"} | fields)


async def test_a_scorer_behind_a_url_chooses(fakes, http, start):
    started = await start(judged=always(THREE), scorer=always({"scores": [0, 1, 2.5]}))
    status, headers, got = await judged(http, fakes)
    assert status == 200
    assert got == {**THREE, "choices": [{**THREE["choices"][2], "index": 0}]}
    assert (headers["x-fairgate-samples"], headers["x-fairgate-score"]) == ("3", "2.5000")
    (body,) = started["judged"].bodies
    assert (body["n"], "logprobs" in body) == (3, False)
    (asked,) = started["scorer"].bodies
    assert asked == {"prompt": "Judge!", "answers": ["one", "two", "two too"]}


async def slow(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    raise AssertionError("unreachable")


@pytest.mark.parametrize(
    "scorer",
    [
        always({"scores": [1, 2]}),
        always({"scores": ["a", "b", "c"]}),
        always({}, status=500),
        always({"scores": [1] * 40_000}),
        slow,
    ],
    ids=["too few", "no numbers", "an error", "a flood", "too late"],
)
async def test_where_the_scorer_fails_the_first_answer_is_as_good_as_any(
    fakes, http, start, scorer
):
    await start(judged=always(THREE), scorer=scorer)
    status, headers, got = await judged(http, fakes)
    assert (status, got["choices"][0]["message"]["content"]) == (200, "one")
    assert headers["x-fairgate-samples"] == "3"
    assert "x-fairgate-score" not in headers


async def test_fewer_answers_than_asked_for(fakes, http, start):
    two = written(*THREE["choices"][:2])
    await start(judged=always(two), scorer=always({"scores": [0, 1]}))
    _, headers, got = await judged(http, fakes)
    assert [c["message"]["content"] for c in got["choices"]] == ["two"]
    assert headers["x-fairgate-samples"] == "2"


@pytest.mark.parametrize(
    "answer", [written(), {"choices": "none"}, {"object": "x"}], ids=["none", "odd", "no field"]
)
async def test_an_answer_without_choices_passes_as_it_is(fakes, http, start, answer):
    await start(judged=always(answer))
    status, headers, got = await judged(http, fakes)
    assert (status, got) == (200, answer)
    assert "x-fairgate-samples" not in headers


async def test_an_engine_that_takes_no_n_is_asked_as_the_client_did(fakes, http, start):
    async def fussy(request: web.Request) -> web.StreamResponse:
        if "n" in json.loads(await request.read()):
            return web.json_response({"error": {"message": "n: not supported"}}, status=400)
        return web.json_response(SURE)

    started = await start(judged=fussy)
    status, headers, got = await judged(http, fakes, seed=7)
    assert (status, got) == (200, SURE)
    assert headers["x-fairgate-samples"] == "1"
    assert [body.get("n") for body in started["judged"].bodies] == [3, None]
    assert started["judged"].bodies[1]["seed"] == 7


async def test_the_clients_own_mistake_is_told_by_the_engine(fakes, http, start):
    wrong = {"error": {"message": "top_k: expected a number"}}
    await start(judged=always(wrong, status=422))
    status, _, got = await judged(http, fakes)
    assert (status, got) == (422, wrong)


async def test_a_failing_engine_costs_nothing(fakes, http, start):
    await start(small=always({}, status=503), large=always(LARGE))
    before = fakes.ledger.tokens()
    url, body = fakes.gate.url, chat() | {"model": "small"}
    status, headers, got = await post(http, url, body, samples="3")
    assert (status, got["error"]["code"]) == (503, "engine_unavailable")
    assert int(headers["retry-after"]) >= 1
    await eventually(fakes.ledger.idle)
    assert fakes.ledger.tokens() == before


async def test_as_many_answers_as_are_written_are_reserved_for(fakes, http, start):
    async def reserved(samples: int) -> float:
        asked = asyncio.ensure_future(
            post(http, fakes.gate.url, chat() | {"model": "small", "max_tokens": 100},
                 samples=str(samples))
        )  # fmt: skip
        try:
            return await eventually(
                lambda: sum(v for k, v in fakes.ledger.in_use().items() if k.endswith(" kv"))
            )
        finally:
            await leave(asked)
            await eventually(fakes.ledger.idle)

    await start(small=slow, large=always(LARGE))
    one, three = await reserved(1), await reserved(3)
    assert three - one == 200


# The cascade.


async def test_a_sure_answer_is_the_answer(fakes, http, start):
    started = await start(small=always(SURE), large=always(LARGE))
    status, headers, got = await auto(http, fakes)
    assert status == 200
    assert got == {**SURE, "choices": [{**SURE["choices"][0], "logprobs": None}]}
    assert headers["x-fairgate-lane"] == "small"
    assert headers["x-fairgate-score"] == "-0.1000"
    assert "x-fairgate-escalated-from" not in headers
    assert not started["large"].bodies


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unsure_answer_is_asked_for_again_and_both_are_charged(fakes, http, start, stream):
    started = await start(small=always(UNSURE), large=always(LARGE))
    who = f"streams-{stream}"
    body = chat("How sure?", stream=stream) | {"model": "auto"}
    named = bearer(who, x_fairgate_accept_delay="1")
    url = f"{fakes.gate.url}/v1/chat/completions"
    async with http.post(url, json=body, headers=named) as answer:
        assert answer.status == 200
        assert answer.headers["x-fairgate-lane"] == "large"
        assert answer.headers["x-fairgate-escalated-from"] == "small"
        text = await answer.text()
    assert "certainly" in text
    assert text.startswith("data: ") is stream
    (large,) = started["large"].bodies
    sent = {name: value for name, value in body.items() if name != "stream" or not stream}
    assert len(large.pop("cache_salt")) == 32
    assert large == {**sent, "model": "large"}
    await eventually(lambda: fakes.ledger.idle() and fakes.ledger.tokens(who) == 17 + 21)
    assert fakes.ledger.requests(who) == 1
    line = await eventually(lambda: fakes.gate.logs("request")[-1:])
    told = {name: line[0][name] for name in ("lane", "prompt_tokens", "output_tokens", "service")}
    assert told == {"lane": "large", "prompt_tokens": 20, "output_tokens": 18, "service": 56.0}
    counted = await metrics(http, fakes.gate.url)
    assert counted["fairgate_cascade_answers_total{lane=small,outcome=escalated,pool=cascade}"] >= 1


async def test_a_lane_that_is_named_is_not_left(fakes, http, start):
    started = await start(small=always(UNSURE), large=always(LARGE))
    _, headers, got = await auto(http, fakes, model="small")
    assert got == UNSURE
    assert "x-fairgate-samples" not in headers
    assert not started["large"].bodies


async def test_the_best_of_several_is_judged(fakes, http, start):
    started = await start(small=always(THREE), large=always(LARGE))
    url, body = fakes.gate.url, chat() | {"model": "auto"}
    _, headers, got = await post(http, url, body, samples="3")
    assert got["choices"][0]["message"]["content"] == "two"
    assert headers["x-fairgate-score"] == "-0.5000"
    assert not started["large"].bodies
    counted = await metrics(http, url)
    assert counted["fairgate_best_of_samples_total{lane=small,pool=cascade}"] >= 3
    assert counted["fairgate_cascade_answers_total{lane=small,outcome=kept,pool=cascade}"] >= 1


@pytest.mark.parametrize(
    ("answer", "status"),
    [({"error": "busy"}, 503), ({"error": "too long"}, 400), ({"error": "?"}, 500)],
)
async def test_where_the_other_lane_fails_the_first_answer_serves(
    fakes, http, start, answer, status
):
    await start(small=always(UNSURE), large=always(answer, status=status))
    before = fakes.ledger.tokens()
    got_status, headers, got = await auto(http, fakes)
    assert (got_status, got["choices"][0]["message"]["content"]) == (200, "perhaps")
    assert headers["x-fairgate-lane"] == "small"
    assert "x-fairgate-escalated-from" not in headers
    await eventually(fakes.ledger.idle)
    assert fakes.ledger.tokens() - before == 17


async def test_where_the_other_lane_is_full_the_first_answer_serves_in_time(fakes, http, start):
    await start(small=always(UNSURE), large=slow)
    full = asyncio.ensure_future(auto(http, fakes, model="large"))
    await eventually(lambda: any("large" in key for key in fakes.ledger.in_use()))
    _, headers, got = await auto(http, fakes)
    assert got["choices"][0]["message"]["content"] == "perhaps"
    assert headers["x-fairgate-lane"] == "small"
    await leave(full)
    await eventually(fakes.ledger.idle)


async def test_a_client_that_leaves_while_the_other_lane_writes(fakes, http, start):
    started = await start(small=always(UNSURE), large=slow)
    before = fakes.ledger.tokens()
    asked = asyncio.ensure_future(auto(http, fakes, max_tokens=50))
    await eventually(lambda: started["large"].bodies)
    await leave(asked)
    await eventually(fakes.ledger.idle)
    assert fakes.ledger.tokens() >= before + 17, "the first answer is paid for"
