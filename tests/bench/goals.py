"""What issue 5 asks for, beside what this run measured. For information: nothing fails by it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import median

import msgspec

from loadgen.report import Rows
from tests.bench.contention.figures import Contention
from tests.bench.hotpath.cases import (
    ALONE,
    KB_1,
    KB_200,
    PACED_40,
    SMALL,
    STREAM_40,
    STREAM_400,
    STREAM_ALONE,
)
from tests.bench.hotpath.figures import Turns, added, compared
from tests.bench.hotpath.peers import LITELLM, SMG
from tests.bench.hotpath.subjects import (
    BARE,
    COMPILED,
    GATEWAY,
    MIDDLEWARE,
    MIDDLEWARE_COMPILED,
    NULL,
)
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


_STREAM_LOADS = {
    STREAM_ALONE: "1 connection", PACED_40: "at a fixed rate", STREAM_40: "closed loop",
}  # fmt: skip
_LIMIT_MIDDLEWARE_US = 130
_LIMIT_OF_NULL_APP = 4
"""Times its own CPU, where that is more."""


def hotpath_goals(turns: Turns) -> Iterator[Goal]:
    """Those about single requests, as far as ``turns`` has their cases and subjects."""
    for gateway in (GATEWAY, COMPILED):
        if any(gateway in subjects for subjects in turns.values()):
            yield from _gateway_goals(turns, gateway)
    small = turns.get(SMALL.name, {})
    for middleware in (MIDDLEWARE, MIDDLEWARE_COMPILED):
        if middleware in small:
            more_us = added(small, middleware, NULL, "cpu_us")
            own_us = median(turn.cpu_us for turn in small[NULL])
            limit_us = max(_LIMIT_MIDDLEWARE_US, _LIMIT_OF_NULL_APP * own_us)
            yield Goal(f"CPU added by {middleware}", more_us, limit_us, "µs")


def _gateway_goals(turns: Turns, gateway: str) -> Iterator[Goal]:
    if small := turns.get(SMALL.name):
        yield Goal(
            f"CPU of {gateway} / bare proxy", compared(small, gateway, BARE, "cpu_us"), 1.8, "x"
        )
        if SMG in small:
            yield Goal(f"CPU of {gateway} / smg", compared(small, gateway, SMG, "cpu_us"), 1.7, "x")
        if LITELLM in small:
            ratio = compared(small, LITELLM, gateway, "cpu_us")
            yield Goal(f"CPU of LiteLLM / {gateway}", ratio, 30, "x", at_least=True)
    if alone := turns.get(ALONE.name):
        for figure, limit in (("p50", 0.6), ("p99", 2.0)):
            more_ms = added(alone, gateway, BARE, f"{figure}_ms")
            yield Goal(f"{figure} added by {gateway}, 1 connection", more_ms, limit, "ms")
    if KB_1.name in turns and KB_200.name in turns:
        more = (added(turns[case.name], gateway, BARE, "cpu_us") for case in (KB_200, KB_1))
        more_ms = (next(more) - next(more)) / 1e3
        yield Goal(f"CPU added by {gateway}, 200 KB over 1 KB", more_ms, 0.5, "ms")
    yield from _stream_goals(turns, gateway)


def _stream_goals(turns: Turns, gateway: str) -> Iterator[Goal]:
    for case in (STREAM_40, STREAM_400):
        if streams := turns.get(case.name):
            of = f"{gateway}, {case.chunks}"
            ratio = compared(streams, BARE, gateway, "event_us")
            yield Goal(f"chunks/s per core / bare of {of}", ratio, 0.9, "x", at_least=True)
    for case, load in _STREAM_LOADS.items():
        if streams := turns.get(case.name):
            first = added(streams, gateway, BARE, "first_ms")
            yield Goal(f"first chunk added by {gateway}, {load}", first, 0.6, "ms")


def contention_goals(found: Contention, gateway: str) -> Iterator[Goal]:
    """Those about handing on capacity that came free."""
    yield Goal(f"grant latency of {gateway}, p50", found.grant_p50_ms, 1.5, "ms")
    yield Goal(f"grant latency of {gateway}, p99", found.grant_p99_ms, 8.0, "ms")
    yield Goal(f"capacity idle of {gateway} while somebody waits", found.idle_share * 100, 1.0, "%")


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
