"""The text of a request that tells how difficult it is."""

from __future__ import annotations

from msgspec import DecodeError, Struct
from msgspec.json import Decoder

from fairgate.codec import Call

MAX_CHARS = 32 * 1024
"""Of a longer text both ends are taken: instructions mostly stand at one of them."""


class _Part(Struct):
    text: str | None = None


class _Turn(Struct):
    role: str = ""
    content: str | list[_Part] | None = None


_decode = Decoder(str | list[str | _Turn]).decode


def prompt_text(call: Call) -> str:
    """The last thing that the user said in ``call``; empty where that is not text.

    Earlier turns and system prompts are the same in many requests, and say little about this one.
    """
    try:
        prompt = _decode(call.prompt)
    except DecodeError:
        return ""
    if isinstance(prompt, str):
        return _bounded(prompt)
    said = [turn for turn in prompt if isinstance(turn, str) or turn.role == "user"]
    return _bounded(_text_of(said[-1])) if said else ""


def _text_of(turn: str | _Turn) -> str:
    if isinstance(turn, str):
        return turn
    if isinstance(turn.content, str):
        return turn.content
    return "\n".join(part.text for part in turn.content or () if part.text)


def _bounded(text: str) -> str:
    half = MAX_CHARS // 2
    return text if len(text) <= MAX_CHARS else f"{text[:half]}\n{text[-half:]}"
