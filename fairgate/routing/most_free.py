"""The router without a model of difficulty: the lane with most free capacity goes first."""

from __future__ import annotations

from collections.abc import Sequence

from fairgate.codec import Call
from fairgate.routing.base import LaneView


class MostFree:
    """Orders lanes by the free share of their sequences; the cheaper one where that is equal."""

    def route(self, call: Call, lanes: Sequence[LaneView]) -> Sequence[LaneView]:
        """See :class:`fairgate.routing.base.Router`."""
        return sorted(lanes, key=lambda lane: (-_free_share(lane), lane.price))


def _free_share(lane: LaneView) -> float:
    s = lane.statistics
    if s.limit == 0:
        return 0.0
    return (s.free - s.waiting) / s.limit
