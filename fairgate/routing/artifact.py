"""A trained router as a file: what it holds, how it is written, and what is refused on reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fairgate.errors import ArtifactError
from fairgate.routing import tensors
from fairgate.routing.best_of_heads import BestOfHeads, arrays_of, metadata_of, read_best_of
from fairgate.routing.encoders.base import WORDS, Buckets, Encoded
from fairgate.routing.families import Families, families_arrays, read_families
from fairgate.routing.fields import Fields
from fairgate.routing.heads import Heads, Kernel, View

Array = NDArray[np.float32]

FORMAT = 1
NEWER_FORMAT = 2
"""Of an artefact with families or logistic heads, which readers of format 1 would not see."""
SHIPPED = Path(__file__).parent / "artifacts" / "default.safetensors"
QUALITY_STEPS = 101
"""Thresholds are kept for these many shares of large calls, from 0 to 1."""


class Promise(msgspec.Struct, frozen=True):
    """What a threshold was certified for, on labels that training had not seen."""

    small: str
    """The model that answers where its score reaches the threshold; else the dearest does."""
    drop: float
    """Loss of quality, as a share of the dearest model's, that is not exceeded…"""
    confidence: float
    """…with this confidence."""
    labels: int
    threshold: float
    share: float
    """Share of those labelled prompts that the small model answered."""


class Description(msgspec.Struct, frozen=True):
    """The part of an artefact that people read."""

    format: int
    encoder: str
    method: str
    models: tuple[str, ...]
    records: int
    promises: tuple[Promise, ...] = ()
    cold: bool = False
    """It holds families of tasks, from few labels."""
    logistic: bool = False
    """Its heads give log-odds."""


@dataclass(frozen=True, slots=True)
class Support:
    """How to tell that training has seen nothing like a prompt.

    Two measures: the share of its words that training knows, and how dense training is around its
    form. Each counts 1 down to the value that only 5 % of prompts like those of training fall
    below, and then less, in proportion.
    """

    center: Array
    """Mean kernel features of the training prompts: the density, times a prompt's features."""
    words: NDArray[np.bool_]
    """Which word hashes occur in training."""
    density: float
    known: float

    def of(self, features: Array, words: Buckets) -> float:
        """Support of a prompt with these kernel features and words, 0..1; 0 without words."""
        if len(words) == 0:
            return 0.0
        known = np.count_nonzero(self.words.take(words)) / len(words)
        density = float(features @ self.center)
        return max(min(density / self.density, known / self.known, 1.0), 0.0)


@dataclass(frozen=True, slots=True)
class Artifact:
    """Everything that serving needs. ``heads`` score each model's success, then, unless the method
    is ``gap``, whether each model but the dearest is good enough."""

    description: Description
    heads: Heads
    calibration: tuple[Array, ...]
    """Isotonic knots, one array for each model."""
    thresholds: Array
    """Shape (models - 1, QUALITY_STEPS): the score above which a share of 1 - q of prompts lies."""
    support: Support
    families: Families | None = None
    """From few labels: gives the scores in place of ``heads``, and bounds the support."""
    best_of: BestOfHeads | None = None
    """From records of several answers: what the best of n is worth."""

    def raw(self, encoded: Encoded, form: Array | None = None) -> Array:
        """The score of each head. ``form``: of ``heads.form``, where it is known."""
        if self.families is None:
            return self.heads.raw(encoded, form)
        return self.families.raw(encoded)

    def version(self) -> str:
        """Changes whenever the content does."""
        digest = sha256(msgspec.json.encode(self.description))
        for _, array in sorted(_arrays(self).items()):
            digest.update(array.tobytes())
        if self.best_of is not None:
            digest.update(msgspec.json.encode(self.best_of.learned))
        return f"{self.description.method}-{self.description.encoder}-{digest.hexdigest()[:12]}"


def save(artifact: Artifact, path: Path) -> None:
    """Write ``artifact`` as safetensors. Weights are rounded to 16 bits."""
    metadata = {"fairgate-router": msgspec.json.encode(artifact.description).decode()}
    if artifact.best_of is not None:
        metadata |= metadata_of(artifact.best_of)
    tensors.write(path, _arrays(artifact), metadata)


