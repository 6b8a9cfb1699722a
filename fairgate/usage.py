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

HEAD_BYTES = 4 * 1024
TAIL_BYTES = 16 * 1024
"""Of a JSON answer longer than twice these, only so much is kept from either end."""

LINE_BYTES = 64 * 1024
"""Of an event line longer than this only the end is looked at."""

HELD_BYTES = 4 * 1024
"""A usage event is shorter than this; a longer partial event is passed on as it comes."""

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
_CHOICE = (b'"choices":[{', b'"choices": [{')
_NO_CHOICE = (b'"choices":[]', b'"choices": []')
_DELTA = (b'.delta","', b'.delta", "')
"""What marks an event with output (or without), written compact or spaced."""


class Usage(Struct, frozen=True):
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
        self.response_id = b""
        """Of an answer of ``/v1/responses``: what the next call names as the previous one."""

    def feed(self, chunk: bytes) -> bytes:
        """Look at the next bytes of the answer and return what to send on (may be empty)."""
        return chunk

    def finish(self) -> bytes:
        """The answer ended, or broke off: what is still to be sent on."""
        return b""

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
    """An event stream that passes unchanged and at once. The last usage seen counts.

    Looks at whole lines only, so chunks may split anywhere; engines send whole events, so a line
    is rarely put together from parts.
    """

    def __init__(self, route: Route) -> None:
        super().__init__()
        self._output = _DELTA if route == "responses" else _CHOICE
        self._role_events = 1 if route == "chat" else 0
        self._depth = _IN_RESPONSE if route == "responses" else _TOP
        self._partial: list[bytes] = []
        self._partial_bytes = 0
        self._usage: Usage | None = None

    def feed(self, chunk: bytes) -> bytes:
        if not self._partial and chunk.endswith(b"\n"):
            self._look(chunk)
        else:
            self._join(chunk)
        return chunk

    def finish(self) -> bytes:
        self._look(b"".join(self._partial))
        self._partial.clear()
        return b""

    @property
    def usage(self) -> Usage:
        return self._usage or Usage(completion_tokens=max(self.events - self._role_events, 0))

    def _join(self, chunk: bytes) -> None:
        """Look at the lines that ``chunk`` completes and keep the one that it begins."""
        end = chunk.rfind(b"\n") + 1
        if end:
            self._look(b"".join((*self._partial, chunk[:end])))
            self._partial.clear()
            self._partial_bytes = 0
        if end < len(chunk):
            self._partial.append(chunk[end:])
            self._partial_bytes += len(chunk) - end
        if self._partial_bytes > 2 * LINE_BYTES:
            self._partial = [b"".join(self._partial)[-LINE_BYTES:]]
            self._partial_bytes = LINE_BYTES

    def _look(self, lines: bytes) -> None:
        self.events += lines.count(self._output[0]) or lines.count(self._output[1])
        if b'"usage"' in lines:
            self._usage = _last_usage(lines, self._depth) or self._usage
        if b'"error"' in lines and _ERROR_EVENT.search(lines):
            self.failed = True
        if self._output is _DELTA and not self.response_id:
            self.response_id = _response_id(lines)


class HidingScanner(SseScanner):
    """An event stream from which the usage event is withheld; the client did not ask for it.

    Only that event is cut out. An incomplete event at the end of a chunk waits for its rest while
    it may be the usage event (short, and without a choice yet); no client could use it earlier.
    """

    def __init__(self, route: Route) -> None:
        super().__init__(route)
        self._held = b""
        self._inside = False
        """The stream stands inside an event whose beginning was passed on."""

    def feed(self, chunk: bytes) -> bytes:
        super().feed(chunk)
        whole = chunk.endswith(b"\n\n") and not self._inside and not self._held
        if whole and b'"usage"' not in chunk:
            return chunk  # as nearly all are
        data = self._held + chunk if self._held else chunk
        end = _events_end(data)
        passed = data[:end]
        if b'"usage"' in passed and _has(_NO_CHOICE, passed):
            passed = self._without_usage(passed)
        self._inside = self._inside and not end
        partial = data[end:]
        self._held = b""
        return passed + self._hold(partial) if partial else passed

    def finish(self) -> bytes:
        super().finish()
        held, self._held = self._held, b""
        return b"" if _has(_NO_CHOICE, held) else held

    def _hold(self, partial: bytes) -> bytes:
        """Keep what must wait of an incomplete event and return the rest.

        Its line ends always wait: they may be the first half of its blank line.
        """
        self._inside = self._inside or len(partial) > HELD_BYTES or _has(_CHOICE, partial)
        passed = partial.rstrip(b"\r\n") if self._inside else b""
        self._held = partial[len(passed) :]
        return passed

    def _without_usage(self, events: bytes) -> bytes:
        """``events`` without usage events; the end of one that began earlier always stays."""
        kept = []
        start = 0
        for match in _EVENT_END.finditer(events):
            event = events[start : match.end()]
            if (self._inside and start == 0) or not _is_usage_event(event):
                kept.append(event)
            start = match.end()
        return b"".join(kept)


def _events_end(data: bytes) -> int:
    """Where the last complete event of ``data`` ends; 0 if none does."""
    plain, crlf = data.rfind(b"\n\n"), data.rfind(b"\n\r\n")
    return max(plain + 2 if plain >= 0 else 0, crlf + 3 if crlf >= 0 else 0)


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
