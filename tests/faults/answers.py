"""What a client got: a complete answer, a clear error, or neither."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_WITH_RETRY_AFTER = frozenset({429, 503})
_CLEAR = frozenset({429, 500, 502, 503, 504})
_LONGEST_RETRY_S = 120


class Kind(StrEnum):
    """How a request ended for its client."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """429 or 5xx with an error object; 429 and 503 with Retry-After."""
    BROKEN = "broken"
    """A stream that ended with an error event."""
    DIED = "died"
    """Its gateway was killed, stopped or went away under it: the client asks another one."""
    LEFT = "left"
    """The client went away on purpose."""
    LOST = "lost"
    """None of these: cut short, hung, or an answer that nobody can read."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a request ended."""

    kind: Kind
    detail: str = ""
    tokens: int = 0
    """Prompt and output, of an answer."""
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for."""

    stream: bool
    output_tokens: int


def judge(wish: Wish, status: int, headers: Any, body: bytes) -> Ending:
    """Of an answer that came to its end as HTTP has it; ``headers`` is a mapping."""
    if status != 200:
        return judge_refusal(status, headers, body)
    if wish.stream:
        return _judge_stream(wish, body)
    try:
        return _answered(wish, json.loads(body)["usage"])
    except (ValueError, KeyError, TypeError) as error:
        return Ending(Kind.LOST, f"200 with a body that is no answer: {error!r}")


def judge_refusal(status: int, headers: Any, body: bytes) -> Ending:
    """Of any other status."""
    try:
        error = json.loads(body)["error"]
        message, kind = error["message"], error["type"]
    except (ValueError, KeyError, TypeError):
        return Ending(Kind.LOST, f"{status} without an error object: {body[:60]!r}")
    detail = f"{status} {error.get('code') or kind}"
    if status not in _CLEAR or not message:
        return Ending(Kind.LOST, f"{detail}: {message[:60]}")
    retry_after = headers.get("retry-after", "")
    if status not in _WITH_RETRY_AFTER:
        return Ending(Kind.REFUSED, detail)
    if not retry_after.isdigit() or not 1 <= int(retry_after) <= _LONGEST_RETRY_S:
        return Ending(Kind.LOST, f"{detail} with Retry-After {retry_after!r}")
    return Ending(Kind.REFUSED, detail, retry_after_s=int(retry_after))


def _judge_stream(wish: Wish, body: bytes) -> Ending:
    """As OpenAI clients read it: events one by one, until an error or the end."""
    usage = None
    for event in body.replace(b"\r\n", b"\n").split(b"\n\n"):
        for line in event.split(b"\n"):
            if line and not line.startswith((b"data:", b":", b"event:")):
                return Ending(Kind.LOST, f"a stream with a line of no kind: {line[:40]!r}")
        data = b"\n".join(li[5:].strip() for li in event.split(b"\n") if li.startswith(b"data:"))
        if data == b"[DONE]":
            return _answered(wish, usage)
        if not data:
            continue
        try:
            chunk = json.loads(data)
        except ValueError:
            return Ending(Kind.LOST, f"a stream with an event that is no JSON: {data[:40]!r}")
        if error := chunk.get("error"):
            return Ending(Kind.BROKEN, str(error.get("code")))
        usage = chunk.get("usage") or usage
    return Ending(Kind.LOST, "a stream that just ends")


def _answered(wish: Wish, usage: Any) -> Ending:
    if not usage or usage["completion_tokens"] != wish.output_tokens:
        return Ending(Kind.LOST, f"an answer of {usage}, not {wish.output_tokens} tokens")
    return Ending(Kind.ANSWERED, tokens=usage["prompt_tokens"] + usage["completion_tokens"])
