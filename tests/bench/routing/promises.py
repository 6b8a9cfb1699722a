"""How often a promised drop is broken: the bound's rule beside the papers' one.

The promise is about the drop that is to be expected. That is known where labels are drawn from the
records with replacement: it is what all records lose. On the records that remain after a resplit,
the drop also has chance of its own: with n labels and m records left, a bound that is wrong in 5 %
of draws is exceeded there in ``P(N(0,1) > 1.645 / sqrt(1 + n/m))``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fairgate.routing.learning.promise import CONFIDENCE, Sweep, sweep

Floats = NDArray[np.float64]
Rule = Callable[[Sweep, float], int | None]
Row = dict[str, str]

RESPLITS = 1000
DRAWN = 1000
LABELS = (500, 1500, 3000)
LIMIT = 0.01
RULES: dict[str, Rule] = {
    "bound": lambda swept, limit: swept.certified(limit),
    "point estimate": lambda swept, limit: swept.measured(limit),
}
GOAL = "resplit <= 10 %, to small >= 6 %"


@dataclass
class Found:
    """Of many certificates."""

    limit: float
    drops: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    """Of prompts that go to the small model."""

    @property
    def broken(self) -> float:
        """Share of certificates whose drop is above the limit."""
        return float(np.mean(np.array(self.drops) > self.limit))


def resplit(score: Floats, quality: Floats, labels: int, limit: float, rule: Rule) -> Found:
    """Certify with some of the records, look at all others.

    ``score`` must come from models that were fitted without the prompt.
    """
    found = Found(limit)
    for seed in range(RESPLITS):
        order = np.random.default_rng(seed).permutation(len(score))
        _certify(found, score, quality, order[:labels], order[labels:], rule)
    return found


def drawn(score: Floats, quality: Floats, labels: int, limit: float, rule: Rule) -> Found:
    """Certify with labels drawn with replacement, look at all records."""
    found, everything = Found(limit), np.arange(len(score))
    for seed in range(DRAWN):
        known = np.random.default_rng(seed).integers(0, len(score), labels)
        _certify(found, score, quality, known, everything, rule)
    return found


def by_chance(labels: int, records: int) -> float:
    """How often a bound that holds in exactly its share of draws is exceeded on what remains."""
    z = NormalDist().inv_cdf(CONFIDENCE)
    return float(1 - NormalDist().cdf(z / (1 + labels / (records - labels)) ** 0.5))


def columns(score: Floats, quality: Floats, labels: int, limit: float, rule: Rule) -> Row:
    """The figures of one rule."""
    left = resplit(score, quality, labels, limit, rule)
    expected = drawn(score, quality, labels, limit, rule)
    return {
        "broken, resplit": f"{left.broken:.1%}",
        "broken, drawn": f"{expected.broken:.1%}",
        "to small": f"{np.mean(left.shares):.1%}",
        "10th..90th": "{:.1%}..{:.1%}".format(*np.percentile(left.shares, (10, 90))),
    }


def rows(name: str, score: Floats, quality: Floats) -> Iterator[Row]:
    """A line for each number of labels and rule."""
    for labels in LABELS:
        for kind, rule in RULES.items():
            yield (
                {"data": name, "labels": str(labels), "rule": kind}
                | columns(score, quality, labels, LIMIT, rule)
                | {"goal": GOAL if kind == "bound" else ""}
            )


def _certify(
    found: Found,
    score: Floats,
    quality: Floats,
    known: NDArray[np.int64],
    judged: NDArray[np.int64],
    rule: Rule,
) -> None:
    swept = sweep(score[known], *quality[known].T)
    step = rule(swept, found.limit)
    routed = score[judged] >= (np.inf if step is None else swept.threshold[step])
    small, large = quality[judged].T
    found.drops.append(float((large - small)[routed].sum() / large.sum()))
    found.shares.append(float(routed.mean()))
