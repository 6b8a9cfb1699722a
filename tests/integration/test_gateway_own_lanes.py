"""Gateways of one pool that each have a lane of their own: one ledger, separate lines."""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path
from typing import Any

import aiohttp
from support.gateway import (
    Gateway,
    LedgerView,
    bearer,
    chat,
    config,
    engine,
    eventually,
    gateway,
    lane,
    long_chat,
    tenant,
)

POOL = "own-lanes"
TENANTS = ("acme", "globex")


def settings(store: str, name: str, url: str, **fields: Any) -> dict[str, Any]:
    tenants = {name: tenant(name) for name in TENANTS}
    tenants["single"] = tenant("single", limits={"concurrency": 1})
    lanes = {name: lane(url, max_num_seqs=2, **fields)}
    return config(lanes, store=store, pool=POOL, tenants=tenants)


async def test_each_serves_its_own_line_and_all_count_together(
    valkey_server: str, tmp_path: Path
) -> None:
    with (
        LedgerView(valkey_server, POOL) as ledger,
        engine(tmp_path, "--max-num-seqs", "2", "--speed", "4") as left_engine,
        engine(tmp_path, "--max-num-seqs", "2", "--speed", "4") as right_engine,
        gateway(
            tmp_path / "left", settings(valkey_server, "left", left_engine.url, headroom=0.5)
        ) as left,
        gateway(tmp_path / "right", settings(valkey_server, "right", right_engine.url)) as right,
    ):
        async with aiohttp.ClientSession() as http:
            await check(http, ledger, left, right)
        assert not [*left.logs("the store is away"), *right.logs("the store is away")]


async def check(
    http: aiohttp.ClientSession, ledger: LedgerView, left: Gateway, right: Gateway
) -> None:
    async def ask(gate: Gateway, name: str, lane: str) -> tuple[int, str | None]:
        body = chat(max_tokens=24, ignore_eos=True, model=lane)
        url = f"{gate.url}/v1/chat/completions"
        async with http.post(url, json=body, headers=bearer(name)) as answer:
            await answer.read()
            return answer.status, answer.headers.get("x-fairgate-lane")

    for _ in range(3):  # over several heartbeats of each
        at_left = [ask(left, name, "left") for name in TENANTS * 6]
        at_right = [ask(right, name, "right") for name in TENANTS * 6]
        answers = await asyncio.gather(*at_left, *at_right)
        assert answers[:12] == [(200, "left")] * 12
        assert answers[12:] == [(200, "right")] * 12

    held = http.post(
        f"{left.url}/v1/chat/completions",
        json=long_chat(stream=True, model="left"),
        headers=bearer("single"),
    )
    async with held as answer:
        assert answer.status == 200
        assert await ask(right, "single", "right") == (429, "right")
    await eventually(ledger.idle)


async def test_gateways_that_stand_still_serve_their_lines_when_they_go_on(
    valkey_server: str, tmp_path: Path
) -> None:
    """Each is taken for dead by the other again and again, at any point of what it is doing."""
    rng = random.Random(4)
    with (
        LedgerView(valkey_server, POOL) as ledger,
        engine(tmp_path, "--max-num-seqs", "2", "--speed", "4") as left_engine,
        engine(tmp_path, "--max-num-seqs", "2", "--speed", "4") as right_engine,
        gateway(tmp_path / "left", settings(valkey_server, "left", left_engine.url)) as left,
        gateway(tmp_path / "right", settings(valkey_server, "right", right_engine.url)) as right,
    ):

        async def ask(http: aiohttp.ClientSession, gate: Gateway, name: str) -> int:
            body = chat(max_tokens=48, ignore_eos=True, model=name)
            url = f"{gate.url}/v1/chat/completions"
            async with http.post(url, json=body, headers=bearer(rng.choice(TENANTS))) as answer:
                await answer.read()
                return answer.status

        async def halt(gate: Gateway) -> None:
            for _ in range(4):
                await asyncio.sleep(rng.uniform(0, 0.3))
                gate.send(signal.SIGSTOP)
                await asyncio.sleep(rng.uniform(0.9, 1.6))  # it counts as dead after 1 s
                gate.send(signal.SIGCONT)

        async with aiohttp.ClientSession() as http, asyncio.timeout(60):
            asked = [ask(http, left, "left") for _ in range(40)]
            asked += [ask(http, right, "right") for _ in range(40)]
            statuses, *_ = await asyncio.gather(asyncio.gather(*asked), halt(left), halt(right))
        assert set(statuses) == {200}
        await eventually(ledger.idle)
