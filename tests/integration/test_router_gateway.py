"""Routing in a running gateway: the knob, headers, feedback, stickiness, shadow, trial, reload."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import redis
import uvicorn
import yaml
from aiohttp import web
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from structlog.testing import capture_logs
from support.gateway import (
    LedgerView,
    bearer,
    config,
    eventually,
    fake_engine,
    lane,
    metrics,
    tenant,
)
from support.live_routing import ByNumber, words

from fairgate import FairGate, Gateway, Runtime
from fairgate.config import Config
from fairgate.config.reading import loads
from fairgate.engines.process import free_port
from fairgate.errors import ArtifactError
from fairgate.routing import library
from fairgate.routing.tallies import Tally

CHAT = "/v1/chat/completions"
FEEDBACK = "/fairgate/v1/feedback"
OUTPUT_TOKENS = 5


@pytest.fixture(autouse=True)
def _artefact(monkeypatch: pytest.MonkeyPatch) -> None:
    """The artefact reads a prompt's difficulty off its last word."""
    loading = library.Library.__init__
    monkeypatch.setattr(loading, "__defaults__", (ByNumber.load,))


async def answer(request: web.Request) -> web.Response:
    body = json.loads(await request.read())
    usage = {"prompt_tokens": 10, "completion_tokens": OUTPUT_TOKENS, "total_tokens": 15}
    message = {"role": "assistant", "content": body["messages"][-1]["content"]}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return web.json_response({"model": body["model"], "choices": [choice], "usage": usage})


def parsed(settings: Mapping[str, Any]) -> Config:
    return loads(yaml.safe_dump(dict(settings)), source="test")


class Site:
    """A gateway in this process, over engines that echo."""

    def __init__(self, http: aiohttp.ClientSession, settings: dict[str, Any], url: str) -> None:
        self.http = http
        self.settings = settings
        self.url = url
        self.runtime: Runtime

    async def ask(
        self, text: str, *, model: str = "auto", name: str = "acme", **headers: str
    ) -> tuple[int, Mapping[str, str], Any]:
        body = {"model": model, "messages": [{"role": "user", "content": text}]}
        sent = bearer(name, **headers)
        async with self.http.post(self.url + CHAT, json=body, headers=sent) as answered:
            return answered.status, answered.headers, await answered.json()

    async def lane(self, text: str, **options: str) -> str:
        status, headers, body = await self.ask(text, **options)
        assert status == 200, body
        return headers["x-fairgate-lane"]

    async def judge(
        self, body: Any, name: str = "acme", method: str = "POST"
    ) -> tuple[int, dict[str, Any]]:
        asked = self.http.request(
            method, self.url + FEEDBACK, json=body, headers=bearer(name) if name else {}
        )
        async with asked as answered:
            return answered.status, await answered.json()

    async def metric(self, name: str) -> float:
        samples = await metrics(self.http, self.url)
        return sum(value for key, value in samples.items() if key.startswith(name))

    async def reload(self, routing: Mapping[str, Any] | None) -> None:
        """As the watcher of the configuration file does."""
        changed = json.loads(json.dumps(self.settings))
        changed["pools"]["main"]["routing"] = routing
        self.runtime.apply(parsed(changed))


@asynccontextmanager
async def site(
    store: str,
    routing: Mapping[str, Any] | None = None,
    *,
    tenants: Mapping[str, Any] | None = None,
    names: tuple[str, str] = ("small", "large"),
    **sections: Any,
) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        ports = free_port(), free_port()
        for port, name in zip(ports, names, strict=True):
            await stack.enter_async_context(fake_engine(port, answer, model=name))
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        lanes = {
            name: lane(url, price=price) | {"model": name}
            for name, url, price in zip(names, urls, (1.0, 8.0), strict=True)
        }
        settings = config(lanes, store=store, tenants=tenants, **sections)
        if routing is not None:
            settings["pools"]["main"]["routing"] = dict(routing)
        port = free_port()
        http = await stack.enter_async_context(aiohttp.ClientSession())
        it = Site(http, settings, f"http://127.0.0.1:{port}")
        it.runtime = await stack.enter_async_context(Runtime.open(parsed(settings)))
        server = uvicorn.Server(
            uvicorn.Config(
                Gateway(it.runtime).app, port=port, lifespan="off", log_config=None, ws="none"
            )
        )
        serving = asyncio.create_task(server.serve())
        await eventually(lambda: server.started and not it.runtime.closed_lanes())
        try:
            yield it
        finally:
            server.should_exit = True
            await serving


