"""What an answer cost, read from its bytes as they pass on to the client.

Bytes are forwarded as they come; the scanners only look. Raw JSON cannot fake a match: inside a
JSON string every quote is escaped, so ``"usage":{`` stands only where a real key does. Answers of
``/v1/responses`` echo objects that the client sent (the schemas of its tools), so a key counts only
at the depth where the engine writes its own.
"""

from __future__ import annotations

import re

from msgspec import DecodeError, Raw, Struct
from msgspec.json import Decoder

from fairgate.codec import Route
from fairgate.errors import EngineError
from fairgate.headers import sse_error

HEAD_BYTES = 4 * 1024
TAIL_BYTES = 16 * 1024
"""Of a JSON answer longer than twice these, only so much is kept from either end."""

HELD_BYTES = 256 * 1024
"""Of a longer event the beginning is passed on before its end has come."""

LINE_BYTES = 64 * 1024
"""Of such an event only so much of its end is looked at."""

MOST_TOKENS = 2**40
"""An engine that tells more than these talks nonsense, and is not heard."""

_USAGE = re.compile(rb'"usage"\s*+:\s*+(\{[^{}]*+(?:\{[^{}]*+\}[^{}]*+)*+\})')
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_TOP = 1
_IN_RESPONSE = 2
"""Depths of ``usage``: in the answer, or in the ``response`` of an event."""
_ERROR_EVENT = re.compile(
    rb'^data: ?\{\s*"(?:error"\s*:\s*[{"]|object"\s*:\s*"error")'
    rb'|"type"\s*:\s*"(?:error|response\.failed)"',
    re.MULTILINE,
)
_RESPONSE_ID = re.compile(rb'"id"\s*:\s*"(resp_[\x21\x23-\x5b\x5d-\x7e]{1,256})"')
_EVENT_END = re.compile(rb"\n\r?\n")
_EVENT_ENDS = (b"\n\n", b"\n\r\n")
_CHOICE = (b'"choices":[{', b'"choices": [{')
_NO_CHOICE = (b'"choices":[]', b'"choices": []')
_DELTA = (b'.delta","', b'.delta", "')
"""What marks an event with output (or without), written compact or spaced."""


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


class _WireUsage(Struct):
    """``usage`` of either API family."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None


class _Answer(Struct):
    usage: _WireUsage | None = None


class _Event(Struct):
    choices: list[Raw] | None = None
    usage: _WireUsage | None = None


_decode_usage = Decoder(_WireUsage).decode
_decode_answer = Decoder(_Answer).decode
_decode_event = Decoder(_Event).decode
_decode_any = Decoder(Raw).decode


def scanner_for(route: Route, content_type: bytes, *, hide_usage: bool = False) -> UsageScanner:
    """The scanner for an answer; ``hide_usage`` when the gateway asked for usage on its own."""
    kind = content_type.partition(b";")[0].strip().lower()
    if kind == b"text/event-stream":
        return HidingScanner(route) if hide_usage else SseScanner(route)
    if kind == b"application/json":
        return JsonScanner()
    return UsageScanner()


class UsageScanner:
    """Passes everything and learns nothing: for answers that are neither JSON nor events."""

    def __init__(self) -> None:
        self.events = 0
        """Events that carried output: engines send one or more tokens with each."""
        self.failed = False
        """The engine reported an error within the stream."""
        self.checks_events = False
        """Data in events must be JSON, as engines send; an app's own stream may hold anything."""
        self.response_id = b""
        """Of an answer of ``/v1/responses``: what the next call names as the previous one."""

    def feed(self, chunk: bytes) -> bytes:
        """Look at the next bytes of the answer and return what to send on (may be empty).

        Raises ``EngineError`` where :attr:`checks_events` finds what no client could read.
        """
        return chunk

    def finish(self) -> bytes:
        """The answer ended: what is still to be sent on."""
        return b""

    def cut(self) -> bool:
        """The answer broke off: forget what waits to be sent on. Whether an event may follow."""
        self.finish()
        return False

    @property
    def usage(self) -> Usage:
        """What is known so far; final after :meth:`finish`."""
        return Usage()


