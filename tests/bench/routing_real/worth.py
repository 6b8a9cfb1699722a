"""What several answers of the two engines are worth: how much they vary, and what routing among one
and more of them saves on prompts that training had not seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fairgate.config.sampling import BestRoute as Settings
from fairgate.routing.encoders.ngrams import NGrams
from fairgate.routing.learned import LearnedPredictor
from fairgate.routing.learning import several_ways
from fairgate.routing.learning.frontier import CUTS, drops
from fairgate.routing.learning.records import Records, folds
from fairgate.routing.learning.several_answers import (
    Array,
    as_good_labels,
    pairwise_accuracy,
    quality_labels,
)
from fairgate.routing.learning.training import FOLDS, train
from tests.bench.routing_real.labelled import LARGE, SMALL
from tests.bench.routing_real.recorded import Row

RATIOS = (4.0, 10.0)
"""Of the large model's price to the small one's."""
THRESHOLDS = (0.5, 0.7, 0.8, 0.9)
RESAMPLES = 300
_KAPPAS = np.geomspace(0.02, 50, 400)
_HALF_OF_CHI = 1.92
"""Of likelihoods that a 95 % interval holds."""
_SUREST = 0.99
"""Accuracy of a scorer that the formula takes."""
_LIKE_THE_REST = 2
"""Prompts of the mean that a task's own are joined with."""


class Fitted(NamedTuple):
    """κ, most likely, and its 95 % interval."""

    kappa: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.kappa:.2f} ({self.low:.2f}..{self.high:.2f})"


def concentration(right: Array, samples: int, mean: Array) -> Fitted:
    """κ of the beta-binomial that ``right`` of ``samples`` answers to each prompt are most likely
    of, where ``mean`` was expected of it."""
    of = np.array([_likelihood(kappa, right, samples, mean) for kappa in _KAPPAS])
    inside = _KAPPAS[of >= of.max() - _HALF_OF_CHI]
    return Fitted(float(_KAPPAS[of.argmax()]), float(inside[0]), float(inside[-1]))


def _likelihood(kappa: float, right: Array, samples: int, mean: Array) -> float:
    """Its logarithm, but for what does not hang on κ."""
    i = np.arange(samples)
    good, bad = i < right[:, None], i < (samples - right)[:, None]
    a, b = kappa * mean[:, None] + i, kappa * (1 - mean[:, None]) + i
    total = len(right) * np.log(kappa + i).sum()
    return float(np.log(a)[good].sum() + np.log(b)[bad].sum() - total)


def means_of_tasks(right: Array, tasks: tuple[str, ...]) -> Array:
    """What the other prompts of a prompt's task and, for want of them, all prompts tell of it."""
    kinds = np.array([task.partition("/")[0] if "mmlu" in task else task for task in tasks])
    _, of = np.unique(kinds, return_inverse=True)
    others = np.bincount(of, right)[of] - right
    count = np.bincount(of)[of] - 1
    return np.asarray((others + _LIKE_THE_REST * right.mean()) / (count + _LIKE_THE_REST))


def models(known: Mapping[str, Records]) -> Iterator[Row]:
    """A line for each model and scorer."""
    for scorer, records in known.items():
        best = quality_labels(records).mean(axis=0)
        for k, model in enumerate(records.models):
            right = records.samples[:, k].astype(np.float64)
            count = right.shape[1]
            blind = np.full(len(right), right.mean())
            shown = " ".join(f"{share:.3f}" for share in best[k])
            yield {
                "model": model.partition("/")[2],
                "prompts": str(len(records)),
                "kappa, nothing known": str(concentration(right.sum(axis=1), count, blind)),
                "kappa, task known": str(_fitted(records, k)),
                "scorer": scorer,
                "right on pairs": f"{_on_pairs(records, k):.3f}",
                "right, best of 1, 2, …": shown,
            }


def _on_pairs(records: Records, k: int) -> float:
    """How often the scorer prefers the right one of a right and a wrong answer.

    By its picks among two and more answers: what is picked more often scores higher.
    """
    picked = records.chosen[:, k, 1:].sum(axis=1).astype(np.float64).round(4)
    right = records.samples[:, k].astype(np.float64)
    return pairwise_accuracy(list(picked), list(right))


class Judged(NamedTuple):
    """Of every prompt and way, as in :mod:`fairgate.routing.learning.frontier`."""

    believed: Mapping[str, Array]
    """By what they come from: heads, or a formula."""
    outcome: Array
    as_good: Array


