"""Time limits that share a timer: each ends when it should, and only those that are not in time."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from fairgate.within import Deadlines, Within


class Noted:
    def __init__(self, told: list[str], name: str) -> None:
        self.told = told
        self.name = name
        self.heard = asyncio.Event()

    def late(self) -> None:
        self.told.append(self.name)
        self.heard.set()


async def heard(noted: Noted) -> None:
    async with asyncio.timeout(20):
        await noted.heard.wait()


async def test_each_is_told_once_and_in_order() -> None:
    told: list[str] = []
    line = Deadlines().of(0.02)
    every = [Noted(told, name) for name in "abcd"]
    for noted in every[:3]:
        line.start(noted)
        await asyncio.sleep(0.002)
    await heard(every[2])
    line.start(every[3])  # the timer had stopped
    await heard(every[3])
    assert told == ["a", "b", "c", "d"]


async def test_who_was_in_time_is_not_told() -> None:
    told: list[str] = []
    line = Deadlines().of(0.02)
    in_time, late = Noted(told, "in time"), Noted(told, "late")
    line.start(in_time)
    line.start(late)
    line.stop(in_time)
    line.stop(in_time)
    await heard(late)
    assert told == ["late"]


async def test_lines_of_different_lengths_do_not_wait_for_each_other() -> None:
    told: list[str] = []
    deadlines = Deadlines()
    assert deadlines.of(30.0) is deadlines.of(30.0)
    deadlines.of(30.0).start(Noted(told, "long"))
    short = Noted(told, "short")
    deadlines.of(0.01).start(short)
    await heard(short)
    assert told == ["short"]


async def test_a_block_ends_with_its_time() -> None:
    with pytest.raises(TimeoutError), Within(Deadlines().of(0.01)):
        await asyncio.sleep(60)


async def test_nothing_of_a_block_that_was_in_time_comes_later() -> None:
    line = Deadlines().of(0.05)
    with Within(line):
        pass
    after = Noted([], "after")
    line.start(after)
    await heard(after)  # so the time of the block is over as well


async def test_a_block_that_fails_when_its_time_is_over_leaves_no_cancellation_behind() -> None:
    async def fail() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise KeyError from None

    line = Deadlines().of(0.01)
    with pytest.raises(KeyError), Within(line):
        await fail()
    with pytest.raises(TimeoutError), Within(line):
        await asyncio.sleep(60)


async def test_somebody_elses_cancellation_passes_on() -> None:
    async def work() -> None:
        with Within(Deadlines().of(60.0)):
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def stand_still() -> None:
    time.sleep(0.8)  # the loop with all its timers


async def test_who_did_its_part_while_the_loop_stood_still_is_in_time() -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs, Within(Deadlines().of(0.05)):
        loop.call_soon(theirs.send, b"x")
        loop.call_soon(stand_still)
        assert await loop.sock_recv(ours, 1) == b"x"


async def test_who_did_not_is_late_at_the_second_look() -> None:
    line = Deadlines().of(0.05)
    asyncio.get_running_loop().call_soon(stand_still)
    with pytest.raises(TimeoutError), Within(line):
        await asyncio.sleep(60)
    after = Noted([], "after")
    line.start(after)
    await heard(after)
