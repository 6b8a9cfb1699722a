"""Configuration of traces."""

from __future__ import annotations

from typing import Literal

from msgspec import field

from fairgate.config.base import Base, Positive, Share


class Tracing(Base, frozen=True):
    """Spans of requests, by OpenTelemetry; needs ``pip install fairgate[otel]``.

    Read when the gateway starts.
    """

    provider: Literal["own", "app"] = "own"
    """``own`` sends them by OTLP over HTTP as said here; ``app`` gives them to the tracer provider
    that the app has set up, for a mounted FairGate."""
    endpoint: str | None = None
    """Of a collector, such as ``http://collector:4318``; ``None``: as OpenTelemetry's environment
    variables say."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent to the collector."""
    timeout_s: Positive = 5.0
    sample: Share = 1.0
    """Share of the traces that is kept. A trace that the client does not keep is not kept here."""
