"""Names of spans and attributes: OpenTelemetry's, and our own under ``fairgate.``.

OpenTelemetry's conventions for generative AI are still in development and rename things; all that
we use of them is here. Source: the semantic conventions for GenAI spans (inference), and for HTTP
server spans.
"""

from __future__ import annotations

from typing import Final

from fairgate.config import Api

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_CHOICES: Final = "gen_ai.request.choice.count"
REQUEST_STREAM: Final = "gen_ai.request.stream"
CONVERSATION: Final = "gen_ai.conversation.id"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
FIRST_CHUNK_S: Final = "gen_ai.response.time_to_first_chunk"

PROVIDER_VALUE: Final = "openai"
"""The API that engines speak; the conventions want this where the vendor is not known."""

ERROR_TYPE: Final = "error.type"
HTTP_METHOD: Final = "http.request.method"
HTTP_STATUS: Final = "http.response.status_code"
URL_PATH: Final = "url.path"

REQUEST_ID: Final = "fairgate.request_id"
TENANT: Final = "fairgate.tenant"
APP: Final = "fairgate.app"
POOL: Final = "fairgate.pool"
LANE: Final = "fairgate.lane"
ENGINE: Final = "fairgate.engine"
OUTCOME: Final = "fairgate.outcome"
SERVICE: Final = "fairgate.service_units"
QUEUE_S: Final = "fairgate.queue_seconds"
ROUTER: Final = "fairgate.router"

ADMISSION_SPAN: Final = "fairgate.admission"
"""From the request's arrival until it has capacity: identify, read, estimate, route, ask."""
QUEUE_SPAN: Final = "fairgate.queue"
"""Its time in line; there is none where capacity was free."""
APP_SPAN: Final = "fairgate.app"
"""What a mounted FairGate's app does for a request that is no LLM call."""

_OPERATIONS: Final[dict[Api, str]] = {
    "chat": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
    "responses": "chat",
}


def operation(api: Api) -> str:
    """``gen_ai.operation.name`` of calls to an API."""
    return _OPERATIONS[api]
