"""What is traced, and by which names; spans of a whole gateway are in ``integration``."""

from __future__ import annotations

import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from fairgate.config.tracing import Tracing
from fairgate.tracing import conventions
from fairgate.tracing.setup import own_provider

TRACE = "0af7651916cd43dd8448eb211c80319c"


def kept(sample: float, flags: str) -> bool:
    """Whether a request is kept whose client sent ``traceparent`` with these flags."""
    provider = own_provider(Tracing(endpoint="http://127.0.0.1:9", sample=sample), "gw-test")
    sent = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-{flags}"} if flags else {}
    context = TraceContextTextMapPropagator().extract(sent)
    try:
        span = provider.get_tracer("test").start_span("request", context, SpanKind.SERVER)
        return span.get_span_context().trace_flags.sampled
    finally:
        provider.shutdown()


@pytest.mark.parametrize(
    ("sample", "flags", "expected"),
    [
        (1.0, "", True),
        (1.0, "01", True),
        (1.0, "00", False),  # the client does not keep it
        (0.0, "", False),
        (0.0, "01", False),  # no client has more kept than the configuration says
    ],
)
def test_what_is_kept(sample: float, flags: str, expected: bool) -> None:
    assert kept(sample, flags) is expected


def test_the_conventions_are_those_of_opentelemetry() -> None:
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI")}
    ours = {value for value in vars(conventions).values() if str(value).startswith("gen_ai.")}
    assert ours <= known
    assert len(ours) == 10
