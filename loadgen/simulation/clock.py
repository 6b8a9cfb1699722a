"""An event loop in virtual time: sleeping takes no time, and the same program runs the same way.

Real code that waits by ``asyncio`` timers runs on it unchanged and much faster than in real time.
It sees no input from outside, so everything on it is decided by the order of its own events.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable

AtRest = Callable[[float | None], bool]


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time starts at 0 and jumps to the next timer as soon as nothing else is left to do.

    ``at_rest`` is called before it jumps, with the seconds until the next timer (``None``: there is
    none). It answers whether it set off anything; then the loop looks again. Raises
    ``RuntimeError`` out of the run when nothing could ever happen any more.
    """

    def __init__(self) -> None:
        self._now_s = 0.0
        self.at_rest: AtRest = _nothing_to_do
        super().__init__(_NoInput(self._pass_time))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now_s

    def _pass_time(self, until_next_s: float | None) -> None:
        if until_next_s is not None and until_next_s <= 0:
            return
        if self.at_rest(until_next_s):
            return
        if until_next_s is None:
            raise RuntimeError("the simulation stands still: everything in it waits for something")
        self._now_s += until_next_s


class _NoInput(selectors.SelectSelector):
    """Never reports a file; told to wait, it lets virtual time pass instead."""

    def __init__(self, pass_time: Callable[[float | None], None]) -> None:
        super().__init__()
        self._pass_time = pass_time

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._pass_time(timeout)
        return []


def _nothing_to_do(_until_next_s: float | None) -> bool:
    return False