def load(path: Path) -> Artifact:
    """Read an artefact.

    Raises ``ArtifactError`` that names the field and the value at fault.
    """
    arrays, metadata = tensors.read(path)
    try:
        found = _from_arrays(_description(metadata), arrays)
        best_of = read_best_of(Fields(arrays), metadata, found.description.models)
        return replace(found, best_of=best_of)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error


def _description(metadata: Mapping[str, str]) -> Description:
    text = metadata.get("fairgate-router")
    if text is None:
        raise ArtifactError("not an artefact of fairgate's router: no metadata 'fairgate-router'")
    try:
        description = msgspec.json.decode(text, type=Description)
    except msgspec.DecodeError as error:
        raise ArtifactError(f"fairgate-router: {error}") from error
    if description.format not in (FORMAT, NEWER_FORMAT):
        known = f"{FORMAT} or {NEWER_FORMAT}"
        raise ArtifactError(f"format: expected {known}, got {description.format}: train it anew")
    if len(description.models) < 2:
        raise ArtifactError(f"models: expected two or more, got {list(description.models)}")
    return description


def _arrays(artifact: Artifact) -> dict[str, NDArray[Any]]:
    heads, support = artifact.heads, artifact.support
    half = {"rarity": heads.rarity, "table": heads.table}
    full = {
        "bias": heads.bias,
        "thresholds": artifact.thresholds,
        "support.center": support.center,
        "support.usual": np.array([support.density, support.known]),
    }
    for number, view in enumerate(heads.views):
        full[f"view{number}.slice"] = np.array([view.begin, view.end])
        half[f"view{number}.weights"] = view.weights
        if view.kernel is not None:
            full[f"view{number}.mean"] = view.kernel.mean
            full[f"view{number}.scale"] = view.kernel.scale
            half[f"view{number}.projection"] = view.kernel.projection
            full[f"view{number}.phase"] = view.kernel.phase
    for number, knots in enumerate(artifact.calibration):
        full[f"calibration{number}"] = knots
    if artifact.families is not None:
        full |= families_arrays(artifact.families)
    if artifact.best_of is not None:
        full |= arrays_of(artifact.best_of)
    return (
        {n: a.astype(np.float16) for n, a in half.items()}
        | {n: a.astype(np.float32) for n, a in full.items()}
        | {"support.words": np.packbits(support.words)}
    )


def _from_arrays(description: Description, arrays: Mapping[str, NDArray[Any]]) -> Artifact:
    fields = Fields(arrays)
    models = len(description.models)
    heads = head_count(description.method, models)
    rarity = fields.take("rarity", None)
    table = fields.take("table", heads, len(rarity))
    views: list[View] = []
    while fields.has(f"view{len(views)}.slice"):
        views.append(_view(fields, f"view{len(views)}", heads))
    usual = fields.take("support.usual", 2)
    return Artifact(
        description,
        Heads(rarity, table, tuple(views), fields.take("bias", heads), description.logistic),
        tuple(fields.take(f"calibration{n}", 2, None) for n in range(models)),
        fields.take("thresholds", models - 1, QUALITY_STEPS),
        Support(
            fields.take("support.center", None),
            fields.bits("support.words", WORDS),
            float(usual[0]),
            float(usual[1]),
        ),
        read_families(fields, heads) if description.cold else None,
    )


def head_count(method: str, models: int) -> int:
    """Heads of a router: see :class:`Artifact`."""
    return models if method == "gap" else 2 * models - 1


def _view(fields: Fields, name: str, heads: int) -> View:
    begin, end = (int(x) for x in fields.take(f"{name}.slice", 2))
    if not 0 <= begin < end:
        raise ArtifactError(f"{name}.slice: expected 0 <= begin < end, got {[begin, end]}")
    if not fields.has(f"{name}.projection"):
        return View(begin, end, None, fields.take(f"{name}.weights", end - begin, heads))
    projection = fields.take(f"{name}.projection", end - begin, None)
    size = projection.shape[1]
    kernel = Kernel(
        fields.take(f"{name}.mean", end - begin),
        fields.take(f"{name}.scale", end - begin),
        projection,
        fields.take(f"{name}.phase", size),
    )
    return View(begin, end, kernel, fields.take(f"{name}.weights", size, heads))
