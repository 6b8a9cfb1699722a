"""The virtual loop: time passes only when nothing else is left to do."""

from __future__ import annotations

import asyncio
import time

import pytest

from loadgen.simulation.clock import VirtualLoop


def run(work):
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


def test_an_hour_of_sleep_takes_no_time() -> None:
    async def sleep() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    began = time.monotonic()
    assert run(sleep()) == pytest.approx(3600)
    assert time.monotonic() - began < 5


def test_timers_go_off_in_order_and_at_their_time() -> None:
    async def three() -> list[tuple[float, str]]:
        seen = []

        async def after(delay_s: float, name: str) -> None:
            await asyncio.sleep(delay_s)
            seen.append((round(asyncio.get_running_loop().time(), 9), name))

        await asyncio.gather(after(2.5, "late"), after(0.1, "early"), after(2.5, "later"))
        return seen

    assert run(three()) == [(0.1, "early"), (2.5, "late"), (2.5, "later")]


def test_timeouts_of_asyncio_are_virtual_too() -> None:
    async def patience() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(120):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run(patience()) == pytest.approx(120)


def test_at_rest_is_asked_before_time_passes() -> None:
    async def rest() -> list[float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        asked: list[float] = []

        def note(_until_next_s: float | None) -> bool:
            asked.append(loop.time())
            return False

        loop.at_rest = note
        await asyncio.sleep(1)
        await asyncio.sleep(2)
        return asked

    assert run(rest()) == [0.0, 1.0]


def test_a_program_that_can_never_go_on_is_an_error() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="stands still"):
        run(forever())
