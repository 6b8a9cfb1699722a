"""What records of several answers to a prompt tell: BEST-Route's labels, and the two numbers of its
formulas."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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