@pytest.fixture
def store(valkey: redis.Redis, valkey_server: str) -> str:
    return valkey_server


async def test_the_artefact_decides_and_the_knob_says_how_strictly(store: str) -> None:
    levels = {"acme": tenant("acme"), "picky": tenant("picky", quality=0.95)}
    async with site(store, {"quality": 0.5}, tenants=levels) as it:
        assert await it.lane("so 0.3") == "small"
        assert await it.lane("so 0.7") == "large"
        assert await it.lane("so 0.3", model="auto:0.9") == "large"
        assert await it.lane("so 0.7", x_fairgate_quality="0.2") == "small"
        assert await it.lane("so 0.7", model="auto:0.2", x_fairgate_quality="1") == "small"
        assert await it.lane("so 0.3", name="picky") == "large"
        assert await it.lane("so 0.7", name="picky", model="auto:0") == "small"
        assert await it.lane("so 0.9", model="small") == "small"


async def test_a_certified_drop_counts_where_nobody_names_a_quality(store: str) -> None:
    async with site(store, {"drop": 0.1}) as it:
        assert await it.lane("so 0.1") == "small"
        assert await it.lane("so 0.3") == "large"
        assert await it.lane("so 0.3", model="auto:0.5") == "small"
    with pytest.raises(ArtifactError, match=r"drop <= 0\.01"):
        async with site(store, {"drop": 0.01}):
            raise AssertionError("it started without a promise")


async def test_a_tenants_drop_goes_before_the_pools_quality(store: str) -> None:
    levels = {
        "acme": tenant("acme"),
        "careful": tenant("careful", drop=0.1),
        "stricter": tenant("stricter", drop=0.01),
        "both": tenant("both", drop=0.1, quality=0.5),
    }
    async with site(store, {"quality": 0.5}, tenants=levels) as it:
        assert await it.lane("so 0.3") == "small"
        assert await it.lane("so 0.1", name="careful") == "small"
        assert await it.lane("so 0.3", name="careful") == "large"
        assert await it.lane("so 0.3", name="careful", model="auto:0.5") == "small"
        assert await it.lane("so 0.1", name="stricter") == "large", "nothing so strict is certified"
        assert await it.lane("so 0.3", name="both") == "small"


async def test_nonsense_is_refused_by_field_and_value(store: str) -> None:
    async with site(store, {}) as it:
        status, _, body = await it.ask("x 0.1", model="auto:best")
        assert (status, body["error"]["param"]) == (400, "model")
        assert "'auto:best'" in body["error"]["message"]
        status, _, body = await it.ask("x 0.1", x_fairgate_quality="7")
        assert (status, body["error"]["param"]) == (400, "X-Fairgate-Quality")
        assert "'7'" in body["error"]["message"]
        status, _, body = await it.ask("x 0.1", model="autonomous")
        assert (status, body["error"]["code"]) == (404, "model_not_found")


async def test_the_answer_tells_who_decided_and_why(
    store: str,
) -> None:
    async with site(store, {}) as it:
        _, headers, body = await it.ask("x 0.3")
        assert headers["x-fairgate-router"] == "hybrid; reason=difficulty; expected=0.70"
        assert body["model"] == "small"
        _, headers, _ = await it.ask("x 0.3", model="large")
        assert "x-fairgate-router" not in headers


async def test_the_ledger_charges_the_lane_that_the_router_chose(
    store: str,
) -> None:
    # Under fcfs nobody is lifted, so that the counter holds nothing but charges.
    async with site(store, {}, policy="fcfs") as it:
        ledger = LedgerView(store, wipe=False)

        async def charged(text: str) -> float:
            before = ledger.service()
            await it.ask(text)
            await eventually(ledger.idle)
            return ledger.service() - before

        with ledger:
            cheap = await charged("x 0.1")
            assert cheap == pytest.approx(10 + 2 * OUTPUT_TOKENS)
            assert await charged("x 0.9") == pytest.approx(8 * cheap)


