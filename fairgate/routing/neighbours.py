"""A classifier for few labels that knows when it does not know: probabilistic neighbours (PNCA).

Mallick et al., "Probabilistic Neighbourhood Component Analysis", arXiv 2007.10800. Several small
networks embed the input; random Fourier features of each embedding are averaged, which makes a
kernel between inputs that is the mean over the networks. A class is as probable as its share of
the kernel to all training points. Where the kernel reaches nothing, every class is as likely.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """A trained classifier: the networks, the frequencies, and the training points' features."""

    layers: tuple[tuple[tuple[Matrix, Matrix], ...], ...]
    frequencies: Matrix
    phases: Matrix
    memory: Matrix
    labels: Labels
    classes: int

    def probabilities(self, x: Matrix) -> Matrix:
        """Shape (inputs, classes); uniform for inputs that no training point supports."""
        kernel = self._kernel(x)
        votes = kernel @ np.eye(self.classes, dtype=np.float32)[self.labels]
        total = votes.sum(axis=1, keepdims=True)
        uniform = np.full_like(votes, 1 / self.classes)
        shares = votes / np.maximum(total, 1e-12)
        return np.asarray(np.where(total > 0, shares, uniform), np.float32)

    def support(self, x: Matrix) -> Matrix:
        """The largest kernel to any training point, 0..1: 0 means that nothing is like it."""
        return np.asarray(np.clip(self._kernel(x).max(axis=1), 0, 1), np.float32)

    def _kernel(self, x: Matrix) -> Matrix:
        return np.asarray(np.maximum(self._features(x) @ self.memory.T, 0), np.float32)

    def _features(self, x: Matrix) -> Matrix:
        total = np.zeros((len(x), self.frequencies.shape[1]), np.float32)
        for network in self.layers:
            h = x
            for k, (weights, bias) in enumerate(network):
                h = h @ weights.T + bias
                if k < len(network) - 1:
                    h = np.maximum(h, 0)
            total += np.cos(h @ self.frequencies + self.phases)
        return np.asarray(total * np.sqrt(2 / total.shape[1]) / len(self.layers), np.float32)
