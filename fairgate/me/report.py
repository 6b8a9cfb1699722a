"""The report as typed structs, field by field what the JSON holds; docs/tenants.md documents it.

Numbers of other tenants never appear, only sums over all. Times in seconds, from the moment ``at``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from math import ceil
from typing import Literal

from msgspec import Struct

from fairgate.admission.model import AccountView, LaneLine, PlaceView, TenantView
from fairgate.config import Config, Limits, Throttle
from fairgate.config.policy import ResolvedPolicy
from fairgate.identity import Principal, apps_of

SCHEMA = 1
"""Grows when a field goes or changes its meaning; new fields may come at any time."""


class Key(Struct, frozen=True):
    """The API key that asked, by its public name."""

    id: str
    name: str


class Quota(Struct, frozen=True):
    """One limit and what is left of it; ``None``: not limited."""

    limit: int | None
    used: int
    remaining: int | None
    reset_s: float | None
    """Until it is as if nothing had been used; ``None``: when requests end."""


class Quotas(Struct, frozen=True):
    """The limits of the tenant or of the user."""

    rpm: Quota
    tpm: Quota
    concurrency: Quota
    daily_tokens: Quota


class Use(Struct, frozen=True):
    """What the tenant or the user has now and has had."""

    limits: Quotas
    running: int
    waiting: int
    tokens_today: int
    service_counter: float


class Share(Struct, frozen=True):
    """Part of the pool's running sequences; ``None``: nothing runs, or nobody counted."""

    running: float | None
    fair: float | None


class TenantPlace(Struct, frozen=True):
    """Where the first waiting request of the tenant stands."""

    tenants_ahead: int
    requests_ahead: int
    wait_s: float | None


class UserPlace(Struct, frozen=True):
    """Where the first waiting request of the user stands."""

    users_ahead: int
    requests_ahead: int
    wait_s: float | None


class LaneReport(Struct, frozen=True):
    """One lane as the tenant sees it."""

    name: str
    state: Literal["up", "saturated", "down"]
    tenant_position: TenantPlace | None
    user_position: UserPlace | None


class PoolReport(Struct, frozen=True):
    """One pool as the tenant sees it."""

    name: str
    policy: str
    throttle: Throttle
    share: Share
    tenant: Use
    user: Use
    lanes: tuple[LaneReport, ...]


class Report(Struct, frozen=True):
    """The whole answer."""

    schema: int
    at: str
    tenant: str
    key: Key
    user: str
    apps: tuple[str, ...]
    weight: float
    user_weight: float
    pools: tuple[PoolReport, ...]


def report(
    config: Config,
    principal: Principal,
    pools: Mapping[str, tuple[ResolvedPolicy, TenantView]],
) -> Report:
    """What ``principal``, whose user is decided, may know, given each pool's view."""
    last = max(view.now for _, view in pools.values())
    return Report(
        schema=SCHEMA,
        at=datetime.fromtimestamp(last / 1000, UTC).isoformat(timespec="milliseconds"),
        tenant=principal.tenant,
        key=Key(principal.key_id, principal.key_name),
        user=principal.user or principal.key_id,
        apps=_apps(config, principal),
        weight=principal.weight,
        user_weight=principal.user_weight,
        pools=tuple(_pool(name, policy, view, principal) for name, (policy, view) in pools.items()),
    )


def _apps(config: Config, principal: Principal) -> tuple[str, ...]:
    tenant = config.tenants.get(principal.tenant)
    if tenant is None:  # an application's own authentication may know more tenants than we do
        return (principal.app,)
    key = next((k for k in tenant.keys if k.sha256.startswith(principal.key_id)), None)
    return apps_of(config, principal.tenant, key)


def _pool(name: str, policy: ResolvedPolicy, view: TenantView, principal: Principal) -> PoolReport:
    return PoolReport(
        name=name,
        policy=policy.preset,
        throttle=policy.throttle,
        share=_share(view, principal.weight),
        tenant=_use(view.tenant, principal.limits),
        user=_use(view.user, principal.user_limits),
        lanes=tuple(_lane(line) for line in view.lanes),
    )


def _share(view: TenantView, weight: float) -> Share:
    own = max(0, view.tenant.flight - view.tenant.waiting)
    others = view.other_weight
    return Share(
        running=round(min(1.0, own / view.running), 4) if view.running else None,
        fair=None if others is None else round(weight / (weight + others), 4),
    )


def _use(account: AccountView, limits: Limits) -> Use:
    a = account
    return Use(
        limits=Quotas(
            rpm=_quota(limits.rpm, a.requests, a.requests_reset_ms),
            tpm=_quota(limits.tpm, a.tokens, a.tokens_reset_ms),
            concurrency=_quota(limits.concurrency, a.flight, None),
            daily_tokens=_quota(limits.daily_tokens, a.tokens_today, a.day_ends_ms),
        ),
        running=max(0, a.flight - a.waiting),
        waiting=a.waiting,
        tokens_today=ceil(a.tokens_today),
        service_counter=round(a.counter, 3),
    )


def _quota(limit: int | None, used: float, reset_ms: float | None) -> Quota:
    whole = ceil(used)
    return Quota(
        limit=limit,
        used=whole,
        remaining=None if limit is None else max(0, limit - whole),
        reset_s=None if reset_ms is None else ceil(reset_ms) / 1000,
    )


def _lane(line: LaneLine) -> LaneReport:
    if line.engines == 0:
        state: Literal["up", "saturated", "down"] = "down"
    else:
        state = "saturated" if line.waiting or not line.free else "up"
    tenant, user = line.tenant, line.user
    return LaneReport(
        name=line.name,
        state=state,
        tenant_position=TenantPlace(tenant.before, tenant.ahead, _wait_s(line, tenant))
        if tenant
        else None,
        user_position=UserPlace(user.before, user.ahead, _wait_s(line, user)) if user else None,
    )


def _wait_s(line: LaneLine, place: PlaceView) -> float | None:
    """By the pace of the line's last grants."""
    return None if line.pace_ms is None else round(line.pace_ms * (place.ahead + 1) / 1000, 3)
