"""Listens for grants that other gateways' settlements publish for this one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from fairgate.admission.ledger import GrantNote, parse_notes

log = structlog.get_logger("fairgate.admission")


class GrantListener:
    """Subscribes to one channel and hands every grant to ``take``.

    While it is disconnected nothing is lost: the heartbeat returns the grants that were missed.
    """

    def __init__(self, url: str, channel: str, take: Callable[[Iterable[GrantNote]], None]) -> None:
        self._client: Redis = Redis.from_url(url, protocol=2, socket_timeout=None)
        self._channel = channel
        self._take = take
        self._task: asyncio.Task[None] | None = None

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
                log.warning("grants channel lost", error=str(error))
            await asyncio.sleep(random.uniform(0.1, 0.5))  # noqa: S311 — jitter

    async def _listen(self) -> None:
        async with self._client.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(self._channel)
            async for message in pubsub.listen():
                self._take(parse_notes(message["data"].decode()))
