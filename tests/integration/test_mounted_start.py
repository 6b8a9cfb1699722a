"""When a mounted FairGate starts and ends, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send
from support.asgi import CHAT, Client
from support.gateway import bearer, chat, tenant
from support.mounted import app_config
from typer.testing import CliRunner

from fairgate import ConfigError, FairGate, Runtime, load_config
from fairgate.cli import app as command
from fairgate.config import AppEngine as AppEngineSettings
from fairgate.engines.app import AppEngine
from fairgate.mounting import mounted_config

of_the_request = contextvars.ContextVar("of_the_request", default="nobody's")


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Serves http; knows no lifespan."""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def config(valkey: redis.Redis, valkey_server: str) -> dict[str, Any]:
    return app_config(valkey_server, {"app": 4}, {"acme": tenant("acme")})


def server_side(messages: Iterable[str]) -> tuple[Receive, Send, list[Message]]:
    """The server's side of a lifespan that sends ``messages``."""
    waiting = iter(messages)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": f"lifespan.{next(waiting)}"}

    async def send(message: Message) -> None:
        sent.append(message)

    return receive, send, sent


def with_lifespan(log: list[str], *, failing: str = "") -> Callable[..., Any]:
    """An app that notes at each event whether FairGate runs."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await answer(scope, receive, send)
            return
        for event in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{event}"
            log.append(f"{event} {scope['gate'][0].runtime is not None}")
            outcome = "failed" if event == failing else "complete"
            await send({"type": f"lifespan.{event}.{outcome}"})
            if outcome == "failed":
                return

    return app


async def live(gate: FairGate) -> list[str]:
    receive, send, sent = server_side(["startup", "shutdown"])
    await gate({"type": "lifespan", "gate": [gate]}, receive, send)
    return [message["type"].removeprefix("lifespan.") for message in sent]


async def test_runs_from_before_the_apps_startup_to_after_its_shutdown(config: Any) -> None:
    log: list[str] = []
    gate = FairGate(with_lifespan(log), config=config)
    assert await live(gate) == ["startup.complete", "shutdown.complete"]
    assert log == ["startup True", "shutdown True"]
    assert gate.runtime is None


@pytest.mark.parametrize("event", ["startup", "shutdown"])
async def test_failures_of_the_apps_lifespan_pass_on(config: Any, event: str) -> None:
    gate = FairGate(with_lifespan([], failing=event), config=config)
    assert (await live(gate))[-1] == f"{event}.failed"
    assert gate.runtime is None


async def test_a_store_that_is_away_fails_the_lifespan_and_says_so(config: Any) -> None:
    config["store"] |= {"url": "redis://127.0.0.1:1/0", "on_failure": "closed"}
    receive, send, sent = server_side(["startup"])
    await FairGate(answer, config=config)({"type": "lifespan"}, receive, send)
    (message,) = sent
    assert message["type"] == "lifespan.startup.failed"
    assert message["message"].startswith("fairgate: store: ")


async def test_first_requests_at_once_share_one_start(config: Any) -> None:
    gate = FairGate(answer, config=config)
    clients = [Client() for _ in range(16)]
    await asyncio.gather(*(client.ask(gate) for client in clients))
    assert {client.status for client in clients} == {200}
    assert gate.runtime is not None
    assert gate.runtime.pools["main"].admission.pool.gateways == 1
    await gate.aclose()
    assert gate.runtime is None
    await gate.aclose()  # again: nothing to do


async def test_a_first_request_that_is_cancelled_does_not_cancel_the_start(config: Any) -> None:
    gate = FairGate(answer, config=config)
    first = asyncio.create_task(Client().ask(gate))
    await asyncio.sleep(0)
    second = asyncio.create_task((client := Client()).ask(gate))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert client.status == 200
    assert first.cancelled()
    await gate.aclose()


async def test_a_start_that_failed_is_tried_again_by_the_next_request(
    config: Any, valkey_server: str, tmp_path: Path
) -> None:
    store = tmp_path / "socket"
    config["store"] |= {"url": f"unix://{store}", "on_failure": "closed"}
    gate = FairGate(answer, config=config)
    await (refused := Client()).ask(gate)
    assert refused.status == 503
    assert refused.json()["error"]["message"] == "fairgate could not start"
    assert b"retry-after" in refused.headers
    store.symlink_to(valkey_server.removeprefix("unix://"))
    await (served := Client()).ask(gate)
    assert served.status == 200
    await gate.aclose()


async def test_an_event_loop_that_ends_takes_it_along(config: Any, valkey: redis.Redis) -> None:
    config["store"]["heartbeat_s"] = 10.0
    gate = FairGate(answer, config=config)

    async def serve_one() -> None:
        await (client := Client()).ask(gate)
        assert client.status == 200
        assert valkey.zcard("fg:{main}:gateways") == 1

    for _ in range(2):  # the second loop starts another
        await asyncio.to_thread(asyncio.run, serve_one())
        assert gate.runtime is None
    seconds, _ = valkey.time()
    alive = valkey.zcount("fg:{main}:gateways", (seconds + 1) * 1000, "+inf")
    assert alive == 0, "it left the pool, and did not wait to be swept"


async def test_two_event_loops_at_once_are_refused(config: Any) -> None:
    gate = FairGate(answer, config=config)
    await Client().ask(gate)
    with pytest.raises(RuntimeError, match="another event loop"):
        await asyncio.to_thread(asyncio.run, Client().ask(gate))
    await gate.aclose()


def test_serves_in_the_test_client_of_starlette(config: Any) -> None:
    gate = FairGate(answer, config=config)
    client = TestClient(gate)
    for _ in range(2):
        assert client.post(CHAT, json=chat(), headers=bearer()).status_code == 200


async def test_without_a_configuration_it_has_one_lane_and_asks_for_no_key() -> None:
    gate = FairGate(answer)
    client = Client()
    await client.ask(gate)
    assert client.status == 200
    assert client.headers[b"x-fairgate-lane"] == b"app"
    await gate.aclose()


async def test_with_a_runtime_it_leaves_the_lifespan_alone(config: Any) -> None:
    log: list[str] = []
    async with Runtime.open(mounted_config(config)) as runtime:
        gate = FairGate(with_lifespan(log), runtime)
        assert await live(gate) == ["startup.complete", "shutdown.complete"]
        assert gate.runtime is runtime
        await gate.aclose()
        await (client := Client()).ask(gate)
        assert client.status == 200


def test_takes_a_path_a_mapping_or_a_config(config: Any, tmp_path: Path) -> None:
    file = tmp_path / "fairgate.yaml"
    file.write_text(yaml.safe_dump(config))
    configs = [mounted_config(c) for c in (config, str(file), file, load_config(file))]
    assert all(c == configs[0] for c in configs)
    assert configs[0].server.access_log is False


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"pools": 1}, "config: pools: expected a mapping, got 1"),
        (
            {"routes": [{"path": "/a", "lane": "ap"}]},
            "config: routes[0].lane: no lane is named 'ap'; did you mean 'app'?",
        ),
        ({"routes": [{"path": "a"}]}, "routes[0].path: expected a path that starts with '/'"),
        ({"routes": [{}]}, "routes[0]: expected either path or prefix"),
        (
            {"routes": [{"path": "/a", "exempt": True, "cost": {"per_request": 2}}]},
            "routes[0]: expected one of exempt, api and cost, got exempt and cost",
        ),
        (
            {"routes": [{"path": "/a"}, {"path": "/a", "api": "chat"}]},
            "routes[1]: the same path and method as routes[0]",
        ),
        (
            {"routes": [{"path": "/a", "methods": ["get"]}]},
            "routes[0].methods: expected methods in capitals, got 'get'",
        ),
        (
            {"pools": {"main": {"lanes": {"a": {"engines": [{"type": "simulated"}]}}}}},
            "pools.main.lanes.a.engines[0]: type 'simulated' is started by 'fairgate serve' only",
        ),
    ],
)
def test_a_wrong_configuration_is_refused_at_once(
    config: Any, change: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        FairGate(answer, config=config | change)
    assert problem in str(refused.value)


def test_serve_refuses_what_only_a_mounted_one_has(config: Any, tmp_path: Path) -> None:
    file = tmp_path / "fairgate.yaml"
    file.write_text(yaml.safe_dump(config | {"routes": [{"path": "/a", "exempt": True}]}))
    result = CliRunner().invoke(command, ["serve", "--config", str(file)])
    assert result.exit_code == 1
    assert "routes: only a mounted FairGate has them" in result.output
    assert "engines[0]: type 'app' is the app that FairGate is mounted in" in result.output


def test_a_runtime_and_a_configuration_are_one_too_many(config: Any) -> None:
    runtime = Runtime(mounted_config(config))
    with pytest.raises(TypeError, match="expected a runtime, or config"):
        FairGate(answer, runtime, config=config)


async def test_what_the_first_request_sets_in_its_context_is_not_the_runtimes(config: Any) -> None:
    seen: list[str] = []

    def engine(name: str, settings: AppEngineSettings) -> AppEngine:
        seen.append(of_the_request.get())
        return AppEngine(name, settings)

    gate = FairGate(answer, config=config, app_engine=engine)
    of_the_request.set("a request's")
    await Client().ask(gate)
    assert seen == ["nobody's"]
    await gate.aclose()
