"""What routing saves and loses by the recorded labels: certified on one part, told of another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairgate.errors import ArtifactError
from fairgate.routing import artifact
from fairgate.routing.encoders.ngrams import NGrams
from fairgate.routing.hybrid import Hybrid
from fairgate.routing.learned import LearnedPredictor, good_enough
from fairgate.routing.learning.certifying import Certificate, certify, with_promise
from fairgate.routing.learning.promise import CONFIDENCE
from fairgate.routing.learning.records import Records, folds
from fairgate.routing.learning.training import (
    FOLDS,
    cross_fitted,
    encode_all,
    targets_of,
    train,
)
from fairgate.routing.loading import load_predictor
from tests.bench.routing import promises
from tests.bench.routing_real.labelled import SMALL
from tests.bench.routing_real.plan import Plan

Row = dict[str, str]
Floats = NDArray[np.float64]
Chosen = NDArray[np.bool_]

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Knob:
    """What a tenant asks for: a quality, or a drop that is certified."""

    quality: float | None = None
    drop: float | None = None

    def __str__(self) -> str:
        return f"drop {self.drop:g}" if self.quality is None else f"quality {self.quality:g}"


def trained(
    plan: Plan, drops: Sequence[float], out: Path
) -> tuple[LearnedPredictor, list[Certificate]]:
    """Train on one part and certify ``drops`` on another; the artefact is kept in ``out``."""
    artifact.save(train(plan.train.records, NGrams()).artifact, out)
    certified = []
    for drop in drops:
        predictor = load_predictor(out)
        certified.append(certify(predictor, plan.certify.records, drop, CONFIDENCE))
        artifact.save(with_promise(predictor.artifact, certified[-1]), out)
    return load_predictor(out), certified


def goes_small(predictor: LearnedPredictor, prompts: Sequence[str], knob: Knob) -> Chosen:
    """Which of ``prompts`` the small model answers, as the gateway decides it."""
    hybrid = Hybrid(predictor.artifact)

    def model(prompt: str) -> str:
        said = predictor.predict(prompt)
        if knob.quality is not None:
            return hybrid.choose(said, knob.quality)
        try:
            return hybrid.promised(said, knob.drop or 0.0)
        except ArtifactError:
            return predictor.models[-1]

    return np.array([model(prompt) == SMALL for prompt in prompts])


def figures(records: Records, small: Chosen) -> Row:
    """Share of large calls saved and the drop, beside a blind choice and the best possible."""
    qualities = records.quality.astype(np.float64)
    gap, large = qualities[:, 1] - qualities[:, 0], qualities[:, 1]
    drop = float((gap * small).sum() / large.sum())
    return {
        "prompts": str(len(records)),
        "large calls saved": f"{small.mean():.1%}",
        "drop": f"{drop:+.1%}",
        "95 %": "{:+.1%}..{:+.1%}".format(*interval(gap * small, large)),
        "drop of a blind choice": f"{small.mean() * gap.sum() / large.sum():+.1%}",
        "an oracle saves at that drop": f"{_oracle(gap, max(drop, 0.0) * large.sum()):.1%}",
    }


def broken(records: Records, labels: int, drop: float) -> Row:
    """How often a promise of ``drop`` is broken when other ``labels`` of ``records`` certify it.

    Scores come from routers that were trained without the prompt's part.
    """
    score = _unseen(records)
    row: Row = {"drop promised": f"{drop:.0%}", "labels": str(labels)}
    quality = records.quality.astype(np.float64)
    for name, rule in promises.RULES.items():
        left = promises.resplit(score, quality, labels, drop, rule)
        expected = promises.drawn(score, quality, labels, drop, rule)
        row[f"broken, {name}, resplit"] = f"{left.broken:.1%}"
        row[f"broken, {name}, drawn"] = f"{expected.broken:.1%}"
        row[f"saved, {name}"] = f"{np.mean(left.shares):.1%}"
    chance = promises.by_chance(labels, len(records))
    return row | {"goal": f"resplit <= 10 %, drawn <= 5 % (chance alone: resplit {chance:.1%})"}


def bound(records: Records, labels: Sequence[int], drops: Sequence[float]) -> Iterator[Row]:
    """How often the bound is wrong, by labels drawn with replacement: a line for each of both."""
    score, quality = _unseen(records), records.quality.astype(np.float64)
    for count in labels:
        for drop in drops:
            found = promises.drawn(score, quality, count, drop, promises.RULES["bound"])
            yield {
                "labels": str(count),
                "drop promised": f"{drop:.0%}",
                "broken, drawn": f"{found.broken:.1%}",
                "saved": f"{np.mean(found.shares):.1%}",
                "goal": "<= 5 %",
            }


def _unseen(records: Records) -> Floats:
    """How far the small model will do, by routers that were trained without the prompt's part."""
    encoded = encode_all(NGrams(), records.prompts)
    part = folds(records, FOLDS, salt="resplit")
    raw = cross_fitted(encoded, targets_of(records, "gap"), part, NGrams.buckets)
    return good_enough(raw, len(records.models))[:, 0].astype(np.float64)


def knobs(predictor: LearnedPredictor, plan: Plan, wanted: Sequence[Knob]) -> Iterator[Row]:
    """A line for each knob on prompts of seen tasks, and on tasks that were held out."""
    for name, part in (("seen tasks", plan.test), ("unseen tasks", plan.unseen)):
        for knob in wanted:
            small = goes_small(predictor, part.records.prompts, knob)
            yield {"prompts of": name, "knob": str(knob)} | figures(part.records, small)


def interval(lost: Floats, large: Floats) -> tuple[float, float]:
    """95 % of the drop over resamples of the prompts."""
    random = np.random.default_rng(0)
    drawn = random.integers(0, len(lost), (RESAMPLES, len(lost)))
    low, high = np.percentile(lost[drawn].sum(1) / large[drawn].sum(1), (2.5, 97.5))
    return float(low), float(high)


def _oracle(gap: Floats, lost: float) -> float:
    """Share of prompts that may go small while no more than ``lost`` is lost, outcomes known."""
    return float(np.searchsorted(np.cumsum(np.sort(gap)), lost, side="right") / len(gap))
