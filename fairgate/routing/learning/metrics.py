"""How good a router's order of prompts is, and how true its probabilities are."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

ECE_BINS = 15


def recovered(to_large: ArrayLike, small: ArrayLike, large: ArrayLike) -> Floats:
    """Share of the quality gap that is recovered when 0, 1, … all prompts go to the large model.

    ``to_large``: the higher, the sooner a prompt goes large; equal ones share what they gain.
    ``small``, ``large``: quality of both models. RouteLLM's PGR (arXiv 2406.18665, section 2.2).
    Without a gap between the models every point is NaN.
    """
    order, gain = np.asarray(to_large, np.float64), np.subtract(large, small, dtype=np.float64)
    _, group = np.unique(-order, return_inverse=True)
    shared = (np.bincount(group, gain) / np.bincount(group))[np.sort(group)]
    curve = np.concatenate([[0.0], np.cumsum(shared)])
    total = curve[-1]
    return curve / total if abs(total) > 1e-9 else np.full(len(curve), np.nan)


def apgr(to_large: ArrayLike, small: ArrayLike, large: ArrayLike) -> float:
    """Area under :func:`recovered` over the share of large calls: 0.5 is random, an oracle > 1
    where the small model is sometimes better. RouteLLM's APGR, with every point instead of ten.
    """
    curve = recovered(to_large, small, large)
    return float((curve[1:] + curve[:-1]).mean() / 2)


def cpt(wanted: float, to_large: ArrayLike, small: ArrayLike, large: ArrayLike) -> float:
    """Smallest share of large calls that recovers ``wanted`` of the gap: RouteLLM's CPT."""
    curve = recovered(to_large, small, large)
    enough = np.flatnonzero(curve >= wanted)
    return float(enough[0] / (len(curve) - 1)) if len(enough) else float("nan")


def roc_auc(score: ArrayLike, positive: ArrayLike) -> float:
    """Probability that a positive scores above a negative, ties count half; NaN without both."""
    scores, labels = np.asarray(score, np.float64), np.asarray(positive, np.bool_)
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[group]
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    above = ranks[labels].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def ece(probability: ArrayLike, outcome: ArrayLike, bins: int = ECE_BINS) -> float:
    """Expected calibration error: mean distance of probability and outcome over ``bins`` equal
    intervals of the probability, weighted by how many fall in (Guo et al., arXiv 1706.04599)."""
    p, y = np.asarray(probability, np.float64), np.asarray(outcome, np.float64)
    which = np.minimum((p * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(which, p - y, minlength=bins)
    return float(np.abs(gaps).sum() / len(p))


def interval(values: ArrayLike) -> tuple[float, float]:
    """Mean of ``values`` from independent splits, and half the width of its 95 % interval."""
    v = np.asarray(values, np.float64)
    if len(v) < 2:
        return float(v.mean()), float("nan")
    return float(v.mean()), float(
        _T95[min(len(v) - 1, len(_T95) - 1)] * v.std(ddof=1) / len(v) ** 0.5
    )


_T95 = (
    np.inf,
    12.71,
    4.30,
    3.18,
    2.78,
    2.57,
    2.45,
    2.36,
    2.31,
    2.26,
    2.23,
    2.2,
    2.18,
    2.16,
    2.14,
    2.13,
)
