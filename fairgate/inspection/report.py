"""What operators get as JSON, field by field. Times in seconds, shares from 0 to 1.

Service is in units: weighted tokens at the lanes' prices.
"""

from __future__ import annotations

from msgspec import Struct

from fairgate.inspection.shares import Role

SCHEMA = 1
"""Grows when a field goes or changes its meaning; new fields may come at any time."""


class TenantLedger(Struct, frozen=True):
    """One tenant in one pool."""

    name: str
    weight: float
    role: Role
    running: int
    waiting: int
    share_running: float
    """Of the sequences that run."""
    share_service: float
    """Of the service in the last minute."""
    share_fair: float
    """By weight, among those who want something now."""
    due: float
    """Sequences that weighted max-min fairness gives it of those that run."""
    excess: float
    """What it wants as a multiple of that."""
    service_per_s: float
    """Over the last minute."""
    counter: float
    """What decides its turn; a larger weight makes it grow slower."""
    requests_per_minute: float
    tokens_per_minute: float
    tokens_today: int
    refused: dict[str, int]
    """In the last minute, by the limit that did."""


class Rest(Struct, frozen=True):
    """All tenants that are not listed."""

    running: int
    waiting: int
    share_service: float


class EngineState(Struct, frozen=True):
    """One engine as the ledger counts it."""

    name: str
    state: str
    """``up``, ``full``, ``drained``, ``down``, or ``leaving``: it was removed."""
    running: int
    limit: int
    """Sequences that it may run now; adapts below ``max_num_seqs``."""
    max_num_seqs: int
    kv_tokens: int
    kv_cache_tokens: int
    """0: not limited."""
    seen_s: float
    """Since a gateway last told of it."""


class LaneState(Struct, frozen=True):
    """One lane: what it could run and what it does."""

    name: str
    state: str
    """``up``, ``saturated`` or ``down``."""
    running: int
    limit: int
    free: int
    kept: int
    """Of the free ones, kept for tenants below their share (``headroom``)."""
    saturation: float
    """Running as a share of the limit."""
    waiting: int
    engines: tuple[EngineState, ...]


class RouterState(Struct, frozen=True):
    """How requests with ``model: auto`` went to one lane, at all gateways in the last hour."""

    router: str
    lane: str
    decisions: int
    judged: int
    """Requests that were given feedback."""
    predicted: float | None
    """Mean of what the router predicted for them."""
    observed: float | None
    """Mean of the feedback."""


class PoolLedger(Struct, frozen=True):
    """One pool."""

    name: str
    policy: str
    gateways: int
    """Replicas that are alive."""
    running: int
    limit: int
    waiting: int
    summary: str
    """Who floods, who is protected and who is held back, in words."""
    tenants: tuple[TenantLedger, ...]
    """Those with the most service and demand."""
    rest: Rest
    lanes: tuple[LaneState, ...]
    router: tuple[RouterState, ...]


class Ledger(Struct, frozen=True):
    """``GET /fairgate/v1/ledger``."""

    schema: int
    at: str
    gateway: str
    """Which replica answered; all of them tell the same."""
    pools: tuple[PoolLedger, ...]


class NextRequest(Struct, frozen=True):
    """The request whose turn is next among a tenant's."""

    user: str
    app: str
    cost: float
    tokens: int
    continuation: bool
    """It continues an interaction that was admitted."""
    waited_s: float


class Waiting(Struct, frozen=True):
    """One tenant in a lane's line."""

    tenant: str
    place: int
    """Tenants whose turn comes before."""
    waiting: int
    """Its requests in all lines of the pool."""
    users: int
    why: str
    """In words."""
    oldest_wait_s: float | None
    """``None``: its requests are not told apart from those of others."""
    next: NextRequest | None


class LaneQueue(Struct, frozen=True):
    """One lane's line."""

    name: str
    waiting: int
    tenants: int
    pace_s: float | None
    """Mean time between two grants from it."""
    oldest_wait_s: float
    """Of those listed."""
    why: str
    """Why its first request is not granted; empty where nobody waits."""
    line: tuple[Waiting, ...]
    """In the order of turns."""


class PoolQueue(Struct, frozen=True):
    """One pool."""

    name: str
    lanes: tuple[LaneQueue, ...]


class Queue(Struct, frozen=True):
    """``GET /fairgate/v1/queue``."""

    schema: int
    at: str
    gateway: str
    pools: tuple[PoolQueue, ...]
