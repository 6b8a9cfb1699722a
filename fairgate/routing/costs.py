"""What a request costs on each lane, relative to the dearest: by price, by energy, by time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from fairgate.config import Lane

Kind = Literal["price", "energy", "latency"]

_SLOWLY = 1 / 32


class LaneCosts:
    """Costs of a pool's lanes, all between 0 and 1, whatever they are measured in.

    ``latency`` is the running mean of the seconds that this process saw requests take; until every
    lane has served one, prices stand for it.
    """

    def __init__(self, lanes: Mapping[str, Lane], kind: Kind) -> None:
        prices = {name: lane.price for name, lane in lanes.items()}
        energies = {name: lane.energy or lane.price for name, lane in lanes.items()}
        self._relative = _relative(energies if kind == "energy" else prices)
        self._measures = kind == "latency"
        self._lanes = frozenset(lanes)
        self._seconds: dict[str, float] = {}

    def note(self, lane: str, seconds: float) -> None:
        """A request took ``lane`` so long, from its grant to the end of its answer."""
        if self._measures and lane in self._lanes:
            known = self._seconds.get(lane, seconds)
            self._seconds[lane] = known + (seconds - known) * _SLOWLY

    def relative(self) -> Mapping[str, float]:
        """By lane; the dearest costs 1."""
        if self._measures and len(self._seconds) == len(self._lanes):
            return _relative(self._seconds)
        return self._relative


def _relative(costs: Mapping[str, float]) -> dict[str, float]:
    most = max(costs.values(), default=0.0) or 1.0
    return {name: cost / most for name, cost in costs.items()}
