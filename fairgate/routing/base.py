"""What every router is: a request and the lanes' state in, a preference over lanes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fairgate.admission.model import LaneStatistics
from fairgate.codec import Call


@dataclass(frozen=True, slots=True)
class LaneView:
    """A lane as a router sees it."""

    name: str
    price: float
    statistics: LaneStatistics


class Router(Protocol):
    """Chooses among lanes for requests with ``model: auto``. Decides at once, without I/O."""

    def route(self, call: Call, lanes: Sequence[LaneView]) -> Sequence[LaneView]:
        """The lanes that may serve ``call``, the preferred first; at least one."""
