"""Few labels: the usual heads beside the cold start, on seen tasks and on tasks never labelled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from fairgate.routing.encoders.ngrams import NGrams
from fairgate.routing.hybrid import LEAST_SUPPORT
from fairgate.routing.learned import LearnedPredictor
from fairgate.routing.learning import metrics
from fairgate.routing.learning.records import Records
from fairgate.routing.learning.training import train
from tests.bench.routing.signal import written
from tests.bench.routing_real.labelled import LARGE, SMALL, is_exam
from tests.bench.routing_real.plan import Plan
from tests.bench.routing_real.recorded import Row

ASKED = 400
"""Prompts of each kind that are measured on."""


def rows(plan: Plan, labels: int, seeds: int) -> Iterator[Row]:
    """A line for each of both; means over draws of ``labels``, with their 95 % intervals."""
    figures: dict[str, dict[str, list[float]]] = {"heads": {}, "cold start": {}}
    seen, unseen = _by_family(plan.seen.records), _by_family(plan.unseen.records)
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        order = random.permutation(len(seen))
        known, rest = seen.take(order[:labels]), seen.take(order[labels:][:ASKED])
        strange = unseen.take(random.permutation(len(unseen))[:ASKED])
        for name, cold in (("heads", False), ("cold start", True)):
            artifact = train(known, NGrams(), cold=cold).artifact
            for figure, value in _measured(LearnedPredictor(artifact, NGrams()), rest, strange):
                figures[name].setdefault(figure, []).append(value)
    for name, columns in figures.items():
        row = {"labels": str(labels), "from few labels": name}
        yield row | {figure: written(values) for figure, values in columns.items()}


def _measured(
    predictor: LearnedPredictor, seen: Records, unseen: Records
) -> Iterator[tuple[str, float]]:
    said = [predictor.predict(prompt) for prompt in seen.prompts]
    small, large = seen.quality.astype(np.float64).T
    to_large = [-p.enough[SMALL] for p in said]
    yield "APGR", metrics.apgr(to_large, small, large)
    errors = [
        metrics.ece([p.success[model] for p in said], outcome)
        for model, outcome in ((SMALL, small), (LARGE, large))
    ]
    yield "ECE", float(np.mean(errors))
    yield "large for want of support", _unsupported([p.support for p in said])
    strange = [predictor.predict(prompt).support for prompt in unseen.prompts]
    yield "the same, unseen tasks", _unsupported(strange)


def _unsupported(support: list[float]) -> float:
    return float(np.mean([one < LEAST_SUPPORT for one in support]))


def _by_family(records: Records) -> Records:
    """MMLU's subjects as one family: a few labels would hold one of each."""
    families = (task.partition("/")[0] if is_exam(task) else task for task in records.tasks)
    return replace(records, tasks=tuple(families))
