"""Hybrid LLM's decision (arXiv 2404.14618): the small model where its score reaches a threshold.

The score comes from a predictor, the threshold from a knob that is turned at run time or from a
certified promise. Prompts that training knows nothing about go to the dearest model.
"""

from __future__ import annotations

from dataclasses import dataclass

from fairgate.errors import ArtifactError
from fairgate.routing.artifact import QUALITY_STEPS, Artifact
from fairgate.routing.predictor import Prediction

LEAST_SUPPORT = 0.5


@dataclass(frozen=True, slots=True)
class Hybrid:
    """Turns predictions of one artefact into a model's name. Holds no state."""

    artifact: Artifact
    least_support: float = LEAST_SUPPORT
    """Below this the dearest model answers, whatever the knob says, unless that is 0."""

    def choose(self, prediction: Prediction, quality: float) -> str:
        """The cheapest model that suffices at ``quality``.

        ``quality`` is the share of calls, 0..1, that would go past each cheaper model on prompts
        like those of training: 0 sends everything to the cheapest, 1 to the dearest.
        """
        models = self.artifact.description.models
        if quality <= 0:
            return models[0]
        if quality >= 1 or prediction.support < self.least_support:
            return models[-1]
        step = round(quality * (QUALITY_STEPS - 1))
        for model, thresholds in zip(models, self.artifact.thresholds, strict=False):
            if prediction.enough[model] >= thresholds[step]:
                return model
        return models[-1]

    def promised(self, prediction: Prediction, drop: float) -> str:
        """The model that keeps the promise certified for ``drop``.

        Raises ``ArtifactError`` if the artefact holds no promise of at most ``drop``.
        """
        description = self.artifact.description
        kept = [p for p in description.promises if p.drop <= drop]
        if not kept:
            known = ", ".join(str(p.drop) for p in description.promises) or "none"
            raise ArtifactError(f"promises: none of drop <= {drop}; certified: {known}")
        best = max(kept, key=lambda promise: promise.share)
        supported = prediction.support >= self.least_support
        if supported and prediction.enough[best.small] >= best.threshold:
            return best.small
        return description.models[-1]
