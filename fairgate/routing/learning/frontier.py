"""Quality at a cost: what a way of choosing among lanes and numbers of answers loses as it saves.

Arrays: prompts x ways, the reference's one answer last; the others lane by lane, in each for 1, 2,
… answers. The ways are chosen as :mod:`fairgate.routing.best_route` does, by every setting of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rule = Literal["threshold", "value"]

CUTS = (0.2, 0.4, 0.6)
"""Of the cost of the reference for everything."""
GRID = 150
"""Thresholds, or prices of quality, of a curve."""


def drops(predicted: Array, outcome: Array, costs: Array, rule: Rule) -> tuple[float, ...]:
    """Relative loss of quality against the reference at each of :data:`CUTS`, along the hull of all
    settings of the rule.

    ``predicted``: what is believed of each way; ``outcome``: its quality; ``costs``: of each way,
    the reference's as 1. NaN where the reference is worth nothing.
    """
    reference = float(outcome[:, -1].mean())
    if reference <= 0:
        return (float("nan"),) * len(CUTS)
    points = [(1.0, reference)]
    for chosen in choices(predicted, costs, rule):
        got = np.take_along_axis(outcome, chosen[:, None], axis=1)
        points.append((float(costs[chosen].mean()), float(got.mean())))
    hull = _upper_hull(points)
    at = np.interp([1 - cut for cut in CUTS], [x for x, _ in hull], [y for _, y in hull])
    return tuple(1 - float(quality) / reference for quality in at)


def choices(predicted: Array, costs: Array, rule: Rule) -> list[NDArray[np.int64]]:
    """The way that the rule chooses for each prompt, for every setting of a grid: the same as
    :func:`fairgate.routing.best_route.cheapest` and ``best_value``, for all prompts at once."""
    if rule == "threshold":
        grid = np.quantile(predicted[:, :-1], np.linspace(0, 1, GRID))
        return [
            np.argmin(np.where(predicted >= t, costs - 1e-9 * predicted, np.inf), axis=1)
            for t in grid
        ]
    prices = 1 / np.geomspace(0.02, 50, GRID)
    return [np.argmax(predicted - (costs + 1e-12 * costs) / price, axis=1) for price in prices]


def _upper_hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    hull: list[tuple[float, float]] = []
    for x, y in sorted(points):
        while len(hull) > 1 and _turns_up(hull[-2], hull[-1], (x, y)):
            hull.pop()
        hull.append((x, y))
    return hull


def _turns_up(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - b[0]) <= (c[1] - b[1]) * (b[0] - a[0])
