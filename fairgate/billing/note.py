"""What a gateway adds to a request's usage record: what the store does not know of it."""

from __future__ import annotations

from typing import Literal

import msgspec

from fairgate.admission.model import Served

Status = Literal[
    "ok", "aborted", "broken_off", "refused", "engine_failed", "escalated", "lost", "corrected",
    "unknown", "arrears",
]  # fmt: skip
"""How a request ended. ``aborted``: its client left. ``broken_off``: the engine failed within the
answer. ``refused``: by the engine, with a 4xx. ``engine_failed``: nothing was served or charged.
``escalated``: a cascade asked a larger model afterwards. ``lost``: its gateway fell silent, the
estimate is charged; ``corrected``: that gateway came back, this is the difference. ``arrears``:
what one user was served while the store was away, all requests together."""

_pack = msgspec.msgpack.Encoder().encode


def note(
    status: Status, *, key: str, model: str, request_id: str, served: Served, queue_s: float
) -> bytes:
    """The note in the form that ``usage.lua`` takes."""
    output = served.tokens - served.prompt_tokens
    prompt, cached = served.prompt_tokens, served.cached_tokens
    return _pack((status, key, model, request_id, prompt, cached, output, round(queue_s * 1000, 1)))
