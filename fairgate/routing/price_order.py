"""The router for models that nobody has measured: the price stands for what a lane can do."""

from __future__ import annotations

from collections.abc import Sequence

from fairgate.routing.base import Action, Decision, LaneView, RouteRequest, by_price


class PriceOrder:
    """Takes the cheapest lane, or with a quality knob the lane at that place in the price order.

    Of n lanes, quality 0 names the cheapest and 1 the dearest, in n equal steps. Dearer lanes that
    have room take what the named one has no room for, if ``overflow``.
    """

    name = "price-order"

    def __init__(self, *, overflow: bool = True) -> None:
        self._overflow = overflow

    def route(self, request: RouteRequest, lanes: Sequence[LaneView]) -> Decision:
        """See :class:`fairgate.routing.base.Router`."""
        ordered = by_price(lanes)
        usable = [lane for lane in ordered if lane.up] or ordered
        at = min(int((request.quality or 0.0) * len(usable)), len(usable) - 1)
        chosen = usable[at:] if self._overflow else usable[at : at + 1]
        return Decision(
            actions=tuple(Action(lane.name) for lane in chosen),
            router=self.name,
            reason="price",
        )