async def test_without_a_section_an_artefact_that_knows_the_models_is_enough(store: str) -> None:
    async with site(store) as it:
        assert await it.lane("x 0.9") == "large"
        assert (await it.ask("x 0.1"))[1]["x-fairgate-router"].startswith("hybrid")


async def test_without_a_section_unknown_models_go_where_most_is_free(store: str) -> None:
    async with site(store, names=("m-1", "m-2")) as it:
        _, headers, _ = await it.ask("x 0.9")
        assert headers["x-fairgate-router"] == "most-free; reason=most-free"
        assert await it.lane("x 0.1", model="auto:1") == "m-2"
        assert (await it.judge({"request_id": headers["x-request-id"], "score": 1}))[0] == 404


async def test_unknown_models_go_by_price_and_the_log_says_so(store: str) -> None:
    with capture_logs() as logs:
        async with site(store, {}, names=("m-1", "m-2")) as it:
            assert await it.lane("x 0.9") == "m-1"
            assert (await it.ask("x 0.9"))[1]["x-fairgate-router"] == "price-order; reason=price"
    told = [line for line in logs if line["event"].startswith("the artefact does not know")]
    assert [line["unknown"] for line in told] == [["m-1", "m-2"]]


async def test_an_interaction_keeps_its_lane_until_difficulty_rises(store: str) -> None:
    async with site(store, {}) as it:
        run = {"x_fairgate_interaction": "run-1"}
        assert await it.lane("x 0.1", **run) == "small"
        assert await it.lane("x 0.9", **run) == "large"
        assert await it.lane("x 0.1", **run) == "large"
        assert await it.lane("x 0.1") == "small"


async def test_replicas_keep_an_interaction_on_the_same_lane(store: str) -> None:
    async with site(store, {}) as here, site(store, {}) as there:
        assert await here.lane("x 0.9", x_fairgate_interaction="run") == "large"
        places = there.runtime.pools["main"].routing._places
        await eventually(lambda: len(places))
        assert await there.lane("x 0.1", x_fairgate_interaction="run") == "large"


async def test_replicas_count_together_how_routers_chose_and_what_came_of_it(store: str) -> None:
    async with site(store, {}) as here, site(store, {}) as there:
        _, headers, _ = await here.ask("x 0.2")
        await here.ask("x 0.9")
        await there.ask("x 0.9")
        told = {"request_id": headers["x-request-id"], "score": 0.5}
        assert (await there.judge(told))[0] == 200
        large, small = (
            Tally("hybrid", "large", 2, 0, None, None),
            Tally("hybrid", "small", 1, 1, pytest.approx(0.8), 0.5),
        )

        async def both_tell_it() -> bool:
            pools = [it.runtime.pools["main"] for it in (here, there)]
            return [await pool.routing.tallied() for pool in pools] == [[large, small]] * 2

        await eventually(both_tell_it)


async def test_a_router_that_fails_costs_no_request(store: str) -> None:
    with capture_logs() as logs:
        async with site(store, {}) as it:
            assert await it.lane("no number at its end") == "small"
    assert [x for x in logs if x["event"] == "the router failed; routing by price"]


async def test_a_handler_tells_how_good_its_answer_is(store: str) -> None:
    async def talk(request: Request) -> JSONResponse:
        request.scope["fairgate"].report_score(0.25)
        return JSONResponse({"choices": []})

    lanes = {"app": {"engines": [{"type": "app", "max_num_seqs": 2}]}}
    settings = config(lanes, store=store)
    settings["pools"]["main"]["routing"] = {"router": "price-order"}
    async with Runtime.open(parsed(settings)) as runtime:
        app = FairGate(Starlette(routes=[Route(CHAT, talk, methods=["POST"])]), runtime)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answered = await client.post(CHAT, json={"messages": []}, headers=bearer())
            assert answered.status_code == 200
            assert answered.headers["x-fairgate-router"] == "price-order; reason=price"

        def score() -> float | None:
            labels = {"pool": "main", "router": "price-order", "lane": "app"}
            return runtime.metrics.registry.get_sample_value("fairgate_router_score_total", labels)

        await eventually(lambda: score() == 0.25)


