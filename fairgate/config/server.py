"""Configuration of the process that serves: its store, its socket, how long it waits."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from fairgate.config.base import Base, Count, Positive


class Store(Base, frozen=True):
    """Where the ledger lives."""

    url: str = "embedded"
    """``embedded`` starts a private Valkey; else ``redis://``, ``rediss://`` or ``unix://``."""
    on_failure: Literal["local", "open", "closed"] = "local"
    """While the store is away each replica enforces its share of limits and capacity (``local``),
    requests pass without admission (``open``), or they are refused with 503 (``closed``)."""
    timeout_s: Positive = 2.0
    heartbeat_s: Positive = 1.0
    """A gateway renews its leases this often; it counts as dead after five missed beats."""


class Timeouts(Base, frozen=True):
    """Limits on waiting for engines and clients."""

    connect_s: Positive = 5.0
    first_byte_s: Positive = 600.0
    idle_s: Positive = 300.0
    """Longest silence of an engine inside an answer."""
    answer_s: Positive = 3600.0
    """Longest time that an engine may take for one stream."""
    head_s: Positive = 30.0
    """Longest time a client may take for the head of a request, and to begin its first one."""
    body_s: Positive = 60.0
    """Longest time a client may take to send its body."""
    send_s: Positive = 60.0
    """Longest time for which a client may take nothing of an answer that is ready for it."""
    drain_s: Positive = 30.0
    """From SIGTERM until requests under way are told to come back; those in line as well."""


class Breaker(Base, frozen=True):
    """When an engine gets no requests although its health check is fine."""

    failures: Count = 5
    """Requests in a row that it could not be reached for, did not answer in time, broke off or
    answered with 502, 503 or 504."""
    open_s: Positive = 2.0
    """It is left alone so long, then gets one request; twice as long each time that fails."""
    longest_s: Positive = 60.0


PRIVATE_NETWORKS = (
    "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16",
    "::1/128", "fc00::/7", "fe80::/10",
)  # fmt: skip


class Server(Base, frozen=True):
    """The gateway's own socket."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    max_body_bytes: Count = 16 * 1024 * 1024
    max_answer_bytes: Count = 256 * 1024 * 1024
    """Of an engine's answer over HTTP; one that sends more is broken off."""
    access_log: bool | None = None
    """One log line per request; ``None``: from ``fairgate serve``, not from a mounted FairGate,
    whose server writes its own."""
    failed_keys_per_minute: Count = 60
    """Unknown keys from one address that are answered 401; more are answered 429."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks (``10.0.0.0/8``) whose ``X-Forwarded-For`` says where clients are."""
    metrics_from: tuple[str, ...] = PRIVATE_NETWORKS
    """Addresses or networks that may read ``/metrics``, where every tenant's use stands."""
