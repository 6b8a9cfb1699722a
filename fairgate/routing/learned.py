"""The predictor that a trained artefact makes."""

from __future__ import annotations

import numpy as np

from fairgate.errors import ArtifactError
from fairgate.routing import isotonic
from fairgate.routing.artifact import Artifact
from fairgate.routing.encoders.base import Encoded, Encoder, Vector
from fairgate.routing.predictor import Prediction


class LearnedPredictor:
    """A :class:`fairgate.routing.predictor.Predictor`: an encoder and what was learned upon it."""

    def __init__(self, artifact: Artifact, encoder: Encoder) -> None:
        heads, center = artifact.heads, artifact.support.center
        if len(heads.rarity) != encoder.buckets:
            raise ArtifactError(f"rarity: expected {encoder.buckets} long, got {len(heads.rarity)}")
        for view in heads.views:
            if view.end > encoder.width:
                raise ArtifactError(
                    f"view slice: ends at {view.end}, the encoder at {encoder.width}"
                )
        if not heads.views or len(center) != len(heads.views[0].weights):
            raise ArtifactError(f"support.center: {len(center)} numbers do not fit the first view")
        best_of, scores = artifact.best_of, len(heads.bias)
        if best_of is not None and not best_of.fits(len(center), scores):
            raise ArtifactError(
                f"best_of.weights: expected at most {len(center)} features and {scores} scores, "
                f"got {best_of.weights.shape[1]} numbers"
            )
        self.version = artifact.version()
        self.models = artifact.description.models
        self.best_of = None if best_of is None else best_of.learned
        self.artifact = artifact
        self.encoder = encoder

    def predict(self, prompt: str) -> Prediction:
        """See :class:`fairgate.routing.predictor.Predictor`."""
        return self.judge(self.encoder.encode(prompt))

    def features(self, prompt: str) -> Vector:
        """Kernel features of the prompt's form, then the raw score of each head."""
        encoded = self.encoder.encode(prompt)
        form = self.artifact.heads.form(encoded)
        return np.concatenate([form, self.artifact.raw(encoded, form)])

    def judge(self, encoded: Encoded) -> Prediction:
        """The prediction for an encoded prompt."""
        artifact, models = self.artifact, self.models
        form = artifact.heads.form(encoded)
        raw = artifact.raw(encoded, form)
        success = [
            float(isotonic.apply(knots, score))
            for knots, score in zip(artifact.calibration, raw.tolist(), strict=False)
        ]
        enough = [*good_enough(raw, len(models)).tolist(), 1.0]
        support = artifact.support.of(form, encoded.words)
        if artifact.families is not None:
            support = min(support, artifact.families.support(encoded))
        return Prediction(
            dict(zip(models, success, strict=True)),
            dict(zip(models, enough, strict=True)),
            support,
            None if artifact.best_of is None else artifact.best_of.judge(form, raw),
        )


def good_enough(raw: Vector, models: int) -> Vector:
    """Of one or more prompts' raw scores: each model's but the dearest, that it suffices, in 0..1.

    Without heads of their own: half of one plus the expected gap to the dearest.
    """
    cheaper = raw[..., : models - 1]
    own = raw.shape[-1] > models
    enough = raw[..., models:] if own else (1 + cheaper - raw[..., models - 1 :]) / 2
    return np.asarray(np.minimum(np.maximum(enough, 0), 1), np.float32)
