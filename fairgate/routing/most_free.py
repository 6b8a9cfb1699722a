"""The router without a model of difficulty: the lane with most free capacity goes first."""

from __future__ import annotations

from collections.abc import Sequence

from fairgate.routing.base import Action, Decision, LaneView, RouteRequest


class MostFree:
    """Orders lanes by the free share of their sequences; the cheaper one where that is equal."""

    name = "most-free"

    def route(self, request: RouteRequest, lanes: Sequence[LaneView]) -> Decision:
        """See :class:`fairgate.routing.base.Router`."""
        ordered = sorted(lanes, key=lambda lane: (-_free_share(lane), lane.price))
        return Decision(
            actions=tuple(Action(lane.name) for lane in ordered),
            router=self.name,
            reason="most-free",
        )


def _free_share(lane: LaneView) -> float:
    s = lane.statistics
    if s.limit == 0:
        return 0.0
    return (s.free - s.waiting) / s.limit
