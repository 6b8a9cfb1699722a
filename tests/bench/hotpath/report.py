"""The figures of single requests as a table."""

from __future__ import annotations

from collections.abc import Sequence

from loadgen.report import Rows
from tests.bench.hotpath.figures import Row

_HEADER = [
    "case", "subject", "CPU µs/request", "ratio", "added µs", "store µs", "requests/s",
    "p50 ms", "p90 ms", "p99 ms", "added ms", "first ms", "chunks/s/core", "RSS MiB",
]  # fmt: skip


def table(rows: Sequence[Row]) -> Rows:
    """Header and one row each; ratios and what is added are over the bare proxy or the null app."""
    found, case = [list(_HEADER)], ""
    for row in rows:
        turn = row.turn
        found.append([
            row.case if row.case != case else "",
            row.subject, f"{turn.cpu_us:,.0f}", _or_dash(row.cpu_ratio, "{:.2f}"),
            _or_dash(row.added_us, "{:+,.0f}"), f"{turn.store_us:.0f}", f"{turn.per_s:,.0f}",
            f"{turn.p50_ms:.2f}", f"{turn.p90_ms:.2f}", f"{turn.p99_ms:.2f}",
            _or_dash(row.added_ms, "{:+.2f}"), f"{turn.first_ms:.2f}",
            _or_dash(1e6 / turn.event_us if turn.event_us else None, "{:,.0f}"),
            f"{turn.rss_mib:.0f}",
        ])  # fmt: skip
        case = row.case
    return found


def _or_dash(value: float | None, shape: str) -> str:
    return "-" if value is None else shape.format(value)
