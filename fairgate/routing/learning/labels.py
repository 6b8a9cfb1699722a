"""What a router learns: Hybrid LLM's labels for "the small model is good enough".

Ding et al., arXiv 2404.14618, section 3. With scores s of the small and l of the large model:

- ``det``: 1 where ``s >= l``, from one answer of each.
- ``prob``: mean of ``s_i >= l_j`` over all pairs of sampled answers.
- ``trans``: the same of ``s_i >= l_j - t``, with the relaxation t at which labels of different
  prompts differ most (mean absolute difference), for pairs in which the small one hardly ever wins.
- ``gap`` (not from the paper): the difference of both models' expected quality. The area under the
  gap-recovered curve is largest for the order by exactly this.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["gap", "det", "prob", "trans"]
Floats = NDArray[np.float32]

_GRID = 64


def good_enough(small: Floats, large: Floats, method: Method) -> Floats:
    """Labels in 0..1, one per prompt; both arguments have the shape (prompts, samples)."""
    if method == "gap":
        return np.asarray((1 + small.mean(axis=1) - large.mean(axis=1)) / 2, np.float32)
    if method == "det":
        return (small[:, 0] >= large[:, 0]).astype(np.float32)
    return relaxed(small, large, best_relaxation(small, large) if method == "trans" else 0.0)


def relaxed(small: Floats, large: Floats, t: float) -> Floats:
    """Share of pairs of answers in which the small model's is at most ``t`` worse."""
    return np.asarray((small[:, :, None] >= large[:, None, :] - t).mean(axis=(1, 2)), np.float32)


def best_relaxation(small: Floats, large: Floats) -> float:
    """The ``t`` that spreads :func:`relaxed` most, among quantiles of the gaps seen.

    With one answer in {0, 1} from each model only 0 and 1 are possible, and 0 is chosen.
    """
    gaps = np.maximum(large[:, None, :] - small[:, :, None], 0).ravel()
    grid = np.unique(np.quantile(gaps, np.linspace(0, 1, _GRID)))
    return float(max(grid, key=lambda t: spread(relaxed(small, large, t))))


def spread(labels: Floats) -> float:
    """Mean absolute difference of two prompts' labels: ``sum (2i - N - 1) y_(i) * 2 / N^2``."""
    count = len(labels)
    weights = 2 * np.arange(1, count + 1) - count - 1
    return float(2 * (weights * np.sort(labels)).sum() / count**2)