# Feedback


async def test_feedback_counts_once_and_only_for_ones_own_requests(store: str) -> None:
    both = {"acme": tenant("acme"), "globex": tenant("globex")}
    async with site(store, {}, tenants=both) as it:
        _, headers, _ = await it.ask("x 0.1", x_request_id="mine")
        assert headers["x-request-id"] == "mine"
        told = {"request_id": "mine", "score": "good"}
        assert (await it.judge(told, name="globex"))[0] == 404
        status, body = await it.judge(told)
        assert (status, body["lane"], body["score"], body["router"]) == (200, "small", 1, "hybrid")
        status, body = await it.judge(told)
        assert (status, body["error"]["code"]) == (404, "request_not_found")
        assert (await it.judge(told, name=""))[0] == 401
        assert (await it.judge(told, method="PUT"))[0] == 405
        assert await it.metric("fairgate_router_feedback_total") == 1
        assert await it.metric("fairgate_router_score_total") == 1


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({"request_id": "a", "score": 1.5}, "score", "1.5"),
        ({"request_id": "a", "score": "fine"}, "score", "'fine'"),
        ({"request_id": "", "score": 1}, "request_id", "length"),
        ({"score": 1}, None, "request_id"),
        ([1], None, "array"),
    ],
)
async def test_feedback_that_is_none_is_refused_by_field(
    store: str, body: Any, field: str | None, value: str
) -> None:
    async with site(store, {}) as it:
        status, answered = await it.judge(body)
        assert (status, answered["error"]["param"]) == (400, field)
        assert value in answered["error"]["message"]


async def test_mess_plus_learns_from_feedback_that_arrives_at_another_replica(store: str) -> None:
    """The small lane satisfies nobody: soon all replicas serve from the large one."""
    routing = {"router": "mess-plus", "satisfaction": 0.7, "sticky": False}
    async with site(store, routing) as here, site(store, routing) as there:

        async def served() -> str:
            _, headers, _ = await here.ask("again 0.5")
            lane = headers["x-fairgate-lane"]
            told = {"request_id": headers["x-request-id"], "score": float(lane == "large")}
            assert (await there.judge(told))[0] == 200
            return lane

        def seen() -> dict[str, float]:
            learner = here.runtime.pools["main"].routing._learners["ngrams"]
            return learner.predict(words("again 0.5"))

        async def learned() -> bool:
            await served()
            return seen()["large"] - seen()["small"] > 0.2

        assert seen()["large"] - seen()["small"] < 0.1
        await eventually(learned)

        async def small() -> bool:
            return await served() == "small"

        # Large satisfies always, which is more than was agreed: the debt goes down, here as well.
        await eventually(small)


async def test_checks_give_feedback_by_themselves(store: str) -> None:
    async with site(store, {"checks": ["finished", "json"]}) as it:
        body = {"messages": [{"role": "user", "content": "not json 0.1"}]}
        asked = {**body, "response_format": {"type": "json_object"}}
        for sent in (body, asked):
            async with it.http.post(it.url + CHAT, json=sent, headers=bearer()) as answered:
                assert answered.status == 200
        await eventually(lambda: _is(it, "fairgate_router_feedback_total", 2))
        assert await it.metric("fairgate_router_score_total") == 1


async def test_a_judge_is_asked_and_believed(store: str) -> None:
    seen: list[dict[str, str]] = []

    async def judge(request: web.Request) -> web.Response:
        seen.append(await request.json())
        return web.json_response({"score": 0.25})

    app = web.Application()
    app.router.add_post("/judge", judge)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        by = {"url": f"http://127.0.0.1:{port}/judge", "share": 1.0}
        async with site(store, {"judge": by}) as it:
            await it.ask("how 0.1")
            await eventually(lambda: _is(it, "fairgate_router_score_total", 0.25))
    finally:
        await runner.cleanup()
    assert seen == [{"prompt": "how 0.1", "answer": "how 0.1", "model": "small"}]


