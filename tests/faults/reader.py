"""``python -m tests.faults.reader URL POOL FILE``: looks at the ledger again and again.

Each line of FILE is one contradiction that it saw, as JSON; the last one, written on SIGTERM, says
how often it looked.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from tests.faults.ledger import Look, look, over_capacity, violations

_EVERY_S = 0.25
_OVER_S = 2.0
"""More leases than sequences for so long count: settlements that were owed are taken by then."""


class Reader:
    """What was seen so far."""

    def __init__(self) -> None:
        self.looks = 0
        self.contradictions = 0
        self._over: dict[str, float] = {}  # since when

    def see(self, seen: Look) -> list[str]:
        """Take one look in; the contradictions in it."""
        self.looks += 1
        now = time.monotonic()
        over = over_capacity(seen)
        self._over = {wrong: self._over.get(wrong, now) for wrong in over}
        found = violations(seen) + [w for w, since in self._over.items() if now > since + _OVER_S]
        self.contradictions += bool(found)
        return found

    def summary(self) -> dict[str, int]:
        """For the last line."""
        return {"looks": self.looks, "contradictions": self.contradictions}


async def main(url: str, pool: str, file: Path) -> None:
    """Look until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    reader = Reader()
    with file.open("w", buffering=1) as lines:
        while not ended.is_set():
            try:
                async with Redis.from_url(
                    url, socket_timeout=2, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0)
                ) as client:
                    while not ended.is_set():
                        for wrong in reader.see(await look(client, pool)):
                            lines.write(json.dumps({"at": time.monotonic(), "wrong": wrong}) + "\n")
                        await asyncio.sleep(_EVERY_S)
            except (RedisError, OSError):
                await asyncio.sleep(_EVERY_S)
        lines.write(json.dumps(reader.summary()) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
