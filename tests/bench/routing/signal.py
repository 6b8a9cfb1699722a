"""How well the order of prompts recovers the quality gap, beside simple rules and an oracle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairgate.routing import isotonic
from fairgate.routing.encoders.ngrams import NGrams
from fairgate.routing.learned import good_enough
from fairgate.routing.learning import metrics
from fairgate.routing.learning.labels import Method
from fairgate.routing.learning.records import folds
from fairgate.routing.learning.training import cross_fitted, targets_of
from tests.bench.routing.data import MATHS, Recorded

Floats = NDArray[np.float64]
Parts = NDArray[np.int64]
Row = dict[str, str]

SEEN, UNSEEN = 5, 10
PRIOR_PROMPTS = 20
FEW, DRAWS = 5, 500


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of prompts that come from models that were fitted without their part."""

    part: Parts
    to_large: Mapping[str, Floats]
    success: Floats | None


def by_prompt(data: Recorded, seed: int) -> Parts:
    """Parts told by the prompts' hashes: tasks occur in training."""
    return folds(data.records, SEEN, salt=str(seed))


def by_task(data: Recorded, seed: int) -> Parts:
    """Parts of whole tasks; grade-school maths (its own row) is always trained on."""
    tasks = np.unique(data.tasks)
    order = np.random.default_rng(seed).permutation(tasks[tasks != MATHS])
    of = {task: i % UNSEEN for i, task in enumerate(order)}
    return np.array([of.get(task, -1) for task in data.tasks])


def learned(data: Recorded, part: Parts, method: Method, small: str, large: str) -> Scored:
    """Cross-fitted scores, with probabilities calibrated on the other parts."""
    outcomes = data.records.only((small, large))
    raw = cross_fitted(data.encoded, targets_of(outcomes, method), part, NGrams.buckets)
    success = np.zeros((len(raw), 2))
    for held in np.unique(part):
        inside = part == held
        for k in range(2):
            knots = isotonic.fit(raw[~inside, k], outcomes.quality[~inside, k])
            success[inside, k] = isotonic.apply(knots, raw[inside, k])
    return Scored(part, {f"router ({method})": -good_enough(raw, 2)[:, 0]}, success)


def rules(data: Recorded, part: Parts, quality: Floats) -> Scored:
    """The baselines that order prompts."""
    gap = quality[:, 1] - quality[:, 0]
    prior, true = np.zeros(len(gap)), np.zeros(len(gap))
    for held in np.unique(part):
        inside = part == held
        overall = gap[~inside].mean()
        for task in np.unique(data.tasks[inside]):
            known = gap[~inside & (data.tasks == task)]
            shrunk = (known.sum() + PRIOR_PROMPTS * overall) / (len(known) + PRIOR_PROMPTS)
            prior[inside & (data.tasks == task)] = shrunk
            true[inside & (data.tasks == task)] = gap[inside & (data.tasks == task)].mean()
    ordered = {
        "random": np.random.default_rng(0).random(len(gap)),
        "length rule": np.array([float(len(prompt)) for prompt in data.records.prompts]),
        "category prior": prior,
        "oracle of each task's mean": true,
        "oracle": gap.astype(np.float64),
    }
    return Scored(part, ordered, None)


def rows(name: str, scores: Scored, quality: Floats, among: NDArray[np.bool_]) -> Iterator[Row]:
    """A line of figures per router; each is a mean over parts with its 95 % interval."""
    for router, to_large in scores.to_large.items():
        figures: dict[str, list[float]] = {}
        for held in np.unique(scores.part[among]):
            inside = among & (scores.part == held)
            small, large = quality[inside].T
            s = to_large[inside]
            one = {
                "APGR": metrics.apgr(s, small, large),
                "CPT50": metrics.cpt(0.5, s, small, large),
                "CPT80": metrics.cpt(0.8, s, small, large),
                "AUC": metrics.roc_auc(s, large > small),
            }
            if scores.success is not None:
                errors = (
                    metrics.ece(scores.success[inside, k], quality[inside, k]) for k in (0, 1)
                )
                one["ECE"] = float(np.mean(list(errors)))
            for figure, value in one.items():
                figures.setdefault(figure, []).append(value)
        yield {"data": name, "router": router} | {f: written(v) for f, v in figures.items()}


def few_tasks(
    name: str, scores: Scored, quality: Floats, tasks: NDArray[np.str_], among: NDArray[np.bool_]
) -> Iterator[Row]:
    """All of ``among`` as one test, and how far a test of :data:`FEW` whole tasks of them varies.

    A single choice of a few tasks can be far off: the gap, which divides, differs among tasks.
    """
    random = np.random.default_rng(0)
    names = np.unique(tasks[among])
    drawn = [random.choice(names, FEW, replace=False) for _ in range(DRAWS)]
    small, large = quality.T
    for router, to_large in scores.to_large.items():
        found = [
            metrics.apgr(to_large[inside], small[inside], large[inside])
            for inside in (among & np.isin(tasks, few) for few in drawn)
        ]
        low, middle, high = np.nanpercentile(found, (5, 50, 95))
        whole = metrics.apgr(to_large[among], small[among], large[among])
        yield {
            "data": name,
            "router": router,
            "APGR of all together": f"{whole:.3f}",
            f"of {FEW} tasks, median": f"{middle:.3f}",
            "5th..95th of draws": f"{low:.3f}..{high:.3f}",
        }


def fixed(name: str, quality: Floats) -> Iterator[Row]:
    """What one model alone achieves."""
    for router, k in (("always small", 0), ("always large", 1)):
        yield {"data": name, "router": router, "quality": f"{quality[:, k].mean():.3f}"}


def written(values: list[float]) -> str:
    """Mean and half-width of the interval."""
    mean, half = metrics.interval(values)
    return f"{mean:.3f} ±{half:.3f}"


def filled(rows: list[dict[str, str]]) -> list[list[str]]:
    """A header, then every row with every column, in the order of appearance."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [columns, *([row.get(column, "") for column in columns] for row in rows)]
