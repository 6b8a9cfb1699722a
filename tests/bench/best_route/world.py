"""The generative model: how often each model would answer each prompt right, asked again and again.

Within a task with mean success m, a model's rate on a prompt is s ~ Beta(κm, κ(1-m)). Its recorded
answer is one draw, so that s given the record is Beta(κm + y, κ(1-m) + 1-y). One answer for each
prompt does not tell κ; two models of a size do if the second is taken for another answer of the
first: κ comes from how often both are right on the same prompts. Repeated answers of one model are
more alike than that (smaller κ), which makes several answers worth less; so κ is varied as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fairgate.routing.learning.records import Records
from fairgate.routing.learning.several_answers import Array, chosen_by_score, fit_concentration
from tests.bench.best_route.records import Recorded

RECORDED = 10
"""Answers to each prompt that a lane's heads learn from."""


@dataclass(frozen=True)
class Verifier:
    """Scores are normal around 0 for wrong and around d for right answers.

    A right answer scores above a wrong one with probability ``accuracy``, so d = √2·Φ⁻¹(accuracy).
    """

    accuracy: float

    @property
    def distance(self) -> float:
        return math.sqrt(2) * NormalDist().inv_cdf(self.accuracy)

    def scores(self, right: Array, rng: np.random.Generator) -> Array:
        return rng.normal(size=right.shape) + self.distance * right

    def picks_right(self, n: int) -> Array:
        """Chance that the best-scored of n is right, by how many of them are right."""
        x = np.linspace(-9, 9 + self.distance, 4001)
        below = np.vectorize(NormalDist().cdf)
        wrong, good = below(x), below(x - self.distance)
        return np.array(
            [
                0.0,
                *(float(np.sum(wrong[1:] ** (n - c) * np.diff(good**c))) for c in range(1, n + 1)),
            ]
        )


def pair_concentration(records: Recorded) -> float:
    """κ, the small models of a prompt taken for repeated answers of one."""
    means = _task_means(records.small.mean(axis=1), records)
    count = np.full(len(means), float(records.small.shape[1]))
    return fit_concentration(records.small.sum(axis=1), count, means)


def draw_rates(records: Recorded, concentration: float, rng: np.random.Generator) -> Array:
    """How often each small lane answers each prompt right, prompts x lanes."""
    rates = np.empty_like(records.small)
    for lane in range(records.small.shape[1]):
        right = records.small[:, lane]
        mean = _task_means(right, records)
        prior = concentration * mean
        rates[:, lane] = rng.beta(prior + right, concentration - prior + 1 - right)
    return rates


def _task_means(outcome: Array, records: Recorded) -> Array:
    sums = np.bincount(records.tasks, outcome)
    means: Array = (sums / np.bincount(records.tasks))[records.tasks]
    return np.clip(means, 0.01, 0.99)


def several(
    recorded: Recorded,
    rates: Array,
    which: NDArray[np.int64],
    verifier: Verifier,
    samples: int,
    rng: np.random.Generator,
) -> Records:
    """Records of :data:`RECORDED` answers of each small lane to the prompts ``which``, picked among
    by the verifier; the reference's are all like the recorded one."""
    shape = (*rates[which].shape, RECORDED)
    right = (rng.random(shape) < rates[which][:, :, None]).astype(float)
    reference = np.repeat(recorded.reference[which][:, None, None], RECORDED, axis=2)
    answers = np.concatenate([right, reference], axis=1)
    return Records(
        recorded.models,
        tuple(recorded.prompts[i] for i in which.tolist()),
        tuple(str(recorded.tasks[i]) for i in which.tolist()),
        answers.astype(np.float32),
        chosen_by_score(verifier.scores(answers, rng), samples),
        "verifier",
    )


def expected_success(rates: Array, verifier: Verifier, samples: int) -> Array:
    """Chance that the picked one of n answers is right: prompts x lanes x samples."""
    result = np.empty((*rates.shape, samples))
    for n in range(1, samples + 1):
        picked = verifier.picks_right(n)
        chances = [math.comb(n, c) * rates**c * (1 - rates) ** (n - c) for c in range(n + 1)]
        result[:, :, n - 1] = sum(p * chance for p, chance in zip(picked, chances, strict=True))
    return result
