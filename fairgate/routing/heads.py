"""What is learned, applied: an encoded prompt in, one raw score per head out.

The score is a sum of independently fitted parts: one linear in the hashed n-grams (tf-idf, unit
length), and one for each view of the dense vector. A view is linear, or, where it has a projection,
linear in random Fourier features of a Gaussian kernel: ``sqrt(2/n) cos(z P + b)`` (Rahimi and
Recht, NIPS 2007), with z standardised and cut at three deviations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairgate.routing.encoders.base import Encoded

Array = NDArray[np.float32]

_CUT = 3.0


@dataclass(frozen=True, slots=True)
class Kernel:
    """Random Fourier features of a Gaussian kernel on standardised numbers."""

    mean: Array
    scale: Array
    projection: Array
    """Shape (numbers, features)."""
    phase: Array

    def features(self, x: Array) -> Array:
        """Of one vector, or of each row."""
        z = np.clip((x - self.mean) * (1 / self.scale), -_CUT, _CUT)
        norm = np.float32(np.sqrt(2 / len(self.phase)))
        return np.asarray(norm * np.cos(z @ self.projection + self.phase), np.float32)


@dataclass(frozen=True, slots=True)
class View:
    """A part of the dense vector, ``begin`` to ``end``, and its weights."""

    begin: int
    end: int
    kernel: Kernel | None
    weights: Array
    """Shape (features, heads)."""

    def features(self, dense: Array) -> Array:
        """Of one dense vector, or of each row."""
        part = dense[..., self.begin : self.end]
        return part if self.kernel is None else self.kernel.features(part)


@dataclass(frozen=True, slots=True)
class Heads:
    """All weights of a router."""

    rarity: Array
    """Weight of each bucket (inverse document frequency); 0 where training never saw it."""
    table: Array
    """Shape (heads, buckets): the buckets' weights, times their rarity."""
    views: tuple[View, ...]
    bias: Array
    logistic: bool = False
    """The sum is a log-odds, as heads trained by cross-entropy give it; scores are in 0..1."""

    def form(self, encoded: Encoded) -> Array:
        """The first view's features."""
        return self.views[0].features(encoded.dense)

    def raw(self, encoded: Encoded, form: Array | None = None) -> Array:
        """The score of each head. ``form``: of :meth:`form`, where it is known."""
        rarity = self.rarity.take(encoded.buckets)
        norm = float(np.sqrt(rarity @ rarity)) or 1.0
        total = self.table.take(encoded.buckets, axis=1).sum(axis=1) / np.float32(norm) + self.bias
        first, *others = self.views
        total = total + (self.form(encoded) if form is None else form) @ first.weights
        for view in others:
            total = total + view.features(encoded.dense) @ view.weights
        if self.logistic:
            total = 1 / (1 + np.exp(-total))
        return np.asarray(total, np.float32)


def raw_scores(heads: Heads, prompts: Sequence[Encoded]) -> Array:
    """Shape (prompts, heads)."""
    return np.stack([heads.raw(encoded) for encoded in prompts])
