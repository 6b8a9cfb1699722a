"""Two real vLLM engines in one process, from start over crash to stop."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.gateway import eventually

from fairgate import config
from fairgate.engines.inprocess import InProcessEngine
from fairgate.engines.process import Restarts
from fairgate.errors import EngineStartError

# What vLLM and the libraries under it warn about is not ours.
pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]

JSON = {"content-type": "application/json"}
START_S = 300.0


def engine(folder: Path, name: str, seqs: int) -> InProcessEngine:
    settings = config.InProcessEngine(
        model=str(folder),
        max_num_seqs=seqs,
        priority=name == "first",
        args=("--enforce-eager", "--max-model-len", "1024"),
        env={"VLLM_CPU_KVCACHE_SPACE": "1"},
        start_timeout_s=START_S,
    )
    return InProcessEngine(name, settings, name, restarts=Restarts(first_s=0.1))


@pytest.fixture
async def both(smollm2: Path) -> AsyncIterator[tuple[InProcessEngine, InProcessEngine]]:
    first, second = engine(smollm2, "first", 2), engine(smollm2, "second", 4)
    try:
        await asyncio.gather(first.start(), second.start())
        yield first, second
    finally:
        await asyncio.gather(first.stop(), second.stop())


async def ask(it: InProcessEngine, **fields: Any) -> Any:
    body = {"model": it.name, "prompt": "Once upon", "max_tokens": 8, "temperature": 0, **fields}
    answer = await it.transport.post("/v1/completions", json.dumps(body).encode(), JSON)
    try:
        return answer.status, json.loads(await answer.read())
    finally:
        answer.close()


async def runs(it: InProcessEngine, count: int) -> bool:
    return (await it.probe()).num_requests_running == count


async def check_each_tells_of_itself(first: InProcessEngine, second: InProcessEngine) -> None:
    status, other = await first.probe(), await second.probe()
    assert (status.up, other.up) == (True, True)
    assert (status.models, other.models) == (("first",), ("second",))
    assert (status.max_num_seqs, other.max_num_seqs) == (2, 4)
    assert status.context_tokens == 1024
    assert status.kv_cache_tokens is not None
    assert status.kv_cache_tokens >= 2 * 1024
    body = {"model": "first", "prompt": "Once", "stream": True, "max_tokens": 900}
    long = json.dumps({**body, "ignore_eos": True, "priority": 3}).encode()
    answer = await first.transport.post("/v1/completions", long, JSON)
    assert answer.status == 200
    assert (await answer.part()).startswith(b"data: ")
    await eventually(lambda: runs(first, 1))
    assert await runs(second, 0)
    loaded = await first.probe()
    assert replace(loaded, kv_cache_usage=None, num_requests_running=0) == replace(
        status, kv_cache_usage=None
    )
    assert loaded.kv_cache_usage is not None
    assert loaded.kv_cache_usage > 0
    answer.close()
    await eventually(lambda: runs(first, 0))


async def test_two_engines_in_one_process(
    both: tuple[InProcessEngine, InProcessEngine],
) -> None:
    first, second = both
    await check_each_tells_of_itself(first, second)

    (status, said), (_, also) = await asyncio.gather(ask(first), ask(second))
    assert status == 200
    assert said["choices"][0]["text"] == also["choices"][0]["text"]
    assert said["usage"]["completion_tokens"] == 8

    status, refused = await ask(second, max_tokens=5000)
    assert status == 400
    assert "1024" in refused["error"]["message"]

    # The crash of one does not touch the other, and it comes back by itself.
    victim, survivor = multiprocessing.active_children()
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)

    async def down() -> InProcessEngine | None:
        found = [it for it in both if not (await it.probe()).up]
        return found[0] if found else None

    crashed = await eventually(down)
    other = second if crashed is first else first
    assert (await ask(other))[0] == 200
    assert survivor.is_alive()

    async def back() -> bool:
        return (await crashed.probe()).up

    await eventually(back, within_s=START_S)
    assert (await ask(crashed))[0] == 200

    await asyncio.gather(first.stop(), second.stop())
    assert not multiprocessing.active_children()
    assert (await first.probe()).detail == "stopped"


async def test_arguments_that_vllm_refuses_are_named(smollm2: Path) -> None:
    settings = config.InProcessEngine(model=str(smollm2), args=("--no-such-option",))
    with pytest.raises(EngineStartError, match=r"engine odd cannot start.*--no-such-option"):
        await InProcessEngine("odd", settings, "odd").start()


async def test_a_cancelled_start_leaves_nothing(smollm2: Path) -> None:
    it = engine(smollm2, "first", 2)
    starting = asyncio.ensure_future(it.start())
    await eventually(multiprocessing.active_children, within_s=START_S)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not multiprocessing.active_children()
