"""Counts failed logins by address: who guesses is told to stop.

A key has 256 random bits, nobody guesses one; so a known one is never refused, also from an address
that guesses, lest a stranger behind the same proxy lock operators out.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from fairgate.errors import Throttled

MOST = 10
"""Failures that an address may have in :data:`WINDOW_S` seconds."""

WINDOW_S = 60.0
_REMEMBERED = 10_000


class Guesses:
    """Of this process; the addresses that failed last are remembered."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def count(self, address: str) -> None:
        """It tried a key that is none. Raises ``Throttled`` when it did so too often."""
        since, count = self._failed.pop(address, (0.0, 0))
        now = self._clock()
        if now - since > WINDOW_S:
            since, count = now, 0
        self._failed[address] = since, count + 1
        if len(self._failed) > _REMEMBERED:
            self._failed.popitem(last=False)
        if count >= MOST:
            raise Throttled(
                "Too many unknown admin keys came from your address.",
                limit="address",
                code="too_many_unknown_keys",
                retry_after=since + WINDOW_S - now,
            )
