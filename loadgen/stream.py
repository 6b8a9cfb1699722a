"""Read from a streamed answer just what is measured: first token, usage, whether it is whole.

Parsing every event would cost the generator more than sending the requests, so only the events up
to the first token and those at the very end are decoded; in between, bytes are counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

_TAIL_BYTES = 8192
"""Holds the last events of a stream: the usage, an error, ``[DONE]``."""
_LAST_LINES = 16
_DATA = b"data:"
_DONE = b"[DONE]"
_CONTENT_FIELDS = ("content", "reasoning_content", "reasoning", "tool_calls", "text")

# Events are what a foreign server sends: nothing is known of their shape.
Event = dict[str, Any]


class StreamScan:
    """Takes the chunks of one server-sent-events answer as they come."""

    def __init__(self) -> None:
        self.first_token_s: float | None = None
        self.events = 0
        """Events so far: near the number of tokens, as engines send about one event a token."""
        self._head = b""
        self._tail = b""

    def feed(self, chunk: bytes, now_s: float) -> None:
        """Take the next bytes, received at ``now_s``."""
        self.events += chunk.count(_DATA)
        self._tail = (self._tail + chunk)[-_TAIL_BYTES:]
        if self.first_token_s is None:
            *lines, self._head = (self._head + chunk).split(b"\n")
            if any(_has_content(event) for event in _decode(lines)):
                self.first_token_s = now_s

    def usage(self) -> tuple[int, int] | None:
        """Prompt and completion tokens as the last usage says; ``None``: it never came."""
        for event in self._last_events():
            usage = event.get("usage")
            if isinstance(usage, dict):
                return usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
        return None

    def fault(self) -> str:
        """Why the finished stream is no whole answer; empty when it is one."""
        for event in self._last_events():
            if event.get("error") is not None:
                return f"stream:{error_code(event) or 'error'}"
        if any(_payload(line) == _DONE for line in self._last_lines()):
            return ""
        return "truncated" if self.events else "no_stream"

    def _last_events(self) -> Iterator[Event]:
        return _decode(reversed(self._last_lines()))

    def _last_lines(self) -> list[bytes]:
        return self._tail.splitlines()[-_LAST_LINES:]


def error_code(body: Event) -> str:
    """The machine-readable cause in an OpenAI-shaped error; empty when there is none."""
    error = body.get("error")
    if not isinstance(error, dict):
        return ""
    for field in ("code", "type"):
        if isinstance(cause := error.get(field), str) and cause:
            return cause
    return ""


def _payload(line: bytes) -> bytes:
    return line[len(_DATA) :].strip() if line.startswith(_DATA) else b""


def _decode(lines: Iterator[bytes] | list[bytes]) -> Iterator[Event]:
    for line in lines:
        payload = _payload(line)
        if not payload.startswith(b"{"):
            continue
        try:
            yield orjson.loads(payload)
        except orjson.JSONDecodeError:  # the tail may begin in the middle of an event
            continue


def _has_content(event: Event) -> bool:
    choices = event.get("choices")
    if not isinstance(choices, list):
        return False
    for choice in choices:
        said = choice.get("delta", choice) if isinstance(choice, dict) else {}
        if isinstance(said, dict) and any(said.get(field) for field in _CONTENT_FIELDS):
            return True
    return False
