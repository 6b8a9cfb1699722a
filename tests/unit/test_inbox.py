"""A block that ends when its client leaves: who is told of it, and who is not."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from fairgate.inbox import ClientGone, Inbox
from fairgate.within import Deadlines


class Client:
    """Leaves when it is told to."""

    def __init__(self) -> None:
        self.leaves = asyncio.Event()

    async def receive(self) -> Message:
        await self.leaves.wait()
        return {"type": "http.disconnect"}


async def test_a_block_ends_when_the_client_leaves() -> None:
    client = Client()
    client.leaves.set()
    with pytest.raises(ClientGone), Inbox(client.receive, Deadlines()):
        await asyncio.sleep(60)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_block_that_fails_when_the_client_leaves_leaves_no_cancellation_behind() -> None:
    async def fail() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise KeyError from None

    client = Client()
    client.leaves.set()
    with pytest.raises(KeyError), Inbox(client.receive, Deadlines()):
        await fail()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_somebody_elses_cancellation_passes_on_though_the_client_left() -> None:
    inbox = Inbox(Client().receive, Deadlines())

    async def work() -> None:
        with inbox:
            inbox.leave()
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
