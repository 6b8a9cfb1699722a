"""Show on stderr how far a replay is: a bar on a terminal, else a line every ten seconds."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TextIO

from loadgen.records import Outcome

try:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
except ImportError:  # the extra [loadgen] is not installed: lines do
    RICH = False
else:
    RICH = True

_BAR_EVERY_S = 0.5
_LINE_EVERY_S = 10.0


class Tally:
    """Counts outcomes while they come in."""

    def __init__(self, planned: int) -> None:
        self.planned = planned
        self._results: Counter[str] = Counter()

    def count(self, outcome: Outcome) -> None:
        """One more call has ended."""
        self._results[outcome.result] += 1

    @property
    def ended(self) -> int:
        """Calls that have ended, however."""
        return self._results.total()

    def line(self, now_s: float, under_way: int) -> str:
        """The counts in words; ``now_s`` seconds into the replay."""
        results = self._results
        return (
            f"{now_s:.0f} s: {self.ended} of {self.planned} calls ended, "
            f"{under_way} under way, {results['completed']} completed, "
            f"{results['throttled']} throttled, {results['error']} errors"
        )


@asynccontextmanager
async def shown(
    tally: Tally, clock: Callable[[], float], under_way: Callable[[], int], out: TextIO
) -> AsyncIterator[None]:
    """Keep showing progress for as long as the block runs."""
    show = _show_bar if RICH and out.isatty() else _show_lines
    task = asyncio.create_task(show(tally, lambda: tally.line(clock(), under_way()), out))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _show_lines(_tally: Tally, line: Callable[[], str], out: TextIO) -> None:
    while True:
        await asyncio.sleep(_LINE_EVERY_S)
        out.write(line() + "\n")
        out.flush()


async def _show_bar(tally: Tally, line: Callable[[], str], out: TextIO) -> None:
    columns = (BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(file=out), transient=True, auto_refresh=False) as bar:
        shown_task = bar.add_task(line(), total=tally.planned)
        while True:
            bar.update(shown_task, completed=tally.ended, description=line(), refresh=True)
            await asyncio.sleep(_BAR_EVERY_S)
