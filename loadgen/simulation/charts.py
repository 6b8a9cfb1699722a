"""Small charts as inline SVG: lines over time, and bars with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from loadgen.simulation.curves import Points
from loadgen.simulation.statistics import Spread

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777", "#cc8844")
"""Told apart by colour-blind readers too (Paul Tol's bright scheme)."""

_WIDTH, _HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 30, 46


def line_chart(
    title: str, lines: Mapping[str, Points], *, x_name: str, y_name: str,
    bound: float | None = None, powers: bool = False, top: float | None = None,
) -> str:  # fmt: skip
    """One line per name; ``bound`` is drawn dashed where it is not far out of sight. ``powers``
    makes the x axis logarithmic; it begins at the smallest value, which must be above 0. ``top``:
    the y axis reaches at least so far, so that several charts can be compared."""
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    if not xs:
        return ""
    top_y = max(*ys, top or 1e-9)
    if bound is not None and bound <= 3 * top_y:
        top_y = max(top_y, bound)
    frame = _Frame(max(xs), top_y, min(xs) if powers else 0.0)
    parts = [frame.axes(x_name, y_name)]
    for index, points in enumerate(lines.values()):
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="line" stroke="{_colour(index)}" points="{path}"/>')
    if bound is not None and bound <= top_y:
        y = frame.y(bound)
        parts.append(f'<line class="bound" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="small" x="{_LEFT + 4}" y="{y - 4}">bound</text>')
    return _svg(title, parts, list(lines))


def bar_chart(title: str, bars: Mapping[str, Spread], caption: str = "") -> str:
    """One bar per name: its height is the median, the whisker its confidence interval. Empty where
    all are 0."""
    if not any(bar.high for bar in bars.values()):
        return ""
    frame = _Frame(len(bars), max(1e-9, *(max(b.median, b.high) for b in bars.values())))
    parts = [frame.axes("", caption, x_ticks=False)]
    step = (_WIDTH - _LEFT - _RIGHT) / len(bars)
    for index, (name, spread) in enumerate(bars.items()):
        parts += _bar(frame, _LEFT + step * index, step, name, spread, _colour(index))
    return _svg(title, parts, [])


def _bar(
    frame: _Frame, left: float, step: float, name: str, spread: Spread, colour: str
) -> list[str]:
    top, base, middle = frame.y(spread.median), frame.y(0), left + step / 2
    low, high = frame.y(spread.low), frame.y(spread.high)
    return [
        f'<rect x="{left + step * 0.15:.1f}" y="{top:.1f}" width="{step * 0.7:.1f}" '
        f'height="{base - top:.1f}" fill="{colour}"/>',
        f'<line class="whisker" x1="{middle:.1f}" x2="{middle:.1f}" '
        f'y1="{low:.1f}" y2="{high:.1f}"/>',
        f'<text class="value" x="{middle:.1f}" y="{min(top, high) - 4:.1f}">'
        f"{short(spread.median)}</text>",
        f'<text class="name" transform="translate({middle:.1f} {base + 10:.1f}) rotate(-20)">'
        f"{escape(name)}</text>",
    ]


class _Frame:
    """Maps values to the plane of the picture; both axes start at 0, but a ``min_x`` above 0 makes
    the x axis logarithmic."""

    def __init__(self, max_x: float, max_y: float, min_x: float = 0.0) -> None:
        self._min_x = min_x
        self._max_x = max_x or 1.0
        self._max_y = max_y * 1.05

    def x(self, value: float) -> float:
        share = value / self._max_x
        if self._min_x > 0:
            decades = math.log10(self._max_x / self._min_x) or 1.0
            share = math.log10(value / self._min_x) / decades
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def _x_ticks(self) -> list[float]:
        if self._min_x <= 0:
            return ticks(self._max_x)
        lowest, highest = math.log10(self._min_x), math.log10(self._max_x)
        return [10.0**k for k in range(math.ceil(lowest), math.floor(highest) + 1)]

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - value / self._max_y * (_HEIGHT - _TOP - _BOTTOM)

    def axes(self, x_name: str, y_name: str, *, x_ticks: bool = True) -> str:
        right = _WIDTH - _RIGHT
        parts = []
        for value in ticks(self._max_y):
            y = self.y(value)
            parts.append(
                f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            parts.append(
                f'<text class="tick" x="{_LEFT - 5}" y="{y + 3:.1f}">{short(value)}</text>'
            )
        if x_ticks:
            base = _HEIGHT - _BOTTOM + 13
            parts += [
                f'<text class="middle" x="{self.x(value):.1f}" y="{base}">{short(value)}</text>'
                for value in self._x_ticks()
            ]
            parts.append(
                f'<text class="small end" x="{right}" y="{base + 13}">{escape(x_name)}</text>'
            )
        parts.append(f'<text class="small" x="4" y="{_TOP - 16}">{escape(y_name)}</text>')
        return "".join(parts)


def ticks(highest: float) -> list[float]:
    """Three to six round values from 0 up to ``highest``."""
    rough = highest / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    return [step * k for k in range(int(highest / step) + 1)]


def short(value: float) -> str:
    """Few digits: 1.2M, 34k, 5.6."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def _svg(title: str, parts: Sequence[str], legend: Sequence[str]) -> str:
    entries = "".join(
        f'<span><i style="background:{_colour(index)}"></i>{escape(name)}</span>'
        for index, name in enumerate(legend)
    )
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'{"".join(parts)}</svg><div class="legend">{entries}</div></figure>'
    )


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]
