"""What an answer tells of its quality by itself."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from msgspec import DecodeError, Struct

from fairgate.codec import Call
from fairgate.config.routing import Check

_ASKS_JSON = frozenset({"json_object", "json_schema"})


class _Message(Struct):
    content: str | None = None
    tool_calls: list[object] | None = None


class _Choice(Struct):
    message: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Answer(Struct):
    choices: list[_Choice] = []


class _Format(Struct):
    type: str = ""


_decode = msgspec.json.Decoder(_Answer).decode
_decode_format = msgspec.json.Decoder(_Format | None).decode


def answer_text(answer: bytes) -> str | None:
    """The text of the first choice of a chat's or completion's answer, not streamed; else
    ``None``."""
    first = _first(answer)
    return None if first is None else _text(first)


def checked(call: Call, answer: bytes, checks: Collection[Check]) -> float | None:
    """Score of ``answer``, the whole of one that is not a stream; ``None``: nothing can be said.

    0 where one of ``checks`` fails, 1 where all that apply are passed.
    """
    first = _first(answer) if checks else None
    if first is None:
        return None
    verdicts = []
    if "finished" in checks:
        called = first.message is not None and bool(first.message.tool_calls)
        verdicts.append(first.finish_reason != "length" and (called or bool(_text(first).strip())))
    if "json" in checks and _asks_json(call):
        verdicts.append(_is_json(_text(first)))
    return float(all(verdicts)) if verdicts else None


def _first(answer: bytes) -> _Choice | None:
    try:
        choices = _decode(answer).choices
    except DecodeError:
        return None
    return choices[0] if choices else None


def _text(choice: _Choice) -> str:
    if choice.message is not None:
        return choice.message.content or ""
    return choice.text or ""


def _asks_json(call: Call) -> bool:
    wanted = call.fields.get("response_format")
    if wanted is None:
        return False
    try:
        told = _decode_format(wanted)
    except DecodeError:
        return False
    return told is not None and told.type in _ASKS_JSON


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except DecodeError:
        return False
    return True
