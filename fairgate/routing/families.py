"""What few labels tell: the family of tasks that a prompt is of, and how each model does there.

For the cold start. Families are told apart by probabilistic neighbours (arXiv 2007.10800), which
say so where nothing like a prompt was labelled; success is too noisy to be told so itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairgate.errors import ArtifactError
from fairgate.routing.encoders.base import Encoded
from fairgate.routing.fields import Fields
from fairgate.routing.neighbours import Neighbours
from fairgate.routing.satisfaction import sketch

Array = NDArray[np.float32]

SKETCH_WEIGHT = 10.0
"""Of the sketch, whose norm is 1, beside dense numbers of deviation 1."""

_CUT = 3.0


def features(encoded: Encoded) -> Array:
    """The dense numbers and a sketch of the n-grams."""
    words = np.float32(SKETCH_WEIGHT) * sketch(encoded.buckets)[1:]
    return np.concatenate([encoded.dense, words])


@dataclass(frozen=True, slots=True)
class Families:
    """Tells families apart, and knows each head's mean score in each."""

    neighbours: Neighbours
    mean: Array
    scale: Array
    """Of :func:`features` in training."""
    scores: Array
    """Shape (families, heads)."""
    usual: float
    """The support that 95 % of the training prompts have of the others."""

    def raw(self, encoded: Encoded) -> Array:
        """Each head's score: its mean over the families, by how likely the prompt is of each."""
        return np.asarray(self.neighbours.probabilities(self._point(encoded))[0] @ self.scores)

    def support(self, encoded: Encoded) -> float:
        """How near the nearest labelled prompt is, 0..1; 1: as near as they are to each other."""
        return float(min(self.neighbours.support(self._point(encoded))[0] / self.usual, 1.0))

    def _point(self, encoded: Encoded) -> Array:
        return standardised(features(encoded), self.mean, self.scale)[None]


def standardised(x: Array, mean: Array, scale: Array) -> Array:
    """In deviations from the mean, cut at three."""
    cut: Array = np.clip((x - mean) / scale, -_CUT, _CUT).astype(np.float32)
    return cut


def families_arrays(families: Families) -> dict[str, Array]:
    """As :func:`read_families` reads them, by name."""
    known = families.neighbours
    arrays = {
        "families.mean": families.mean,
        "families.scale": families.scale,
        "families.scores": families.scores,
        "families.usual": np.array([families.usual], np.float32),
        "families.frequencies": known.frequencies,
        "families.phases": known.phases,
        "families.memory": known.memory,
        "families.labels": known.labels.astype(np.float32),
    }
    for network, layers in enumerate(known.layers):
        for layer, (weights, bias) in enumerate(layers):
            arrays[f"families.{network}.{layer}.weights"] = weights
            arrays[f"families.{network}.{layer}.bias"] = bias
    return arrays


def read_families(fields: Fields, heads: int) -> Families:
    """Raises ``ArtifactError`` for what is missing or does not fit."""
    mean = fields.take("families.mean", None)
    scores = fields.take("families.scores", None, heads)
    phases = fields.take("families.phases", None)
    frequencies = fields.take("families.frequencies", None, len(phases))
    memory = fields.take("families.memory", None, len(phases))
    labels = fields.take("families.labels", len(memory)).astype(np.int64)
    if not ((labels >= 0) & (labels < len(scores))).all():
        raise ArtifactError(f"families.labels: expected 0..{len(scores) - 1}, got {labels}")
    networks: list[tuple[tuple[Array, Array], ...]] = []
    while fields.has(f"families.{len(networks)}.0.weights"):
        networks.append(_network(fields, f"families.{len(networks)}", len(mean), len(frequencies)))
    if not networks:
        raise ArtifactError("families.0.0.weights: is missing")
    neighbours = Neighbours(tuple(networks), frequencies, phases, memory, labels, len(scores))
    scale = fields.take("families.scale", len(mean))
    return Families(neighbours, mean, scale, scores, float(fields.take("families.usual", 1)[0]))


def _network(fields: Fields, name: str, into: int, out: int) -> tuple[tuple[Array, Array], ...]:
    layers: list[tuple[Array, Array]] = []
    while fields.has(f"{name}.{len(layers)}.weights"):
        weights = fields.take(f"{name}.{len(layers)}.weights", None, into)
        into = len(weights)
        layers.append((weights, fields.take(f"{name}.{len(layers)}.bias", into)))
    if into != out:
        raise ArtifactError(f"{name}: expected {out} numbers in the end, got {into}")
    return tuple(layers)
