"""From a file to a predictor."""

from __future__ import annotations

from pathlib import Path

from fairgate.routing import artifact
from fairgate.routing.encoders.registry import encoder
from fairgate.routing.learned import LearnedPredictor


def load_predictor(path: Path | None = None) -> LearnedPredictor:
    """Read the artefact at ``path``, or the one that is shipped.

    Raises ``ArtifactError`` for a file that is missing, damaged or of another format, or whose
    encoder is not installed.
    """
    found = artifact.load(path or artifact.SHIPPED)
    return LearnedPredictor(found, encoder(found.description.encoder))
