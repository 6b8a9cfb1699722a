"""What changes on the pages: rendered once a second for all who look, sent as events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from fairgate.dashboard.charts import Chart, charts, drawn, last, service_of, shades
from fairgate.dashboard.pages import Pages
from fairgate.inspection import judge
from fairgate.inspection.observer import Observer
from fairgate.inspection.report import Ledger, PoolLedger, TenantLedger
from fairgate.inspection.shares import Role
from fairgate.inspection.words import factor

_encode = msgspec.json.Encoder().encode

REGIONS = ("summary", "tiles", "shares", "waiting", "lanes", "refused", "router")


@dataclass(frozen=True, slots=True)
class Frame:
    """What one kind of page shows at one moment."""

    regions: Mapping[str, str]
    """HTML by the id of the element that holds it."""
    charts: Mapping[str, Chart]


class Live:
    """Frames of the pools as ``observer`` sees them."""

    def __init__(self, observer: Observer, pages: Pages) -> None:
        self._observer = observer
        self._pages = pages
        self._frames: dict[str, tuple[float, Frame]] = {}
        self._ledger: tuple[float, Ledger] | None = None

    def frame(self, pool: str) -> Frame | None:
        """The pool as of the last look; ``None`` until there is one."""
        view = self._observer.views[pool]
        if view.look is None:
            return None
        at, frame = self._frames.get(pool, (0.0, None))
        if frame is None or at != view.look.now_ms:
            frame = self._make(pool)
            self._frames[pool] = (view.look.now_ms, frame)
        return frame

    def rows(self, tenant: str) -> list[tuple[str, TenantLedger]]:
        """The tenant's row in each pool that has seen it lately."""
        return [(p.name, t) for p in self._ledgers() for t in p.tenants if t.name == tenant]

    def home(self, tenant: str) -> str:
        """The first pool that has seen it lately, else the first."""
        rows = self.rows(tenant)
        return rows[0][0] if rows else next(iter(self._observer.views))

    def tenant(self, name: str) -> Frame:
        """One tenant as of the last look."""
        view = self._observer.views[self.home(name)]
        standing = self._pages.render("regions/standing.html", name=name, rows=self.rows(name))
        return Frame({"standing": standing}, {"service": service_of(view, name)})

    def _ledgers(self) -> tuple[PoolLedger, ...]:
        looked = max((v.look.now_ms for v in self._observer.views.values() if v.look), default=0.0)
        if self._ledger is None or self._ledger[0] != looked:
            self._ledger = (looked, judge.ledger(self._observer))
        return self._ledger[1].pools

    def _make(self, pool: str) -> Frame:
        view = self._observer.views[pool]
        ledger = next(p for p in self._ledgers() if p.name == pool)
        queue = next(p for p in judge.queue(self._observer).pools if p.name == pool)
        colours = shades(drawn(view), self._observer.runtime.config)
        refused = view.history.refused(60.0)
        rows = {row.name: row for row in ledger.tenants}
        known = {
            "pool": ledger,
            "queue": queue,
            "colours": colours,
            "refused": _by_limit(refused),
            "rows": rows,
            "details": _details(ledger.tenants),
            "may_change": self._observer.runtime.changes is not None,
        }
        regions = {name: self._pages.render(f"regions/{name}.html", **known) for name in REGIONS}
        return Frame(regions, charts(view, colours))


def _details(tenants: Sequence[TenantLedger]) -> list[str]:
    """What the summary rests on, in sentences."""
    said = []
    for row in tenants:
        if row.role in (Role.FLOODS, Role.OVER):
            said.append(
                f"{row.name} wants {factor(row.excess)} what it is due: "
                f"{row.running} running, {row.waiting} in line."
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
