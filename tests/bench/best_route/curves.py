"""Quality at equal cost of routers that choose by :mod:`fairgate.routing.best_route`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fairgate.routing.best_route import as_good, best_of_success
from fairgate.routing.learning.best_of_heads import Array, Heads
from tests.bench.best_route.records import Records
from tests.bench.best_route.world import Verifier, draw_rates, expected_success, labels

GRID = 150
"""Thresholds, or prices of quality, of a curve."""

CUTS = (0.2, 0.4, 0.6)
"""Of the cost of the reference lane for everything."""

_TRAINED = 0.6


@dataclass(frozen=True)
class Setting:
    """One simulated deployment. Costs are those of tokens written: the prompt, which n answers
    share, would speak for several answers."""

    concentration: float
    accuracy: float = 0.85
    price_ratio: float = 10.0
    samples: int = 5


@dataclass(frozen=True)
class Drops:
    """Relative loss of quality against the reference, at each of :data:`CUTS`."""

    single: tuple[float, ...]
    best_of: tuple[float, ...]

    def ratio(self, cut: float) -> float:
        """Of the best-of-n router's drop to the single-sample router's."""
        at = CUTS.index(cut)
        return self.best_of[at] / self.single[at]


def simulate(records: Records, setting: Setting, seed: int) -> dict[tuple[str, str], Drops]:
    """Drops on held-out prompts by (where the quality comes from, how is chosen)."""
    rng = np.random.default_rng(seed)
    rates = draw_rates(records, setting.concentration, rng)
    verifier = Verifier(setting.accuracy)
    order = rng.permutation(len(rates))
    train, test = np.split(order, [int(_TRAINED * len(order))])
    outcome = expected_success(rates[test], verifier, setting.samples)
    reference = records.reference[test]
    learn = _Learner(records, rates, train, test, verifier, setting, rng)
    predicted = {
        ("heads", "threshold"): learn.as_good(),
        ("heads", "value"): learn.right(),
        ("formulas", "threshold"): learn.formulas(by_value=False),
        ("formulas", "value"): learn.formulas(by_value=True),
    }
    return {
        (source, rule): _drops(quality, outcome, reference, setting, rule)
        for (source, rule), quality in predicted.items()
    }


@dataclass(frozen=True)
class _Learner:
    """Predicts the quality of every way to serve the test prompts: prompts x ways, of the
    reference last. Heads learn from several simulated answers to each training prompt, formulas
    need but the recorded one."""

    records: Records
    rates: Array
    train: Array
    test: Array
    verifier: Verifier
    setting: Setting
    rng: np.random.Generator

    def as_good(self) -> Array:
        """Learned for the threshold rule: the reference is as good as itself."""
        quality = self._heads(self._labels(self.records.reference[self.train]))
        return np.column_stack([quality, np.ones(len(quality))])

    def right(self) -> Array:
        """Learned for the value rule."""
        quality = self._heads(self._labels(np.ones(len(self.train))))
        outcome = self.records.reference[self.train][:, None, None]
        return np.column_stack([quality, self._heads(outcome)])

    def formulas(self, *, by_value: bool) -> Array:
        outcomes = np.column_stack([self.records.small, self.records.reference])[self.train]
        success = self._heads(outcomes[:, :, None])
        return np.array([self._formula(*chances, by_value=by_value) for chances in success])

    def _formula(self, *success: float, by_value: bool) -> list[float]:
        *small, reference = success
        s = self.setting
        of = {"accuracy": s.accuracy, "concentration": s.concentration}
        right = [best_of_success(p, s.samples, **of) for p in small]
        if by_value:
            return [*itertools.chain(*right), reference]
        return [*itertools.chain(*(as_good(chances, reference) for chances in right)), 1.0]

    def _labels(self, wanted: Array) -> Array:
        rates, samples = self.rates[self.train], self.setting.samples
        return labels(rates, wanted, self.verifier, samples, self.rng)

    def _heads(self, learned: Array) -> Array:
        """Prompts x (lanes · samples)."""
        lanes = tuple(str(k) for k in range(learned.shape[1]))
        heads = Heads.fit(lanes, self.records.features[self.train], learned)
        tested = self.records.features[self.test]
        return np.array([[*itertools.chain(*heads.predict(x).values())] for x in tested])


def _drops(quality: Array, outcome: Array, reference: Array, setting: Setting, rule: str) -> Drops:
    lanes = outcome.shape[1]
    first = [k * setting.samples for k in range(lanes)]
    single = _at_cuts(quality[:, [*first, -1]], outcome[:, :, :1], reference, setting, rule)
    return Drops(single, _at_cuts(quality, outcome, reference, setting, rule))


def _at_cuts(
    quality: Array, outcome: Array, reference: Array, setting: Setting, rule: str
) -> tuple[float, ...]:
    """The relative drop at each cut, along the hull of all settings of the rule."""
    prompts, lanes, samples = outcome.shape
    costs = np.append(np.tile(np.arange(1, samples + 1) / setting.price_ratio, lanes), 1.0)
    outcomes = np.column_stack([outcome.reshape(prompts, -1), reference])
    points = [(1.0, float(reference.mean()))]
    for chosen in choices(quality, costs, rule):
        got = np.take_along_axis(outcomes, chosen[:, None], axis=1)
        points.append((float(costs[chosen].mean()), float(got.mean())))
    hull = _upper_hull(points)
    at = np.interp([1 - cut for cut in CUTS], [x for x, _ in hull], [y for _, y in hull])
    return tuple(1 - float(q) / points[0][1] for q in at)


def choices(chances: Array, costs: Array, rule: str) -> list[Array]:
    """What the rule chooses for each prompt, for every setting of a grid: the same as
    :func:`fairgate.routing.best_route.cheapest` and ``best_value``, for all prompts at once.

    The last column of ``chances`` is the reference.
    """
    if rule == "threshold":
        grid = np.quantile(chances[:, :-1], np.linspace(0, 1, GRID))
        return [
            np.argmin(np.where(chances >= t, costs - 1e-9 * chances, np.inf), axis=1) for t in grid
        ]
    prices = 1 / np.geomspace(0.02, 50, GRID)
    return [np.argmax(chances - (costs + 1e-12 * costs) / price, axis=1) for price in prices]


def _upper_hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    hull: list[tuple[float, float]] = []
    for x, y in sorted(points):
        while len(hull) > 1 and _turns_up(hull[-2], hull[-1], (x, y)):
            hull.pop()
        hull.append((x, y))
    return hull


def _turns_up(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - b[0]) <= (c[1] - b[1]) * (b[0] - a[0])
