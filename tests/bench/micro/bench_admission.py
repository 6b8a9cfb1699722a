"""Round trips to the store: admission and settlement, grants, and a line that grows."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fairgate.admission.grants import GrantListener
from fairgate.admission.ledger import Ledger
from fairgate.admission.link import Link
from fairgate.admission.model import Ask, EngineReport, Served
from fairgate.admission.queue import Admission
from fairgate.config import Queue
from fairgate.config.policy import resolve_policy
from tests.bench.scheduling.pool import PIPELINED, Pool
from tests.bench.scheduling.sweeps import SWEEPS

_USED = Served(cost=300.0, tokens=300, output_tokens=100, void=False)
_numbers = itertools.count()


class Gate:
    """Admission to one lane, on a loop that the benchmark runs."""

    def __init__(self, loop: asyncio.AbstractEventLoop, url: str, sequences: int) -> None:
        self._loop = loop
        self._link = Link(url, timeout_s=5.0)
        ledger = Ledger(self._link, f"bench-{next(_numbers)}", "g0")
        self._admission = Admission(
            ledger,
            policy=resolve_policy("fairserve"),
            queues={"lane": Queue()},
            capacity=lambda: [EngineReport("lane", "e0", True, sequences)],
        )
        self._listener = GrantListener(url, ledger.channel, self._admission.take)

    def start(self) -> None:
        """Join the pool."""
        self.run(self._start)

    def close(self) -> None:
        """Leave it."""
        self.run(self._close)

    def together(self, requests: int) -> None:
        """That many requests at once, each admitted and settled."""
        self.run(lambda: self._together(requests))

    def hand_over(self) -> None:
        """A request that holds the only sequence ends, and the one in line gets it."""
        self.run(self._hand_over)

    def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """On the loop."""
        self._loop.run_until_complete(work())

    async def _start(self) -> None:
        self._listener.start()
        await self._admission.start()

    async def _close(self) -> None:
        await self._admission.stop()
        await self._listener.stop()
        await self._link.close()

    async def _together(self, requests: int) -> None:
        await asyncio.gather(*(self._one(i) for i in range(requests)))

    async def _one(self, i: int) -> None:
        grant = await self._admission.acquire(_ask(f"u{i % 8}"))
        await self._admission.settle(grant.id, _USED)

    async def _hand_over(self) -> None:
        first = await self._admission.acquire(_ask("u0"))
        second = asyncio.ensure_future(self._admission.acquire(_ask("u1")))
        await asyncio.sleep(0)
        self._admission.settle(first.id, _USED)  # behind the admission, on the same link
        await self._admission.settle((await second).id, _USED)


def _ask(user: str) -> Ask:
    return Ask(
        id=f"r{next(_numbers)}", tenant="acme", user=user, app="chat", lanes=(("lane", 1.0),),
        cost=300.0, tokens=300, kv_tokens=300,
    )  # fmt: skip


@pytest.fixture(params=[1024], ids=["roomy"])
def gate(
    request: pytest.FixtureRequest, loop: asyncio.AbstractEventLoop, store_url: str
) -> Iterator[Gate]:
    made = Gate(loop, store_url, request.param)
    made.start()
    yield made
    made.close()


@pytest.mark.benchmark(group="admit and settle")
@pytest.mark.parametrize("requests", [1, 32, 256])
def test_admit_and_settle(benchmark: BenchmarkFixture, gate: Gate, requests: int) -> None:
    """Time of all of them together."""
    benchmark(gate.together, requests)


@pytest.mark.benchmark(group="grant")
@pytest.mark.parametrize("gate", [1], ids=["one sequence"], indirect=True)
def test_capacity_goes_to_the_line(benchmark: BenchmarkFixture, gate: Gate) -> None:
    """Admission, a place in line, two settlements and the grant between them."""
    benchmark(gate.hand_over)


@pytest.mark.benchmark(group=f"{PIPELINED} settlements and admissions while others wait")
@pytest.mark.parametrize("waiting", [10, 1_000, 100_000])
def test_line_that_grows(
    benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop, store_url: str, waiting: int
) -> None:
    """The same pool as ``make bench-scheduling``, which tells the store's own time."""
    link = Link(store_url, timeout_s=30.0)
    pool = Pool(link, f"line{waiting}", SWEEPS["users"].population(waiting), "fairserve", 1)
    loop.run_until_complete(pool.fill())
    benchmark(lambda: loop.run_until_complete(pool.turn(PIPELINED)))
    loop.run_until_complete(link.close())
