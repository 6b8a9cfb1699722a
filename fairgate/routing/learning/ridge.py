"""Ridge regression for many targets at once, on dense or on sparse features, without dependencies.

Squared error on 0/1 labels is a proper score, and its optimum needs no learning rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairgate.routing.encoders.base import Buckets

Matrix = NDArray[np.float32]

_ITERATIONS = 60
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Linear:
    """``x @ weights + bias``."""

    weights: Matrix
    """Shape (features, targets)."""
    bias: Matrix


def fit_dense(x: Matrix, y: Matrix, alpha: float) -> Linear:
    """Least squares with penalty ``alpha`` on the weights, not on the bias."""
    center, bias = x.mean(axis=0), y.mean(axis=0)
    x, penalty = x - center, alpha * np.eye(x.shape[1], dtype=np.float32)
    weights = np.linalg.solve(x.T @ x + penalty, x.T @ (y - bias)).astype(np.float32)
    return Linear(weights, np.asarray(bias - center @ weights, np.float32))


class SparseRows:
    """A sparse matrix with one weight per row: what hashed n-grams of unit length look like."""

    def __init__(self, rows: Sequence[Buckets], column_weights: Matrix) -> None:
        self.shape = (len(rows), len(column_weights))
        lengths = np.array([len(row) for row in rows])
        self._columns = np.concatenate(rows) if rows else np.empty(0, np.int64)
        self._row_of = np.repeat(np.arange(len(rows)), lengths)
        values = column_weights[self._columns]
        squares = np.bincount(self._row_of, values * values, minlength=len(rows))
        norms = 1 / np.sqrt(np.maximum(squares, 1e-12))
        self._values = values * norms[self._row_of]

    def times(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        """The matrix times a column."""
        products = self._values * vector[self._columns]
        return np.bincount(self._row_of, products, self.shape[0]).astype(np.float64)

    def transposed_times(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        """The transposed matrix times a column."""
        products = self._values * vector[self._row_of]
        return np.bincount(self._columns, products, self.shape[1]).astype(np.float64)


def fit_sparse(x: SparseRows, y: Matrix, alpha: float) -> Linear:
    """The same for sparse rows; conjugate gradients, so the penalty also bounds the iterations."""
    bias = y.mean(axis=0)
    columns = [_conjugate_gradients(x, y[:, k] - bias[k], alpha) for k in range(y.shape[1])]
    return Linear(np.stack(columns, axis=1).astype(np.float32), np.asarray(bias, np.float32))


def _conjugate_gradients(x: SparseRows, y: Matrix, alpha: float) -> NDArray[np.float64]:
    solution = np.zeros(x.shape[1])
    rest = x.transposed_times(y.astype(np.float64))
    direction, size = rest.copy(), float(rest @ rest)
    goal = _TOLERANCE**2 * size
    for _ in range(_ITERATIONS):
        if size <= goal or size == 0.0:
            break
        image = x.transposed_times(x.times(direction)) + alpha * direction
        step = size / float(direction @ image)
        solution += step * direction
        rest -= step * image
        size, before = float(rest @ rest), size
        direction = rest + (size / before) * direction
    return solution
