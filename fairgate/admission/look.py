"""A pool as its operator sees it: what ``inspect.lua`` replies, field by field.

Times in milliseconds: by the store's clock, or from now. Service in units at the lanes' prices.
"""

from __future__ import annotations

from msgspec import Struct

NOBODY = "-"
"""Stands for tenants that are not told apart: in a line, or beyond the bounds of a slice."""

SLICE_S = 10.0
"""Length of a slice of the history."""


class RequestLook(Struct, frozen=True, array_like=True):
    """The next request of a tenant in line."""

    id: str
    tenant: str
    user: str
    app: str
    cost: float
    tokens: float
    continuation: bool
    waited_ms: float
    oldest_ms: float
    """Of the tenant's users that were looked at."""


class LineLook(Struct, frozen=True, array_like=True):
    """One tenant in one lane's line."""

    tenant: str
    score: float
    users: int
    place: int
    """Tenants whose turn comes before."""
    next: RequestLook | None = None


class EngineLook(Struct, frozen=True, array_like=True):
    """One engine as the ledger counts it."""

    name: str
    up: bool
    limit: float
    """Sequences that it may run now; adapts below ``max_num_seqs``."""
    max_num_seqs: int
    running: int
    kv_cache_tokens: int
    """0: not limited."""
    kv_tokens: int
    """Reserved."""
    seen_ms: float
    """Since a gateway last told of it."""


class LaneLook(Struct, frozen=True, array_like=True):
    """One lane."""

    name: str
    waiting: int
    limit: float
    free: float
    headroom: float
    pace_ms: float
    """Mean time between two grants from its line; 0: none yet."""
    tenants_waiting: int
    engines: list[EngineLook]
    line: list[LineLook]


class TenantLook(Struct, frozen=True, array_like=True):
    """The account of one tenant."""

    name: str
    counter: float
    waiting: int
    flight: int
    """Requests in line or granted."""
    requests: float
    """In the sliding minute."""
    tokens: float
    tokens_today: float


class SliceLook(Struct, frozen=True, array_like=True):
    """What was served and refused in one slice of time."""

    number: int
    """Slices of :data:`SLICE_S` seconds since the epoch."""
    service: list[tuple[str, float]]
    """By tenant; below 0 where corrections outweigh it."""
    refused: list[tuple[str, int]]
    """By ``tenant limit``."""


class PoolLook(Struct, frozen=True, array_like=True):
    """The whole reply."""

    now_ms: float
    slice: int
    """The one that is now."""
    gateways: int
    epoch: str
    levels: str
    lanes: list[LaneLook]
    tenants: list[TenantLook]
    slices: list[SliceLook]
