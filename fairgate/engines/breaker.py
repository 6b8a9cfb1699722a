"""A circuit breaker: an engine that keeps failing gets no requests, then one, then all again.

After the pattern of M. Nygard, "Release It!" (2007): closed, open, half-open.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Literal

from fairgate.config.server import Breaker as Settings

Circuit = Literal["closed", "half-open", "open"]


class Breaker:
    """The one of one engine. It is half-open once it was open for long enough."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.perf_counter) -> None:
        self._settings = settings
        self._clock = clock
        self._opened_at = 0.0
        self._until: float | None = None
        """When it may be tried again; ``None``: it is closed."""
        self._times = 0
        """How often it opened in a row."""
        self.in_row = 0
        """Requests that failed since one went well."""
        self.failures = 0
        """Requests that failed, ever."""

    @property
    def circuit(self) -> Circuit:
        """How much of its capacity may be used: all, one request, nothing."""
        if self._until is None:
            return "closed"
        return "open" if self._clock() < self._until else "half-open"

    def failed(self, granted_at: float) -> float | None:
        """A request failed that was granted then; seconds until the next try if that opens it.

        What was granted before it opened says nothing new.
        """
        self.failures += 1
        self.in_row += 1
        enough = self.in_row >= self._settings.failures
        if self._until is not None:
            enough = self.circuit == "half-open" and granted_at > self._opened_at
        return self._open() if enough else None

    def went_well(self) -> bool:
        """A request was served in whole. Whether that closes it."""
        was_closed = self._until is None
        self._until = None
        self.in_row = self._times = 0
        return not was_closed

    def _open(self) -> float:
        longest_s = min(
            self._settings.longest_s, self._settings.open_s * 2.0 ** min(self._times, 32)
        )
        wait_s = longest_s * random.uniform(0.75, 1.0)  # noqa: S311 — jitter between replicas
        self._times += 1
        self._opened_at = self._clock()
        self._until = self._opened_at + wait_s
        return wait_s
