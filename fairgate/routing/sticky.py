"""Keeps an interaction on its lane: the engines there hold its prefix in their caches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from fairgate.routing.base import Action, Decision, LaneView, Router, RouteRequest

_MOST = 50_000


class Places:
    """On which lane each interaction is, of those that called within ``idle_s`` seconds.

    What this process learns is handed to the other replicas, and theirs is taken in, once per
    heartbeat: an interaction that changes replicas faster than that may change its lane.
    """

    def __init__(self, clock: Callable[[], float], idle_s: float) -> None:
        self._clock = clock
        self._idle_s = idle_s
        self._lanes: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._news: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._lanes)

    def get(self, interaction: str) -> str | None:
        """Its lane; ``None``: it has none, or called too long ago."""
        found = self._lanes.get(interaction)
        if found is None or self._clock() - found[1] > self._idle_s:
            return None
        return found[0]

    def put(self, interaction: str, lane: str) -> None:
        """It called, and is on ``lane`` now."""
        if self.get(interaction) != lane:
            self._news[interaction] = lane
        self._keep(interaction, lane)

    def take_in(self, known: Mapping[str, str]) -> None:
        """What other replicas know. What this one knows and has not told yet stays."""
        for interaction, lane in known.items():
            if interaction not in self._news:
                self._keep(interaction, lane)

    def news(self) -> dict[str, str]:
        """What was learned since the last call of this method."""
        news, self._news = self._news, {}
        return news

    def put_back(self, news: Mapping[str, str]) -> None:
        """The others could not be told ``news``."""
        self._news = {**news, **self._news}

    def _keep(self, interaction: str, lane: str) -> None:
        self._lanes[interaction] = lane, self._clock()
        self._lanes.move_to_end(interaction)
        if len(self._lanes) > _MOST:
            self._news.pop(self._lanes.popitem(last=False)[0], None)


class Sticky:
    """A router that leaves an interaction where it is, unless a call is too difficult for its lane.

    Its lane will do while ``router`` names it among those that may serve the call, or prefers one
    that is no dearer. Else the interaction moves, and stays on the dearer lane.
    """

    def __init__(self, router: Router, places: Places) -> None:
        self.name = router.name
        self._router = router
        self._places = places

    def route(self, request: RouteRequest, lanes: Sequence[LaneView]) -> Decision:
        """See :class:`fairgate.routing.base.Router`."""
        decision = self._router.route(request, lanes)
        if not request.interaction:
            return decision
        held = self._places.get(request.interaction)
        view = next((lane for lane in lanes if lane.name == held), None)
        if view is not None and view.up:
            decision = _kept(decision, view, lanes)
        self._places.put(request.interaction, decision.actions[0].lane)
        return decision


def _kept(decision: Decision, held: LaneView, lanes: Sequence[LaneView]) -> Decision:
    first = decision.actions[0].lane
    if first == held.name:
        return decision
    prices = {lane.name: lane.price for lane in lanes}
    if held.name not in decision.lanes and held.price < prices[first]:
        return decision
    own = [action for action in decision.actions if action.lane == held.name]
    dearer = [a for a in decision.actions if a.lane != held.name and prices[a.lane] >= held.price]
    actions = (*(own or (Action(held.name),)), *dearer)
    return replace(decision, actions=actions, reason="sticky")
