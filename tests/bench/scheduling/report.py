"""The figures as a table, as JSON and as a page of plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import msgspec

from loadgen.report import Rows
from loadgen.simulation.charts import line_chart
from loadgen.simulation.curves import Points
from loadgen.simulation.page import html_table, whole_page
from tests.bench.scheduling.measure import Point
from tests.bench.scheduling.pool import PIPELINED, SEQUENCES
from tests.bench.scheduling.sweeps import SWEEPS, Sweep

TITLE = "fairgate: what scheduling costs the store"
COMMAND = "make bench-scheduling"
_HEADER = [
    "sweep", "policy", "lanes", "n", "waiting", "CPU µs/pair", "ratio", "scripts/s",
    "admit µs", "settle µs", "cancel µs", "renew µs", "commands/pair", "B/waiting",
]  # fmt: skip


class Report(msgspec.Struct, frozen=True):
    """What is written as JSON."""

    server: str
    pairs: int
    """Settlements and admissions of each round."""
    points: list[Point]


def table(points: Sequence[Point]) -> Rows:
    """Header and one row per point, with the cost relative to the smallest of its series."""
    smallest: dict[tuple[str, str, int], float] = {}
    rows = [list(_HEADER)]
    for p in points:
        first = smallest.setdefault((p.sweep, p.policy, p.lanes), p.pair_cpu_us)
        rows.append([
            p.sweep, p.policy, str(p.lanes), f"{p.n:,}", f"{p.waiting:,}", f"{p.pair_cpu_us:.1f}",
            f"{p.pair_cpu_us / first:.2f}", f"{p.scripts_per_s:,.0f}", f"{p.admit_us:.0f}",
            f"{p.settle_us:.0f}", f"{p.cancel_us:.0f}", f"{p.renew_us:.0f}",
            f"{p.calls_per_pair:.1f}", f"{p.bytes_per_waiting:,.0f}",
        ])  # fmt: skip
    return rows


def write(report: Report, folder: Path) -> None:
    """``scheduling.json`` and ``scheduling.html``; the folder is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    encoded = msgspec.json.format(msgspec.json.encode(report))
    (folder / "scheduling.json").write_bytes(encoded + b"\n")
    (folder / "scheduling.html").write_text(_page(report))


def _page(report: Report) -> str:
    note = (
        f"{COMMAND}: admit, settle, cancel and renew as shipped, on an embedded {report.server}. "
        f"A pair is one settlement that grants the head of a line and one arrival that waits, so "
        f"the number of those who wait stays; {SEQUENCES} requests run in each lane; "
        f"{PIPELINED} pairs share a write. The sizes take turns; best of several rounds of "
        f"{report.pairs} pairs."
    )
    names = dict.fromkeys(point.sweep for point in report.points)
    sections = (_section(SWEEPS[name], report.points) for name in names)
    return whole_page(TITLE, note, "".join(sections))


def _section(sweep: Sweep, points: Sequence[Point]) -> str:
    mine = [point for point in points if point.sweep == sweep.name]
    charts = (
        _chart(
            sweep, mine, "Server CPU per settlement and admission", "µs", lambda p: p.pair_cpu_us
        ),
        _chart(sweep, mine, "Scripts per second, pipelined", "1/s", lambda p: p.scripts_per_s),
        _chart(sweep, mine, "A cancellation in the line", "µs", lambda p: p.cancel_us),
        _chart(sweep, mine, "A heartbeat", "µs", lambda p: p.renew_us),
    )
    return (
        f"<h2>{escape(sweep.x_name)}</h2><p>{escape(sweep.about)}</p>"
        f'<div class="charts">{"".join(charts)}</div>{html_table(table(mine))}'
    )


def _chart(
    sweep: Sweep, points: Sequence[Point], title: str, unit: str, value: Callable[[Point], float]
) -> str:
    lines: dict[str, Points] = {}
    for point in points:
        name = f"{point.policy}, {point.lanes} lane{'s' if point.lanes > 1 else ''}"
        lines[name] = [*lines.get(name, []), (float(point.n), value(point))]
    return line_chart(title, lines, x_name=sweep.x_name, y_name=unit, powers=True)
