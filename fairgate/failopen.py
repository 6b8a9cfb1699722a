"""What a pool does without its store where ``store.on_failure`` is ``open``: requests pass by.

No line, no limits and no lease: nothing is counted, and the engines queue what they cannot run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from fairgate.admission.model import Ask, EngineReport, Grant, Served
from fairgate.engines.monitor import EngineMonitor
from fairgate.errors import NoEngine


class OpenDoor:
    """Spreads requests over the engines by what this process sent to each itself."""

    def __init__(self, monitor: EngineMonitor) -> None:
        self._monitor = monitor
        self._running: Counter[tuple[str, str]] = Counter()

    async def acquire(self, ask: Ask, waited_s: float) -> Grant:
        """An engine of the first lane that has one up. Does not wait. Raises ``NoEngine``.

        ``waited_s`` seconds were spent in line. Every grant must be given to :meth:`settle`, once.
        """
        engine = next(self._candidates(ask), None)
        if engine is None:
            raise NoEngine("no healthy engine can serve this model", retry_after=5)
        self._running[engine.lane, engine.name] += 1
        return Grant(ask.id, engine.lane, engine.name, 0, queue_s=waited_s, degraded="open")

    def settle(self, grant: Grant, served: Served) -> None:
        """The request ended; nobody is charged."""
        self._running[grant.lane, grant.engine] -= 1

    async def stop(self) -> None:
        """There is nothing to give up."""

    def _candidates(self, ask: Ask) -> Iterator[EngineReport]:
        """Of each lane that the request may use the best engine."""
        reports = [report for report in self._monitor.reports() if report.up]
        for lane, _ in ask.lanes:
            members = [report for report in reports if report.lane == lane]
            if members:
                yield min(members, key=lambda r: (r.name == ask.avoid, self._load(r)))

    def _load(self, report: EngineReport) -> float:
        return self._running[report.lane, report.name] / report.max_num_seqs
