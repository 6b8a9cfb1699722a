"""What ``model: auto`` means in a pool without a ``routing`` section and with unknown models."""

from __future__ import annotations

from collections.abc import Sequence

from fairgate.routing.base import Decision, LaneView, RouteRequest
from fairgate.routing.most_free import MostFree
from fairgate.routing.price_order import PriceOrder


class Plain:
    """The lane with most free capacity; with a quality knob, the lane at that place by price."""

    name = "plain"

    def __init__(self) -> None:
        self._most_free = MostFree()
        self._price_order = PriceOrder()

    def route(self, request: RouteRequest, lanes: Sequence[LaneView]) -> Decision:
        """See :class:`fairgate.routing.base.Router`."""
        router = self._most_free if request.quality is None else self._price_order
        return router.route(request, lanes)
