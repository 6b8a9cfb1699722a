"""What every router is: a request and the lanes' state in, a preference over lanes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from fairgate.admission.model import LaneStatistics
from fairgate.codec import Call
from fairgate.routing.predictor import Vector
from fairgate.routing.text import prompt_text


@dataclass(frozen=True, slots=True)
class LaneView:
    """A lane as a router sees it."""

    name: str
    price: float
    statistics: LaneStatistics
    """As of the last heartbeat, all replicas together."""
    known_as: tuple[str, ...] = ()
    """Names by which an artefact may know what it serves: its model, its own, its aliases."""

    @property
    def up(self) -> bool:
        """It has an engine that is up."""
        return self.statistics.engines_up > 0


@dataclass
class RouteRequest:
    """A request with ``model: auto``, as a router sees it.

    Not to be changed; frozen, it would take three times as long to make, for every request.
    """

    call: Call
    id: str = ""
    """The ``x-request-id`` of its answer, by which feedback names it."""
    tenant: str = ""
    user: str = ""
    app: str = ""
    interaction: str = ""
    """Digest of the interaction that it belongs to; empty: it stands alone."""
    quality: float | None = None
    """The knob, 0 (cheapest) to 1 (best): the request's own, else its tenant's, else its pool's;
    ``None``: nobody named one."""
    drop: float | None = None
    """Largest loss of quality that its tenant agreed to, where nobody named a quality."""
    satisfaction: float | None = None
    """Share of its tenant's requests that must be answered satisfactorily, if agreed."""

    @cached_property
    def text(self) -> str:
        """The prompt that its difficulty is judged by, decoded when first asked for."""
        return prompt_text(self.call)

    @property
    def max_output_tokens(self) -> int | None:
        """The client's cap per choice."""
        return self.call.max_output_tokens


@dataclass(frozen=True, slots=True)
class Action:
    """One way to serve a request: ``samples`` answers from ``lane``, of which the best one goes
    to the client."""

    lane: str
    samples: int = 1


@dataclass(frozen=True, slots=True)
class Decision:
    """What a router decided, and what it knew."""

    actions: tuple[Action, ...]
    """The preferred first; at least one. Capacity is taken from the first that has room, else
    waited for at the first one."""
    router: str = ""
    """Who decided; empty: the client named the lane."""
    version: str = ""
    """Of the artefact, if there is one."""
    reason: str = ""
    """A word or two for headers, logs and metrics, such as ``difficulty`` or ``sticky``."""
    predicted: Mapping[str, float] = field(default_factory=dict)
    """Predicted probability of a satisfactory answer, by lane, where it was predicted."""
    confidence: float | None = None
    """How far the predictor knows prompts like this one, 0 to 1."""
    features: Vector | None = None
    """What a router that learns online saw of the request."""

    @property
    def lanes(self) -> tuple[str, ...]:
        """The lanes of the actions, each once, in their order."""
        if len(self.actions) == 1:
            return (self.actions[0].lane,)
        return tuple(dict.fromkeys(action.lane for action in self.actions))


class Router(Protocol):
    """Chooses among lanes for requests with ``model: auto``. Decides at once, without I/O."""

    name: str
    """As in the configuration."""

    def route(self, request: RouteRequest, lanes: Sequence[LaneView]) -> Decision:
        """Which of ``lanes`` (at least one) should serve ``request``. Never raises."""


def by_price(lanes: Sequence[LaneView]) -> list[LaneView]:
    """The lanes, the cheapest first, those without an engine that is up last."""
    return sorted(lanes, key=lambda lane: (not lane.up, lane.price))
