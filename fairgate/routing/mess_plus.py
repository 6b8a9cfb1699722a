"""The router that keeps a tenant's level of satisfaction at the least cost (MESS+).

Source: arXiv 2505.19947. Request t takes the lane m with the least ``V * E_m + Q * (alpha - s_m)``,
with s_m learned online; with probability ``min(1, c / t^(1/4))`` it explores. The paper then asks
all models; a live request goes to the lane that was judged least, and only its answer is judged.
Who is owed much gets the dearest lane, so that Q, and with it what is missed, stays bounded even
where what was learned is wrong (:mod:`fairgate.routing.debts`). Q moves by feedback; of a tenant
whom nobody judges by ``alpha - s_m`` as predicted, once others' feedback has taught what that is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from fairgate.config.routing import MessPlus as Settings
from fairgate.routing.base import Action, Decision, LaneView, RouteRequest, by_price
from fairgate.routing.costs import LaneCosts
from fairgate.routing.debts import MOST_OWED, Debts
from fairgate.routing.predictor import Vector
from fairgate.routing.satisfaction import Satisfaction

DEFAULT_SATISFACTION = 0.8


class MessPlus:
    """Decides by the tenant's debt, what was learned of the lanes, and what they cost.

    ``features`` makes :func:`fairgate.routing.satisfaction.sketch` features of a request by the
    encoder ``version``.
    """

    name = "mess-plus"

    def __init__(
        self,
        settings: Settings,
        *,
        features: Callable[[RouteRequest], Vector],
        satisfaction: Satisfaction,
        debts: Debts,
        costs: LaneCosts,
        rng: Random,
        version: str = "",
        overflow: bool = True,
    ) -> None:
        self._settings = settings
        self._features = features
        self._satisfaction = satisfaction
        self._debts = debts
        self._costs = costs
        self._rng = rng
        self._version = version
        self._overflow = overflow

    def route(self, request: RouteRequest, lanes: Sequence[LaneView]) -> Decision:
        """See :class:`fairgate.routing.base.Router`."""
        known = by_price(lanes)
        usable = [lane for lane in known if lane.up] or known
        features = self._features(request)
        success = self._satisfaction.predict(features)
        debt = self._debts.of(request.tenant)
        self._debts.count(request.tenant)
        owed_much = debt.debt > MOST_OWED
        explores = self._rng.random() < self._exploration(debt.requests + 1) and not owed_much
        if owed_much:
            chosen = usable[-1]
        elif explores:
            chosen = min(usable, key=lambda lane: self._satisfaction.labels(lane.name))
        else:
            chosen = self._best(request, usable, success, debt.debt)
        labels = self._satisfaction.labels(chosen.name)
        self._debts.expect(request.tenant, success[chosen.name], _agreed(request), labels)
        dearer = [lane for lane in usable if lane.price > chosen.price]
        return Decision(
            actions=tuple(
                Action(lane.name) for lane in (chosen, *(dearer if self._overflow else ()))
            ),
            router=self.name,
            version=self._version,
            reason="explore" if explores else "satisfaction",
            predicted={lane.name: success[lane.name] for lane in lanes},
            features=features,
        )

    def _exploration(self, t: int) -> float:
        return min(1.0, float(self._settings.exploration / t**0.25))

    def _best(
        self,
        request: RouteRequest,
        lanes: Sequence[LaneView],
        success: dict[str, float],
        debt: float,
    ) -> LaneView:
        agreed = _agreed(request)
        costs = self._costs.relative()
        thrift = self._settings.thrift

        def weight(lane: LaneView) -> float:
            return thrift * costs[lane.name] + debt * (agreed - success[lane.name])

        return min(lanes, key=weight)


def _agreed(request: RouteRequest) -> float:
    return DEFAULT_SATISFACTION if request.satisfaction is None else request.satisfaction
