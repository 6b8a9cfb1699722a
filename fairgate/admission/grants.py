"""Listens for grants that other gateways' settlements publish for this one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from fairgate.admission.ledger import GrantNote, parse_notes

log = structlog.get_logger("fairgate.admission")


_SILENCE_S = 5.0
"""After so long without a message the store is asked whether it is still there."""


class GrantListener:
    """Subscribes to one channel and hands every grant to ``take``.

    While it is disconnected nothing is lost: the heartbeat returns the grants that were missed.
    """

    def __init__(self, url: str, channel: str, take: Callable[[Iterable[GrantNote]], None]) -> None:
        self._client: Redis = Redis.from_url(
            url, protocol=2, socket_timeout=None, retry=Retry(NoBackoff(), 0)
        )
        self._channel = channel
        self._take = take
        self._task: asyncio.Task[None] | None = None
        self._listening = True

    def start(self) -> None:
        """Listen in the background until :meth:`stop`."""
        self._task = asyncio.create_task(self._run(), name="fairgate-grants")

    async def stop(self) -> None:
        """Stop listening and disconnect."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._client.aclose()

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except (RedisError, OSError) as error:
                if self._listening:  # once per outage
                    log.warning("grants channel lost", error=str(error) or type(error).__name__)
                self._listening = False
            await asyncio.sleep(random.uniform(0.1, 0.5))  # noqa: S311 — jitter

    async def _listen(self) -> None:
        async with self._client.pubsub() as pubsub:
            async with asyncio.timeout(_SILENCE_S):
                await pubsub.subscribe(self._channel)
            self._listening = True
            asked = False
            while True:
                message = await pubsub.get_message(timeout=_SILENCE_S)
                if message is not None and message["type"] == "message":
                    self._take(parse_notes(message["data"].decode()))
                if message is None and asked:
                    raise TimeoutError("the store is silent")
                asked = message is None
                if asked:
                    await pubsub.ping()
