"""One call of the admin API: what it asks, what it gets, and how a route is described."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope

from fairgate.admin.access import Admin

PREFIX = "/fairgate/v1"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to the API."""

    admin: Admin
    scope: Scope
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Mapping[str, Any]
    if_match: str


@dataclass(frozen=True, slots=True)
class Reply:
    """Its answer."""

    content: Any = None
    lines: AsyncIterator[bytes] | None = None
    """Instead of ``content``: many lines, made while they are sent."""
    status: int = 200
    etag: str = ""
    headers: tuple[tuple[str, str], ...] = ()


Handle = Callable[[Asked], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class AdminRoute:
    """One method of one path."""

    method: str
    path: str
    summary: str
    handle: Handle
    reply: type | None = None
    body: type | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    """Names of parameters, and what they mean."""
    status: int = 200
    media_type: str = "application/json"
    """Of the answer."""
    open: bool = False
    """Also for those who are not logged in."""
