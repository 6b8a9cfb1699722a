"""What goes in and out of the admin API, field by field."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from fairgate.billing.sums import UsageSum
from fairgate.config import Limits, Queue, RateLimits
from fairgate.config.base import Base, Count, Name, Positive, Share
from fairgate.config.routing import OpenShare

Source = Literal["file", "live", "file+live"]
"""Where an object comes from: the configuration file, the API, or both."""


class TenantTerms(Base, frozen=True):
    """What can be changed of a tenant; a merge patch takes ``null`` for the default."""

    weight: Positive | None = None
    apps: tuple[Name, ...] | None = None
    limits: Limits | None = None
    user_limits: Limits | None = None
    user_weights: dict[str, Positive] | None = None
    quality: Share | None = None
    satisfaction: OpenShare | None = None


class NewTenant(TenantTerms, frozen=True):
    """A tenant to be created."""

    name: Name = ""


class Tenant(Struct, frozen=True):
    """A tenant as it is in force."""

    name: str
    weight: float
    apps: tuple[str, ...]
    limits: Limits
    user_limits: Limits
    user_weights: dict[str, float]
    quality: float | None
    satisfaction: float | None
    keys: int
    source: Source


class Tenants(Struct, frozen=True):
    """Some of the tenants, by name."""

    tenants: list[Tenant]
    total: int
    next: str | None
    """Ask on with ``after`` of this; ``None``: there are no more."""


class NewKey(Base, frozen=True):
    """A key to be created."""

    name: str = ""
    user: str | None = None
    """Pins the user of its requests."""
    apps: tuple[Name, ...] | None = None
    """Apps it may name; ``None``: those of its tenant."""


class Key(Struct, frozen=True):
    """A key as it is in force."""

    id: str
    """First 12 hex digits of its hash; logs and usage records name it so."""
    name: str
    user: str | None
    apps: tuple[str, ...] | None
    created: str | None
    """When; ``None``: it is in the file."""
    source: Source


class Keys(Struct, frozen=True):
    """The keys of a tenant."""

    tenant: str
    keys: list[Key]


class CreatedKey(Struct, frozen=True):
    """A new key, and this once its text."""

    key: str
    """Only its hash is kept."""
    id: str
    tenant: str
    name: str
    user: str | None
    apps: tuple[str, ...] | None


class App(Struct, frozen=True):
    """An app as it is in force."""

    name: str
    limits: RateLimits
    expected_output_tokens: int
    source: Source


class Apps(Struct, frozen=True):
    """All apps."""

    apps: list[App]


class AppTerms(Base, frozen=True):
    """What can be said of an app."""

    limits: RateLimits | None = None
    expected_output_tokens: Count | None = None


class Lane(Struct, frozen=True):
    """A lane as it is in force, and as it stood at the last heartbeat."""

    name: str
    pool: str
    model: str
    price: float
    headroom: float
    queue: dict[str, float]
    engines_up: int
    limit: int
    """Sequences that may run at once."""
    running: int
    waiting: int
    source: Source


class Lanes(Struct, frozen=True):
    """All lanes."""

    lanes: list[Lane]


class LanePatch(Base, frozen=True):
    """What can be changed of a lane."""

    price: Positive | None = None
    headroom: float | None = None
    queue: Queue | None = None


class Engine(Struct, frozen=True):
    """An engine as it is in force, and as this gateway's last probe saw it."""

    name: str
    lane: str
    pool: str
    type: str
    up: bool
    detail: str
    """Why it is not up."""
    url: str | None
    """Of one that others run."""
    drained: bool
    max_num_seqs: int | None
    """As configured; ``None``: as it tells."""
    running: int | None
    """Requests that it says it runs, of whomever."""
    source: Source


class Engines(Struct, frozen=True):
    """All engines."""

    engines: list[Engine]


class NewEngine(Base, frozen=True):
    """An engine to be added: a server that runs, where ``admin.engines_at`` allows one."""

    lane: Name = ""
    name: Name = ""
    url: str | None = None
    """Without it, and without what follows, an engine of the file that was removed comes back."""
    max_num_seqs: Count | None = None
    kv_cache_tokens: Count | None = None
    priority: bool = False
    cache_salt: bool = True
    drained: bool = False


class EnginePatch(Base, frozen=True):
    """What can be changed of an engine."""

    drained: bool | None = None
    max_num_seqs: Count | None = None


class Who(Struct, frozen=True):
    """An operator, by the key."""

    key: str
    name: str


class AuditEntry(Struct, frozen=True):
    """One change. Never holds a secret."""

    version: int
    at: str
    by: Who
    action: str
    object: str
    before: Any = None
    after: Any = None


class Audit(Struct, frozen=True):
    """Some of the changes, the newest first."""

    entries: list[AuditEntry]
    next: int | None
    """Ask on with ``before`` of this; ``None``: there are no more."""


class Problem(Struct, frozen=True):
    """Changes of one object that do not fit the configuration file any more."""

    object: str
    problems: tuple[str, ...]


class State(Struct, frozen=True):
    """The changes in force."""

    site: str
    version: int
    allowed: bool
    changed: list[str]
    """Objects that something was changed of."""
    problems: list[Problem]


class UsageSums(Struct, frozen=True):
    """What tenants used."""

    sums: list[UsageSum]


class Login(Base, frozen=True):
    """An admin key, to log in with."""

    key: str = ""


class Session(Struct, frozen=True):
    """Who is logged in."""

    key: str
    name: str
    may_change: bool
