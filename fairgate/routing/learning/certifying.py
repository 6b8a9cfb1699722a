"""What labelled prompts can promise about an artefact, and what more labels would buy."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
import numpy as np

from fairgate.errors import RecordsError
from fairgate.routing.artifact import Artifact, Promise
from fairgate.routing.learned import LearnedPredictor
from fairgate.routing.learning.evaluation import pairs
from fairgate.routing.learning.promise import Sweep, sweep
from fairgate.routing.learning.records import Records

_MORE = (2, 4, 8)


@dataclass(frozen=True, slots=True)
class Certificate:
    """The outcome of :func:`certify`."""

    limit: float
    confidence: float
    labels: int
    small: str
    sweep: Sweep
    step: int | None
    """Of the sweep, that is certified; ``None``: the labels cannot promise anything."""

    def promise(self) -> Promise | None:
        """What an artefact keeps of it."""
        if self.step is None:
            return None
        threshold, share = self.sweep.threshold[self.step], self.sweep.share[self.step]
        return Promise(
            self.small, self.limit, self.confidence, self.labels, float(threshold), float(share)
        )

    def report(self) -> list[str]:
        """For people."""
        found = self.promise()
        sure = f"with {self.confidence:.0%} confidence"
        if found is None or self.step is None:
            lines = [f"{self.labels} labels cannot promise a drop of {self.limit:.2%} {sure}"]
        else:
            lines = [
                f"threshold {found.threshold:.4f}: {found.share:.1%} of calls go to {self.small}",
                f"drop measured {self.sweep.drop[self.step]:.2%}, "
                f"at most {self.sweep.bound(self.confidence)[self.step]:.2%} {sure}",
            ]
        for factor in _MORE:
            step = self.sweep.with_more(factor).certified(self.limit, self.confidence)
            share = 0.0 if step is None else self.sweep.share[step]
            lines.append(f"with {factor * self.labels} labels expect {share:.1%}")
        return lines


def certify(
    predictor: LearnedPredictor, records: Records, limit: float, confidence: float
) -> Certificate:
    """Certify the predictor's cheapest model against its dearest.

    ``records`` must not have been used in training, or the promise is worth nothing. Raises
    ``RecordsError`` where they hold no right answer of the dearest.
    """
    (small, _), names = pairs(predictor, records)
    quality = records.only(names).quality
    if not quality[:, 1].any():
        raise RecordsError(
            f"scores.{names[1]}: 0 for all {len(records)} prompts; a drop is a share of the "
            "dearest model's quality: label prompts that it can answer"
        )
    score = [predictor.predict(prompt).enough[small] for prompt in records.prompts]
    swept = sweep(np.array(score), quality[:, 0], quality[:, 1])
    step = swept.certified(limit, confidence)
    return Certificate(limit, confidence, len(records), small, swept, step)


def with_promise(artifact: Artifact, found: Certificate) -> Artifact:
    """``artifact`` with the certified promise in place of an older one for the same drop."""
    promise = found.promise()
    others = [p for p in artifact.description.promises if p.drop != found.limit]
    promises = (*others, promise) if promise else tuple(others)
    return replace(
        artifact, description=msgspec.structs.replace(artifact.description, promises=promises)
    )