async def _is(it: Site, name: str, value: float) -> bool:
    return await it.metric(name) == pytest.approx(value)


# Life cycle


async def test_a_shadow_is_counted_and_not_obeyed(store: str) -> None:
    async with site(store, {"shadow": {"router": "price-order"}}) as it:
        assert await it.lane("x 0.9") == "large"
        name = "fairgate_router_shadow_decisions_total"
        await eventually(lambda: _is(it, name, 1))
        samples = await metrics(it.http, it.url)
        told = next(key for key in samples if key.startswith(name))
        assert "lane=small" in told
        assert "obeyed=large" in told
        assert "router=price-order" in told


async def test_a_trial_takes_its_share_of_interactions_and_keeps_them(store: str) -> None:
    trial = {"router": "price-order", "share": 0.5}
    async with site(store, {"trial": trial, "sticky": False}) as it:

        async def router(run: int) -> str:
            _, headers, _ = await it.ask("x 0.9", x_fairgate_interaction=f"run-{run}")
            return headers["x-fairgate-router"].partition(";")[0]

        first = [await router(run) for run in range(40)]
        assert [await router(run) for run in range(40)] == first
        assert 8 <= first.count("price-order") <= 32


async def test_artefact_and_section_change_without_a_restart(store: str, tmp_path: Path) -> None:
    file = tmp_path / "artefact"
    file.write_text("v1")
    async with site(store, {"artifact": str(file)}) as it:
        routing = it.runtime.pools["main"].routing
        router: Any = routing._arms.router
        assert router._router._predictor.version == "v1"
        new = tmp_path / "new"
        new.write_text("v2")
        new.replace(file)

        def version() -> str:
            router: Any = routing._arms.router
            return str(router._router._predictor.version)

        await eventually(lambda: version() == "v2")
        await it.reload({"router": "price-order"})
        await eventually(lambda: routing._arms.router.name == "price-order")
        assert await it.lane("x 0.9") == "small"


async def test_an_artefact_that_goes_bad_leaves_the_old_one_in_force(
    store: str, tmp_path: Path
) -> None:
    file = tmp_path / "artefact"
    file.write_text("v1")
    async with site(store, {}) as it:
        with capture_logs() as logs:
            await it.reload({"artifact": str(tmp_path / "missing")})
            await eventually(lambda: any(x["event"] == "routing not changed" for x in logs))
        assert await it.lane("x 0.9") == "large"


async def test_records_tell_what_happened_and_no_word_of_it(store: str, tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    async with site(store, {"record": {"file": str(file)}}) as it:
        _, headers, _ = await it.ask("secret 0.3", x_fairgate_user="bob@example.org")
        await it.judge({"request_id": headers["x-request-id"], "score": 0.5})
        await eventually(lambda: file.exists() and file.read_text().count("\n") == 2)
    text = file.read_text()
    served, scored = map(json.loads, text.splitlines())
    assert (served["lane"], served["router"], served["output_tokens"]) == ("small", "hybrid", 5)
    assert served["predicted"] == {"small": 0.7, "large": 0.95}
    assert (scored["id"], scored["score"]) == (served["id"], 0.5)
    for private in ("secret", "bob", headers["x-request-id"], "acme"):
        assert private not in text


async def test_prompts_are_recorded_where_that_is_switched_on(store: str, tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    async with site(store, {"record": {"file": str(file), "prompts": True, "share": 1.0}}) as it:
        await it.ask("keep me 0.3")
        await eventually(lambda: file.exists() and file.read_text())
    assert json.loads(file.read_text())["prompt"] == "keep me 0.3"


async def test_drift_is_told_once_predictions_fail(store: str) -> None:
    with capture_logs() as logs:
        async with site(store, {"drift": {"window": 20}}) as it:
            for _ in range(20):
                _, headers, _ = await it.ask("x 0.1")
                await it.judge({"request_id": headers["x-request-id"], "score": 0})
            assert await it.metric("fairgate_router_drift_alarm{lane=small") == 1
            assert await it.metric("fairgate_router_drift_gap{lane=small") == pytest.approx(-0.9)
    alarms = [x for x in logs if x["event"].startswith("predictions no longer come true")]
    assert len(alarms) == 1
