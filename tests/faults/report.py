"""The table of faults."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from loadgen.report import Rows
from tests.faults.measure import Figures
from tests.faults.promises import shown_by

_HEADER = [
    "fault", "injected", "in flight", "requests", "answered", "refused", "broken", "moved",
    "lost", "double-granted", "leaked", "recovery s", "promised", "shows", "",
]  # fmt: skip


def table(figures: Iterable[Figures]) -> Rows:
    """One row per fault."""
    return [_HEADER, *map(_row, figures)]


def _row(f: Figures) -> list[str]:
    counts = (
        f.injected, f.in_flight, f.requests, f.answered, f.refused, f.broken, f.moved, f.lost,
        f.doubly_granted, f.leaked,
    )  # fmt: skip
    recovery = "never" if f.recovery_s < 0 else f"{f.recovery_s:.2f}"
    may_take = "" if f.promised_s is None else f"{f.promised_s:g} + {f.noise_s:.1f}"
    verdict = "LATE" if f.late else ""
    if not f.good:
        verdict = "FAILED"
    numbers = [*(f"{count:,}" for count in counts), recovery, may_take]
    return [f.fault, *numbers, shown_by(f.fault), verdict]


def details(figures: Iterable[Figures]) -> Iterator[str]:
    """What went wrong, a line each; and how requests ended that were not answered."""
    for f in figures:
        for detail in f.details:
            yield f"{f.fault}: {detail}"
        for remark in f.remarks:
            yield f"{f.fault}: (remark) {remark}"
