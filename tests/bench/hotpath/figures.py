"""Medians over the rounds, and ratios between subjects of the same round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Self

import msgspec

from tests.bench.hotpath.subjects import AGAINST, BARE
from tests.bench.parts.load import Timing


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What one turn of a subject gave."""

    requests: int
    cpu_us: float
    """Of the subject and its children, per request."""
    store_us: float
    """CPU of the store, per request."""
    per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    first_ms: float
    """Median time to the first byte of the answer's body."""
    rss_mib: float
    events: int
    """Server-sent events in all."""
    event_us: float
    """CPU of the subject per server-sent event; 0 without any."""

    @classmethod
    def of(cls, timing: Timing, *, cpu_s: float, store_s: float, rss_mib: float) -> Self:
        """The figures of a load, and of the CPU that was used meanwhile."""
        requests = len(timing.latencies_s)
        return cls(
            requests=requests,
            cpu_us=cpu_s / requests * 1e6,
            store_us=store_s / requests * 1e6,
            per_s=requests / timing.seconds,
            p50_ms=quantile(timing.latencies_s, 0.5) * 1e3,
            p90_ms=quantile(timing.latencies_s, 0.9) * 1e3,
            p99_ms=quantile(timing.latencies_s, 0.99) * 1e3,
            first_ms=quantile(timing.first_s, 0.5) * 1e3,
            rss_mib=rss_mib,
            events=timing.events,
            event_us=cpu_s / timing.events * 1e6 if timing.events else 0.0,
        )


Turns = dict[str, dict[str, list[Turn]]]
"""By case and subject."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A subject under a case: medians over its turns."""

    case: str
    subject: str
    turn: Turn
    against: str | None = None
    """What it is compared with."""
    cpu_ratio: float | None = None
    """To ``against``, as the two that follow."""
    added_us: float | None = None
    added_ms: float | None = None


def rows(turns: Turns) -> list[Row]:
    """One per case and subject."""
    return [
        _row(case, subject, by_subject)
        for case, by_subject in turns.items()
        for subject in by_subject
    ]


def _row(case: str, subject: str, turns: Mapping[str, Sequence[Turn]]) -> Row:
    own, against = turns[subject], AGAINST.get(subject, BARE)
    middle = {name: median(getattr(turn, name) for turn in own) for name in Turn.__struct_fields__}
    whole = {name: round(middle.pop(name)) for name in ("requests", "events")}
    row = Row(case=case, subject=subject, turn=Turn(**middle, **whole))
    if against is None or against not in turns:
        return row
    return msgspec.structs.replace(
        row,
        against=against,
        cpu_ratio=compared(turns, subject, against, "cpu_us"),
        added_us=added(turns, subject, against, "cpu_us"),
        added_ms=added(turns, subject, against, "p50_ms"),
    )


def compared(turns: Mapping[str, Sequence[Turn]], subject: str, against: str, figure: str) -> float:
    """Median over the rounds of the ratio of ``figure``; 0 where nothing was measured."""
    pairs = zip(turns[subject], turns[against], strict=True)
    return median(
        getattr(mine, figure) / base if (base := getattr(other, figure)) else 0.0
        for mine, other in pairs
    )


def added(turns: Mapping[str, Sequence[Turn]], subject: str, against: str, figure: str) -> float:
    """Median over the rounds of the difference of ``figure``."""
    pairs = zip(turns[subject], turns[against], strict=True)
    return median(getattr(mine, figure) - getattr(other, figure) for mine, other in pairs)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of ``values`` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
