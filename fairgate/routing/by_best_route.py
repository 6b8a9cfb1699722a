"""The router that chooses a lane and how many answers it writes (BEST-Route, arXiv 2506.22716)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from fairgate.accounting import BYTES_PER_TOKEN
from fairgate.config.sampling import BestRoute as Settings
from fairgate.routing.base import Action, Decision, LaneView, RouteRequest, by_price
from fairgate.routing.best_route import BestRoute, Tariff
from fairgate.routing.predictor import Prediction, Predictor
from fairgate.sampling import may_sample

OUTPUT_TOKENS = 256
"""Taken for an answer's length, of all lanes alike."""

BY_FORMULA = "-by-formula"
"""Not all that was chosen among had been learned from records of several answers."""


class ByBestRoute:
    """Takes the cheapest lane and number of answers that are good enough at the request's quality.

    The quality knob is the wanted probability of an answer as good as the dearest lane's. How good
    each way is, the artefact's heads say; where it has none for a lane, a formula does, and the
    reason of the decision ends in :data:`BY_FORMULA`. Requests that the artefact knows nothing
    about go to the dearest lane. Where ``overflow``, dearer lanes take with one
    answer what the chosen one has no room for.
    """

    name = "best-route"

    def __init__(
        self,
        predictor: Predictor,
        models: Mapping[str, str],
        settings: Settings,
        weights: Tariff,
        *,
        overflow: bool = True,
    ) -> None:
        """``models``: by lane. ``weights``: units of a token, read and written, at price 1."""
        self._predictor = predictor
        self._models = models
        self._choice = BestRoute(settings)
        self._weights = weights
        self._overflow = overflow

    def route(self, request: RouteRequest, lanes: Sequence[LaneView]) -> Decision:
        """See :class:`fairgate.routing.base.Router`. Every lane has a model."""
        prediction = self._predictor.predict(request.text)
        ordered = by_price(lanes)
        usable = [lane for lane in ordered if lane.up] or ordered
        success = {lane.name: prediction.success[self._models[lane.name]] for lane in lanes}
        tariffs = {lane.name: self._tariff(lane) for lane in usable}
        reference = self._choice.reference(tariffs, tariffs)
        learned = self._learned(prediction, tariffs, reference)
        chosen = self._choice.choose(
            {lane.name: success[lane.name] for lane in usable},
            tariffs,
            request.call.prompt_bytes / BYTES_PER_TOKEN,
            self._lengths(request, usable),
            learned=learned,
            threshold=1.0 if prediction.support <= 0 else request.quality,
            most=None if may_sample(request.call) else 1,
        )
        first = Action(chosen.lane, chosen.samples)
        at = [lane.name for lane in usable].index(chosen.lane)
        dearer = [Action(lane.name) for lane in usable[at + 1 :]] if self._overflow else []
        all_learned = tariffs.keys() <= {*learned, reference}
        return Decision(
            actions=(first, *dearer),
            router=self.name,
            version=self._predictor.version,
            reason=("samples" if chosen.samples > 1 else "difficulty")
            + ("" if all_learned else BY_FORMULA),
            predicted=success,
            confidence=prediction.support,
        )

    def _learned(
        self, prediction: Prediction, lanes: Collection[str], reference: str
    ) -> Mapping[str, Sequence[float]]:
        """What heads say of the lanes' best of 1, 2, … answers, as far as there are any.

        Heads for "as good" compare with the artefact's dearest model, and with no other.
        """
        several = prediction.several
        if several is None:
            return {}
        known = several.right if self._choice.by_value else several.as_good
        dearest = self._predictor.models[-1]
        if not (self._choice.by_value or self._models[reference] == dearest):
            return {}
        named = {lane: self._models[lane] for lane in lanes}
        return {lane: known[model] for lane, model in named.items() if model in known}

    def _tariff(self, lane: LaneView) -> Tariff:
        return Tariff(lane.price * self._weights.input, lane.price * self._weights.output)

    def _lengths(self, request: RouteRequest, lanes: Sequence[LaneView]) -> Mapping[str, float]:
        length = min(request.max_output_tokens or OUTPUT_TOKENS, OUTPUT_TOKENS)
        return {lane.name: float(length) for lane in lanes}