class JsonScanner(UsageScanner):
    """One JSON document. A long one (embeddings) is kept only at its ends."""

    def __init__(self) -> None:
        super().__init__()
        self._kept = bytearray()
        self._whole = True
        self._usage = Usage()

    def feed(self, chunk: bytes) -> bytes:
        self._kept += chunk
        if len(self._kept) > 2 * (HEAD_BYTES + TAIL_BYTES):
            del self._kept[HEAD_BYTES:-TAIL_BYTES]
            self._whole = False
        return chunk

    def finish(self) -> bytes:
        found = _answer_usage(self._kept) if self._whole else _long_answer_usage(self._kept)
        self._usage = found or self._usage
        self.response_id = _response_id(self._kept)
        self._kept.clear()
        return b""

    @property
    def usage(self) -> Usage:
        return self._usage


class SseScanner(UsageScanner):
    """An event stream, passed unchanged, event by event. The last usage seen counts.

    Engines send whole events, and those pass at once. The beginning of one waits for its rest: no
    client can use it earlier, and where the engine breaks off the client stands between two events.
    """

    def __init__(self, route: Route) -> None:
        super().__init__()
        self._output = _DELTA if route == "responses" else _CHOICE
        self._role_events = 1 if route == "chat" else 0
        self._depth = _IN_RESPONSE if route == "responses" else _TOP
        self._waiting = bytearray()
        """The event that has begun."""
        self._passed = 0
        """How much of it was passed on already, since it is so long."""
        self._usage: Usage | None = None

    def feed(self, chunk: bytes) -> bytes:
        if chunk.endswith(_EVENT_ENDS) and not self._waiting:
            return self._whole(chunk, self._look(chunk))
        return self._join(chunk)

    def finish(self) -> bytes:
        if self._passed or _is_last_event(self._waiting):
            return self._rest()
        self.cut()
        self.failed = True
        return sse_error("the engine's answer ended inside an event", "engine_failed")

    def cut(self) -> bool:
        between_events = not self._passed
        self._waiting.clear()
        self._passed = 0
        return between_events

    @property
    def usage(self) -> Usage:
        return self._usage or Usage(completion_tokens=max(self.events - self._role_events, 0))

    def _join(self, chunk: bytes) -> bytes:
        """Pass the events that ``chunk`` completes, and keep the one that it begins."""
        waiting = self._waiting
        searched = max(0, len(waiting) - 3)
        waiting += chunk
        end = _events_end(waiting, searched)
        events = bytes(waiting[:end])
        del waiting[:end]
        passed = self._events(events) if end else b""
        if len(waiting) > HELD_BYTES or self._passed:
            passed += waiting[self._passed :]
            del waiting[: -LINE_BYTES if len(waiting) > HELD_BYTES + LINE_BYTES else 0]
            self._passed = len(waiting)
        return passed

    def _rest(self) -> bytes:
        events = bytes(self._waiting)
        self._waiting.clear()
        return self._events(events)

    def _events(self, events: bytes) -> bytes:
        """What is still to be passed of ``events``, the first of which may have been begun."""
        has_usage = self._look(events)
        begun, self._passed = self._passed, 0
        if not begun:
            return self._whole(events, has_usage)
        end = _first_end(events)
        return events[begun:end] + self._whole(events[end:], has_usage)

    def _whole(self, events: bytes, has_usage: bool) -> bytes:
        """What to pass of whole events."""
        return events

    def _look(self, lines: bytes) -> bool:
        """Whether a usage may be in them."""
        if self.checks_events and not self._passed and not _is_sound(lines):
            raise EngineError("an event that is no JSON")
        self.events += lines.count(self._output[0]) or lines.count(self._output[1])
        if b'"error"' in lines and _ERROR_EVENT.search(lines):
            self.failed = True
        if self._output is _DELTA and not self.response_id:
            self.response_id = _response_id(lines)
        if b'"usage"' not in lines:
            return False
        self._usage = _last_usage(lines, self._depth) or self._usage
        return True


