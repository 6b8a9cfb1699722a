"""BEST-Route's learned heads, applied: what the best of n answers of each model is worth.

Source: arXiv 2506.22716, section 3: one head for each model and number of answers, over features of
the prompt that all heads share. Here these are the kernel features of its form, and the scores that
the artefact's other heads have given it by then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from fairgate.errors import ArtifactError
from fairgate.routing.fields import Fields
from fairgate.routing.predictor import Learned, SeveralAnswers

Array = NDArray[np.float32]

METADATA = "fairgate-best-of"
_WEIGHTS, _BIAS = "best_of.weights", "best_of.bias"
_SURE = 30.0


@dataclass(frozen=True, slots=True)
class BestOfHeads:
    """Logistic heads: ``as_good`` of each model but the dearest, then ``right`` of each model; of
    each for 1, 2, … answers."""

    learned: Learned
    models: tuple[str, ...]
    weights: Array
    """Shape (heads, features of the form + scores); of the former there may be fewer than are
    known: then it is the first ones."""
    bias: Array

    def judge(self, form: Array, raw: Array) -> SeveralAnswers:
        """Of the prompt with these features and scores."""
        known = len(self.weights.T) - len(raw)
        logits = self.weights @ np.concatenate((form[:known], raw)) + self.bias
        chances = 1 / (1 + np.exp(-np.clip(logits, -_SURE, _SURE)))
        rows = chances.reshape(-1, self.learned.samples).tolist()
        cheaper = len(self.models) - 1
        return SeveralAnswers(
            dict(zip(self.models[:cheaper], rows, strict=False)),
            dict(zip(self.models, rows[cheaper:], strict=True)),
        )

    def fits(self, form: int, scores: int) -> bool:
        """Whether it was made for so many scores, and no more features than these."""
        return scores <= len(self.weights.T) <= form + scores


def heads_of(models: Sequence[str], samples: int) -> int:
    """How many heads there are."""
    return (2 * len(models) - 1) * samples


def arrays_of(heads: BestOfHeads) -> dict[str, Array]:
    """As :func:`read_best_of` reads them, by name."""
    return {_WEIGHTS: heads.weights, _BIAS: heads.bias}


def metadata_of(heads: BestOfHeads) -> dict[str, str]:
    """What the file says about them."""
    return {METADATA: msgspec.json.encode(heads.learned).decode()}


def read_best_of(
    fields: Fields, metadata: Mapping[str, str], models: tuple[str, ...]
) -> BestOfHeads | None:
    """The heads in a file; ``None``: it has none. Raises ``ArtifactError`` for those that do not
    fit."""
    told = metadata.get(METADATA)
    if told is None:
        return None
    try:
        learned = msgspec.json.decode(told, type=Learned)
    except msgspec.DecodeError as error:
        raise ArtifactError(f"{METADATA}: {error}") from error
    if learned.samples < 1:
        raise ArtifactError(f"{METADATA}: samples: expected at least 1, got {learned.samples}")
    count = heads_of(models, learned.samples)
    weights = fields.take(_WEIGHTS, count, None)
    return BestOfHeads(learned, models, weights, fields.take(_BIAS, count))
