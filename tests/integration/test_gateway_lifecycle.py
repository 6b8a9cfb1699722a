"""A gateway's life: reloads while requests run, a drain that ends everything, no file at all."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from support.gateway import (
    MODEL,
    POOL,
    Gateway,
    SimulatedEngine,
    bearer,
    chat,
    config,
    engine,
    eventually,
    fake_engine,
    gateway,
    lane,
    long_chat,
    metrics,
    running,
    tenant,
)
from support.store import Store

from fairgate.engines.process import free_port

CHAT = "/v1/chat/completions"
COUNTED_ONCE = (
    "each replica starts engines of its own, and the pool counts them as one; start them apart"
    " and name them as type http"
)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedEngine]:
    """An engine that writes a hundred tokens per second."""
    with engine(tmp_path_factory.mktemp("lifecycle"), "--speed", "2") as it:
        yield it


async def post(
    http: aiohttp.ClientSession, gate: Gateway, body: Any, name: str = "acme"
) -> tuple[int, Any, bytes]:
    async with http.post(gate.url + CHAT, json=body, headers=bearer(name)) as answer:
        return answer.status, answer.headers, await answer.read()


async def status_of(http: aiohttp.ClientSession, gate: Gateway, name: str) -> int:
    return (await post(http, gate, chat(max_tokens=1), name))[0]


def settings_of(slow: SimulatedEngine, *names: str, **fields: Any) -> dict[str, Any]:
    tenants = {name: tenant(name) for name in names} | {"acme": tenant("acme", **fields)}
    return config({"small": lane(slow.url)}, tenants=tenants)


async def streaming(
    http: aiohttp.ClientSession, gate: Gateway, slow: SimulatedEngine, tokens: int
) -> asyncio.Task[Any]:
    """A stream that has begun."""
    stream = asyncio.create_task(post(http, gate, long_chat(tokens, stream=True)))

    async def begun() -> bool:
        return await running(http, slow.url) == 1

    await eventually(begun)
    return stream


def is_whole(answer: tuple[int, Any, bytes], tokens: int) -> bool:
    status, _, body = answer
    return (
        status == 200
        and body.endswith(b"data: [DONE]\n\n")
        and body.count(b'"content":" ') >= tokens - 1
    )


async def test_reloads_under_a_running_stream(tmp_path, slow, http):
    with gateway(tmp_path, settings_of(slow, "leaver", limits={"rpm": 7})) as gate:
        stream = await streaming(http, gate, slow, 150)
        assert await status_of(http, gate, "leaver") == 200
        assert await status_of(http, gate, "newcomer") == 401

        gate.write(settings_of(slow, "newcomer", limits={"rpm": 9}))
        gate.send(signal.SIGHUP)
        await eventually(lambda: gate.logs("config_reloaded"))
        assert await status_of(http, gate, "newcomer") == 200
        assert await status_of(http, gate, "leaver") == 401
        _, headers, _ = await post(http, gate, chat(max_tokens=1))
        assert headers["x-ratelimit-limit-requests"] == "9"
        assert not stream.done(), "it ended before the reload: make it longer"
        assert is_whole(await stream, 150)

        gate.write("tenants: {acme: {wieght: 2}}")
        gate.send(signal.SIGHUP)
        (told,) = await eventually(lambda: gate.logs("config_rejected"))
        assert any("wieght" in problem and "weight" in problem for problem in told["problems"])
        assert await status_of(http, gate, "newcomer") == 200  # the old one is in force

        gate.write(settings_of(slow, "latecomer"))  # no signal: the change is seen
        await eventually(lambda: len(gate.logs("config_reloaded")) == 2)
        assert await status_of(http, gate, "latecomer") == 200


async def test_the_policy_changes_under_a_waiting_line(tmp_path, slow, http):
    names = ("one", "two", "three")

    def settings(policy: str) -> dict[str, Any]:
        tenants = {name: tenant(name) for name in names}
        return config({"small": lane(slow.url, max_num_seqs=1)}, tenants=tenants, policy=policy)

    def ask() -> list[asyncio.Task[Any]]:
        body = chat(max_tokens=5, ignore_eos=True)
        return [asyncio.create_task(post(http, gate, body, name)) for name in names * 3]

    async def reload(gate: Gateway, policy: str, count: int) -> None:
        gate.write(settings(policy))
        gate.send(signal.SIGHUP)
        await eventually(lambda: len(gate.logs("config_reloaded")) == count)

    with gateway(tmp_path, settings("fcfs")) as gate:
        for count, policy in enumerate(("fairserve", "fcfs"), 1):
            before = ask()
            await asyncio.wait(before, return_when=asyncio.FIRST_COMPLETED)
            await reload(gate, policy, count)
            assert not all(request.done() for request in before), "the line was empty too soon"
            async with asyncio.timeout(20):
                answers = await asyncio.gather(*before, *ask())
            assert [status for status, _, _ in answers] == [200] * 18
        assert not gate.logs("the store is away")


def family_of(pid: int) -> set[int]:
    """The process and all that descend from it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if fields[0] != "Z":
            parents[int(stat.parent.name)] = int(fields[1])
    family = {pid} & parents.keys()
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def commands_of(pids: set[int]) -> str:
    return "\n".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in pids)


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if family_of(pid)}