class HidingScanner(SseScanner):
    """An event stream from which the usage event is withheld; the client did not ask for it."""

    def _whole(self, events: bytes, has_usage: bool) -> bytes:
        if not has_usage or not _has(_NO_CHOICE, events):
            return events
        kept = []
        start = 0
        for match in _EVENT_END.finditer(events):
            event = events[start : match.end()]
            if not _is_usage_event(event):
                kept.append(event)
            start = match.end()
        return b"".join(kept) + (b"" if _is_usage_event(events[start:]) else events[start:])


def _events_end(data: bytearray, start: int) -> int:
    """Where the last complete event of ``data`` ends, searched from ``start``; 0 if none does."""
    plain, crlf = data.rfind(b"\n\n", start), data.rfind(b"\n\r\n", start)
    return max(plain + 2 if plain >= 0 else 0, crlf + 3 if crlf >= 0 else 0)


def _first_end(events: bytes) -> int:
    match = _EVENT_END.search(events)
    return match.end() if match else len(events)


def _is_last_event(data: bytearray) -> bool:
    """Whether a stream may end with ``data``: nothing, or an event without its blank line."""
    for line in data.splitlines():
        name, _, value = line.partition(b":")
        if name == b"data" and value.strip() != b"[DONE]" and not _is_json(value):
            return False
    return True


def _is_sound(events: bytes) -> bool:
    """Whether all data in whole ``events`` is JSON, or the mark of the end."""
    for event in events.split(b"\n\n"):
        if event.startswith(b"data: ") and b"\n" not in event:  # as nearly all are
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


def _response_id(data: bytes | bytearray) -> bytes:
    match = _RESPONSE_ID.search(data) if b'"resp_' in data else None
    return bytes(match[1]) if match else b""


def _has(marks: tuple[bytes, bytes], event: bytes) -> bool:
    return marks[0] in event or marks[1] in event


def _is_usage_event(event: bytes) -> bool:
    """An event with usage and no choice."""
    start = event.find(b"data:")
    if start < 0 or b'"usage"' not in event or _has(_CHOICE, event):
        return False
    try:
        decoded = _decode_event(event[start + 5 :].strip())
    except (DecodeError, RecursionError):
        return False
    return decoded.choices == [] and decoded.usage is not None


def _answer_usage(answer: bytearray) -> Usage | None:
    """The top-level usage of a whole JSON answer; ``None`` if it broke off."""
    try:
        wire = _decode_answer(answer).usage
    except (DecodeError, RecursionError):
        return None
    return _usage(wire) if wire else None


def _long_answer_usage(kept: bytearray) -> Usage | None:
    """The top-level usage of an answer of which only head and tail are kept."""
    return _last_usage(kept[HEAD_BYTES:], _TOP) or _first_usage(kept[:HEAD_BYTES])


def _last_usage(data: bytes | bytearray, depth: int) -> Usage | None:
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
        if _depth(bytes(head[: match.start()])) == _TOP and (usage := _parsed(match[1])):
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
        return _usage(_decode_usage(data))
    except DecodeError:
        return None


def _usage(wire: _WireUsage) -> Usage | None:
    """``None`` where it lacks what every engine sends, such as a ``usage`` of something else."""
    prompt = wire.prompt_tokens if wire.prompt_tokens is not None else wire.input_tokens
    if prompt is None:
        return None
    output = wire.completion_tokens if wire.completion_tokens is not None else wire.output_tokens
    if max(prompt, output or 0) > MOST_TOKENS:
        return None
    details = wire.prompt_tokens_details or wire.input_tokens_details
    cached = (details.cached_tokens if details else None) or 0
    return Usage(max(prompt, 0), max(output or 0, 0), min(max(cached, 0), max(prompt, 0)), True)
