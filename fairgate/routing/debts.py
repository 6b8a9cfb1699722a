"""MESS+'s virtual queue: how much satisfaction each tenant is owed (arXiv 2505.19947).

The store holds the truth (``lua/router_feedback.lua``); this is what one replica knows of it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

FIRST_DEBT = 25.0
"""What a tenant is owed before its first request: it begins on good lanes.

Each request adds ``agreed - score`` to the debt and none takes it below 0, so of T requests no more
than ``Q(T) - FIRST_DEBT`` were missed: nothing, while the debt is not above what it began with."""

MOST_OWED = 15.0
"""Who is owed more gets the dearest lane, whatever was learned, and no explorations. The distance
to :data:`FIRST_DEBT` is for bad luck on that lane."""

CAUTION = 0.3
"""Standard errors by which the level is raised for what nobody judges: a share of the requests
tells that of all only so far."""

PATIENCE = 100
"""Requests of a tenant by which some feedback should have come."""

LEAST_JUDGED = 0.02
"""Share of its requests with feedback, below which a tenant counts as one whom nobody judges."""

LEAST_LABELS = 50
"""Feedback on a lane, whoever gave it, from which on what is predicted of the lane stands for that
of a tenant whom nobody judges."""

_MOST = 10_000


@dataclass(frozen=True, slots=True)
class Debt:
    """Of one tenant."""

    debt: float = FIRST_DEBT
    """Q, in requests that should have been answered satisfactorily, and were not."""
    requests: int = 0
    judged: int = 0
    """Of these, with feedback."""

    @property
    def unheard(self) -> bool:
        """Hardly anybody judges this tenant: its feedback does not tell what it is owed."""
        return self.requests >= PATIENCE and self.judged < LEAST_JUDGED * self.requests

    def judge(self, score: float, agreed: float) -> Debt:
        """``Q = max(0, Q + agreed - score)``, ``agreed`` raised by what the unjudged leave open."""
        judged = self.judged + 1
        unseen = 1 - judged / max(self.requests, judged)
        raised = agreed + _margin(agreed, unseen, judged)
        return Debt(max(0.0, self.debt + raised - score), self.requests, judged)

    def estimate(self, success: float, agreed: float, labels: int) -> Debt:
        """The same for a request that nobody will judge, by its predicted ``success``.

        ``labels``: feedback that the prediction comes from; it counts as all that was judged.
        """
        raised = agreed + _margin(agreed, 1.0, labels)
        return replace(self, debt=max(0.0, self.debt + raised - success))


def _margin(agreed: float, unseen: float, judged: int) -> float:
    return CAUTION * math.sqrt(agreed * (1 - agreed) * unseen / (judged + 20))


class Unsent(NamedTuple):
    """What the store has not been told of a tenant yet."""

    requests: int = 0
    moved: float = 0.0
    """Change of its debt by estimate."""


class Debts:
    """Debts of the tenants that this replica saw lately, as of the last heartbeat or feedback."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Debt] = OrderedDict()
        self._news: dict[str, Unsent] = {}

    def of(self, tenant: str) -> Debt:
        """As far as it is known."""
        return self._known.get(tenant) or Debt()

    def count(self, tenant: str) -> None:
        """One more request of ``tenant`` was routed."""
        debt = self.of(tenant)
        self._keep(tenant, replace(debt, requests=debt.requests + 1))
        self._add(tenant, Unsent(1))

    def expect(self, tenant: str, success: float, agreed: float, labels: int) -> None:
        """A request of ``tenant`` goes to a lane that satisfies with probability ``success``, as
        predicted from ``labels``. Moves the debt of one whom nobody judges, if they are enough."""
        debt = self.of(tenant)
        if debt.unheard and labels >= LEAST_LABELS:
            moved = debt.estimate(success, agreed, labels)
            self._keep(tenant, moved)
            self._add(tenant, Unsent(0, moved.debt - debt.debt))

    def settle(self, tenant: str, score: float, agreed: float) -> None:
        """Feedback without a store to hold it."""
        self._keep(tenant, self.of(tenant).judge(score, agreed))

    def take_in(self, known: Mapping[str, Debt]) -> None:
        """What the store says, and what came since."""
        for tenant, debt in known.items():
            unsent = self._news.get(tenant, Unsent())
            owed = max(0.0, debt.debt + unsent.moved)
            self._keep(tenant, Debt(owed, debt.requests + unsent.requests, debt.judged))

    def news(self) -> dict[str, Unsent]:
        """What came since the last call of this method."""
        news, self._news = self._news, {}
        return news

    def put_back(self, news: Mapping[str, Unsent]) -> None:
        """The store did not take ``news``."""
        for tenant, unsent in news.items():
            self._add(tenant, unsent)

    def _add(self, tenant: str, more: Unsent) -> None:
        known = self._news.get(tenant, Unsent())
        self._news[tenant] = Unsent(known.requests + more.requests, known.moved + more.moved)

    def _keep(self, tenant: str, debt: Debt) -> None:
        self._known[tenant] = debt
        self._known.move_to_end(tenant)
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