def spawning(store: str = "embedded") -> dict[str, Any]:
    """A gateway that starts everything by itself: an engine and, unless told, the store."""
    spawned = {"type": "simulated", "max_num_seqs": 4, "speed": 2}
    return config({"small": {"model": MODEL, "engines": [spawned]}}, store=store)


def test_replicas_that_start_the_same_engine_are_told_that_it_counts_once(tmp_path):
    with Store(tmp_path / "store") as store:
        settings = spawning(store.url)
        with (
            gateway(tmp_path / "a", settings) as first,
            gateway(tmp_path / "b", settings) as second,
        ):
            assert not first.logs(COUNTED_ONCE)
            (said,) = second.logs(COUNTED_ONCE)
            assert (said["pool"], said["lanes"], said["replicas"]) == (POOL, ["small"], 2)


async def begins_to_stream(http: aiohttp.ClientSession, gate: Gateway) -> Any:
    answer = await http.post(gate.url + CHAT, json=long_chat(100, stream=True), headers=bearer())
    assert await answer.content.readany()
    return answer


async def test_a_drain_finishes_streams_and_leaves_no_process(tmp_path, http):
    with gateway(tmp_path, spawning()) as gate:
        family = family_of(gate.process.pid)
        commands = commands_of(family)
        assert "valkey-server" in commands
        assert "fairgate.engines.simulated" in commands
        answer = await begins_to_stream(http, gate)
        gate.send(signal.SIGTERM)
        body = await answer.read()
        assert body.endswith(b"data: [DONE]\n\n")
        assert gate.wait() == 0
        assert not alive(family)
        with pytest.raises(aiohttp.ClientConnectionError):
            await post(http, gate, chat())


