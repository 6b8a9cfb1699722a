"""BEST-Route's learned heads: how good the best of n answers of each lane is (arXiv 2506.22716).

Arrays: ``features`` prompts x features; labels and predictions prompts x lanes x samples, where
``[i, k, n-1]`` belongs to the best of n answers of lane k to prompt i.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_FREE_BIAS = 1e-3
"""Penalty that keeps the bias finite where all labels are alike."""
_MOST_STEPS = 1000
_CLOSE = 1e-6


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
