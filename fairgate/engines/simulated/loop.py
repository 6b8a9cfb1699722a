"""The scheduler in real time: sleeps each step's duration, then hands out its tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Final

from fairgate.engines.simulated.metrics import Metrics
from fairgate.engines.simulated.outputs import Output
from fairgate.engines.simulated.scheduler import Scheduler, Sequence, StepResult

# Sleeps overshoot; steps that came late are made up for as long as they lag no more than this.
# (Times are time.monotonic: the loop's own clock is rounded to milliseconds by uvloop.)
MAX_LAG_S: Final = 1.0


class Aborted(Exception):
    """The generation was aborted, since its client went away."""


@dataclass(frozen=True, slots=True)
class Delta:
    """New tokens of one output: ``count`` of them from the ``start``-th on."""

    index: int
    start: int
    count: int
    finished: bool


@dataclass(slots=True, eq=False)
class Ticket:
    """A sequence in the engine: whose it is, and when what happened to it (``time.monotonic``)."""

    generation: Generation
    index: int
    output: Output
    arrived: float
    admitted: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0


class Generation:
    """The outputs of one request as their tokens come.

    A reader that falls behind gets larger deltas, as vLLM gives them, so nothing piles up.
    """

    def __init__(self, engine: EngineLoop, outputs: list[Output], *, stream: bool) -> None:
        """With ``stream`` off it wakes its reader once, when all outputs are complete."""
        self.outputs = outputs
        self._engine = engine
        self._stream = stream
        self._given = [0] * len(outputs)
        self._fresh: dict[int, int] = {}
        self._finished: set[int] = set()
        self._aborted = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def done(self) -> bool:
        """Every output is complete and read."""
        return len(self._finished) == len(self.outputs) and not self._fresh

    async def next(self) -> list[Delta]:
        """Wait for tokens (without ``stream``: for all of them) and take them.

        Raises ``Aborted`` after :meth:`abort`. Cancelled: no token is lost, the sequences run on
        until :meth:`abort`.
        """
        while not self._aborted and not self._ready:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._aborted:
            raise Aborted
        fresh, self._fresh = self._fresh, {}
        return [self._take(index, count) for index, count in fresh.items()]

    def abort(self) -> None:
        """Drop its sequences from the engine at once and wake the reader. Idempotent."""
        if len(self._finished) < len(self.outputs) and not self._aborted:
            self._aborted = True
            self._engine.abort(self.outputs)
            self._wake()

    def push(self, index: int, tokens: int, *, finished: bool) -> None:
        """Called by the engine: new tokens of one output."""
        self._fresh[index] = self._fresh.get(index, 0) + tokens
        if finished:
            self._finished.add(index)
        if self._ready:
            self._wake()

    @property
    def _ready(self) -> bool:
        if self._stream:
            return bool(self._fresh)
        return len(self._finished) == len(self.outputs)

    def _take(self, index: int, count: int) -> Delta:
        start = self._given[index]
        self._given[index] = start + count
        finished = index in self._finished
        return Delta(index, start, count, finished)

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)


class EngineLoop:
    """Owns the scheduler and its live sequences."""

    def __init__(self, scheduler: Scheduler, metrics: Metrics) -> None:
        self._scheduler = scheduler
        self._metrics = metrics
        self._tickets: dict[Sequence, Ticket] = {}
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Its steps are being run."""
        return self._task is not None and not self._task.done()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run steps inside the block; what is in flight at its end stays unanswered.

        Raises at the end what made the steps stop, if anything did.
        """
        self._task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def submit(self, outputs: list[Output], *, stream: bool) -> Generation:
        """Put the sequences of a request in line; the caller knows that each fits the KV cache."""
        now = monotonic()
        generation = Generation(self, outputs, stream=stream)
        for index, output in enumerate(outputs):
            self._scheduler.add(output.sequence)
            self._tickets[output.sequence] = Ticket(generation, index, output, now)
        self._work.set()
        return generation

    def abort(self, outputs: Iterable[Output]) -> None:
        """Forget the sequences that still run or wait."""
        for output in outputs:
            if self._tickets.pop(output.sequence, None):
                self._scheduler.abort(output.sequence)
                self._metrics.aborted()

    async def _run(self) -> None:
        due = 0.0
        while True:
            if not self._scheduler.busy:
                self._work.clear()
                await self._work.wait()
                due = monotonic()
            result = self._scheduler.step()
            self._note_admitted(result, monotonic())
            due = max(due + result.duration_s, monotonic() - MAX_LAG_S)
            await asyncio.sleep(due - monotonic())
            self._deliver(result, monotonic())

    def _note_admitted(self, result: StepResult, now: float) -> None:
        for sequence in result.admitted:
            ticket = self._tickets[sequence]
            ticket.admitted = ticket.admitted or now

    def _deliver(self, result: StepResult, now: float) -> None:
        """Hand out a step's tokens; sequences aborted meanwhile have no ticket any more."""
        finished = set(result.finished)
        tickets = self._tickets
        gaps: dict[float, int] = {}
        for sequence in result.emitting:
            if ticket := tickets.get(sequence):
                last, ticket.last_token = ticket.last_token, now
                if last:
                    gaps[now - last] = gaps.get(now - last, 0) + 1
                else:
                    ticket.first_token = now
                    self._metrics.first_token(ticket, now)
                ticket.generation.push(ticket.index, 1, finished=sequence in finished)
        self._metrics.stepped(result, gaps)
        for sequence in result.finished:
            if ticket := tickets.pop(sequence, None):
                self._metrics.finished(ticket, now)
                if not sequence.output_tokens:
                    ticket.generation.push(ticket.index, 0, finished=True)
