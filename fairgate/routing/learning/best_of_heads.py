"""Trains BEST-Route's heads: how good the best of n answers of each model is (arXiv 2506.22716).

The loss is the paper's, cross-entropy to the probability of an answer as good as the reference's.
Over features that are fixed it has one optimum, which is found without learning rate or torch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fairgate.routing.best_of_heads import BestOfHeads
from fairgate.routing.learning.records import Records
from fairgate.routing.learning.several_answers import as_good_labels, quality_labels
from fairgate.routing.predictor import Learned

Array = NDArray[np.float64]

FORM_FEATURES = 128
"""Of those of the form, which are drawn at random: what else it tells is in the scores."""
PENALTIES = (1.0, 10.0, 100.0)
"""Of the squared weights; the one with the least loss on parts that were held out is taken."""

_FREE_BIAS = 1e-3
"""Penalty that keeps the bias finite where all labels are alike."""
_MOST_STEPS = 300
_CLOSE = 1e-3
"""Of a step in log-odds, per deviation of a feature."""
_LEAST_CHANCE = 0.01
_SURE = 30.0
_LEAST_DEVIATION = 1e-3


def fit_best_of(
    form: NDArray[np.float32],
    scores: NDArray[np.float32],
    records: Records,
    part: NDArray[np.int64],
) -> BestOfHeads:
    """Heads for all models of ``records``, whose answers were picked among.

    ``form``: features of each prompt; ``scores``: what the artefact's heads say of it, having been
    fitted without its part, so that they tell here no more than they will of prompts to come. The
    heads' own probabilities are calibrated on parts that they were not fitted on (Platt).
    """
    labels = np.concatenate([as_good_labels(records), quality_labels(records)], axis=1)
    wanted = labels.reshape(len(records), -1)
    form = form[:, :FORM_FEATURES]
    mean = scores.mean(axis=0, dtype=np.float64)
    scale = 1 / np.maximum(scores.std(axis=0, dtype=np.float64), _LEAST_DEVIATION)
    x = np.hstack([form, (scores - mean) * scale]).astype(np.float64)
    unseen = {penalty: _unseen(x, wanted, part, penalty) for penalty in PENALTIES}
    penalty = min(PENALTIES, key=lambda penalty: _loss(unseen[penalty], wanted))
    weights, bias = logistic(x, wanted, penalty)
    slope, shift = _calibration(unseen[penalty], wanted)
    weights, bias = weights * slope, bias * slope + shift
    told = weights[form.shape[1] :] * scale[:, None]
    return BestOfHeads(
        Learned(labels.shape[2], records.scorer, len(records)),
        records.models,
        np.ascontiguousarray(np.vstack([weights[: form.shape[1]], told]).T, np.float32),
        np.asarray(bias - mean @ told, np.float32),
    )


def logistic(x: Array, wanted: Array, penalty: float) -> tuple[Array, Array]:
    """Weights (features x heads) and bias of least cross-entropy to the soft labels ``wanted``
    (prompts x heads), plus ``penalty/2 · |weights|²`` for each head.

    By steps that never overshoot, since no logistic curve bends more than a quarter (Böhning and
    Lindsay 1988): one matrix is inverted for all heads and steps.
    """
    design = np.hstack([x, np.ones((len(x), 1))])
    shrink = np.full(design.shape[1], penalty)
    shrink[-1] = _FREE_BIAS
    bound = np.linalg.inv(design.T @ design / 4 + np.diag(shrink))
    weights = np.zeros((design.shape[1], wanted.shape[1]))
    mean = np.clip(wanted.mean(axis=0), _LEAST_CHANCE, 1 - _LEAST_CHANCE)
    weights[-1] = np.log(mean / (1 - mean))
    for _ in range(_MOST_STEPS):
        off = _sigmoid(design @ weights) - wanted
        step = bound @ (design.T @ off + shrink[:, None] * weights)
        weights -= step
        if np.abs(step).max() < _CLOSE:
            break
    return weights[:-1], weights[-1]


def _unseen(x: Array, wanted: Array, part: NDArray[np.int64], penalty: float) -> Array:
    """Each head's log-odds for prompts of parts that it was fitted without."""
    unseen = np.zeros_like(wanted)
    for k in np.unique(part):
        weights, bias = logistic(x[part != k], wanted[part != k], penalty)
        unseen[part == k] = x[part == k] @ weights + bias
    return unseen


def _loss(logits: Array, wanted: Array) -> float:
    """Mean cross-entropy."""
    return float(np.mean(np.logaddexp(0, logits) - wanted * logits))


def _calibration(unseen: Array, wanted: Array) -> tuple[Array, Array]:
    """Slope and shift of each head's log-odds: Platt scaling of what it says unseen."""
    slopes, shifts = np.ones(wanted.shape[1]), np.zeros(wanted.shape[1])
    for head, logits in enumerate(unseen.T):
        slope, shift = logistic(logits[:, None], wanted[:, head : head + 1], _FREE_BIAS)
        # A head that tells nothing may come out with a slope below 0: then its mean is all it says.
        slopes[head], shifts[head] = max(float(slope[0, 0]), 0.0), float(shift[0])
    return slopes, shifts


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(x, -_SURE, _SURE)))
