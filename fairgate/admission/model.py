"""What goes into admission and what comes out: asks, grants, what was served, statistics."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import Struct

from fairgate.accounting import AppProfile
from fairgate.config import Limits, RateLimits
from fairgate.headers import LimitView


class Ask(Struct, frozen=True, gc=False):
    """One request's wish for capacity."""

    id: str
    tenant: str
    user: str
    app: str
    lanes: tuple[tuple[str, float], ...]
    """Lanes that may serve it with their prices, the preferred first."""
    cost: float
    """Expected service units at price 1."""
    tokens: int
    """Expected prompt and output tokens: what token limits count."""
    kv_tokens: int
    """KV-cache tokens to reserve."""
    tenant_weight: float = 1.0
    user_weight: float = 1.0
    tenant_limits: Limits = Limits()
    user_limits: Limits = Limits()
    app_limits: RateLimits = RateLimits()
    interaction: str = ""
    exempt: bool = False
    """Not refused by rate limits or a full line: it was admitted before."""
    avoid: str = ""
    """Engine to take only if no other has room."""
    timeout_s: float = 120.0
    """Longest wait in line."""
    continuation_timeout_s: float = 600.0
    """The same if it turns out to continue an admitted interaction."""
    key: str = ""
    """Id of the API key that it came with."""


class Grant(Struct, frozen=True, gc=False):
    """The right to occupy one sequence of one engine until it is settled."""

    id: str
    lane: str
    engine: str
    priority: int
    queue_s: float
    limits: LimitView | None = None
    """What is left of the tightest rate limits."""
    degraded: str = ""
    """How it was given while the store was away: ``local``, by this replica's share; ``open``,
    without admission, and nothing is settled."""


class Served(Struct, frozen=True, gc=False):
    """What a request really used; the default is nothing (void)."""

    cost: float = 0.0
    """Service units at price 1."""
    tokens: int = 0
    output_tokens: int = 0
    """Per choice; what the app's output quantile learns from."""
    prompt_bytes: int = 0
    prompt_tokens: int = 0
    learn: bool = False
    """It finished by itself, so that the app's profile may learn from it."""
    continues_as: str = ""
    """Another id under which its interaction goes on: an answer that later calls name."""
    void: bool = True
    """Nothing was served: it does not count as a request either."""
    cached_tokens: int = 0
    """Of the prompt."""
    record: bytes = b""
    """What its usage record says of it; see :mod:`fairgate.billing.note`."""


@dataclass(slots=True)
class Arrears:
    """What one user was served in one app while the store was away, all requests together."""

    ask: Ask
    """One of theirs: who they are."""
    cost: float = 0.0
    """Service units, prices counted."""
    tokens: int = 0
    requests: int = 0
    recent_tokens: int = 0
    """Of the last minute: what limits per minute count."""
    recent_requests: int = 0


@dataclass(frozen=True, slots=True)
class EngineReport:
    """An engine's capacity as this gateway sees it."""

    lane: str
    name: str
    up: bool
    max_num_seqs: int
    kv_cache_tokens: int = 0
    """0: not limited."""
    pressure: float = -1.0
    """Of the engine's own metrics; 1 is saturated, below 0 unknown."""


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """A lane as the ledger saw it at the last heartbeat, all replicas together."""

    engines_up: int = 0
    limit: int = 0
    """Sequences that may run at once."""
    running: int = 0
    free: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """The pool at the last heartbeat."""

    gateways: int = 0
    rank: int = 0
    """Of this gateway among those alive, from 0."""
    lanes: dict[str, LaneStatistics] = field(default_factory=dict)
    apps: dict[str, AppProfile] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AccountView:
    """What a pool's ledger knows of one tenant or user now. Times in milliseconds from now."""

    requests: float
    """In the sliding minute."""
    requests_reset_ms: float
    tokens: float
    """In the sliding minute."""
    tokens_reset_ms: float
    tokens_today: float
    """Charged in this UTC day."""
    day_ends_ms: float
    counter: float
    """The service counter that decides who is next: ``S_t`` or ``S_u``."""
    flight: int
    """Requests in line or granted."""
    waiting: int


@dataclass(frozen=True, slots=True)
class PlaceView:
    """Where the first waiting request of a tenant or user stands in a lane's line."""

    before: int
    """Tenants, or users of the tenant, whose turn is earlier."""
    ahead: int
    """Requests that are granted before it if nobody else comes."""


@dataclass(frozen=True, slots=True)
class LaneLine:
    """A lane as those who wait in it see it."""

    name: str
    engines: int
    """That are up."""
    free: int
    """Sequences."""
    waiting: int
    """Requests of everybody."""
    pace_ms: float | None = None
    """Mean time between two grants from the line; ``None``: there was none yet."""
    tenant: PlaceView | None = None
    """``None``: no request of the tenant is in this line, or within sight."""
    user: PlaceView | None = None


@dataclass(frozen=True, slots=True)
class TenantView:
    """What one tenant and one of its users may know of a pool."""

    now: float
    """Milliseconds since the epoch, by the store's clock."""
    tenant: AccountView
    user: AccountView
    running: int
    """Sequences in use in the whole pool."""
    lanes: tuple[LaneLine, ...]
    other_weight: float | None = None
    """Sum of the weights of the other tenants with requests in flight; ``None``: not counted."""
