"""What a cascade loses on recorded outcomes, beside the router that chooses before anyone answers.

The small model answers first; what a scorer likes least is asked again of the large one. The
records have no answers, so the scorer is simulated: a right answer scores higher than a wrong one
in ``accuracy`` of all pairs. Both calls of an escalation are paid for.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from tests.bench.routing.signal import Row, written

Floats = NDArray[np.float64]

RATIO = 10.0
"""Price of the large model's call, the small one's as 1."""
ACCURACIES = (0.6, 0.7, 0.85)
CUTS = (0.2, 0.4, 0.6)
"""Of the cost of always asking the large model."""


def rows(
    name: str, to_large: Floats, quality: Floats, part: NDArray[np.int64], seed: int = 0
) -> Iterator[Row]:
    """Drop of quality at each of :data:`CUTS`, means over parts with their 95 % interval."""
    random = np.random.default_rng(seed)
    yield _row(name, "random", random.random(len(part)), quality, part, first=False)
    yield _row(name, "router", to_large, quality, part, first=False)
    for accuracy in ACCURACIES:
        apart = NormalDist().inv_cdf(accuracy) * 2**0.5
        doubt = random.normal(size=len(part)) - apart * quality[:, 0]
        told = f"cascade, scorer {accuracy:.2f}"
        yield _row(name, told, doubt, quality, part, first=True)
        both = doubt / doubt.std() + to_large / to_large.std()
        yield _row(name, f"{told}, and router", both, quality, part, first=True)


def drop(to_large: Floats, quality: Floats, cut: float, *, first: bool) -> float:
    """Share of the large model's quality that is lost; ``first``: the small one always answers."""
    small, large = quality.T
    share = 1 - cut - 1 / RATIO if first else (1 - cut - 1 / RATIO) / (1 - 1 / RATIO)
    escalated = np.argsort(-to_large)[: round(share * len(small))]
    return float(((large - small).sum() - (large - small)[escalated].sum()) / large.sum())


def _row(
    name: str,
    kind: str,
    to_large: Floats,
    quality: Floats,
    part: NDArray[np.int64],
    *,
    first: bool,
) -> Row:
    figures = {
        f"drop at {cut:.0%} cost cut": written(
            [
                drop(to_large[part == held], quality[part == held], cut, first=first)
                for held in np.unique(part)
            ]
        )
        for cut in CUTS
    }
    return {"data": name, "choice": kind} | figures
