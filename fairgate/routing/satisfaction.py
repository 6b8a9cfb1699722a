"""Learns online, from feedback, how likely each lane answers a request satisfactorily (MESS+)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairgate.routing.encoders.base import Buckets
from fairgate.routing.predictor import Vector

SIZE = 256
"""Weights of a row: few enough for replicas to exchange them every second."""

SHARED = "*"
"""The row that all lanes have in common: what makes a request difficult for any."""

_MIX = np.uint64(0x9E3779B97F4A7C15)

_MOMENTUM, _DECAY = 0.9, 1e-3
_BIAS_RATE, _LANE_RATE, _SHARED_RATE = 0.02, 0.01, 0.1
"""Lanes differ by little more than their bias: what is difficult for one mostly is for all."""

_BEST_PRIOR, _PRIOR_STEP = 0.8, 0.4

Weights = NDArray[np.floating[Any]]


def sketch(buckets: Buckets) -> Vector:
    """Hashed n-grams in :data:`SIZE` numbers, the first one 1: a count sketch, scaled to norm 1."""
    codes = buckets.astype(np.uint64) * _MIX >> np.uint64(32)
    out = np.zeros(SIZE, np.float32)
    places = (codes >> np.uint64(1)) % np.uint64(SIZE - 1)
    signs = np.where(codes & np.uint64(1), 1.0, -1.0)
    out[1:] = np.bincount(places.astype(np.int64), signs, SIZE - 1)
    out[1:] /= np.linalg.norm(out[1:]) or 1.0
    out[0] = 1.0
    return out


class Satisfaction:
    """Logistic regression by gradient steps with momentum: one row of weights for each lane, and
    one for all of them.

    Only the steps are exchanged between replicas, and added up; before there are any, a dearer
    lane counts as the better one. The shared row makes a label of one lane tell of the others.
    """

    def __init__(self, lanes: Sequence[str]) -> None:
        """``lanes``, the cheapest first."""
        self.version = -1
        """Of the sum that was last taken in."""
        self._rows = {row: i for i, row in enumerate((*lanes, SHARED))}
        size = (len(self._rows), SIZE)
        self._prior: Weights = np.zeros(size)
        self._prior[:-1, 0] = [
            _BEST_PRIOR - _PRIOR_STEP * rank for rank in range(len(lanes) - 1, -1, -1)
        ]
        self._weights: Weights = self._prior.copy()
        self._velocity: Weights = np.zeros(size)
        self._rates: Weights = np.full(size, _LANE_RATE)
        self._rates[-1] = _SHARED_RATE
        self._rates[:, 0] = _BIAS_RATE
        self._unsent: Weights = np.zeros(size)
        self._unsent_labels = dict.fromkeys(self._rows, 0)
        self._labels = dict.fromkeys(self._rows, 0)

    def predict(self, x: Vector) -> dict[str, float]:
        """Probability of a satisfactory answer to the request with :func:`sketch` features, by
        lane."""
        z = self._weights @ x
        p = 1 / (1 + np.exp(-np.clip(z[:-1] + z[-1], -30, 30)))
        return {row: float(p[i]) for row, i in self._rows.items() if row != SHARED}

    def labels(self, lane: str) -> int:
        """Feedback that this lane's row was made from, that of other replicas included."""
        return self._labels.get(lane, 0)

    def learn(self, lane: str, x: Vector, score: float) -> None:
        """Take one step towards ``score``, 0 to 1, which the lane's answer was given."""
        row = self._rows.get(lane)
        if row is None or len(x) != SIZE:
            return
        error = self.predict(x)[lane] - score
        self._step(row, error * x)
        self._step(self._rows[SHARED], error * np.concatenate(((0.0,), x[1:])))
        for name in (lane, SHARED):
            self._labels[name] += 1
            self._unsent_labels[name] += 1

    def _step(self, row: int, gradient: Weights) -> None:
        decay = _DECAY * self._weights[row]
        decay[0] = 0.0
        velocity = self._velocity[row]
        velocity *= _MOMENTUM
        velocity -= self._rates[row] * (1 - _MOMENTUM) * (gradient + decay)
        self._weights[row] += velocity
        self._unsent[row] += velocity

    def news(self) -> dict[str, tuple[bytes, int]]:
        """Changes and labels since the last call of this method, by row, for the other replicas."""
        news = {
            row: (self._unsent[i].astype("<f4").tobytes(), self._unsent_labels[row])
            for row, i in self._rows.items()
            if self._unsent_labels[row]
        }
        self._unsent[:] = 0
        self._unsent_labels = dict.fromkeys(self._rows, 0)
        return news

    def put_back(self, news: Mapping[str, tuple[bytes, int]]) -> None:
        """The store did not take ``news``."""
        for row, change, labels in _known(news, self._rows):
            self._unsent[self._rows[row]] += change
            self._unsent_labels[row] += labels

    def take_in(self, known: Mapping[str, tuple[bytes, int]]) -> None:
        """The sum of all replicas' changes; this one's unsent ones are added to it."""
        self._weights = self._prior + self._unsent
        self._labels = dict(self._unsent_labels)
        for row, change, labels in _known(known, self._rows):
            self._weights[self._rows[row]] += change
            self._labels[row] += labels


def _known(
    told: Mapping[str, tuple[bytes, int]], rows: Iterable[str]
) -> Iterable[tuple[str, Weights, int]]:
    for row, (change, labels) in told.items():
        if row in rows and len(change) == 4 * SIZE:
            yield row, np.frombuffer(change, "<f4").astype(np.float64), labels
