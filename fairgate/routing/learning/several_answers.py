"""What records of several answers to a prompt tell: BEST-Route's labels (arXiv 2506.22716), and the
two numbers of its formulas."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fairgate.routing.learning.records import Records

Array = NDArray[np.float64]


def as_good_labels(records: Records) -> Array:
    """``[i, k, n-1]``: probability that the picked one of n answers of model k to prompt i is at
    least as good as an answer of the dearest model, for each model but that."""
    reference = records.samples[:, -1]
    cheaper = records.samples[:, :-1, :, None] >= reference[:, None, None, :]
    as_good: Array = _picked(records.chosen[:, :-1], cheaper.mean(axis=3))
    return as_good


def quality_labels(records: Records) -> Array:
    """``[i, k, n-1]``: expected quality of the picked one of n answers of model k to prompt i."""
    return _picked(records.chosen, records.samples)


def _picked(chosen: NDArray[np.float32], worth: NDArray[np.floating]) -> Array:
    return np.asarray(np.einsum("ikns,iks->ikn", chosen, worth, dtype=np.float64))


def chosen_by_score(scores: Array, most: int) -> NDArray[np.float32]:
    """``[…, n-1, a]``: chance that the best-scored of n answers is answer a, over all ways to draw
    n of those recorded without replacement, for n up to ``most``.

    ``scores``: […, answers], by a scorer that judges each answer by itself; of equal ones the first
    is picked. The paper draws ten times instead. Raises ``ValueError`` for fewer records than
    ``most``.
    """
    recorded = scores.shape[-1]
    if recorded < most:
        raise ValueError(f"most: expected at most {recorded} (recorded), got {most}")
    rank = np.argsort(np.argsort(-scores, axis=-1, kind="stable"), axis=-1)
    chances = _chances_of_ranks(recorded, most).astype(np.float32)
    return np.moveaxis(chances[rank], -1, -2)


def _chances_of_ranks(recorded: int, most: int) -> Array:
    """``[rank, n-1]``: chance that the answer of that rank is the best of n drawn: the others are
    of the ``recorded - rank - 1`` behind it."""
    return np.array(
        [
            [
                math.comb(recorded - rank - 1, n - 1) / math.comb(recorded, n)
                for n in range(1, most + 1)
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
