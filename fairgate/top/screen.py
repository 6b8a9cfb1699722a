"""One frame as text: lanes, tenants, lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fairgate.inspection.report import LaneState, Ledger, PoolLedger, PoolQueue, Queue, TenantLedger
from fairgate.inspection.shares import Role
from fairgate.inspection.words import factor, percent, seconds, short

Sort = Callable[[TenantLedger], Any]

SORTS: dict[str, Sort] = {
    "service": lambda t: (-t.share_service, t.name),
    "waiting": lambda t: (-t.waiting, t.name),
    "demand": lambda t: (-t.excess, t.name),
    "name": lambda t: t.name,
}

_COLOUR = {
    Role.IDLE: "2",
    Role.SERVED: "0",
    Role.PROTECTED: "32",
    Role.OVER: "33",
    Role.FLOODS: "1;33",
    Role.HELD_BACK: "1;31",
}
_BAR = 16
_LINES_IN_QUEUE = 5


class Screen:
    """Draws frames; remembers how the tenants are sorted."""

    def __init__(self, sort: Sort) -> None:
        self._sort = sort

    def press(self, key: str) -> bool:
        """Follow a key; whether it means anything."""
        for name, sort in SORTS.items():
            if key and name.startswith(key):
                self._sort = sort
                return True
        return False

    def frame(
        self, ledger: Ledger, queue: Queue, columns: int, lines: int, *, colours: bool
    ) -> str:
        """At most ``lines`` lines of at most ``columns`` characters."""
        paint = _paint if colours else _plain
        rows: list[str] = []
        for pool, line in zip(ledger.pools, queue.pools, strict=False):
            rows += self._pool(pool, line, columns, paint)
        told = f"{ledger.gateway} · {ledger.at[11:19]} UTC · sort: s w d n · quit: q"
        kept = rows[: max(1, lines - 1)]
        return "\n".join([*kept, paint(told[:columns], "2")])

    def _pool(
        self, pool: PoolLedger, queue: PoolQueue, columns: int, paint: Paint
    ) -> Iterator[str]:
        yield paint(f"{pool.name}: {pool.summary}"[:columns], "1")
        figures = (
            f"policy {pool.policy} · {pool.running}/{pool.limit} running · {pool.waiting} in line"
            f" · {pool.gateways} gateway{'s' if pool.gateways != 1 else ''}"
        )
        yield figures[:columns]
        yield ""
        for lane in pool.lanes:
            yield _lane(lane)[:columns]
        yield ""
        head = _tenant_row(
            "TENANT", "STATE", "WEIGHT", "SERVICE", "", "FAIR", "RUN", "LINE", "WANTS", "UNITS/S",
            "REFUSED",
        )  # fmt: skip
        yield paint(head[:columns], "7")
        for t in sorted(pool.tenants, key=self._sort):
            yield paint(_tenant(t)[:columns], _COLOUR[t.role])
        for lane_queue in queue.lanes:
            if lane_queue.waiting:
                yield ""
                yield f"{lane_queue.name}: {lane_queue.waiting} in line; {lane_queue.why}"[:columns]
                for w in lane_queue.line[:_LINES_IN_QUEUE]:
                    row = (
                        f"  {w.tenant:<20.20} {w.waiting:>6} {seconds(w.oldest_wait_s):>8}  {w.why}"
                    )
                    yield row[:columns]
        yield ""


Paint = Callable[[str, str], str]


def _paint(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m"


def _plain(text: str, _: str) -> str:
    return text


def _bar(part: float) -> str:
    full = round(_BAR * min(1.0, part))
    return "█" * full + "·" * (_BAR - full)


def _lane(lane: LaneState) -> str:
    engines = ", ".join(_engine(f"{e.name}", e.state) for e in lane.engines[:4])
    more = f" and {len(lane.engines) - 4} more" if len(lane.engines) > 4 else ""
    figures = f"{lane.running}/{lane.limit}"
    return (
        f"{lane.name:<16.16} {_bar(lane.saturation)} {figures:>9} {lane.state:<9}"
        f" {lane.waiting:>6} in line  {engines}{more}"
    )


def _engine(name: str, state: str) -> str:
    return name if state == "up" else f"{name} {state}"


def _tenant(t: TenantLedger) -> str:
    return _tenant_row(
        t.name,
        t.role.value,
        f"{t.weight:g}",
        percent(t.share_service),
        _bar(t.share_service),
        percent(t.share_fair) if t.share_fair else "-",
        str(t.running),
        short(t.waiting),
        factor(t.excess) if t.excess else "-",
        short(t.service_per_s),
        short(sum(t.refused.values())),
    )


def _tenant_row(*cells: str) -> str:
    widths: Sequence[str] = (
        "<20.20", "<9", ">6", ">7", f"<{_BAR}", ">6", ">5", ">6", ">7", ">8", ">8",
    )  # fmt: skip
    return " ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
