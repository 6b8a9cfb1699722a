"""What changes on the pages: rendered once a second for all who look, sent as events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from fairgate.dashboard.charts import Chart, charts, drawn, last, shades
from fairgate.dashboard.pages import Pages
from fairgate.inspection import judge
from fairgate.inspection.report import PoolLedger, PoolQueue, TenantLedger
from fairgate.inspection.shares import Role
from fairgate.inspection.watch import Watch
from fairgate.inspection.words import factor

_encode = msgspec.json.Encoder().encode

REGIONS = ("summary", "tiles", "shares", "waiting", "lanes", "refused", "router")


@dataclass(frozen=True, slots=True)
class Frame:
    """One pool at one moment."""

    ledger: PoolLedger
    queue: PoolQueue
    regions: Mapping[str, str]
    """HTML by the id of the element that holds it."""
    charts: Mapping[str, Chart]
    colours: Mapping[str, int]


class Live:
    """Frames of the pools as ``watch`` sees them."""

    def __init__(self, watch: Watch, pages: Pages) -> None:
        self._watch = watch
        self._pages = pages
        self._frames: dict[str, tuple[float, Frame]] = {}

    def frame(self, pool: str) -> Frame | None:
        """The pool as of the last look; ``None`` until there is one."""
        view = self._watch.views[pool]
        if view.look is None:
            return None
        at, frame = self._frames.get(pool, (0.0, None))
        if frame is None or at != view.look.now_ms:
            frame = self._make(pool)
            self._frames[pool] = (view.look.now_ms, frame)
        return frame

    def _make(self, pool: str) -> Frame:
        view = self._watch.views[pool]
        ledger = next(p for p in judge.ledger(self._watch).pools if p.name == pool)
        queue = next(p for p in judge.queue(self._watch).pools if p.name == pool)
        colours = shades(drawn(view), self._watch.runtime.config)
        refused = view.history.refused(60.0)
        rows = {row.name: row for row in ledger.tenants}
        known = {
            "pool": ledger,
            "queue": queue,
            "colours": colours,
            "refused": _by_limit(refused),
            "rows": rows,
            "details": _details(ledger.tenants),
        }
        regions = {name: self._pages.render(f"regions/{name}.html", **known) for name in REGIONS}
        return Frame(ledger, queue, regions, charts(view, colours), colours)


def _details(tenants: Sequence[TenantLedger]) -> list[str]:
    """What the summary rests on, in sentences."""
    said = []
    for row in tenants:
        if row.role in (Role.FLOODS, Role.OVER):
            said.append(
                f"{row.name} wants {factor(row.excess)} what it is due: "
                f"{row.running} running, {row.waiting} in line behind its own."
            )
        elif row.role is Role.HELD_BACK:
            said.append(
                f"{row.name} has {row.running} running of the {row.due:.1f} that it is due, "
                f"and {row.waiting} in line."
            )
    if protected := sum(row.role is Role.PROTECTED for row in tenants):
        said.append(
            "The other one gets all that it wants."
            if protected == 1
            else f"The other {protected} get all that they want."
        )
    return said[:3]


def _by_limit(refused: Mapping[str, Mapping[str, int]]) -> list[tuple[str, int, list[str]]]:
    """Refusals by limit, with the tenants that met it most."""
    counts: dict[str, dict[str, int]] = {}
    for tenant, by_limit in refused.items():
        for limit, count in by_limit.items():
            counts.setdefault(limit, {})[tenant] = count
    rows = [
        (limit, sum(by.values()), sorted(by, key=lambda t: -by[t])[:3])
        for limit, by in counts.items()
    ]
    return sorted(rows, key=lambda row: -row[1])


class Viewer:
    """What one open page has been sent already."""

    def __init__(self) -> None:
        self._regions: dict[str, str] = {}
        self._axes: dict[str, tuple[list[str], list[int], float]] = {}

    def event(self, frame: Frame, stale: str) -> bytes:
        """The next event: regions that changed, charts whole where they are new to the page."""
        changed = {n: html for n, html in frame.regions.items() if self._regions.get(n) != html}
        self._regions.update(changed)
        whole, points = {}, {}
        for name, chart in frame.charts.items():
            # A slice that is over may have grown since it was sent.
            axes = (chart.names, chart.shades, chart.x[-1] if name == "service" else 0.0)
            if self._axes.get(name) == axes:
                points[name] = last(chart)
            else:
                self._axes[name] = axes
                whole[name] = chart
        sent = {"regions": changed, "charts": whole, "points": points, "stale": stale}
        return b"event: frame\ndata: " + _encode(sent) + b"\n\n"
