"""The encoders by the names that artefacts and commands use."""

from __future__ import annotations

from typing import Literal, get_args

from fairgate.errors import ArtifactError
from fairgate.routing.encoders.base import Encoder
from fairgate.routing.encoders.ngrams import NGrams

EncoderName = Literal["ngrams", "minilm"]


def encoder(name: str) -> Encoder:
    """The encoder called ``name``.

    Raises ``ArtifactError`` for an unknown name, or if what it needs is not installed.
    """
    if name == "ngrams":
        return NGrams()
    if name == "minilm":
        from fairgate.routing.encoders.minilm import MiniLM

        return MiniLM.installed()
    known = ", ".join(get_args(EncoderName))
    raise ArtifactError(f"encoder: expected one of {known}, got {name!r}")
