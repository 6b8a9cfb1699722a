"""How well an artefact routes recorded prompts."""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from fairgate.errors import RecordsError
from fairgate.routing.learned import LearnedPredictor
from fairgate.routing.learning import metrics
from fairgate.routing.learning.records import Records
from fairgate.routing.learning.several_evaluation import SeveralEvaluation, evaluate_several

Floats = NDArray[np.float64]


class Evaluation(msgspec.Struct, frozen=True):
    """What ``fairgate router evaluate`` prints; NaN where the records cannot tell, in JSON null."""

    n: int
    small: str
    large: str
    apgr: float
    """Area under the gap-recovered curve; random 0.5."""
    cpt50: float
    """Share of large calls that recovers half of the quality gap."""
    cpt80: float
    auc: float
    """ROC AUC of "the large model is better"."""
    ece: float
    """Expected calibration error of the success probabilities, mean of both models."""
    decision_us: dict[str, float]
    """Microseconds of a decision, encoding included: median and 99th percentile."""
    artifact: str
    best_of: SeveralEvaluation | None = None
    """Of records and an artefact that know of several answers, and where prices are given."""


def evaluate(
    predictor: LearnedPredictor, records: Records, prices: Mapping[str, float] | None = None
) -> Evaluation:
    """Route the cheapest against the dearest of the models that ``predictor`` knows.

    Records of none of its models are read as outcomes of its cheapest and its dearest. ``prices``:
    what a token of each model costs.
    """
    (small, large), names = pairs(predictor, records)
    outcomes = records.only(names).quality.astype(np.float64)
    enough, success, microseconds = np.empty(len(records)), np.empty(outcomes.shape), []
    predictions = []
    for i, prompt in enumerate(records.prompts):
        start = time.perf_counter()
        said = predictor.predict(prompt)
        microseconds.append(1e6 * (time.perf_counter() - start))
        enough[i] = said.enough[small] - said.enough[large]
        success[i] = said.success[small], said.success[large]
        predictions.append(said)
    to_large = -enough
    ece = [metrics.ece(success[:, k], outcomes[:, k]) for k in (0, 1)]
    p50, p99 = np.percentile(microseconds, (50, 99))
    return Evaluation(
        n=len(records),
        small=names[0],
        large=names[1],
        apgr=metrics.apgr(to_large, outcomes[:, 0], outcomes[:, 1]),
        cpt50=metrics.cpt(0.5, to_large, outcomes[:, 0], outcomes[:, 1]),
        cpt80=metrics.cpt(0.8, to_large, outcomes[:, 0], outcomes[:, 1]),
        auc=metrics.roc_auc(to_large, outcomes[:, 1] > outcomes[:, 0]),
        ece=float(np.mean(ece)),
        decision_us={"p50": round(float(p50), 1), "p99": round(float(p99), 1)},
        artifact=predictor.version,
        best_of=evaluate_several(predictor, records, predictions, prices) if prices else None,
    )


def as_json(evaluation: Evaluation) -> str:
    """One JSON object."""
    return msgspec.json.encode(evaluation).decode()


def pairs(predictor: LearnedPredictor, records: Records) -> tuple[tuple[str, str], tuple[str, str]]:
    """Cheapest and dearest, as the predictor calls them and as the records do."""
    known = [model for model in predictor.models if model in records.models]
    if len(known) >= 2:
        return (known[0], known[-1]), (known[0], known[-1])
    if len(records.models) < 2:
        raise RecordsError(f"scores: expected two models or more, got {list(records.models)}")
    said = predictor.models[0], predictor.models[-1]
    return said, (records.models[0], records.models[-1])
