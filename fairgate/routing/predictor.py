"""What a trained artefact says about a prompt: how likely each model is to answer it well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


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


class Predictor(Protocol):
    """Made by :func:`load_predictor`. Holds no state that changes; safe to share."""

    version: str
    """Of the artefact: changes whenever its content does."""

    models: tuple[str, ...]
    """Ordered by price, the cheapest first."""

    def predict(self, prompt: str) -> Prediction:
        """What to expect for ``prompt``. No I/O; 300 µs for 1,000 words with n-grams."""

    def features(self, prompt: str) -> Vector:
        """The encoder's dense vector of ``prompt``, for learners that build upon it."""
