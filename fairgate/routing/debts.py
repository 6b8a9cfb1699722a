"""MESS+'s virtual queue: how much satisfaction each tenant is owed (arXiv 2505.19947).

The store holds the truth (``lua/router_feedback.lua``); this is what one replica knows of it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace

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

_MOST = 10_000


@dataclass(frozen=True, slots=True)
class Debt:
    """Of one tenant."""

    debt: float = FIRST_DEBT
    """Q, in requests that should have been answered satisfactorily, and were not."""
    requests: int = 0
    judged: int = 0
    """Of these, with feedback."""

    def judge(self, score: float, agreed: float) -> Debt:
        """``Q = max(0, Q + agreed - score)``, ``agreed`` raised by what the unjudged leave open."""
        judged = self.judged + 1
        unseen = 1 - judged / max(self.requests, judged)
        margin = CAUTION * math.sqrt(agreed * (1 - agreed) * unseen / (judged + 20))
        return Debt(max(0.0, self.debt + agreed + margin - score), self.requests, judged)


class Debts:
    """Debts of the tenants that this replica saw lately, as of the last heartbeat or feedback."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Debt] = OrderedDict()
        self._news: dict[str, int] = {}

    def of(self, tenant: str) -> Debt:
        """As far as it is known."""
        return self._known.get(tenant) or Debt()

    def count(self, tenant: str) -> None:
        """One more request of ``tenant`` was routed."""
        debt = self.of(tenant)
        self._keep(tenant, replace(debt, requests=debt.requests + 1))
        self._news[tenant] = self._news.get(tenant, 0) + 1

    def settle(self, tenant: str, score: float, agreed: float) -> None:
        """Feedback without a store to hold it."""
        self._keep(tenant, self.of(tenant).judge(score, agreed))

    def take_in(self, known: Mapping[str, Debt]) -> None:
        """What the store says, and what was counted since."""
        for tenant, debt in known.items():
            unsent = self._news.get(tenant, 0)
            self._keep(tenant, replace(debt, requests=debt.requests + unsent))

    def news(self) -> dict[str, int]:
        """Requests since the last call of this method."""
        news, self._news = self._news, {}
        return news

    def put_back(self, news: Mapping[str, int]) -> None:
        """The store did not take ``news``."""
        for tenant, count in news.items():
            self._news[tenant] = self._news.get(tenant, 0) + count

    def _keep(self, tenant: str, debt: Debt) -> None:
        self._known[tenant] = debt
        self._known.move_to_end(tenant)
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
