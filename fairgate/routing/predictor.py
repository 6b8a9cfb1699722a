"""What a trained artefact says about a prompt: how likely each model is to answer it well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SeveralAnswers:
    """What the picked one of 1, 2, … answers of each model is worth, as learned from records of
    several answers (BEST-Route, arXiv 2506.22716)."""

    as_good: Mapping[str, Sequence[float]]
    """Probability that it is at least as good as the dearest model's one answer; the dearest model
    is not among them."""
    right: Mapping[str, Sequence[float]]
    """Expected quality, 0..1."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is expected of each model for one prompt; the keys are the predictor's ``models``."""

    success: Mapping[str, float]
    """Calibrated probability that the model's answer is good."""

    enough: Mapping[str, float]
    """Score in 0..1 that the model's answer is no worse than the dearest model's (Hybrid LLM's
    label, arXiv 2404.14618, section 3); 1 for the dearest itself. Only its order among prompts
    means something: compare it with a threshold from the artefact."""

    support: float
    """How much the training data says about such prompts, 0..1; 0: nothing, so go large."""

    several: SeveralAnswers | None = None
    """``None``: the artefact was trained on single answers."""


class Learned(msgspec.Struct, frozen=True):
    """What an artefact's heads for the best of several answers were learned from."""

    samples: int
    """Most answers that there is a head for."""
    scorer: str
    """What picked among the answers, by its name in the configuration."""
    labels: int
    """Prompts with several answers of each model."""


class Predictor(Protocol):
    """Made by :func:`load_predictor`. Holds no state that changes; safe to share."""

    version: str
    """Of the artefact: changes whenever its content does."""

    models: tuple[str, ...]
    """Ordered by price, the cheapest first."""

    best_of: Learned | None
    """``None``: it says nothing of several answers."""

    def predict(self, prompt: str) -> Prediction:
        """What to expect for ``prompt``. No I/O; 300 µs for 1,000 words with n-grams."""

    def features(self, prompt: str) -> Vector:
        """The encoder's dense vector of ``prompt``, for learners that build upon it."""
