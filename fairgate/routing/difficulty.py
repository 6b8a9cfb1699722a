"""The router that knows how difficult a prompt is: the cheapest lane that will do (Hybrid LLM).

Source: arXiv 2404.14618, for any number of lanes; what it knows comes from a trained artefact.
"""

from __future__ import annotations

from collections.abc import Sequence

from fairgate.routing.base import Action, Decision, LaneView, RouteRequest, by_price
from fairgate.routing.predictor import Predictor

DEFAULT_QUALITY = 0.5


class ByDifficulty:
    """Takes the lane whose model the artefact finds good enough at the request's quality.

    Models that the artefact lists after that one are good enough as well: where ``overflow``, their
    lanes take what it has no room for, the cheapest first. While no lane that is good enough is up,
    the best of the others serves.
    """

    name = "hybrid"

    def __init__(self, predictor: Predictor, *, overflow: bool = True) -> None:
        self._predictor = predictor
        self._overflow = overflow
        self._rank = {model: rank for rank, model in enumerate(predictor.models)}

    def route(self, request: RouteRequest, lanes: Sequence[LaneView]) -> Decision:
        """See :class:`fairgate.routing.base.Router`. Lanes are those with known models."""
        quality = DEFAULT_QUALITY if request.quality is None else request.quality
        prediction = self._predictor.predict(request.text)
        least = self._rank[self._predictor.choose(prediction, quality)]
        good = [lane for lane in by_price(lanes) if self._rank[lane.model] >= least]
        reason = "difficulty"
        if not any(lane.up for lane in good):
            reason = "best-left"
            good = sorted(lanes, key=lambda lane: (not lane.up, -self._rank[lane.model]))
        return Decision(
            actions=tuple(Action(lane.name) for lane in (good if self._overflow else good[:1])),
            router=self.name,
            version=self._predictor.version,
            reason=reason,
            predicted={lane.name: prediction.success[lane.model] for lane in lanes},
            confidence=prediction.support,
        )


def knows(predictor: Predictor, lanes: Sequence[LaneView]) -> bool:
    """Whether it can tell ``lanes`` apart: two models or more, and none that it never saw."""
    models = {lane.model for lane in lanes}
    return len(models) > 1 and models <= set(predictor.models)
