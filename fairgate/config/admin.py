"""Configuration of the admin API with its live changes, and of usage records."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from fairgate.config.base import Base, Count, Name, Positive, Sha256


class AdminKey(Base, frozen=True):
    """One key of an operator, kept only as the SHA-256 of its text, in lower-case hex."""

    sha256: Sha256
    name: str = ""
    """What the audit log calls who holds it."""


class EnginePlace(Base, frozen=True):
    """Where engines may be added while the gateway runs."""

    host: str
    """An address or network (``10.2.0.0/16``), a name, all names below one (``*.models.svc``), or
    ``*``, which is anywhere."""
    api_key: str | None = None
    """Sent to engines there: the API takes no keys of engines."""


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
    mounted: bool = False
    """The same where FairGate is mounted: the app answers at ``/fairgate/`` as a gateway does."""
    session_s: Positive = 43_200.0
    """How long a browser stays logged in."""
    engines_at: tuple[EnginePlace, ...] = ()
    """Where the API may add engines, since prompts are sent there; by default nowhere."""


class UsageRecords(Base, frozen=True):
    """One record for each request that was charged, in the store and, if wanted, in files."""

    max_records: Count = 1_000_000
    """Kept in the store, of each pool; older ones go."""
    folder: str | None = None
    """Where ``<pool>.jsonl`` is written; ``None``: nowhere."""
    max_bytes: Annotated[int, Meta(ge=4096)] = 100 * 1024 * 1024
    """A file that has reached this size is put aside; none is ever removed."""
