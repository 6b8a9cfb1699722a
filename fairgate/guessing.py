"""Who sends unknown API keys too often is told to stop, by its address.

A key of ours is 256 random bits: nobody guesses one. What is bounded here is what trying costs us,
and an operator learns of it. Known keys are never refused, also from an address that guesses.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from starlette.types import Scope

from fairgate.addresses import Addresses
from fairgate.errors import Throttled

MOST_ADDRESSES = 4096
"""Kept at once; beyond them the one is forgotten that began first."""

WINDOW_S = 60.0

log = structlog.get_logger("fairgate.guessing")


class FailedKeys:
    """Counts unknown keys by client address, in this process."""

    def __init__(
        self, most: int, addresses: Addresses, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``most``: unknown keys of an address in a minute before it is told to stop."""
        self._most = most
        self._addresses = addresses
        self._clock = clock
        self._failed: dict[str, tuple[float, int]] = {}
        """When the window began, and how many there were in it."""

    def count(self, scope: Scope) -> None:
        """One more from the client of ``scope``. Raises ``Throttled`` when there were too many."""
        now, address = self._clock(), self._addresses.of(scope)
        began, failures = self._failed.get(address, (now, 0))
        if now - began >= WINDOW_S:
            began, failures = now, 0
        if failures == 0:
            self._make_room(address)
        self._failed[address] = began, failures + 1
        if failures < self._most:
            return
        if failures == self._most:
            log.warning("too many unknown keys", address=address)
        raise Throttled(
            "Too many unknown API keys came from your address.",
            limit="address",
            code="too_many_unknown_keys",
            retry_after=began + WINDOW_S - now,
        )

    def _make_room(self, address: str) -> None:
        self._failed.pop(address, None)  # so that it comes last again
        if len(self._failed) >= MOST_ADDRESSES:
            del self._failed[next(iter(self._failed))]
