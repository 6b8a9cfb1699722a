"""Isotonic regression: the non-decreasing step from scores to probabilities that fits best.

Pool adjacent violators; Zadrozny and Elkan, "Transforming classifier scores into accurate
multiclass probability estimates", KDD 2002. Between steps the probability is interpolated.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Knots = NDArray[np.float32]


def fit(score: ArrayLike, outcome: ArrayLike, points: int = 24) -> Knots:
    """Shape (2, at most ``points``): scores, ascending, and the probability at each."""
    x, y = np.asarray(score, np.float64), np.asarray(outcome, np.float64)
    order = np.argsort(x, kind="stable")
    blocks: list[tuple[float, float, float]] = []  # count, sum of scores, sum of outcomes
    for xi, yi in zip(x[order].tolist(), y[order].tolist(), strict=True):
        block = (1.0, xi, yi)
        while blocks and blocks[-1][2] * block[0] >= block[2] * blocks[-1][0]:
            n, sx, sy = blocks.pop()
            block = (block[0] + n, block[1] + sx, block[2] + sy)
        blocks.append(block)
    counts, xs, ys = np.array(blocks).T
    # One more success and one more failure in each block keep small ones off 0 and 1.
    prior = y.mean()
    probability = np.maximum.accumulate((ys + prior) / (counts + 1))
    centers = xs / counts
    keep = np.unique(np.linspace(0, len(centers) - 1, points).round().astype(np.int64))
    return np.array([centers[keep], probability[keep]], np.float32)


def apply(knots: Knots, score: float | NDArray[np.float32]) -> NDArray[np.float64]:
    """The probability at ``score``; constant beyond the outermost knots."""
    probability: NDArray[np.float64] = np.interp(score, knots[0], knots[1])
    return probability
