"""Whether the store is away, and since when; says so once when that changes."""

from __future__ import annotations

import asyncio
import time

import structlog

from fairgate.errors import StoreError

log = structlog.get_logger("fairgate.admission")


class Outage:
    """Times in which the store does not answer."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._over = asyncio.Event()
        self._ended_s = 0.0
        self.count = 0
        """Of outages so far, the present one too."""

    @property
    def lasts(self) -> bool:
        """The store failed when it was last asked."""
        return self._since is not None

    @property
    def seconds(self) -> float:
        """How long it has lasted; 0 when the store is there."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    async def outlast(self, seconds: float) -> bool:
        """Whether it is over; waits ``seconds`` at most until it is."""
        if self.lasts and seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._over.wait()
            except TimeoutError:
                pass
        return not self.lasts

    @property
    def total_s(self) -> float:
        """Seconds of all outages so far."""
        return self._ended_s + self.seconds

    def begin(self, error: StoreError) -> bool:
        """A call failed; True for the first one of an outage."""
        if self._since is not None:
            return False
        self._since = time.monotonic()
        self._over.clear()
        self.count += 1
        log.warning("the store is away", error=str(error))
        return True

    def end(self, owed: int) -> None:
        """A call came through; ``owed`` settlements follow."""
        if self._since is not None:
            log.info("the store is back", away_s=round(self.seconds, 3), owed=owed)
            self._ended_s += self.seconds
            self._since = None
            self._over.set()