def unseen(records: Records) -> Judged:
    """What artefacts that were trained without a prompt's part say of it; formulas with the
    settings that ``best_route`` has by default, and with those that the labels tell."""
    part = folds(records, FOLDS)
    sources = _sources(records)
    ways = records.most * (len(records.models) - 1) + 1
    believed = {name: np.zeros((len(records), ways)) for name in sources}
    for k in np.unique(part):
        artifact = train(records.take(np.flatnonzero(part != k)), NGrams()).artifact
        predictor = LearnedPredictor(artifact, NGrams())
        held = np.flatnonzero(part == k)
        said = [predictor.predict(records.prompts[i]) for i in held.tolist()]
        for name, source in sources.items():
            believed[name][held] = several_ways.all_of(said, records.models, source)
    quality = quality_labels(records)
    outcome = several_ways.ways_of(quality[:, :-1], quality[:, -1, 0])
    good = np.column_stack([as_good_labels(records)[:, 0], np.ones(len(records))])
    return Judged(believed, outcome, good)


def _sources(records: Records) -> Mapping[str, several_ways.Believed]:
    usual = Settings()

    def formula(accuracy: float, kappa: float) -> several_ways.Believed:
        return several_ways.by_formula(
            "threshold", records.most, accuracy=accuracy, concentration=kappa
        )

    told = formula(min(_on_pairs(records, 0), _SUREST), _fitted(records, 0).kappa)
    return {
        "heads": several_ways.by_heads("threshold", records.most),
        "formula": formula(usual.scorer_accuracy, usual.concentration),
        "formula, told": told,
    }


def _fitted(records: Records, k: int) -> Fitted:
    """κ of a model, the prompts' tasks known."""
    right = records.samples[:, k].astype(np.float64)
    expected = np.clip(means_of_tasks(right.mean(axis=1), records.tasks), 0.01, 0.99)
    return concentration(right.sum(axis=1), right.shape[1], expected)


def routed(records: Records, judged: Judged, ratio: float) -> Iterator[Row]:
    """Quality lost at each cut of the cost, beside single answers; differences with intervals."""
    costs = several_ways.costs_of({SMALL: 1.0, LARGE: ratio}, records.models, records.most)
    one = several_ways.single_answers(records.most, len(costs))
    random = np.random.default_rng(0)
    draws = [np.arange(len(records)), *random.integers(0, len(records), (RESAMPLES, len(records)))]
    for name, believed in judged.believed.items():
        lost = np.array([
            [
                drops(believed[i][:, one], judged.outcome[i][:, one], costs[one], "threshold"),
                drops(believed[i], judged.outcome[i], costs, "threshold"),
            ]
            for i in draws
        ])  # fmt: skip
        row: Row = {"scorer": records.scorer, "price ratio": f"{ratio:g}", "by": name}
        for at, cut in enumerate(CUTS):
            row[f"-{cut:.0%}: one"] = _shown(lost[:, 0, at])
            row[f"-{cut:.0%}: up to {records.most}"] = _shown(lost[:, 1, at])
            row[f"-{cut:.0%}: less"] = _shown(lost[:, 0, at] - lost[:, 1, at])
        yield row


def _shown(values: NDArray[np.float64]) -> str:
    low, high = np.nanpercentile(values[1:], (2.5, 97.5))
    return f"{values[0]:.1%} ({low:.1%}..{high:.1%})"


def asked(records: Records, judged: Judged, ratio: float, threshold: float) -> Iterator[Row]:
    """How many answers are asked for at ``threshold``, and what becomes of it."""
    costs = several_ways.costs_of({SMALL: 1.0, LARGE: ratio}, records.models, records.most)
    for name, believed in judged.believed.items():
        way = np.argmin(np.where(believed >= threshold, costs - 1e-9 * believed, np.inf), axis=1)
        got = np.take_along_axis(judged.outcome, way[:, None], axis=1)[:, 0]
        kept = np.take_along_axis(judged.as_good, way[:, None], axis=1)[:, 0]
        shares = np.bincount(way, minlength=len(costs)) / len(way)
        yield {
            "scorer": records.scorer,
            "by": name,
            "threshold": f"{threshold:g}",
            "small 1, 2, …; large": " ".join(f"{share:.0%}" for share in shares),
            "cost": f"{costs[way].mean():.2f}",
            "as good": f"{kept.mean():.1%}",
            "right": f"{got.mean():.3f}",
            "large alone": f"{judged.outcome[:, -1].mean():.3f}",
        }
