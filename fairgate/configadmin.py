"""Configuration of the admin API with its live changes, and of usage records."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from fairgate.configbase import Base, Name, Positive, Sha256


class AdminKey(Base, frozen=True):
    """One key of an operator, kept only as the SHA-256 of its text, in lower-case hex."""

    sha256: Sha256
    name: str = ""
    """What the audit log calls who holds it."""


class Admin(Base, frozen=True):
    """The admin API, and changes while the gateway runs. Off unless there is a key."""

    keys: tuple[AdminKey, ...] = ()
    changes: bool = True
    """``False``: only this file counts. The API refuses changes, and those in the store are not
    looked at."""
    site: Name = "default"
    """Gateways with the same site and store share changes, audit log and sessions."""
    host: str | None = None
    port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    """With ``port``, the API is served on a socket of its own, and not on that of the gateway;
    ``host``: that of the gateway."""
    session_s: Positive = 43_200.0
    """How long a browser stays logged in."""
