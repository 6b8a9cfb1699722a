"""Asks all gateways of a pool for their records, and takes them as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from redis.asyncio import Redis

from fairgate.routing.record import Wanted
from fairgate.routing.store import recording_key

_RENEWED_S = 2.0
_LASTS_S = 6
"""Gateways stop by themselves so long after who asked is gone."""


async def listen(
    url: str,
    pool: str,
    take: Callable[[bytes], object],
    *,
    share: float = 1.0,
    prompts: bool = False,
    seconds: float | None = None,
) -> int:
    """Hand every line that the gateways record to ``take``, for ``seconds`` or until cancelled.

    Returns how many lines came. Raises ``redis.exceptions.RedisError`` when the store is away.
    Gateways notice at their next heartbeat, also that this ends.
    """
    key = recording_key(pool)
    wanted = msgspec.json.encode(Wanted(share=share, prompts=prompts))
    lines = 0
    async with Redis.from_url(url, protocol=2) as client, client.pubsub() as channel:
        await channel.subscribe(f"{key}:lines")
        asking = asyncio.create_task(_keep_asking(client, key, wanted))
        try:
            async with asyncio.timeout(seconds):
                while not asking.done():
                    message = await channel.get_message(timeout=_RENEWED_S)
                    if message is not None and message["type"] == "message":
                        take(message["data"])
                        lines += 1
                asking.result()
        except TimeoutError:
            pass  # the time is over
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await client.delete(key)
    return lines


async def _keep_asking(client: Redis, key: str, wanted: bytes) -> None:
    while True:
        await client.set(key, wanted, ex=_LASTS_S)
        await asyncio.sleep(_RENEWED_S)
