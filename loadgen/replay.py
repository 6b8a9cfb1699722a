"""Send a plan in open loop: every chain starts at its time, however slow the answers are.

Latency counts from the intended start, so a target that falls behind cannot hide it by being asked
less (no coordinated omission), and a generator that falls behind shows it as lag.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from loadgen.observation import Observation
from loadgen.records import Call, Chain, Outcome

Send = Callable[[Call, Observation], Awaitable[None]]


class Clock:
    """Seconds since :meth:`start`."""

    def __init__(self) -> None:
        self._zero = 0.0

    def start(self) -> None:
        """The replay begins now."""
        self._zero = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self._zero


class Replay:
    """Sends a plan and hands each outcome to ``record`` as it happens.

    ``sending`` is the number of calls that are under way.
    """

    def __init__(
        self,
        plan: Sequence[Chain],
        send: Send,
        record: Callable[[Outcome], None],
        *,
        clock: Clock,
    ) -> None:
        self._plan = plan
        self._send = send
        self._record = record
        self._clock = clock
        self.sending = 0

    async def run(self, max_duration_s: float | None = None) -> None:
        """Return when every answer is in, or after ``max_duration_s``.

        Calls that are then under way are cut off and recorded as errors; the same happens when it
        is cancelled, after which the cancellation goes on.
        """
        self._clock.start()
        try:
            async with asyncio.timeout(max_duration_s), asyncio.TaskGroup() as chains:
                for chain in self._plan:
                    # Also when late: the calls already due must get their turn.
                    await asyncio.sleep(max(0.0, chain.start_s - self._clock()))
                    chains.create_task(self._follow(chain))
        except TimeoutError:
            pass  # the end that was asked for

    async def _follow(self, chain: Chain) -> None:
        intended_s = chain.start_s
        for call in chain.calls:
            if call.number:
                intended_s = self._clock() + call.think_s
                await asyncio.sleep(call.think_s)
            if not await self._make(call, intended_s):
                return  # without this call's answer its user has nothing to go on with

    async def _make(self, call: Call, intended_s: float) -> bool:
        """Whether the call was completed."""
        seen = Observation(call, intended_s)
        self.sending += 1
        try:
            await self._send(call, seen)
        finally:
            self.sending -= 1
            self._record(seen.seal(self._clock()))
        return seen.result == "completed"
