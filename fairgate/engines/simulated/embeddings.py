"""The route ``/v1/embeddings``: unit vectors that follow from the text alone."""

from __future__ import annotations

import sys
import time
from array import array
from base64 import b64encode
from hashlib import shake_256
from math import hypot
from typing import Any

from fairgate.engines.simulated.client import Client
from fairgate.engines.simulated.outputs import Output, count_tokens
from fairgate.engines.simulated.protocol import (
    EmbeddingRequest,
    as_prompts,
    bad_request,
    decode,
)
from fairgate.engines.simulated.scheduler import Sequence
from fairgate.engines.simulated.service import Service

_DEFAULT_DIMENSIONS = 384


async def embeddings(service: Service, client: Client) -> None:
    """``POST /v1/embeddings``; each input runs through the engine as a prefill."""
    request = decode(await client.body(), EmbeddingRequest)
    service.check_model(request.model)
    texts = as_prompts(request.input, "input")
    outputs = [
        _pooling(service, client, index, tokens or count_tokens(text), request.priority)
        for index, (text, tokens) in enumerate(texts)
    ]
    generation = service.submit(outputs, stream=False)
    try:
        with client.watched(generation.abort):
            await generation.next()
            used = sum(o.sequence.prompt_tokens for o in outputs)
            await client.send_json(
                {
                    "id": f"embd-{client.id}",
                    "object": "list",
                    "created": int(time.time()),
                    "model": service.settings.model,
                    "data": [_entry(index, text, request) for index, (text, _) in enumerate(texts)],
                    "usage": {"prompt_tokens": used, "total_tokens": used, "completion_tokens": 0},
                }
            )
    finally:
        generation.abort()


def unit_vector(text: bytes, dimensions: int) -> list[float]:
    """A direction that depends on the text only."""
    raw = array("i", shake_256(text).digest(4 * dimensions))
    if sys.byteorder == "big":
        raw.byteswap()
    norm = hypot(*raw)
    return [x / norm for x in raw]


def _pooling(
    service: Service, client: Client, index: int, tokens: int, priority: int | None
) -> Output:
    if tokens > service.context:
        raise bad_request(
            f"This model's maximum context length is {service.context} tokens. However, your "
            f"prompt contains {tokens} input tokens. Please reduce the length of the input prompt.",
            "input_tokens",
        )
    rank = service.priority(client, priority)
    return Output(Sequence(f"{client.id}-{index}", tokens, 0, priority=rank), "stop")


def _entry(index: int, text: bytes, request: EmbeddingRequest) -> dict[str, Any]:
    vector = unit_vector(text, request.dimensions or _DEFAULT_DIMENSIONS)
    coded: list[float] | str = vector
    if request.encoding_format == "base64":
        packed = array("f", vector)
        if sys.byteorder == "big":
            packed.byteswap()
        coded = b64encode(packed.tobytes()).decode()
    return {"index": index, "object": "embedding", "embedding": coded}
