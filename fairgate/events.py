"""Server-sent events as bytes: where they end, whether they can be read, which one tells usage."""

from __future__ import annotations

import re

from msgspec import DecodeError, Raw, Struct
from msgspec.json import Decoder

from fairgate.usage import WireUsage

EVENT_END = re.compile(rb"\n\r?\n")
EVENT_ENDS = (b"\n\n", b"\n\r\n")

CHOICE = (b'"choices":[{', b'"choices": [{')
NO_CHOICE = (b'"choices":[]', b'"choices": []')
DELTA = (b'.delta","', b'.delta", "')
"""What marks an event with output (or without), written compact or spaced."""


class _Event(Struct):
    choices: list[Raw] | None = None
    usage: WireUsage | None = None


_decode_event = Decoder(_Event).decode
_decode_any = Decoder(Raw).decode


def events_end(data: bytearray, start: int) -> int:
    """Where the last complete event of ``data`` ends, searched from ``start``; 0 if none does."""
    plain, crlf = data.rfind(b"\n\n", start), data.rfind(b"\n\r\n", start)
    return max(plain + 2 if plain >= 0 else 0, crlf + 3 if crlf >= 0 else 0)


def first_end(events: bytes) -> int:
    match = EVENT_END.search(events)
    return match.end() if match else len(events)


def is_last_event(data: bytearray) -> bool:
    """Whether a stream may end with ``data``: nothing, or an event without its blank line."""
    for line in data.splitlines():
        name, _, value = line.partition(b":")
        if name == b"data" and value.strip() != b"[DONE]" and not _is_json(value):
            return False
    return True


def is_sound(events: bytes) -> bool:
    """Whether all data in whole ``events`` is JSON, or the mark of the end."""
    if events.startswith(b"data: ") and events.find(b"\n") == len(events) - 2:  # one, as mostly
        return _is_data(events[6:-2])
    for event in events.split(b"\n\n"):
        if event.startswith(b"data: ") and b"\n" not in event:
            if not _is_data(event[6:]):
                return False
        elif event and not _has_sound_lines(event):
            return False
    return True


def _has_sound_lines(events: bytes) -> bool:
    data: list[bytes] = []
    for line in (*events.splitlines(), b""):
        if line.startswith(b"data:"):
            data.append(line[5:])
        elif not line and data:
            if not _is_data(b"\n".join(data)):
                return False
            data.clear()
    return True


def _is_data(value: bytes) -> bool:
    return _is_json(value) or value.strip() in (b"[DONE]", b"")


def _is_json(data: bytes | bytearray) -> bool:
    try:
        _decode_any(data)
    except (DecodeError, RecursionError):
        return False
    return True


def has(marks: tuple[bytes, bytes], event: bytes) -> bool:
    return marks[0] in event or marks[1] in event


def is_usage_event(event: bytes) -> bool:
    """An event with usage and no choice."""
    start = event.find(b"data:")
    if start < 0 or b'"usage"' not in event or has(CHOICE, event):
        return False
    try:
        decoded = _decode_event(event[start + 5 :].strip())
    except (DecodeError, RecursionError):
        return False
    return decoded.choices == [] and decoded.usage is not None
