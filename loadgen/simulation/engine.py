"""Simulated engines in virtual time: the scheduler and timing of ``fairgate.engines.simulated``."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from fairgate.config import SimulatedEngine
from fairgate.engines.base import EngineStatus
from fairgate.engines.simulated.scheduler import Scheduler, Sequence, StepResult
from fairgate.engines.simulated.timing import PROFILES

_NS = 1_000_000_000


@dataclass(slots=True)
class Run:
    """One sequence in an engine; times are virtual seconds."""

    ended: asyncio.Future[None]
    first_token_s: float | None = None


class VirtualEngine:
    """An :class:`~fairgate.engines.base.Engine` that is reached by :meth:`submit`."""

    transport = None
    priority = cache_salt = False

    def __init__(self, name: str, spec: SimulatedEngine, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self._loop = loop
        self._scheduler = Scheduler(
            PROFILES[spec.profile].at_speed(spec.speed),
            max_num_seqs=spec.max_num_seqs,
            kv_cache_tokens=spec.kv_cache_tokens,
        )
        self._kv_tokens = spec.kv_cache_tokens
        self._runs: dict[Sequence, Run] = {}
        self._stepping = False
        self.busy_s = 0.0
        """Time in which it computed anything."""
        self.peak_tokens = 0
        """Most tokens that its KV cache ever held: VTC's M, as it was met in this run."""
        self.finishes = 0

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to stop."""

    async def probe(self) -> EngineStatus:
        """What ``/metrics`` of the HTTP engine would tell."""
        s = self._scheduler
        return EngineStatus(
            up=True,
            max_num_seqs=s.max_num_seqs,
            kv_cache_tokens=self._kv_tokens,
            num_requests_running=s.num_running,
            num_requests_waiting=s.num_waiting,
            kv_cache_usage=s.kv_usage,
        )

    def submit(self, request_id: str, prompt_tokens: int, output_tokens: int) -> Run:
        """Run a sequence; ``ended`` of the answer is done after its last token."""
        sequence = Sequence(request_id, prompt_tokens, output_tokens, arrival=self._loop.time())
        self._scheduler.add(sequence)
        run = self._runs[sequence] = Run(self._loop.create_future())
        return run

    @property
    def due(self) -> bool:
        """It has something to compute and is not computing."""
        return not self._stepping and self._scheduler.busy

    def step(self, within_s: float | None) -> None:
        """Compute from now on: one step, or more if nothing else can happen for ``within_s``."""
        if within_s is None:
            result = self._scheduler.step()
        else:
            result = self._scheduler.advance(int(within_s * _NS))
        self._stepping = True
        used = round(self._scheduler.kv_usage * self._kv_tokens)
        self.peak_tokens = max(self.peak_tokens, used)
        self._loop.call_later(result.duration_s, self._deliver, result)

    def _deliver(self, result: StepResult) -> None:
        self._stepping = False
        self.busy_s += result.duration_s
        now_s = self._loop.time()
        for sequence in result.emitting:
            run = self._runs[sequence]
            if run.first_token_s is None:
                run.first_token_s = now_s
        for sequence in result.finished:
            self.finishes += 1
            self._runs.pop(sequence).ended.set_result(None)


def step_due(engines: list[VirtualEngine], until_next_s: float | None) -> bool:
    """Set off every engine that has something to compute; whether there was one.

    Steps are merged only while no other event can come in between: up to the next timer, and only
    if no other engine starts now, whose end nobody knows yet.
    """
    due = [engine for engine in engines if engine.due]
    alone = len(due) == 1 and until_next_s is not None
    for engine in due:
        engine.step(until_next_s if alone else None)
    return bool(due)
