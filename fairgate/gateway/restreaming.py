"""One choice of an engine's answer as the event stream that a client waits for."""

from __future__ import annotations

from typing import Any

from msgspec import Raw
from msgspec.json import Encoder, decode

from fairgate.choices import Choices

_NULL = Raw(b"null")

_encode = Encoder().encode


def as_stream(choices: Choices, index: int, *, without_logprobs: bool) -> bytes:
    """The choice at ``index`` as events, with one for usage where the engine told usage.

    The whole text comes in one event: it is known by then.
    """
    head: dict[str, Any] = choices.head
    usage = head.pop("usage", _NULL)
    choice: dict[str, Any] = choices.choice(index, without_logprobs)
    if "message" in choice:
        head["object"] = "chat.completion.chunk"
        events = _chat_events(choice)
    else:
        events = [choice]
    parts = [_event({**head, "choices": [part]}) for part in events]
    if bytes(usage) != b"null":
        parts.append(_event({**head, "choices": [], "usage": usage}))
    return b"".join((*parts, b"data: [DONE]\n\n"))


def _chat_events(choice: dict[str, Any]) -> list[dict[str, Any]]:
    """Role, content, and end, as deltas."""
    message = decode(choice.pop("message"), type=dict[str, Raw])
    role = message.pop("role", Raw(b'"assistant"'))
    said: dict[str, Any] = {k: v for k, v in message.items() if bytes(v) not in (b"null", b"[]")}
    if calls := said.pop("tool_calls", None):
        numbered = enumerate(decode(calls, type=list[dict[str, Raw]]))
        said["tool_calls"] = [{"index": i, **call} for i, call in numbered]
    open_choice = {"index": 0, "logprobs": None, "finish_reason": None}
    return [
        {**open_choice, "delta": {"role": role, "content": ""}},
        {**open_choice, "delta": said, "logprobs": choice.pop("logprobs", None)},
        {**choice, "delta": {}, "logprobs": None},
    ]


def _event(payload: dict[str, Any]) -> bytes:
    return b"data: " + _encode(payload) + b"\n\n"
