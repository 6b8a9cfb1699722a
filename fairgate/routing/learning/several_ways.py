"""What is believed of every way to serve prompts: by learned heads, by formula, with one answer.

A way is a model and a number of answers; arrays are prompts x ways as in
:mod:`fairgate.routing.learning.frontier`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fairgate.routing.best_route import as_good, best_of_success
from fairgate.routing.learning.frontier import Rule
from fairgate.routing.predictor import Prediction

Array = NDArray[np.float64]
Believed = Callable[[Prediction, Sequence[str]], list[float]]


def by_heads(rule: Rule, samples: int) -> Believed:
    """As learned, of up to ``samples`` answers; of the models given, the reference last."""

    def believed(said: Prediction, models: Sequence[str]) -> list[float]:
        assert said.several is not None  # noqa: S101 — asked of artefacts with heads only
        if rule == "threshold":
            return [*_chain(said.several.as_good[m][:samples] for m in models[:-1]), 1.0]
        right = said.several.right
        return [*_chain(right[m][:samples] for m in models[:-1]), right[models[-1]][0]]

    return believed


def by_formula(rule: Rule, samples: int, *, accuracy: float, concentration: float) -> Believed:
    """From how likely a single answer is right: see
    :func:`fairgate.routing.best_route.best_of_success`."""

    def right(success: float) -> list[float]:
        return best_of_success(success, samples, accuracy=accuracy, concentration=concentration)

    def believed(said: Prediction, models: Sequence[str]) -> list[float]:
        reference = said.success[models[-1]]
        chances = [right(said.success[m]) for m in models[:-1]]
        if rule == "threshold":
            return [*_chain(as_good(of, reference) for of in chances), 1.0]
        return [*_chain(chances), reference]

    return believed


def all_of(said: Sequence[Prediction], models: Sequence[str], believed: Believed) -> Array:
    """Prompts x ways."""
    return np.array([believed(one, models) for one in said])


def ways_of(quality: Array, reference: Array) -> Array:
    """Outcomes (prompts x lanes x samples, and the reference's) as prompts x ways."""
    return np.column_stack([quality.reshape(len(quality), -1), reference])


def costs_of(prices: Mapping[str, float], models: Sequence[str], samples: int) -> Array:
    """Cost of each way, the reference's as 1: of the tokens written, as many in each answer."""
    dearest = prices[models[-1]]
    of = [n * prices[m] / dearest for m in models[:-1] for n in range(1, samples + 1)]
    return np.array([*of, 1.0])


def single_answers(samples: int, ways: int) -> NDArray[np.int64]:
    """Which of the ways ask for one answer."""
    return np.append(np.arange(0, ways - 1, samples), ways - 1)


def _chain(chances: Iterable[Sequence[float]]) -> list[float]:
    return list(itertools.chain.from_iterable(chances))
