"""Which threshold keeps a promised drop of quality, and what labels can certify.

The rule of the papers (Hybrid LLM, section 4.4) takes the threshold that routes most on a few
hundred labels while the drop measured on them stays below the limit; chance alone then breaks the
promise about every second time. Here the share of small calls is raised step by step, and the
sweep stops at the first step at which a one-sided upper bound of the drop exceeds the limit.

Looking at many steps costs nothing: the order is fixed, and to go too far the sweep must pass the
first step whose true drop is above the limit, which one bound fails to stop in 5 % of cases
(testing in a fixed sequence: Maurer, Hothorn and Lehmacher, 1995). The drop that is promised is the
one to be expected; a finite number of prompts has chance of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairgate.errors import RecordsError

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
STEP = 0.005
"""Of the share of small calls, in the sweep."""

_LEAST_QUALITY = 1e-6


@dataclass(frozen=True, slots=True)
class Sweep:
    """What routing more and more prompts to the small model costs, on labelled prompts."""

    share: Floats
    """Share of prompts that go small, ascending."""
    threshold: Floats
    """Prompts whose score reaches it go small."""
    drop: Floats
    """Loss of quality, as a share of the large model's, as measured."""
    error: Floats
    """Standard error of ``drop``."""

    def bound(self, confidence: float) -> Floats:
        """Upper bound of the drop at each step, one-sided."""
        return self.drop + NormalDist().inv_cdf(confidence) * self.error

    def certified(self, limit: float, confidence: float = CONFIDENCE) -> int | None:
        """The last step before the bound first exceeds ``limit``; ``None`` if none is sure."""
        return _last_before(self.bound(confidence) > limit)

    def measured(self, limit: float) -> int | None:
        """The papers' rule: the largest share whose measured drop is at most ``limit``."""
        fits = np.flatnonzero(self.drop <= limit)
        return int(fits[-1]) if len(fits) else None

    def with_more(self, factor: float) -> Sweep:
        """What would be expected of ``factor`` times as many labels."""
        return Sweep(self.share, self.threshold, self.drop, self.error / factor**0.5)


def sweep(score: ArrayLike, small: ArrayLike, large: ArrayLike) -> Sweep:
    """Route prompts in the order of ``score``, in steps of :data:`STEP`.

    The drop is a ratio of means, so its error comes from the delta method. As few routed prompts
    may show no loss by luck, each step counts one more loss and one more gain among its prompts
    when the error is estimated. Raises ``RecordsError`` for no prompts, or numbers that are none,
    and where the large model is never right: there is no share of nothing.
    """
    _check(score, small, large)
    s, gap = np.asarray(score, np.float64), np.subtract(large, small, dtype=np.float64)
    quality = np.asarray(large, np.float64)
    order = np.argsort(-s, kind="stable")
    n, mean = len(s), float(quality.mean())
    counts = np.unique(np.ceil(np.arange(STEP, 1 + STEP / 2, STEP) * n).astype(np.int64))
    counts = np.unique(np.searchsorted(-s[order], -s[order][counts.clip(max=n) - 1], side="right"))
    lost, squares = np.cumsum(gap[order])[counts - 1], np.cumsum(gap[order] ** 2)[counts - 1]
    crossed = np.cumsum((gap * quality)[order])[counts - 1]
    drop = lost / n / mean
    # Variance of gap * routed - drop * quality, whose mean is 0.
    variance = (squares + 2 - 2 * drop * crossed + drop**2 * float(quality @ quality)) / n
    error = np.sqrt(np.maximum(variance, 0) / n) / mean
    return Sweep(counts / n, s[order][counts - 1], drop, error)


def _check(score: ArrayLike, small: ArrayLike, large: ArrayLike) -> None:
    for name, values in (("score", score), ("small", small), ("large", large)):
        numbers = np.asarray(values, np.float64)
        if not (len(numbers) and np.isfinite(numbers).all()):
            wrong = "none" if not len(numbers) else str(numbers[~np.isfinite(numbers)][0])
            raise RecordsError(f"{name}: expected a finite number for each prompt, got {wrong}")
    mean = float(np.asarray(large, np.float64).mean())
    if mean < _LEAST_QUALITY:
        raise RecordsError(
            f"large: expected a mean score above 0, got {mean:g} of {np.size(large)} prompts: a "
            "drop is a share of the large model's quality"
        )


def _last_before(broken: NDArray[np.bool_]) -> int | None:
    first = int(np.argmax(broken)) if broken.any() else len(broken)
    return first - 1 if first else None
