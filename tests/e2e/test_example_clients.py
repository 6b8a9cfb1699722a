"""The example clients in ``examples/`` against a real gateway: they back off by its headers.

The ledger's minutes are short here, and the clients' sleep is by the same factor; nothing else is
different from what a tenant runs.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from support.fastclock import FastGateway, fast_gateway
from support.gateway import (
    MODEL,
    PATIENCE_S,
    SimulatedEngine,
    chat,
    config,
    engine,
    key_of,
    lane,
    tenant,
)

EXAMPLES = Path(__file__).parents[2] / "examples"
SPEED = 60.0
RPM = 12
TRIES = 40

Calls = list[dict[str, Any]]
"""Each ``content`` and, if named, ``interaction``."""
Play = Callable[[FastGateway, str, Calls, bool], Coroutine[Any, Any, list[str]]]
"""Makes the calls as a tenant, one after the other, or at once with a client for each, so that
none knows of the others; their answers."""


def load_example() -> Any:
    spec = importlib.util.spec_from_file_location("example_client", EXAMPLES / "client.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def play_python(gate: FastGateway, name: str, calls: Calls, together: bool) -> list[str]:
    def client() -> Any:
        return load_example().Client(
            gate.url,
            key_of(name),
            tries=TRIES,
            sleep=lambda seconds: asyncio.sleep(seconds / SPEED),
        )

    async def one(client: Any, call: dict[str, Any]) -> str:
        call = dict(call)
        messages = [{"role": "user", "content": call.pop("content")}]
        return str(await client.chat(MODEL, messages, max_tokens=4, **call))

    async with AsyncExitStack() as stack:
        clients = [client() for _ in range(len(calls) if together else 1)]
        for it in clients:
            stack.push_async_callback(it.close)
        if together:
            return await asyncio.gather(*map(one, clients, calls))
        return [await one(clients[0], call) for call in calls]


_SCRIPT = """
import { Client } from "%s";
const { url, key, model, calls, together, tries, speed } = JSON.parse(process.argv[1]);
const sleep = (s) => new Promise((resolve) => setTimeout(resolve, (s * 1000) / speed));
const make = () => new Client(url, key, { sleep, tries });
const one = (client, { content, ...more }) =>
  client.chat(model, [{ role: "user", content }], { max_tokens: 4, ...more });
const answers = [];
const client = make();
if (together) answers.push(...(await Promise.all(calls.map((call) => one(make(), call)))));
else for (const call of calls) answers.push(await one(client, call));
console.log(JSON.stringify(answers));
"""


def node_binary() -> str:
    binary = shutil.which("node")
    if binary is None:
        pytest.skip("no node: apt-get install nodejs")
    return binary


async def run_program(*command: str, **environ: str) -> str:
    """Its standard output; it must end well."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdout=pipe, stderr=pipe, env={**os.environ, **environ}
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S * 2)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def play_node(gate: FastGateway, name: str, calls: Calls, together: bool) -> list[str]:
    task = {
        "url": gate.url, "key": key_of(name), "model": MODEL, "calls": calls,
        "together": together, "tries": TRIES, "speed": SPEED,
    }  # fmt: skip
    script = _SCRIPT % (EXAMPLES / "client.mjs").as_uri()
    out = await run_program(
        node_binary(), "--input-type=module", "--eval", script, json.dumps(task)
    )
    return list(json.loads(out))


@pytest.fixture(
    params=[
        pytest.param(play_python, id="python"),
        pytest.param(play_node, id="node", marks=pytest.mark.node),
    ]
)
def play(request: pytest.FixtureRequest) -> Play:
    if request.param is play_node:
        node_binary()
    chosen: Play = request.param
    return chosen


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedEngine]:
    with engine(tmp_path_factory.mktemp("examples"), "--profile", "instant") as it:
        yield it


@pytest.fixture
async def gate(quick: SimulatedEngine) -> AsyncIterator[FastGateway]:
    """Limits that always bite, so that who does not back off is refused."""
    settings = config(
        {"quick": lane(quick.url, max_num_seqs=64)},
        policy={"preset": "fairserve", "throttle": "always"},
        tenants={
            "acme": tenant("acme"),
            "rated": tenant("rated", limits={"rpm": RPM}),
            "wordy": tenant("wordy", limits={"tpm": 600}),
            "spent": tenant("spent", limits={"daily_tokens": 1}),
        },
    )
    async with fast_gateway(settings, SPEED) as it:
        yield it


def numbered(count: int, **more: str) -> Calls:
    return [{"content": f"Tell me about fern {n}.", **more} for n in range(count)]


async def test_it_slows_down_before_the_limit_is_reached(gate, play):
    calls = numbered(3 * RPM)
    answers = await play(gate, "rated", calls, False)
    assert len(answers) == len(calls)
    assert all(answers)
    assert gate.statuses() == [200] * len(calls)


async def test_it_slows_down_by_tokens_too(gate, play):
    calls = [{"content": f"{n} " + "fern " * 40} for n in range(20)]
    answers = await play(gate, "wordy", calls, False)
    assert all(answers)
    assert gate.statuses() == [200] * len(calls)


async def test_who_does_not_slow_down_is_refused(gate, quick):
    """What the tests above compare with."""
    client = load_example().openai.AsyncOpenAI(
        base_url=f"{gate.url}/v1", api_key=key_of("rated"), max_retries=0
    )
    async with client:
        calls = (client.chat.completions.create(**chat(max_tokens=4)) for _ in range(3 * RPM))
        answers = await asyncio.gather(*calls, return_exceptions=True)
    refused = [a for a in answers if isinstance(a, load_example().openai.RateLimitError)]
    assert len(refused) == gate.statuses().count(429) > 0


async def test_a_refused_call_comes_back_when_told_and_all_are_answered(gate, play):
    calls = numbered(3 * RPM)
    answers = await play(gate, "rated", calls, True)
    assert len(answers) == len(calls)
    assert all(answers)
    refused = [seen for seen in gate.seen if seen.status == 429]
    assert refused
    assert sorted(s.content for s in gate.seen if s.status == 200) == sorted(
        call["content"] for call in calls
    )
    for seen in refused:
        later = min(s.at for s in gate.seen if s.content == seen.content and s.at > seen.at)
        assert later - seen.ended >= int(seen.retry_after or 0)


async def test_an_exhausted_quota_is_not_asked_again(gate, play):
    with pytest.raises((AssertionError, load_example().openai.RateLimitError), match="daily"):
        await play(gate, "spent", numbered(1), False)
    assert gate.statuses() == [429]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param((sys.executable, "client.py"), id="python"),
        pytest.param(("node", "client.mjs"), id="node", marks=pytest.mark.node),
    ],
)
async def test_as_a_program_an_agents_calls_are_one_interaction(gate, command):
    program, file = command
    if program == "node":
        program = node_binary()
    environ = {"FAIRGATE_URL": gate.url, "FAIRGATE_KEY": key_of("acme")}
    out = await run_program(program, str(EXAMPLES / file), MODEL, **environ)
    assert out.splitlines()[-1].startswith("done")
    assert gate.statuses() == [200] * 3
    assert len({seen.interaction for seen in gate.seen}) == 1
    assert gate.seen[0].interaction
