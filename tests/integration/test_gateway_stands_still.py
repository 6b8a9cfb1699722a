"""A gateway that stood still (SIGSTOP, a machine that sleeps) does not blame others for it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import redis
from aiohttp import web
from support.gateway import (
    Gateway,
    bearer,
    chat,
    config,
    eventually,
    fake_engine,
    gateway,
    lane,
    metrics,
)
from support.replicas import POOL, Engine, Replica, ask

from fairgate.admission.ledger import Ledger
from fairgate.admission.link import Link
from fairgate.admission.model import EngineReport, Served
from fairgate.admission.queue import Admission
from fairgate.config import Queue
from fairgate.config.policy import resolve_policy
from fairgate.engines.process import free_port

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
LIMIT_S = 3.0
AT_ONCE = 4
"""Streams, and as many whole answers: more failures in a row than a breaker takes."""


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


async def test_a_grant_that_was_swept_before_it_was_read_is_none(
    valkey: redis.Redis, valkey_server: str
) -> None:
    """Another gateway has the place by then, so who asked for it waits in line."""
    granted, end = threading.Event(), threading.Event()

    async def another() -> None:
        async with Replica(valkey_server, "another", Engine(1), on_failure="closed") as replica:
            grant = await replica.acquire(ask())  # once the lease of the other has ended
            granted.set()
            await asyncio.to_thread(end.wait, 20)
            await replica.settle(grant, Served(cost=1.0, tokens=1, void=False))

    link = Link(valkey_server)
    admission = Admission(
        Ledger(link, POOL, "still"),
        policy=resolve_policy("fairserve"),
        queues={"small": Queue()},
        capacity=lambda: [EngineReport("small", "e0", up=True, max_num_seqs=1)],
        heartbeat_s=0.1,
    )
    await admission.start()
    thread = threading.Thread(target=lambda: asyncio.run(another()))
    asking = asyncio.create_task(admission.acquire(ask()))
    await asyncio.sleep(0)
    link.send()
    thread.start()
    assert granted.wait(20)  # the loop stands still
    in_line = asyncio.create_task(eventually(lambda: valkey.scard(f"fg:{{{POOL}}}:waiting:still")))
    await asyncio.wait({asking, in_line}, return_when=asyncio.FIRST_COMPLETED)
    assert not asking.done()
    end.set()
    grant = await asking
    await admission.settle(grant.id, Served(cost=1.0, tokens=1, void=False))
    await asyncio.to_thread(thread.join)
    await admission.stop()
    await link.close()


async def is_ready(http: aiohttp.ClientSession, gate: Gateway) -> bool:
    async with http.get(f"{gate.url}/readyz") as answer:
        return answer.status == 200


class SlowEngine:
    """Begins streams at once; all else it sends when it is told to."""

    def __init__(self) -> None:
        self.whole = asyncio.Semaphore(0)
        """One for each that waits for a whole answer."""
        self.go_on = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        stream = (await request.json()).get("stream")
        response = web.StreamResponse()
        response.content_type = "text/event-stream" if stream else "application/json"
        await response.prepare(request)
        if stream:
            await response.write(EVENT)
        else:
            self.whole.release()
        await self.go_on.wait()
        await response.write(EVENT + b"data: [DONE]\n\n" if stream else b'{"choices":[]}')
        return response


async def test_what_engines_sent_meanwhile_is_in_time(
    tmp_path: Path, valkey_server: str, http: aiohttp.ClientSession
) -> None:
    """Timers that are over ring first; no engine is blamed before what it sent is read."""
    port, slow = free_port(), SlowEngine()
    settings = config(
        {"small": lane(f"http://127.0.0.1:{port}", max_num_seqs=3 * AT_ONCE)},
        store=valkey_server,
        pool="still",
        timeouts={"first_byte_s": LIMIT_S, "idle_s": LIMIT_S},
    )
    async with fake_engine(port, slow.answer):
        with gateway(tmp_path, settings, ready=False) as gate:
            await eventually(lambda: is_ready(http, gate))

            begun = asyncio.Semaphore(0)

            async def ask(*, stream: bool) -> tuple[int, bytes]:
                url = f"{gate.url}/v1/chat/completions"
                async with http.post(url, json=chat(stream=stream), headers=bearer()) as answer:
                    first = await answer.content.readany()
                    begun.release()
                    return answer.status, first + await answer.read()

            asking = [
                asyncio.ensure_future(ask(stream=stream))
                for stream in (True, False)
                for _ in range(AT_ONCE)
            ]
            async with asyncio.timeout(30):
                for _ in range(AT_ONCE):
                    await begun.acquire()
                    await slow.whole.acquire()
            gate.send(signal.SIGSTOP)
            await asyncio.to_thread(os.waitpid, gate.process.pid, os.WUNTRACED)  # until it has
            slow.go_on.set()
            await asyncio.sleep(LIMIT_S + 1)
            gate.send(signal.SIGCONT)
            answers = await asyncio.gather(*asking)
            assert [status for status, _ in answers] == [200] * len(answers)
            assert all(b"error" not in body for _, body in answers)
            samples = await metrics(http, gate.url)
    failures = [n for name, n in samples.items() if "circuit_failures_total" in name]
    assert failures == [0]
