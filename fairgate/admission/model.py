"""What goes into admission and what comes out: asks, grants, what was served, statistics."""

from __future__ import annotations

from dataclasses import dataclass, field

from fairgate.accounting import AppProfile
from fairgate.config import Limits, RateLimits
from fairgate.headers import LimitView


@dataclass(frozen=True, slots=True)
class Ask:
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


@dataclass(frozen=True, slots=True)
class Grant:
    """The right to occupy one sequence of one engine until it is settled."""

    id: str
    lane: str
    engine: str
    priority: int
    queue_s: float
    limits: LimitView | None = None
    """What is left of the tightest rate limits."""
    leased: bool = True
    """The store knows of it; else it was given while the store was away, and nothing is settled."""


@dataclass(frozen=True, slots=True)
class Served:
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
    lanes: dict[str, LaneStatistics] = field(default_factory=dict)
    apps: dict[str, AppProfile] = field(default_factory=dict)
