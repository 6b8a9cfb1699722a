"""Trains what few labels tell (:mod:`fairgate.routing.families`); needs torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fairgate.errors import RecordsError
from fairgate.routing.encoders.base import Encoded
from fairgate.routing.families import Array, Families, features, standardised
from fairgate.routing.learning import pnca
from fairgate.routing.neighbours import Neighbours

MOST = 2000
"""More records make neighbours slow, and are enough for the usual heads."""

_PRIOR = 5.0
"""Prompts of mean score that each family is given beside its own."""
_USUAL = 0.05
_LEAST = 1e-3


def fit_families(prompts: Sequence[Encoded], tasks: Sequence[str], targets: Array) -> Families:
    """Tell ``tasks`` apart, and take each one's mean of ``targets``, of shape (prompts, heads).

    Raises ``RecordsError`` where there is but one task.
    """
    names = sorted(set(tasks))
    if len(names) < 2:
        raise RecordsError(f"task: the cold start needs two or more, got {names}")
    x = np.stack([features(prompt) for prompt in prompts])
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-3
    labels = np.array([names.index(task) for task in tasks])
    z = standardised(x, mean, scale)
    neighbours = pnca.fit(z, labels, len(names))
    members = np.eye(len(names), dtype=np.float32)[labels]
    sums, counts = members.T @ targets, members.sum(axis=0)[:, None]
    scores = (sums + _PRIOR * targets.mean(axis=0)) / (counts + _PRIOR)
    return Families(neighbours, mean, scale, scores.astype(np.float32), _usual(neighbours))


def _usual(neighbours: Neighbours) -> float:
    """The support that 95 % of the training points have of the others."""
    kernel = np.maximum(neighbours.memory @ neighbours.memory.T, 0)
    np.fill_diagonal(kernel, 0)
    return max(float(np.quantile(kernel.max(axis=1), _USUAL)), _LEAST)
