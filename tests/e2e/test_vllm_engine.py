"""A real vLLM server with a real model, from spawn over crash to stop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fairgate import config
from fairgate.engines import build_engine
from fairgate.engines.http_client import HttpClient
from fairgate.engines.process import SpawnedEngine

pytestmark = pytest.mark.vllm

LANE = "small"


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    async with HttpClient() as made:
        yield made


@pytest.fixture
async def engine(smollm2: Path, http: HttpClient, tmp_path: Path) -> AsyncIterator[SpawnedEngine]:
    settings = config.VllmEngine(
        model=str(smollm2),
        max_num_seqs=4,
        priority=True,
        args=("--enforce-eager", "--max-model-len", "2048"),
        env={"VLLM_CPU_KVCACHE_SPACE": "1"},
        start_timeout_s=300,
    )
    lane = config.Lane(engines=(settings,))
    made = build_engine(LANE, 0, lane, settings, http, tmp_path)
    assert isinstance(made, SpawnedEngine)
    yield made
    await made.stop()


def members(group: int) -> dict[int, str]:
    """Processes of a group that are not zombies, with their command lines."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, pgrp = (folder / "stat").read_text().rpartition(") ")[2].split()[:3]
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if int(pgrp) == group and state != "Z":
            found[int(folder.name)] = line
    return found


async def eventually(met: Callable[[], Awaitable[bool]], *, within_s: float = 30) -> None:
    async with asyncio.timeout(within_s):
        while not await met():  # noqa: ASYNC110 - another process's state comes with no event
            await asyncio.sleep(0.1)


async def none_left(group: int) -> None:
    async def none() -> bool:
        return not members(group)

    await eventually(none)


async def chat(http: HttpClient, engine: SpawnedEngine, **fields: Any) -> Any:
    body = {
        "model": LANE,
        "messages": [{"role": "user", "content": "Write one sentence about dogs."}],
        "temperature": 0,
        "max_tokens": 32,
        **fields,
    }
    async with http.session.post(f"{engine.url}/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def check_serving(http: HttpClient, engine: SpawnedEngine) -> None:
    status = await engine.probe()
    assert status.up
    assert status.models == (LANE,)
    assert status.context_tokens == 2048
    assert status.kv_cache_tokens is not None
    assert status.kv_cache_tokens >= 4 * 2048
    assert (status.num_requests_running, status.num_requests_waiting) == (0, 0)
    answer = await chat(http, engine, priority=5)
    assert "dog" in answer["choices"][0]["message"]["content"]
    assert 0 < answer["usage"]["completion_tokens"] <= 32


async def check_abort_on_disconnect(http: HttpClient, engine: SpawnedEngine) -> None:
    async def busy() -> bool:
        return (await engine.probe()).num_requests_running == 1

    async def idle() -> bool:
        return (await engine.probe()).num_requests_running == 0

    body = {"model": LANE, "prompt": "Once", "stream": True, "max_tokens": 1900, "ignore_eos": True}
    async with http.session.post(f"{engine.url}/v1/completions", json=body) as response:
        await response.content.readany()
        await eventually(busy)
    await eventually(idle)


async def test_from_spawn_over_crash_to_stop(http: HttpClient, engine: SpawnedEngine) -> None:
    await engine.start()
    await check_serving(http, engine)
    await check_abort_on_disconnect(http, engine)

    first = engine.process_group
    assert first is not None
    (server,) = (
        pid
        for pid, line in members(first).items()
        if "api_server" in line and "guard.py" not in line
    )
    os.kill(server, signal.SIGKILL)

    async def back() -> bool:
        return engine.process_group not in (None, first) and (await engine.probe()).up

    await eventually(back, within_s=300)
    # vLLM's EngineCore and worker outlive a killed API server unless somebody ends them.
    await none_left(first)
    await check_serving(http, engine)

    second = engine.process_group
    assert second is not None
    await engine.stop()
    await none_left(second)
    assert not (await engine.probe()).up
