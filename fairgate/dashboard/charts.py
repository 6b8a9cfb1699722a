"""The series that the pages draw, and the colours by which tenants are told apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from fairgate.admission.look import NOBODY, SLICE_S
from fairgate.config import Config
from fairgate.inspection.observer import PoolView

DRAWN = 7
"""Tenants that have a colour and a series of their own."""

REST = "rest"

_SHADES = 8
_QUARTER_S = 900.0


class Chart(Struct, frozen=True):
    """Series over one time axis."""

    x: list[float]
    """Seconds since the epoch."""
    names: list[str]
    shades: list[int]
    """Colours by number; -1 is that of the rest."""
    rows: list[list[float]]
    """One for each name."""


class Point(Struct, frozen=True):
    """The last moment of a chart."""

    x: float
    values: list[float]


def last(chart: Chart) -> Point:
    """What is new in ``chart``."""
    return Point(chart.x[-1] if chart.x else 0.0, [row[-1] for row in chart.rows if row])


def shades(names: Iterable[str], config: Config) -> dict[str, int]:
    """A colour for each: the same on every replica, and as long as it may stay the same."""
    places = {name: place for place, name in enumerate(config.tenants)}
    taken: dict[str, int] = {}
    for name in sorted(names, key=lambda n: (places.get(n, len(places)), n)):
        wish = places.get(name, len(places)) % _SHADES
        free = [(wish + step) % _SHADES for step in range(_SHADES)]
        taken[name] = next((n for n in free if n not in taken.values()), wish)
    return taken


def drawn(view: PoolView) -> list[str]:
    """Tenants with most service or most requests in line lately."""
    service = view.history.service(_QUARTER_S)
    names = dict.fromkeys(view.recent.busiest(2))
    names |= dict.fromkeys(sorted(service, key=lambda name: -service[name]))
    names.pop(NOBODY, None)
    return list(names)[:DRAWN]


def charts(view: PoolView, colours: Mapping[str, int]) -> dict[str, Chart]:
    """Those of the overview, by name."""
    names = sorted(colours)
    shade = [colours[name] for name in names]
    rates = view.history.rates(names)
    samples = list(view.recent)
    seconds = [round(s.at_ms / 1000, 1) for s in samples]
    lanes = sorted({lane for s in samples[-1:] for lane in s.lanes})
    return {
        "service": Chart(
            [number * SLICE_S for number in view.history.numbers()],
            [*names, REST],
            [*shade, -1],
            [_rounded(rates[name]) for name in (*names, REST)],
        ),
        "waiting": Chart(
            seconds,
            names,
            shade,
            [[float(s.tenants.get(name, (0, 0))[1]) for s in samples] for name in names],
        ),
        "lanes": Chart(
            seconds,
            lanes,
            list(range(len(lanes))),
            [[_saturation(s.lanes.get(lane)) for s in samples] for lane in lanes],
        ),
    }


def service_of(view: PoolView, tenant: str) -> Chart:
    """What one tenant was served."""
    row = _rounded(view.history.rates([tenant])[tenant])
    return Chart([n * SLICE_S for n in view.history.numbers()], [tenant], [0], [row])


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 2) for value in values]


def _saturation(lane: tuple[int, float, int] | None) -> float:
    return round(100 * lane[0] / lane[1], 1) if lane and lane[1] else 0.0