async def test_a_drain_refuses_what_comes_on_an_open_connection(tmp_path, slow, http):
    with gateway(tmp_path, settings_of(slow)) as gate:
        stream = await streaming(http, gate, slow, 60)
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        body = json.dumps(chat(max_tokens=1))
        request = (
            f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: {bearer()['authorization']}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        writer.write(request.encode())
        await writer.drain()
        gate.send(signal.SIGTERM)
        await eventually(lambda: not listens(gate.port))
        writer.write(body.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        # It came before the signal and is served, or is told to come back: never left alone.
        assert head.split()[1] in (b"200", b"503")
        assert is_whole(await stream, 60)
        assert gate.wait() == 0


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_a_drain_that_comes_before_it_was_ready_ends_well(tmp_path, slow, http):
    """One lane serves, the other has no engine until the drain has begun."""
    port = free_port()
    lanes = {
        "small": lane(slow.url),
        "late": lane(f"http://127.0.0.1:{port}", model="Late-7B"),
    }
    with gateway(tmp_path, config(lanes), ready=False) as gate:
        await eventually(partial(serves, http, gate))
        stream = await streaming(http, gate, slow, 300)
        gate.send(signal.SIGTERM)
        await eventually(lambda: not listens(gate.port))
        async with fake_engine(port, no_answer):
            await eventually(lambda: [e for e in gate.logs("engine is up") if e["lane"] == "late"])
            assert is_whole(await stream, 300)
        assert gate.wait() == 0, gate.text()[-2000:]
        assert "ready http" not in gate.text()


async def serves(http: aiohttp.ClientSession, gate: Gateway) -> bool:
    return await status_of(http, gate, "acme") == 200


async def no_answer(request: web.Request) -> web.StreamResponse:
    raise web.HTTPInternalServerError


async def test_a_second_signal_does_not_wait(tmp_path, http):
    with gateway(tmp_path, spawning()) as gate:
        family = family_of(gate.process.pid)
        answer = await http.post(
            gate.url + CHAT, json=long_chat(10_000, stream=True), headers=bearer()
        )
        assert await answer.content.readany()
        gate.send(signal.SIGTERM)
        await eventually(lambda: not listens(gate.port))
        assert gate.process.poll() is None
        gate.send(signal.SIGTERM)
        async with asyncio.timeout(20):
            rest = await read_what_comes(answer)
        assert b"[DONE]" not in rest
        assert gate.wait() == 0
        assert not alive(family)


async def read_what_comes(answer: aiohttp.ClientResponse) -> bytes:
    got = b""
    try:
        async for chunk in answer.content.iter_any():
            got += chunk
    except aiohttp.ClientError:
        pass
    return got


async def test_a_killed_gateway_takes_all_with_it(tmp_path):
    with gateway(tmp_path, spawning()) as gate:
        family = family_of(gate.process.pid)
        gate.process.kill()
        gate.wait()
        await eventually(lambda: not alive(family))


async def test_engines_alone_are_enough(tmp_path, slow, http):
    """No file: lanes by the engines' models, one tenant who needs no key, from any directory."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"choices": []})

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    port = free_port()
    async with fake_engine(port, answer, model="org/Fern-7B") as fake:
        options = ("--engine", slow.url, "--engine", f"http://127.0.0.1:{port}/v1")
        starting = asyncio.to_thread(_enter, gateway(tmp_path, None, *options, cwd=elsewhere))
        gate, leave = await starting
        try:
            async with http.get(f"{gate.url}/v1/models") as listed:
                models = [model["id"] for model in (await listed.json())["data"]]
            assert models == [MODEL, "Fern-7B", "auto"]
            for model, lane_name in ((MODEL, MODEL), ("org/Fern-7B", "Fern-7B")):
                body = chat(max_tokens=1) | {"model": model}
                async with http.post(gate.url + CHAT, json=body) as got:
                    assert (got.status, got.headers["x-fairgate-lane"]) == (200, lane_name)
            assert fake.bodies[0]["model"] == "org/Fern-7B"
            assert gate.logs("request")[0]["tenant"] == "default"
            samples = await metrics(http, gate.url)
            # vLLM's own default, where an engine tells no capacity.
            assert samples[f"fairgate_lane_limit_sequences{{lane=Fern-7B,pool={POOL}}}"] == 256
        finally:
            await asyncio.to_thread(leave)


def _enter(manager: Any) -> tuple[Gateway, Any]:
    return manager.__enter__(), lambda: manager.__exit__(None, None, None)


def test_what_cannot_start_says_why(tmp_path):
    settings = config(
        {"small": lane("http://127.0.0.1:9")},
        store="redis://127.0.0.1:9",
        store_fields={"on_failure": "closed"},
    )
    gate = Gateway(tmp_path, settings, cwd=None)
    assert gate.wait() == 1
    assert "fairgate: store: " in gate.text()
    assert not gate.bugs()
