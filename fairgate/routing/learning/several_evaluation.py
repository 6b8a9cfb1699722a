"""How well an artefact chooses lanes and numbers of answers, by records of several answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from fairgate.config.sampling import BestRoute as Settings
from fairgate.errors import RecordsError
from fairgate.routing.learned import LearnedPredictor
from fairgate.routing.learning import metrics, several_ways
from fairgate.routing.learning.frontier import CUTS, drops
from fairgate.routing.learning.records import Records
from fairgate.routing.learning.several_answers import as_good_labels, quality_labels
from fairgate.routing.predictor import Prediction


class SeveralEvaluation(msgspec.Struct, frozen=True):
    """Drops of quality, relative to the dearest model's, at each of ``cuts`` of its cost."""

    samples: int
    cuts: tuple[float, ...]
    heads: tuple[float, ...]
    """By learned heads."""
    formula: tuple[float, ...]
    """By formula, with the settings that ``best_route`` has by default."""
    one: tuple[float, ...]
    """By learned heads, of one answer each: a router without best of n."""
    ece: float
    """Expected calibration error of the heads, their mean."""


def evaluate_several(
    predictor: LearnedPredictor,
    records: Records,
    said: Sequence[Prediction],
    prices: Mapping[str, float],
) -> SeveralEvaluation | None:
    """Choose by threshold, as ``best_route`` does; ``said``: predictions for the records' prompts.

    ``None`` where the artefact has no heads, or the records no several answers of all its models.
    Raises ``RecordsError`` where ``prices`` lack one of them.
    """
    models, learned = predictor.models, predictor.best_of
    if learned is None or not records.most or not set(models) <= set(records.models):
        return None
    for model in models:
        if not prices.get(model, 0) > 0:
            raise RecordsError(f"prices: {model}: expected > 0, got {prices.get(model)}")
    known, samples = records.only(models), min(records.most, learned.samples)
    quality = quality_labels(known)[:, :, :samples]
    outcome = several_ways.ways_of(quality[:, :-1], quality[:, -1, 0])
    costs = several_ways.costs_of(prices, models, samples)
    usual = Settings()
    formula = several_ways.by_formula(
        "threshold", samples, accuracy=usual.scorer_accuracy, concentration=usual.concentration
    )
    heads = several_ways.all_of(said, models, several_ways.by_heads("threshold", samples))
    by_formula = several_ways.all_of(said, models, formula)
    one = several_ways.single_answers(samples, len(costs))
    wanted = as_good_labels(known)[:, :, :samples].reshape(len(known), -1)
    return SeveralEvaluation(
        samples=samples,
        cuts=CUTS,
        heads=drops(heads, outcome, costs, "threshold"),
        formula=drops(by_formula, outcome, costs, "threshold"),
        one=drops(heads[:, one], outcome[:, one], costs[one], "threshold"),
        ece=float(np.mean([metrics.ece(heads[:, w], wanted[:, w]) for w in range(len(costs) - 1)])),
    )
