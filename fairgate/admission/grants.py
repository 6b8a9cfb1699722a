"""Listens for grants that other gateways' settlements publish for this one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Any

import structlog
from hiredis import ReplyError
from redis.exceptions import RedisError

from fairgate.admission.ledger import GrantNote, parse_notes
from fairgate.admission.locating import Locator, locator_of
from fairgate.admission.wire import Wire
from fairgate.admission.words import command

log = structlog.get_logger("fairgate.admission")


_SILENCE_S = 5.0
"""After so long without a message the store is asked whether it is still there."""


class GrantListener:
    """Subscribes to one channel and hands every grant to ``take``.

    While it is disconnected nothing is lost: the heartbeat returns the grants that were missed.
    """

    def __init__(
        self, store: str | Locator, channel: str, take: Callable[[Iterable[GrantNote]], None]
    ) -> None:
        self._locator = locator_of(store) if isinstance(store, str) else store
        self._channel = channel
        self._take = take
        self._task: asyncio.Task[None] | None = None
        self._listening = True
        self._heard = False
        self._ended: asyncio.Future[str]

    def start(self) -> None:
        """Listen in the background until :meth:`stop`."""
        self._task = asyncio.create_task(self._run(), name="fairgate-grants")

    async def stop(self) -> None:
        """Stop listening and disconnect."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                why = await self._listen()
            except (RedisError, OSError) as error:
                why = str(error) or type(error).__name__
            self._locator.doubt()
            if self._listening:  # once per outage
                log.warning("grants channel lost", error=why)
            self._listening = False
            await asyncio.sleep(random.uniform(0.1, 0.5))  # noqa: S311 — jitter

    async def _listen(self) -> str:
        """Until the connection ends; why it did."""
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._ended = ended
        async with asyncio.timeout(_SILENCE_S):
            url = await self._locator.locate()
            wire = await Wire.connect(url, _SILENCE_S, self._hear, self._lost, _nothing)
        try:
            wire.send([command(("SUBSCRIBE", self._channel))])
            asked = True
            while True:
                self._heard = False
                await asyncio.wait({ended}, timeout=_SILENCE_S)
                if ended.done():
                    return ended.result()
                if asked and not self._heard:
                    return "the store is silent"
                asked = not self._heard
                if asked:
                    wire.send([command(("PING",))])
        finally:
            wire.close()

    def _hear(self, reply: Any) -> None:
        self._heard = self._listening = True
        if isinstance(reply, ReplyError):
            self._end(str(reply))
        elif reply[0] == b"message":
            self._take(parse_notes(reply[2].decode()))

    def _lost(self, wire: Wire, why: str) -> None:
        self._end(why)

    def _end(self, why: str) -> None:
        if not self._ended.done():
            self._ended.set_result(why)


def _nothing() -> None:
    """The little that is sent is never held up."""
