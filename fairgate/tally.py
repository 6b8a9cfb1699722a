"""Counts a request that ended into the metrics."""

from __future__ import annotations

from fairgate.admission.model import Served
from fairgate.identity import Principal
from fairgate.metrics import Metrics
from fairgate.ticket import Ticket

NOBODY = "-"


def tally(
    metrics: Metrics,
    principal: Principal | None,
    ticket: Ticket | None,
    outcome: str,
    status: int,
    lane: str,
    served: Served,
    *,
    first_byte_s: float | None,
    leased: bool,
) -> None:
    """``principal`` is ``None`` where nobody knows who sent it, ``ticket`` where it never asked for
    capacity; ``status`` is 0 where the answer did not begin."""
    tenant = principal.tenant if principal is not None else NOBODY
    pool = ticket.pool.name if ticket is not None else NOBODY
    metrics.ended(
        tenant,
        principal.weight if principal is not None else None,
        pool,
        lane,
        outcome,
        queue_s=ticket.queue_s if ticket is not None else 0.0,
        grant_s=ticket.grant_s if ticket is not None and leased else None,
        first_byte_s=first_byte_s,
        served=served,
    )
    if ticket is None:
        return
    if not leased:
        metrics.passed_by(tenant)
    elif ticket.granted_at is None:
        metrics.unserved(tenant, pool, lane, ticket.expected_service)
    interaction = ticket.principal.interaction or ""
    if interaction or served.continues_as:
        if status >= 429 or outcome == "error":
            metrics.call_lost(tenant, interaction)
        elif not served.void:
            metrics.call_served(tenant, interaction, served)
