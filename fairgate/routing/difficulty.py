"""The router that knows how difficult a prompt is: the cheapest lane that will do (Hybrid LLM).

Source: arXiv 2404.14618, for any number of lanes; what it knows comes from a trained artefact.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from fairgate.routing.base import Action, Decision, LaneView, RouteRequest, by_price
from fairgate.routing.predictor import Prediction, Predictor

Choose = Callable[[Prediction, float | None, float | None], str]
"""The cheapest model that will do at a quality, else at a tenant's drop; ``None``: not named."""


class ByDifficulty:
    """Takes the lane whose model the artefact finds good enough at the request's quality.

    Models that the artefact lists after that one are good enough as well: where ``overflow``, their
    lanes take what it has no room for, the cheapest first. While no lane that is good enough is up,
    the best of the others serves.
    """

    name = "hybrid"

    def __init__(
        self,
        predictor: Predictor,
        choose: Choose,
        models: Mapping[str, str],
        *,
        overflow: bool = True,
    ) -> None:
        """``models``: by lane, as :func:`models_of` tells."""
        self._predictor = predictor
        self._choose = choose
        self._models = models
        self._overflow = overflow
        ranks = {model: rank for rank, model in enumerate(predictor.models)}
        self._rank_of_model = ranks
        self._rank = {lane: ranks[model] for lane, model in models.items()}

    def route(self, request: RouteRequest, lanes: Sequence[LaneView]) -> Decision:
        """See :class:`fairgate.routing.base.Router`. Every lane has a model."""
        prediction = self._predictor.predict(request.text)
        least = self._rank_of_model[self._choose(prediction, request.quality, request.drop)]
        good = [lane for lane in by_price(lanes) if self._rank[lane.name] >= least]
        reason = "difficulty"
        if not any(lane.up for lane in good):
            reason = "best-left"
            good = sorted(lanes, key=lambda lane: (not lane.up, -self._rank[lane.name]))
        return Decision(
            actions=tuple(Action(lane.name) for lane in (good if self._overflow else good[:1])),
            router=self.name,
            version=self._predictor.version,
            reason=reason,
            predicted={lane.name: prediction.success[self._models[lane.name]] for lane in lanes},
            confidence=prediction.support,
        )


def models_of(predictor: Predictor, lanes: Sequence[LaneView]) -> dict[str, str]:
    """By lane: the model that ``predictor`` knows it by; unknown lanes are left out."""
    known = frozenset(predictor.models)
    named = {lane.name: next((n for n in lane.known_as if n in known), "") for lane in lanes}
    return {lane: model for lane, model in named.items() if model}


def tells_apart(models: Mapping[str, str], lanes: Collection[str]) -> bool:
    """Whether ``models`` names one for each of ``lanes``, and more than one in all."""
    return len(models) == len(lanes) and len(set(models.values())) > 1
