"""Looks into the ledger, shared for a moment: who asks all the time costs the store no more."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from fairgate.admission.ledger import Unknown
from fairgate.admission.model import TenantView
from fairgate.config import Tenant
from fairgate.errors import StoreError
from fairgate.pool import Pool

FRESH_S = 0.5
"""The same question within this time gets the same answer."""

MOST_WEIGHED = 512
"""With more tenants than these the script would take long to find those that are active."""

_MOST_KEPT = 1024

_Question = tuple[str, str, str]


class Looks:
    """The views of the last moments, by pool, tenant and user. Belongs to one event loop."""

    def __init__(self) -> None:
        self._kept: dict[_Question, tuple[float, asyncio.Task[TenantView]]] = {}

    async def look(
        self, pool: Pool, tenant: str, user: str, tenants: Mapping[str, Tenant]
    ) -> TenantView:
        """What ``tenant`` and its ``user`` may know of ``pool``; at most :data:`FRESH_S` old.

        ``tenants`` are all that there are. Raises ``StoreError``. Cancelled, the call still runs,
        for others who ask.
        """
        now = asyncio.get_running_loop().time()
        question = (pool.name, tenant, user)
        until, task = self._kept.get(question, (0.0, None))
        if task is None or until < now:
            task = asyncio.create_task(_ask(pool, tenant, user, tenants))
            task.add_done_callback(_seen)
            self._forget(now)
            self._kept[question] = (now + FRESH_S, task)
        return await asyncio.shield(task)

    def _forget(self, now: float) -> None:
        if len(self._kept) >= _MOST_KEPT:
            self._kept = {q: kept for q, kept in self._kept.items() if kept[0] >= now}


async def _ask(pool: Pool, tenant: str, user: str, tenants: Mapping[str, Tenant]) -> TenantView:
    few = len(tenants) <= MOST_WEIGHED
    weights = {name: t.weight for name, t in tenants.items()} if few else None
    view = await pool.ledger.view(tenant, user, weights)
    if isinstance(view, Unknown):
        raise StoreError("store: it does not know this pool yet")
    return view


def _seen(task: asyncio.Task[TenantView]) -> None:
    """Its failure is told to those who wait; when all of them left, to nobody."""
    if not task.cancelled():
        task.exception()
