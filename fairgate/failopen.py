"""What a pool does without its store where ``store.on_failure`` is ``open``: requests pass by.

No line, no limits and no lease: nothing is counted, and the engines queue what they cannot run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from fairgate.admission.model import Ask, EngineReport, Grant
from fairgate.engines.monitor import EngineMonitor
from fairgate.errors import NoEngine


class OpenDoor:
    """Spreads requests over the engines by what this process sent to each itself."""

    def __init__(self, monitor: EngineMonitor) -> None:
        self._monitor = monitor
        self._running: Counter[tuple[str, str]] = Counter()

    def grant(self, ask: Ask) -> Grant:
        """An engine of the first lane that has one up. Raises ``NoEngine``.

        Every grant must be given to :meth:`end`, once.
        """
        engine = next(self._candidates(ask), None)
        if engine is None:
            raise NoEngine("no healthy engine can serve this model", retry_after=5)
        self._running[engine.lane, engine.name] += 1
        return Grant(ask.id, engine.lane, engine.name, priority=0, queue_s=0.0, leased=False)

    def end(self, grant: Grant) -> None:
        """The request ended."""
        self._running[grant.lane, grant.engine] -= 1

    def _candidates(self, ask: Ask) -> Iterator[EngineReport]:
        """Of each lane that the request may use the best engine."""
        reports = [report for report in self._monitor.reports() if report.up]
        for lane, _ in ask.lanes:
            members = [report for report in reports if report.lane == lane]
            if members:
                yield min(members, key=lambda r: (r.name == ask.avoid, self._load(r)))

    def _load(self, report: EngineReport) -> float:
        return self._running[report.lane, report.name] / report.max_num_seqs
