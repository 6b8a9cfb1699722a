"""More than two models: quality at a cost, against mixing single models without looking."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from fairgate.routing.encoders.ngrams import NGrams
from fairgate.routing.learning.records import folds
from fairgate.routing.learning.training import cross_fitted, targets_of
from tests.bench.routing.data import Recorded
from tests.bench.routing.signal import SEEN, written

Floats = NDArray[np.float64]

STEPS = 40


def rows(data: Recorded, price: Mapping[str, float], seed: int) -> Iterator[dict[str, str]]:
    """Choose ``argmax success - weight * price`` for weights that span all mean prices.

    RouterBench (arXiv 2403.12031): the zero router draws among single models; its quality at a
    mean price is their upper convex hull.
    """
    outcomes = data.records
    prices = np.array([price[model] for model in outcomes.models])
    part = folds(outcomes, SEEN, salt=str(seed))
    raw = cross_fitted(data.encoded, targets_of(outcomes, "gap"), part, NGrams.buckets)
    quality = outcomes.quality.astype(np.float64)
    grid = np.linspace(prices.min(), prices.max(), STEPS)
    spread = quality.mean(axis=0)
    for name, scores in (("router", raw), ("category prior", _prior(data, part, quality))):
        over: list[float] = []
        best: list[float] = []
        for held in range(SEEN):
            inside = part == held
            curve = _curve(scores[inside], quality[inside], prices, grid)
            hull = _hull(prices, quality[inside].mean(axis=0), grid)
            over.append(float((curve - hull).mean()))
            best.append(float(curve.max()))
        yield {
            "router": name,
            "above the zero router's hull": written(over),
            "best quality": written(best),
            "best single model": f"{spread.max():.3f}",
        }


def _curve(scores: Floats, quality: Floats, prices: Floats, grid: Floats) -> Floats:
    """Best quality at a mean price of at most each of ``grid``, mixing neighbouring weights."""
    weights = np.concatenate([[0.0], np.geomspace(1e-3, 1e2, 120)])
    choices = [np.argmax(scores - weight * prices, axis=1) for weight in weights]
    costs = np.array([prices[choice].mean() for choice in choices])
    values = np.array([quality[np.arange(len(choice)), choice].mean() for choice in choices])
    order = np.argsort(costs)
    return np.interp(grid, costs[order], values[order])


def _hull(prices: Floats, quality: Floats, grid: Floats) -> Floats:
    """Non-decreasing upper convex hull of the models' points, at each of ``grid``."""
    mixes = [
        np.interp(grid, prices[[i, j]], quality[[i, j]], left=-np.inf)
        for i in range(len(prices))
        for j in range(len(prices))
        if prices[i] < prices[j]
    ]
    alone = [np.where(grid >= p, q, -np.inf) for p, q in zip(prices, quality, strict=True)]
    return np.maximum.accumulate(np.max(np.stack(mixes + alone), axis=0))


def _prior(data: Recorded, part: NDArray[np.int64], quality: Floats) -> Floats:
    scores = np.zeros_like(quality)
    for held in range(SEEN):
        inside = part == held
        for task in np.unique(data.tasks):
            known = ~inside & (data.tasks == task)
            scores[inside & (data.tasks == task)] = quality[known].mean(axis=0)
    return scores
