"""What fairness is for, through HTTP: a flood of one tenant and the wait of two calm ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.gateway import (
    Gateway,
    SimulatedEngine,
    bearer,
    chat,
    config,
    engine,
    eventually,
    gateway,
    lane,
    metrics,
    tenant,
)

FLOOD = 100
SEQS = 4


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedEngine]:
    folder = tmp_path_factory.mktemp("fairness")
    with engine(folder, "--max-num-seqs", str(SEQS), "--speed", "15") as it:
        yield it


async def queue_ms(http: aiohttp.ClientSession, gate: Gateway, name: str) -> float:
    body = chat(max_tokens=20, ignore_eos=True)
    url = f"{gate.url}/v1/chat/completions"
    async with http.post(url, json=body, headers=bearer(name)) as answer:
        assert answer.status == 200, await answer.text()
        await answer.read()
        return float(answer.headers["x-fairgate-queue-ms"])


async def calm_waits(folder: Path, settings: dict[str, Any], policy: str) -> list[float]:
    """Queue times (ms) of two calm tenants who come when the flood stands in line."""
    with gateway(folder, settings, "--policy", policy) as gate:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            flood = [asyncio.create_task(queue_ms(http, gate, "flood")) for _ in range(FLOOD)]

            async def in_line() -> bool:
                waiting = "fairgate_lane_waiting_requests{lane=small,pool=main}"
                return (await metrics(http, gate.url))[waiting] > FLOOD * 0.6

            await eventually(in_line)
            calm = [
                asyncio.create_task(queue_ms(http, gate, name))
                for name in ("one", "two")
                for _ in range(2)
            ]
            waits = await asyncio.gather(*calm)
            await asyncio.gather(*flood)
            return waits


async def test_a_flood_hurts_calm_tenants_only_without_fairness(tmp_path, fast):
    settings = config(
        {"small": lane(fast.url, max_num_seqs=SEQS)},
        tenants={name: tenant(name) for name in ("flood", "one", "two")},
    )
    unfair = await calm_waits(tmp_path / "fcfs", settings, "fcfs")
    fair = await calm_waits(tmp_path / "fair", settings, "fairserve")
    print(f"queue ms of calm tenants: fcfs {unfair}, fairserve {fair}")
    assert max(fair) * 3 < min(unfair)
