"""vLLM's routes beside OpenAI's that make its engine work, and what a request on them costs.

Nobody shall pass the line by another door. Their bodies are not read: the cost is told by bytes.
"""

from __future__ import annotations

from starlette.types import Scope

from fairgate.config import Route
from fairgate.metering import Measured
from fairgate.routes import route_path

_BYTES_PER_TOKEN = 4
_BYTES_PER_EVENT = 128
"""Of a stream: one token, and its wrapping."""
_OUTPUT_WEIGHT = 2
_EXPECTED_OUTPUT_TOKENS = 256

_METERED = Route()
_PATHS = frozenset(
    {
        "/classify", "/cohere/v2/chat", "/generative_scoring", "/inference/v1/generate",
        "/invocations", "/pooling", "/rerank", "/score", "/v1/audio/transcriptions",
        "/v1/audio/translations", "/v1/chat/completions/batch", "/v1/messages", "/v1/rerank",
        "/v1/score", "/v1/systemone", "/v2/embed", "/v2/rerank",
    }
)  # fmt: skip


def vllm_route(scope: Scope) -> Route | None:
    """How to meter a request that neither the configuration nor the OpenAI routes name."""
    return _METERED if scope["method"] == "POST" and route_path(scope) in _PATHS else None


def byte_cost(measured: Measured) -> float:
    """Units by the bytes of request and answer, which stand for tokens at the default weights."""
    prompt = measured.request_bytes / _BYTES_PER_TOKEN
    if not measured.ended and not measured.status:
        return prompt + _OUTPUT_WEIGHT * _EXPECTED_OUTPUT_TOKENS
    streamed = measured.headers.get(b"content-type", b"").startswith(b"text/event-stream")
    output = measured.answer_bytes / (_BYTES_PER_EVENT if streamed else _BYTES_PER_TOKEN)
    return prompt + _OUTPUT_WEIGHT * output
