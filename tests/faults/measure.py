"""One round of one fault: inject it under load, heal it, see what became of every request."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from statistics import quantiles

import msgspec

from tests.faults.answers import Kind
from tests.faults.faults import Fault
from tests.faults.ledger import held_back, leaked
from tests.faults.load import Record
from tests.faults.site import PROBE, Site
from tests.faults.waiting import wait_until

_WARM_S = 4.0
_STEADY_S = 1.5  # from the last request's arrival until requests are at every stage
_RECOVERY_S = 25.0
_QUIET_S = 10.0
_AFTER_S = 0.5


class Figures(msgspec.Struct, kw_only=True):
    """What one fault did, over all its rounds."""

    fault: str
    shows: str
    injected: int = 0
    in_flight: int = 0
    """Requests under way when it was injected, the least of all rounds."""
    requests: int = 0
    """That were under way or began until it was over."""
    answered: int = 0
    refused: int = 0
    broken: int = 0
    moved: int = 0
    """Attempts that died with their gateway, and were made at another one."""
    lost: int = 0
    doubly_granted: int = 0
    leaked: int = 0
    recovery_s: float = 0.0
    """The longest; below 0: there was none."""
    promised_s: float | None = None
    """How long it may take."""
    noise_s: float = 0.0
    """What a request may take where nothing is wrong, which is not told apart from it."""
    details: list[str] = []
    """What exactly went wrong, the commonest first."""
    remarks: list[str] = []
    endings: dict[str, int] = {}
    """How requests ended, in their gateways' words."""

    @property
    def good(self) -> bool:
        """Nothing lost, granted twice or leaked, and everything works again."""
        wrong = self.lost or self.doubly_granted or self.leaked or self.details
        return not wrong and self.recovery_s >= 0

    @property
    def late(self) -> bool:
        """It took longer than promised, whatever the machine's noise."""
        return self.promised_s is not None and self.recovery_s > self.promised_s + self.noise_s


class Round:
    """Measures on one site; it stays fit for the next round unless something leaked."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.normal_s = 0.0
        """What a probe takes where nothing is wrong: three times its 95th percentile."""

    async def warm_up(self) -> None:
        """Let the load reach its level, and learn what is normal."""
        load, site = self._site.load, self._site
        await wait_until(lambda: len(load.under_way) >= site.plan.in_flight * 0.9, 30)
        seen = len(load.records)
        await asyncio.sleep(_WARM_S)
        load.check()
        probes = [r.seconds for r in load.records[seen:] if r.tenant == PROBE and _good(r)]
        if len(probes) < 5:
            raise RuntimeError(f"no normal operation: {len(probes)} probes were answered")
        self.normal_s = 3 * quantiles(probes, n=20)[-1]
        site.doubly_granted()

    async def of(self, fault: Fault, figures: Figures) -> bool:
        """One round; adds to ``figures``. Says whether the site is as before."""
        site, load = self._site, self._site.load
        await wait_until(lambda: len(load.under_way) >= site.plan.in_flight * 0.9, 30)
        await asyncio.sleep(_STEADY_S)
        in_flight, seen = len(load.under_way), len(load.records)
        async with fault.inject(site) as harm:
            await asyncio.sleep(fault.lasts_s)
        healed = time.monotonic()
        recovery_s = await self._recovery(healed, seen)
        await asyncio.sleep(_AFTER_S)
        load.check()
        await load.pause()
        records = load.records[seen:]
        left, held = await self._what_is_left()
        double = site.doubly_granted()
        load.resume()

        figures.noise_s = max(figures.noise_s, self.normal_s)
        figures.injected += harm.times
        figures.in_flight = min(figures.in_flight or in_flight, in_flight)
        figures.doubly_granted += len(double)
        figures.leaked += left
        count(figures, records)
        if figures.recovery_s >= 0:
            figures.recovery_s = max(figures.recovery_s, recovery_s) if recovery_s >= 0 else -1
        logged = Counter(line[:200] for gate in site.gates for line in gate.bugs())
        figures.details += [*harm.notes[:5], *double[:5], *held[:5]]
        figures.details += [f"logged {n} times: {line}" for line, n in logged.most_common(5)]
        figures.remarks += harm.remarks
        return not held and recovery_s >= 0

    async def _recovery(self, healed: float, seen: int) -> float:
        """Seconds until each gateway has given a good answer in the usual time; -1: never."""
        load, doors = self._site.load, self._site.load.doors
        while time.monotonic() < healed + _RECOVERY_S:
            first: dict[int, float] = {}
            for record in load.records[seen:]:
                usual = record.tenant == PROBE and _good(record) and record.seconds < self.normal_s
                if usual and record.ended_at >= healed:
                    first.setdefault(record.door, record.ended_at)
            if len(first) == len(doors):
                return max(first.values()) - healed
            await asyncio.sleep(0.02)
        return -1.0

    async def _what_is_left(self) -> tuple[int, list[str]]:
        """How much capacity is still held once all is quiet, and what, in words."""
        until = time.monotonic() + _QUIET_S
        while True:
            seen = await self._site.look()
            held = ["the store does not answer"] if seen is None else []
            if seen is not None:
                held = held_back(seen, self._site.capacity)
            if not held or time.monotonic() > until:
                return (leaked(seen) if seen else 0), held
            await asyncio.sleep(0.1)


def count(figures: Figures, records: Sequence[Record]) -> None:
    """Add how requests ended."""
    kinds = Counter(record.ending.kind for record in records)
    figures.requests += len(records)
    figures.answered += kinds[Kind.ANSWERED]
    figures.refused += kinds[Kind.REFUSED]
    figures.broken += kinds[Kind.BROKEN]
    figures.lost += kinds[Kind.LOST]
    # A probe asks one gateway only: that it died is its last word.
    figures.moved += sum(record.moved for record in records) + kinds[Kind.DIED]
    endings = Counter(figures.endings)
    endings.update(
        f"{r.ending.kind}: {r.ending.detail}" for r in records if r.ending.kind != Kind.ANSWERED
    )
    figures.endings = dict(endings.most_common())
    lost = Counter(r.ending.detail for r in records if r.ending.kind is Kind.LOST)
    figures.details += [f"{times} lost: {detail}" for detail, times in lost.most_common(6)]


def _good(record: Record) -> bool:
    return record.ending.kind is Kind.ANSWERED
