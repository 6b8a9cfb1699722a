"""Engines in virtual time make the same steps, however far ahead they may look."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from fairgate.config import SimulatedEngine
from fairgate.engines.simulated.timing import PROFILES
from loadgen.simulation.clock import VirtualLoop
from loadgen.simulation.engine import VirtualEngine, step_due

SPEC = SimulatedEngine(profile="cpu-small", max_num_seqs=2, kv_cache_tokens=4096)
JOBS = [(0.0, 100, 20), (0.3, 50, 40), (0.31, 200, 5), (9.0, 10, 3)]

Times = list[tuple[float, float]]


def times(*, tick_s: float = 0, engines: int = 1) -> Times:
    """First and last token of each job on the first engine."""

    async def go() -> Times:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        fleet = [VirtualEngine(f"e{k}", SPEC, loop) for k in range(engines)]
        loop.at_rest = partial(step_due, fleet)

        async def job(at_s: float, prompt: int, output: int) -> tuple[float, float]:
            await asyncio.sleep(at_s)
            for other in fleet[1:]:
                other.submit("other", prompt, output)
            run = fleet[0].submit(f"{at_s}", prompt, output)
            await run.ended
            assert run.first_token_s is not None
            return round(run.first_token_s, 6), round(loop.time(), 6)

        for number in range(round(12 / tick_s) if tick_s else 0):
            loop.call_later(number * tick_s, lambda: None)
        return list(await asyncio.gather(*(job(*one) for one in JOBS)))

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(go())


def test_merged_steps_change_nothing() -> None:
    alone = times()
    assert times(tick_s=0.01) == alone
    assert times(engines=2) == alone


def test_times_are_those_of_the_profile() -> None:
    first_token_s, _ = times()[0]
    assert first_token_s == pytest.approx(PROFILES["cpu-small"].step_ns(100, 0, 100) / 1e9)


def test_a_third_sequence_waits_for_a_place() -> None:
    (_, first_end_s), _, (third_first_s, _), _ = times()
    assert third_first_s > first_end_s
