"""From records to an artefact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fairgate.errors import RecordsError
from fairgate.routing import isotonic
from fairgate.routing.artifact import (
    FORMAT,
    NEWER_FORMAT,
    QUALITY_STEPS,
    Artifact,
    Description,
    Support,
    head_count,
)
from fairgate.routing.encoders.base import WORDS, Encoded, Encoder
from fairgate.routing.families import Families
from fairgate.routing.heads import Heads, raw_scores
from fairgate.routing.learned import good_enough
from fairgate.routing.learning import labels
from fairgate.routing.learning.best_of_heads import fit_best_of
from fairgate.routing.learning.fitting import fit_heads
from fairgate.routing.learning.records import Records, folds

Matrix = NDArray[np.float32]
Trainer = Literal["ridge", "torch"]
Fit = Callable[[Sequence[Encoded], Matrix, int], Heads]

FOLDS = 5
FEWEST = 50
_USUAL = 0.05
_LEAST = 1e-3


@dataclass(frozen=True, slots=True)
class Trained:
    """An artefact, and what it would have said of its own records had it not seen them."""

    artifact: Artifact
    unseen: Matrix
    """Shape (prompts, heads): raw scores by cross-fitting."""


def encode_all(encoder: Encoder, prompts: Sequence[str]) -> list[Encoded]:
    """Every prompt in numbers."""
    return [encoder.encode(prompt) for prompt in prompts]


def train(
    records: Records,
    encoder: Encoder,
    method: labels.Method = "gap",
    encoded: Sequence[Encoded] | None = None,
    *,
    trainer: Trainer = "ridge",
    cold: bool = False,
) -> Trained:
    """Fit a router; ``encoded`` saves encoding the prompts again.

    ``trainer``: ``torch`` fits by cross-entropy and needs torch. ``cold``: from few labels, by the
    families of tasks that the records name; needs torch.

    Probabilities and thresholds come from cross-fitting over parts told by the prompts' hashes, so
    that equal prompts never stand on both sides. Where the records say which of several answers
    were picked, heads for the best of n are fitted as well. Raises ``RecordsError`` for records
    that are too few, or too much alike.
    """
    part = _parts(records)
    prompts = encoded or encode_all(encoder, records.prompts)
    targets = targets_of(records, method)
    fit = fitter(trainer)
    heads = fit(prompts, targets, encoder.buckets)
    families = None
    if cold:
        families, unseen = _cold(prompts, records, targets, part)
    else:
        unseen = cross_fitted(prompts, targets, part, encoder.buckets, fit)
    models = len(records.models)
    calibration = (isotonic.fit(unseen[:, k], records.quality[:, k]) for k in range(models))
    steps = np.linspace(0, 1, QUALITY_STEPS)
    thresholds = np.quantile(good_enough(unseen, models), steps, axis=0).T
    form = heads.views[0].features(np.stack([prompt.dense for prompt in prompts]))
    artifact = Artifact(
        Description(
            NEWER_FORMAT if cold or heads.logistic else FORMAT,
            encoder.name,
            method,
            records.models,
            len(records),
            cold=cold,
            logistic=heads.logistic,
        ),
        heads,
        tuple(calibration),
        thresholds.astype(np.float32),
        _support(form, prompts),
        families,
        fit_best_of(form, unseen, records, part) if records.most else None,
    )
    return Trained(artifact, unseen)


def _parts(records: Records) -> NDArray[np.int64]:
    """Which part each record is held out with. Raises ``RecordsError`` where nothing can be."""
    if len(records.models) < 2:
        raise RecordsError(f"scores: expected two models or more, got {list(records.models)}")
    if len(records) < FEWEST:
        raise RecordsError(f"records: expected at least {FEWEST}, got {len(records)}")
    part = folds(records, FOLDS)
    if len(np.unique(part)) < 2:
        different = len(set(records.prompts))
        raise RecordsError(f"prompt: too few different ones to hold some out, got {different}")
    return part


def _cold(
    prompts: Sequence[Encoded], records: Records, targets: Matrix, part: NDArray[np.int64]
) -> tuple[Families, Matrix]:
    """Families from all of ``records``, and each one's scores from families of the other parts."""
    from fairgate.routing.learning.cold import MOST, fit_families

    if len(records) > MOST:
        raise RecordsError(f"records: the cold start takes at most {MOST}, got {len(records)}")

    def fitted(among: NDArray[np.int64]) -> Families:
        few = [prompts[i] for i in among.tolist()]
        return fit_families(few, [records.tasks[i] for i in among.tolist()], targets[among])

    scores = np.zeros_like(targets)
    for k in np.unique(part):
        known = fitted(np.flatnonzero(part != k))
        for i in np.flatnonzero(part == k).tolist():
            scores[i] = known.raw(prompts[i])
    return fitted(np.arange(len(records))), scores


def targets_of(records: Records, method: labels.Method) -> Matrix:
    """Success of each model, then, with labels of the paper, whether each suffices."""
    models = len(records.models)
    columns = [records.quality[:, k] for k in range(models)]
    if head_count(method, models) > models:
        dearest = records.samples[:, -1]
        columns += [
            labels.good_enough(records.samples[:, k], dearest, method) for k in range(models - 1)
        ]
    return np.stack(columns, axis=1)


def fitter(trainer: Trainer) -> Fit:
    """What fits heads by this trainer. Raises ``RecordsError`` where torch is missing."""
    if trainer == "ridge":
        return fit_heads
    if find_spec("torch") is None:
        raise RecordsError("trainer: 'torch' needs torch: pip install fairgate[router]")
    from fairgate.routing.learning.crossentropy import fit_by_crossentropy

    return fit_by_crossentropy


def cross_fitted(
    prompts: Sequence[Encoded],
    targets: Matrix,
    part: NDArray[np.int64],
    buckets: int,
    fit: Fit = fit_heads,
) -> Matrix:
    """Raw scores of each prompt from heads that were fitted without its part."""
    scores = np.zeros_like(targets)
    for k in np.unique(part):
        rest, held = np.flatnonzero(part != k), np.flatnonzero(part == k)
        heads = fit([prompts[i] for i in rest.tolist()], targets[rest], buckets)
        scores[held] = raw_scores(heads, [prompts[i] for i in held.tolist()])
    return scores


def _support(features: Matrix, prompts: Sequence[Encoded]) -> Support:
    center = np.asarray(features.mean(axis=0), np.float32)
    uses = np.bincount(np.concatenate([np.unique(p.words) for p in prompts]), minlength=WORDS)
    # As if each prompt were new: a word that only the prompt itself has does not count.
    known = [float((uses.take(p.words) > 1).mean()) for p in prompts if len(p.words)] or [0.0]
    return Support(
        center,
        uses > 0,
        max(float(np.quantile(features @ center, _USUAL)), _LEAST),
        max(float(np.quantile(known, _USUAL)), _LEAST),
    )
