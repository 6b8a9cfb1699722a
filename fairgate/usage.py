"""What an answer cost, as its engine wrote it: found in raw JSON, of which parts may be missing.

Raw JSON cannot fake a match: inside a JSON string every quote is escaped, so ``"usage":{`` stands
only where a real key does. Answers of ``/v1/responses`` echo objects that the client sent (the
schemas of its tools), so a key counts only at the depth where the engine writes its own.
"""

from __future__ import annotations

import re

from msgspec import DecodeError, Struct
from msgspec.json import Decoder

MOST_TOKENS = 2**40
"""An engine that tells more than these talks nonsense, and is not heard."""

TOP = 1
IN_RESPONSE = 2
"""Depths of ``usage``: in the answer, or in the ``response`` of an event."""

_USAGE = re.compile(rb'"usage"\s*+:\s*+(\{[^{}]*+(?:\{[^{}]*+\}[^{}]*+)*+\})')
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


class Usage(Struct, frozen=True, gc=False):
    """Tokens of one answer.

    Not ``exact``: the engine did not tell (aborted, or it never does); then ``completion_tokens``
    is what was seen to arrive and ``prompt_tokens`` is ``None``.
    """

    prompt_tokens: int | None = None
    completion_tokens: int = 0
    cached_tokens: int = 0
    exact: bool = False


class _Details(Struct):
    cached_tokens: int | None = None


class WireUsage(Struct):
    """``usage`` of either API family."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None


class _Answer(Struct):
    usage: WireUsage | None = None


_decode_usage = Decoder(WireUsage).decode
_decode_answer = Decoder(_Answer).decode


def answer_usage(answer: bytearray) -> Usage | None:
    """The top-level usage of a whole JSON answer; ``None`` if it broke off."""
    try:
        wire = _decode_answer(answer).usage
    except (DecodeError, RecursionError):
        return None
    return usage_of(wire) if wire else None


def cut_answer_usage(head: bytearray, tail: bytearray) -> Usage | None:
    """The top-level usage of a long answer of which only these two are kept."""
    return last_usage(tail, TOP) or _first_usage(head)


def last_usage(data: bytes | bytearray, depth: int) -> Usage | None:
    """The last usage object in lines of raw JSON that has token counts and lies ``depth`` deep.

    The line may have lost its beginning, so depth is counted from its end.
    """
    start = len(data)
    while (start := data.rfind(b'"usage"', 0, start)) >= 0:
        match = _USAGE.match(data, start)
        if match and (usage := _parsed(match[1])) and _closes(data, match.end()) == depth:
            return usage
    return None


def _first_usage(head: bytearray) -> Usage | None:
    """The usage object at the top level of a JSON object whose end is not there."""
    for match in _USAGE.finditer(head):
        if _depth(bytes(head[: match.start()])) == TOP and (usage := _parsed(match[1])):
            return usage
    return None


def _closes(data: bytes | bytearray, start: int) -> int:
    """Levels that the line closes from ``start`` on, which is outside of a string."""
    end = data.find(b"\n", start)
    return -_depth(bytes(data[start : end if end >= 0 else len(data)]))


def _depth(data: bytes) -> int:
    """Levels of JSON that ``data``, which begins outside of a string, leaves open."""
    bare = _STRING.sub(b"", data)
    return bare.count(b"{") + bare.count(b"[") - bare.count(b"}") - bare.count(b"]")


def _parsed(data: bytes) -> Usage | None:
    try:
        return usage_of(_decode_usage(data))
    except DecodeError:
        return None


def usage_of(wire: WireUsage) -> Usage | None:
    """``None`` where it lacks what every engine sends, such as a ``usage`` of something else."""
    prompt = wire.prompt_tokens if wire.prompt_tokens is not None else wire.input_tokens
    if prompt is None:
        return None
    output = wire.completion_tokens if wire.completion_tokens is not None else wire.output_tokens
    prompt, output = _not_negative(prompt), _not_negative(output)
    if prompt > MOST_TOKENS or output > MOST_TOKENS:
        return None
    details = wire.prompt_tokens_details or wire.input_tokens_details
    cached = _not_negative(details.cached_tokens) if details is not None else 0
    return Usage(prompt, output, cached if cached < prompt else prompt, True)


def _not_negative(tokens: int | None) -> int:
    return tokens if tokens is not None and tokens > 0 else 0
