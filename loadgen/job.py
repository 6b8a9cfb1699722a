"""Run one replay from its first look at the target to its last answer."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace

import aiohttp
import uvloop

from loadgen.client import Client, Request, list_models, open_session
from loadgen.progress import Tally, shown
from loadgen.prompts import Prompts
from loadgen.records import Chain, Outcome
from loadgen.replay import Clock, Replay
from loadgen.tenants import Tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to send where."""

    target: str
    tenants: Mapping[str, Tenant]
    plan: Sequence[Chain]
    request: Request
    """An empty model is chosen from what the target lists."""
    shared_prefix: int = 0
    max_duration_s: float | None = None
    seed: int = 0


@dataclass(slots=True)
class Finished:
    """What came of it."""

    outcomes: list[Outcome] = field(default_factory=list)
    stopped_by: int | None = None
    """The signal that ended it early."""
    cpu_s: float = 0.0
    """CPU time of the generator while it sent."""


def run(job: Job) -> Finished:
    """Run the replay; SIGINT and SIGTERM end it early with what it has.

    Raises ``TargetError`` when the target does not answer before anything is sent.
    """
    return uvloop.run(_run(job))


async def send(job: Job, finished: Finished) -> None:
    """Run the replay on the present loop, adding to ``finished`` as it goes on.

    Raises ``TargetError`` as :func:`run` does. Cancelled: calls under way are recorded as errors.
    """
    async with open_session() as session:
        key = next(iter(job.tenants.values())).key
        listed = await list_models(session, job.target, key)
        model = job.request.model or choose_model(listed)
        clock = Clock()
        client = _client(job, replace(job.request, model=model), session, clock)
        await _replay(job, client, clock, finished)


def choose_model(listed: Sequence[str]) -> str:
    """The only model there is; else ``auto``, fairgate's word for any lane."""
    return listed[0] if len(listed) == 1 else "auto"


async def _run(job: Job) -> Finished:
    finished = Finished()
    finished.stopped_by = await until_signal(send(job, finished))
    return finished


def _client(job: Job, request: Request, session: aiohttp.ClientSession, clock: Clock) -> Client:
    token = secrets.token_hex(4)
    return Client(
        session,
        job.target,
        {name: tenant.key for name, tenant in job.tenants.items()},
        request,
        prompts=Prompts(token, shared_prefix=job.shared_prefix),
        clock=clock,
        run=token,
        seed=job.seed,
    )


async def _replay(job: Job, client: Client, clock: Clock, finished: Finished) -> None:
    tally = Tally(sum(len(chain.calls) for chain in job.plan))

    def record(outcome: Outcome) -> None:
        finished.outcomes.append(outcome)
        tally.count(outcome)

    replay = Replay(job.plan, client.send, record, clock=clock)
    cpu_s = time.process_time()
    try:
        async with shown(tally, clock, lambda: replay.sending, sys.stderr):
            await replay.run(job.max_duration_s)
    finally:
        finished.cpu_s = time.process_time() - cpu_s


async def until_signal(work: Coroutine[None, None, None]) -> int | None:
    """Await ``work``; SIGINT or SIGTERM cancels it and is returned. Cancelled: ``work`` is too."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    caught: list[int] = []

    def stop(number: int) -> None:
        caught.append(number)
        task.cancel()

    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if not caught:
            raise
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
    return caught[0] if caught else None
