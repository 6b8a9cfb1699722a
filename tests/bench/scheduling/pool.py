"""The closed loop: every running request that ends is followed by another of the same sender.

So a settlement grants the head of a line, the arrival after it waits, and as many wait as before.
All calls go through the ledger and the link that the gateway uses.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from random import Random

from fairgate.admission.ledger import Admitted, GrantNote, Ledger, settings_of
from fairgate.admission.link import Link
from fairgate.admission.model import Ask, EngineReport, Served
from fairgate.config import Preset, Queue
from fairgate.config.policy import resolve_policy
from tests.bench.scheduling.sweeps import Population, Sender

SEQUENCES = 128
"""That run at once in each lane."""
PIPELINED = 32
"""Pairs of calls in one write."""
_WRITES = 2  # at a time, so that the server need not wait for this process
_FILL = 512
_LEASE_S = 3600.0
_EVERYONE = Queue(max_waiting=1_000_000, max_waiting_per_tenant=1_000_000)
_TOKENS = 300


class Pool:
    """One pool, filled with a population. ``link`` is the caller's to close."""

    def __init__(
        self, link: Link, name: str, population: Population, preset: Preset, lanes: int
    ) -> None:
        self._ledger = Ledger(link, name, "g0")
        self._population = population
        self._lanes = tuple(f"lane{number}" for number in range(lanes))
        headroom = dict.fromkeys(self._lanes, population.headroom)
        queues = dict.fromkeys(self._lanes, _EVERYONE)
        self._settings = settings_of(resolve_policy(preset), queues, headroom)
        self._random = Random(7)  # the same costs in every run
        self._numbers = count()
        self._since_ms = "+inf"
        self._waiting: dict[str, Sender] = {}
        self._running: deque[tuple[str, Sender]] = deque()

    async def fill(self) -> None:
        """Serve a request of each idle tenant, then occupy the lanes and let the rest wait."""
        await self.renew()
        names = range(self._population.idle_tenants)
        idle = [Sender(f"idle{i}", "u0", self._lanes[0]) for i in names]
        await _in_parts(self._serve_once, idle, SEQUENCES)
        total = self._population.waiting + SEQUENCES * len(self._lanes)
        senders = [self._population.sender(i, self._lanes) for i in range(total)]
        await _in_parts(self._admit, senders, _FILL)

    async def renew(self) -> int:
        """A heartbeat; answers how many wait."""
        engines = [EngineReport(lane, "e0", True, SEQUENCES) for lane in self._lanes]
        queues = dict.fromkeys(self._lanes, _EVERYONE)
        renewed = await self._ledger.renew(
            lease_s=_LEASE_S, settings=self._settings, queues=queues, engines=engines,
            since_ms=self._since_ms,
        )  # fmt: skip
        self._since_ms = renewed.now_ms
        self._run(renewed.grants)
        return sum(lane.waiting for lane in renewed.statistics.lanes.values())

    async def turn(self, pairs: int) -> None:
        """``pairs`` times: a running request ends, its sender sends another. Pipelined."""
        batches = iter([PIPELINED] * (pairs // PIPELINED))

        async def write() -> None:
            for batch in batches:
                await asyncio.gather(*(self._pair() for _ in range(batch)))

        await asyncio.gather(*(write() for _ in range(_WRITES)))

    async def turn_singly(self, pairs: int) -> None:
        """The same with one call at a time."""
        for _ in range(pairs):
            await self._pair()

    async def give_up(self, times: int) -> None:
        """``times``: somebody in line leaves it, and asks again."""
        for request_id in self._random.sample(list(self._waiting), min(times, len(self._waiting))):
            sender = self._waiting.pop(request_id)
            self._run(await self._ledger.cancel(request_id))
            await self._admit(sender)

    async def _pair(self) -> None:
        request_id, sender = self._running.popleft()
        # Both calls leave in this order in the same write.
        await asyncio.gather(self._settle(request_id), self._admit(sender))

    async def _settle(self, request_id: str) -> None:
        self._run(await self._ledger.settle(request_id, self._served()))

    async def _admit(self, sender: Sender) -> str:
        ask = self._ask(sender)
        self._waiting[ask.id] = sender
        reply = await self._ledger.admit(ask)
        if not isinstance(reply, Admitted):
            raise TypeError(f"request {ask.id} was not admitted: {reply}")
        if reply.engine:
            self._running.append((ask.id, self._waiting.pop(ask.id)))
        return ask.id

    async def _serve_once(self, sender: Sender) -> None:
        request_id = await self._admit(sender)
        self._running.remove((request_id, sender))
        await self._settle(request_id)

    def _run(self, grants: tuple[GrantNote, ...]) -> None:
        # A heartbeat names those again that the calls before it have told of.
        new = [grant.id for grant in grants if grant.id in self._waiting]
        self._running += [(request_id, self._waiting.pop(request_id)) for request_id in new]

    def _ask(self, sender: Sender) -> Ask:
        return Ask(
            id=f"request-{next(self._numbers)}", tenant=sender.tenant, user=sender.user, app="chat",
            lanes=((sender.lane, 1.0),), cost=self._random.uniform(200, 800), tokens=_TOKENS,
            kv_tokens=_TOKENS,
        )  # fmt: skip

    def _served(self) -> Served:
        cost, output = self._random.uniform(200, 800), self._random.randint(20, 200)
        return Served(
            cost=cost, tokens=_TOKENS, output_tokens=output, prompt_bytes=800, prompt_tokens=200,
            learn=True, void=False,
        )  # fmt: skip


async def _in_parts(
    act: Callable[[Sender], Awaitable[object]], senders: Sequence[Sender], size: int
) -> None:
    for first in range(0, len(senders), size):
        await asyncio.gather(*map(act, senders[first : first + size]))
