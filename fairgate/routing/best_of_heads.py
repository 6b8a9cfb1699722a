"""BEST-Route's learned heads: quality of best-of-n from records of several answers to a prompt.

Arrays: ``features`` prompts x features; labels and predictions prompts x lanes x samples, where
``[i, k, n-1]`` belongs to the best of n answers of lane k to prompt i.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_FREE_BIAS = 1e-3
"""Penalty that keeps the bias finite where all labels are alike."""
_MOST_STEPS = 1000
_CLOSE = 1e-6


def best_of_labels(scores: Array, quality: Array, reference: Array, max_samples: int) -> Array:
    """``y[i, n-1]``: probability that the best-scored of n answers to prompt i is at least as good
    as a reference answer, over all ways to draw n of those recorded without replacement.

    ``scores`` (by the scorer) and ``quality`` of the recorded answers of one lane, prompts x
    answers; ``reference``: quality of the reference's answers, prompts x its answers. The paper
    draws ten times instead. Raises ``ValueError`` for fewer records than ``max_samples``.
    """
    recorded = scores.shape[1]
    if recorded < max_samples:
        raise ValueError(f"max_samples: expected at most {recorded} (recorded), got {max_samples}")
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(quality, order, axis=1)
    as_good = (ranked[:, :, None] >= reference[:, None, :]).mean(axis=2)
    labels: Array = as_good @ _chances_of_ranks(recorded, max_samples)
    return labels


def _chances_of_ranks(recorded: int, max_samples: int) -> Array:
    """``[rank, n-1]``: chance that the answer of that rank is the best of n drawn: the others are
    of the ``recorded - rank - 1`` behind it."""
    return np.array(
        [
            [
                math.comb(recorded - rank - 1, n - 1) / math.comb(recorded, n)
                for n in range(1, max_samples + 1)
            ]
            for rank in range(recorded)
        ]
    )


def fit_concentration(right: Array, samples: Array, mean: Array) -> float:
    """κ of :func:`fairgate.routing.best_route.best_of_success` from records, by moments.

    ``right[i]`` of ``samples[i]`` ≥ 2 answers to prompt i were right, where ``mean[i]`` was
    predicted. Two answers are both right with ``m² + m(1-m)/(1+κ)``.
    """
    both = right * (right - 1) / (samples * (samples - 1))
    alike = float(np.sum(both - mean**2) / np.sum(mean * (1 - mean)))
    return 1 / min(max(alike, 1e-3), 1 - 1e-3) - 1


def pairwise_accuracy(scores: list[Array], right: list[Array]) -> float:
    """How often a right answer scores above a wrong one to the same prompt; ties count half.

    Raises ``ValueError`` without a prompt that has both.
    """
    wins = pairs = 0.0
    for score, good in zip(scores, right, strict=True):
        ahead = score[good > 0][:, None] - score[good <= 0][None, :]
        wins += float(np.sum(ahead > 0) + 0.5 * np.sum(ahead == 0))
        pairs += ahead.size
    if not pairs:
        raise ValueError("records: expected a prompt with right and wrong answers, got none")
    return wins / pairs


class Heads(msgspec.Struct, frozen=True):
    """A logistic head for every lane and number of answers, over shared features."""

    lanes: tuple[str, ...]
    samples: int
    weights: list[list[float]]
    """For each head, lane by lane and in each by n, one weight for every feature."""
    bias: list[float]

    @classmethod
    def fit(
        cls, lanes: tuple[str, ...], features: Array, labels: Array, *, l2: float = 1.0
    ) -> Heads:
        """Least cross-entropy to the soft ``labels``, plus ``l2/2 · |weights|²`` for each head.

        By steps that never overshoot, since no logistic curve bends more than a quarter (Böhning
        and Lindsay 1988): one matrix is inverted for all heads and steps.
        """
        prompts, count, samples = labels.shape
        design = np.hstack([features, np.ones((prompts, 1))])
        penalty = np.full(design.shape[1], l2)
        penalty[-1] = _FREE_BIAS
        bound = np.linalg.inv(design.T @ design / 4 + np.diag(penalty))
        wanted = labels.reshape(prompts, count * samples)
        weights = np.zeros((design.shape[1], count * samples))
        for _ in range(_MOST_STEPS):
            off = _sigmoid(design @ weights) - wanted
            step = bound @ (design.T @ off + penalty[:, None] * weights)
            weights -= step
            if np.abs(step).max() < _CLOSE:
                break
        return cls(lanes, samples, weights[:-1].T.tolist(), weights[-1].tolist())

    def predict(self, features: Array) -> dict[str, list[float]]:
        """Quality of 1, 2, … answers of each lane to one prompt."""
        logits = np.asarray(self.weights) @ features + np.asarray(self.bias)
        chances = _sigmoid(logits).reshape(len(self.lanes), self.samples)
        return {lane: chances[k].tolist() for k, lane in enumerate(self.lanes)}

    def encode(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Heads:
        """What :meth:`encode` wrote. Raises ``msgspec.DecodeError``."""
        return msgspec.json.decode(data, type=cls)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(x, -40, 40)))
