"""Wait for something to come true."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def wait_until(condition: Callable[[], bool], within_s: float) -> bool:
    """Whether ``condition`` came true within so many seconds."""
    until = time.monotonic() + within_s
    while True:
        if condition():
            return True
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.02)
