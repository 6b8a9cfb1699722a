"""What issue 5 asks for, beside what this run measured. For information: nothing fails by it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from loadgen.report import Rows
from tests.bench.contention.figures import Contention
from tests.bench.hotpath.cases import ALONE, KB_1, KB_200, SMALL, STREAM_40, STREAM_400
from tests.bench.hotpath.figures import Turns, added, compared
from tests.bench.hotpath.peers import LITELLM, SMG
from tests.bench.hotpath.subjects import BARE, GATEWAY
from tests.bench.scheduling.measure import Point


class Goal(msgspec.Struct, frozen=True):
    """One limit and where we stand."""

    what: str
    measured: float
    limit: float
    unit: str
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """In this run."""
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


def hotpath_goals(turns: Turns) -> Iterator[Goal]:
    """Those about single requests, as far as ``turns`` has their cases and subjects."""
    if small := turns.get(SMALL.name):
        yield Goal("CPU / bare proxy", compared(small, GATEWAY, BARE, "cpu_us"), 1.8, "x")
        if SMG in small:
            yield Goal("CPU / smg", compared(small, GATEWAY, SMG, "cpu_us"), 1.7, "x")
        if LITELLM in small:
            ratio = compared(small, LITELLM, GATEWAY, "cpu_us")
            yield Goal("CPU of LiteLLM / ours", ratio, 30, "x", at_least=True)
    if alone := turns.get(ALONE.name):
        yield Goal("p50 added, 1 connection", added(alone, GATEWAY, BARE, "p50_ms"), 0.6, "ms")
        yield Goal("p99 added, 1 connection", added(alone, GATEWAY, BARE, "p99_ms"), 2.0, "ms")
    if KB_1.name in turns and KB_200.name in turns:
        more = (added(turns[case.name], GATEWAY, BARE, "cpu_us") for case in (KB_200, KB_1))
        yield Goal("CPU added by 200 KB over 1 KB", (next(more) - next(more)) / 1e3, 0.5, "ms")
    for case in (STREAM_40, STREAM_400):
        if streams := turns.get(case.name):
            ratio = compared(streams, BARE, GATEWAY, "event_us")
            yield Goal(f"chunks/s per core / bare, {case.chunks}", ratio, 0.9, "x", at_least=True)
            first = added(streams, GATEWAY, BARE, "first_ms")
            yield Goal(f"first chunk added, {case.chunks}", first, 0.6, "ms")


def contention_goals(found: Contention) -> Iterator[Goal]:
    """Those about handing on capacity that came free."""
    yield Goal("grant latency p50", found.grant_p50_ms, 1.5, "ms")
    yield Goal("grant latency p99", found.grant_p99_ms, 8.0, "ms")
    yield Goal("capacity idle while somebody waits", found.idle_share * 100, 1.0, "%")


def scheduling_goals(points: Iterable[Point]) -> Iterator[Goal]:
    """That a decision costs the same however many wait: largest over smallest of each sweep."""
    costs: dict[str, list[float]] = {}
    for point in points:
        costs.setdefault(point.sweep, []).append(point.pair_cpu_us)
    for sweep, found in costs.items():
        yield Goal(f"store CPU, most / fewest {sweep}", max(found) / min(found), 1.2, "x")


def goals_table(goals: Iterable[Goal]) -> Rows:
    """Header and a row for each."""
    table = [["done when", "measured", "limit", "holds"]]
    for goal in goals:
        sign = "≥" if goal.at_least else "≤"
        table.append([
            goal.what, f"{goal.measured:.2f} {goal.unit}", f"{sign} {goal.limit:g} {goal.unit}",
            "yes" if goal.holds else "no",
        ])  # fmt: skip
    return table
