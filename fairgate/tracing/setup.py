"""Starts tracing as the configuration says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING

from starlette.types import Scope

from fairgate.config.tracing import Tracing
from fairgate.errors import ConfigError

if TYPE_CHECKING:  # OpenTelemetry is an extra
    from opentelemetry.sdk.trace import TracerProvider

    from fairgate.tracing.request import RequestTrace

Begin = Callable[[Scope, str], "RequestTrace"]
"""Begins the trace of a request, by its scope and id."""

_MISSING = "tracing: needs OpenTelemetry: pip install 'fairgate[otel]'"


class Tracer:
    """What traces the requests of one gateway process."""

    def __init__(self, settings: Tracing, gateway: str) -> None:
        """Raises ``ConfigError`` where OpenTelemetry is not installed."""
        try:
            from opentelemetry import trace

            from fairgate.tracing.request import RequestTrace

            self._own = own_provider(settings, gateway) if settings.provider == "own" else None
        except ImportError as error:
            raise ConfigError([_MISSING]) from error
        provider = self._own or trace.get_tracer_provider()
        tracer = provider.get_tracer("fairgate", version("fairgate"))
        self.begin: Begin = lambda scope, request_id: RequestTrace(tracer, scope, request_id)

    async def stop(self) -> None:
        """Send what is not sent yet, for a few seconds at most.

        Cancelled: it goes on in a thread.
        """
        if self._own is not None:
            await asyncio.to_thread(self._own.shutdown)


def own_provider(settings: Tracing, gateway: str) -> TracerProvider:
    """Sends spans in the background, by OTLP over HTTP."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    ratio = TraceIdRatioBased(settings.sample)
    # By trace id, so that all replicas keep the same ones; nor can clients have all of theirs kept.
    sampler = ParentBased(ratio, remote_parent_sampled=ratio)
    resource = Resource.create(
        {
            "service.name": "fairgate",
            "service.version": version("fairgate"),
            "service.instance.id": gateway,
        }
    )
    endpoint = settings.endpoint
    exporter = OTLPSpanExporter(
        f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None,
        headers=settings.headers or None,
        timeout=settings.timeout_s,
    )
    provider = TracerProvider(sampler, resource)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
