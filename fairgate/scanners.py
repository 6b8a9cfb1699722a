"""Looks for usage in an answer's bytes as they pass on to the client; by kind of answer."""

from __future__ import annotations

import re

from fairgate.codec import Route
from fairgate.errors import EngineError
from fairgate.events import (
    CHOICE,
    DELTA,
    EVENT_END,
    EVENT_ENDS,
    NO_CHOICE,
    events_end,
    first_end,
    has,
    is_last_event,
    is_sound,
    is_usage_event,
)
from fairgate.headers import sse_error
from fairgate.usage import IN_RESPONSE, TOP, Usage, answer_usage, cut_answer_usage, last_usage

HEAD_BYTES = 4 * 1024
TAIL_BYTES = 16 * 1024
"""Of a JSON answer longer than twice these, only so much is kept from either end."""

HELD_BYTES = 256 * 1024
"""Of a longer event the beginning is passed on before its end has come."""

LINE_BYTES = 64 * 1024
"""Of such an event only so much of its end is looked at."""

_ERROR_EVENT = re.compile(
    rb'^data: ?\{\s*"(?:error"\s*:\s*[{"]|object"\s*:\s*"error")'
    rb'|"type"\s*:\s*"(?:error|response\.failed)"',
    re.MULTILINE,
)
_RESPONSE_ID = re.compile(rb'"id"\s*:\s*"(resp_[\x21\x23-\x5b\x5d-\x7e]{1,256})"')


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
        kept = self._kept
        if self._whole:
            found = answer_usage(kept)
        else:
            found = cut_answer_usage(kept[:HEAD_BYTES], kept[HEAD_BYTES:])
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
        self._output = DELTA if route == "responses" else CHOICE
        self._role_events = 1 if route == "chat" else 0
        self._depth = IN_RESPONSE if route == "responses" else TOP
        self._waiting = bytearray()
        """The event that has begun."""
        self._passed = 0
        """How much of it was passed on already, since it is so long."""
        self._usage: Usage | None = None

    def feed(self, chunk: bytes) -> bytes:
        if chunk.endswith(EVENT_ENDS) and not self._waiting:
            return self._whole(chunk, self._look(chunk))
        return self._join(chunk)

    def finish(self) -> bytes:
        if self._passed or is_last_event(self._waiting):
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
        end = events_end(waiting, searched)
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
        end = first_end(events)
        return events[begun:end] + self._whole(events[end:], has_usage)

    def _whole(self, events: bytes, has_usage: bool) -> bytes:
        """What to pass of whole events."""
        return events

    def _look(self, lines: bytes) -> bool:
        """Whether a usage may be in them."""
        if self.checks_events and not self._passed and not is_sound(lines):
            raise EngineError("an event that is no JSON")
        self.events += lines.count(self._output[0]) or lines.count(self._output[1])
        if b'"error"' in lines and _ERROR_EVENT.search(lines):
            self.failed = True
        if self._output is DELTA and not self.response_id:
            self.response_id = _response_id(lines)
        if b'"usage"' not in lines:
            return False
        self._usage = last_usage(lines, self._depth) or self._usage
        return True


class HidingScanner(SseScanner):
    """An event stream from which the usage event is withheld; the client did not ask for it."""

    def _whole(self, events: bytes, has_usage: bool) -> bytes:
        if not has_usage or not has(NO_CHOICE, events):
            return events
        kept = []
        start = 0
        for match in EVENT_END.finditer(events):
            event = events[start : match.end()]
            if not is_usage_event(event):
                kept.append(event)
            start = match.end()
        return b"".join(kept) + (b"" if is_usage_event(events[start:]) else events[start:])


def _response_id(data: bytes | bytearray) -> bytes:
    match = _RESPONSE_ID.search(data) if b'"resp_' in data else None
    return bytes(match[1]) if match else b""
