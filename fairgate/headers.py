"""Response headers and error bodies that fairgate writes itself.

Quotas are told twice, as OpenAI's ``x-ratelimit-*`` and as the IETF draft's ``RateLimit-Policy``
and ``RateLimit`` (draft-ietf-httpapi-ratelimit-headers-11). Values that come from a client or an
engine are cleaned, so none of them can begin another header.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Container, Iterable, Sequence
from functools import lru_cache
from http import HTTPStatus
from random import Random
from typing import NamedTuple

from msgspec import Struct
from msgspec.json import Encoder
from starlette.types import Message

from fairgate.errors import QueueTimeout, Refusal, Throttled

Header = tuple[bytes, bytes]
"""Name in lower case and value, as ASGI wants them."""

MAX_RETRY_AFTER_S = 120
"""openai-python takes a longer ``Retry-After`` as "do not retry"."""

REQUEST_ID = b"x-request-id"

DEGRADED = b"x-fairgate-degraded"
"""On answers to requests that were admitted without the shared store, since it was away."""

_DEFAULT_RETRY_S = 1.0
_RETRY_LATER = frozenset(
    {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE}
)
_JITTER = 0.25
_SF_INTEGER_MAX = 10**15 - 1
_LENGTH_DIGITS = 18
_PROBLEM_TYPES = "https://iana.org/assignments/http-problem-types#"
_SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_UNSAFE = re.compile(rb"[^\x20-\x7e]")

_encode = Encoder().encode


class LimitView(Struct, frozen=True, gc=False):
    """What a client may know of its limits. ``None``: not limited. Resets in seconds from now."""

    limit_requests: int | None = None
    remaining_requests: int = 0
    reset_requests_s: float = 0.0
    limit_tokens: int | None = None
    remaining_tokens: int = 0
    reset_tokens_s: float = 0.0
    window_s: int = 60


class ErrorResponse(NamedTuple):
    """A whole answer."""

    status: int
    headers: list[Header]
    body: bytes


def lowered(start: Message) -> list[Header]:
    """The headers of ``start``, names in lower case."""
    return [
        (
            name.lower() if type(name) is bytes else bytes(name).lower(),  # as mostly
            value if type(value) is bytes else bytes(value),
        )
        for name, value in start.get("headers", ())
    ]


def merged(sent: Iterable[Header], added: Sequence[Header], drop: Container[bytes]) -> list[Header]:
    """``sent`` with ``added`` in place of its headers of those names, and without ``drop``."""
    replaced = dict(added)
    return [*[h for h in sent if h[0] not in replaced and h[0] not in drop], *added]


def request_id(sent: bytes | None) -> str:
    """The client's id where it is short visible ASCII, else a new one."""
    if sent is not None and _SANE_ID.fullmatch(sent):
        return sent.decode("ascii")
    return f"req_{os.urandom(16).hex()}"


def route_headers(
    request_id: str, *, lane: str = "", engine: str = "", queue_s: float | None = None
) -> list[Header]:
    """Which way a request took; what is not known is left out."""
    headers = [(REQUEST_ID, _safe(request_id))]
    if queue_s is not None:
        headers.append((b"x-fairgate-queue-ms", b"%d" % max(round(queue_s * 1000), 0)))
    headers += _place(lane, engine)
    return headers


@lru_cache(maxsize=4096)
def _place(lane: str, engine: str) -> tuple[Header, ...]:
    told = ((b"x-fairgate-lane", lane), (b"x-fairgate-engine", engine))
    return tuple((name, _safe(value)) for name, value in told if value)


def choice_headers(samples: int, score: float | None, escalated_from: str = "") -> list[Header]:
    """How an answer was chosen; what is not known is left out."""
    headers = [(b"x-fairgate-samples", b"%d" % samples)]
    if score is not None:
        headers.append((b"x-fairgate-score", b"%.4f" % score))
    if escalated_from:
        headers.append((b"x-fairgate-escalated-from", _safe(escalated_from)))
    return headers


def limit_headers(view: LimitView) -> list[Header]:
    """Both families of quota headers; nothing for a client without limits."""
    headers = list(_policy(view.limit_requests, view.limit_tokens, view.window_s))
    states = []
    if (limit := view.limit_requests) is not None:
        left = _left(view.remaining_requests, limit)
        reset_ms = _millis(view.reset_requests_s)
        headers.append((b"x-ratelimit-remaining-requests", b"%d" % left))
        headers.append((b"x-ratelimit-reset-requests", _duration(reset_ms)))
        states.append(b'"requests";r=%d;t=%d' % (_sf_integer(left), -(-reset_ms // 1000)))
    if (limit := view.limit_tokens) is not None:
        left = _left(view.remaining_tokens, limit)
        reset_ms = _millis(view.reset_tokens_s)
        headers.append((b"x-ratelimit-remaining-tokens", b"%d" % left))
        headers.append((b"x-ratelimit-reset-tokens", _duration(reset_ms)))
        states.append(b'"tokens";r=%d;t=%d' % (_sf_integer(left), -(-reset_ms // 1000)))
    if states:
        headers.append((b"ratelimit", b", ".join(states)))
    return headers


def _left(remaining: int, limit: int) -> int:
    return limit if remaining > limit else remaining if remaining > 0 else 0


@lru_cache(maxsize=4096)
def _policy(requests: int | None, tokens: int | None, window_s: int) -> tuple[Header, ...]:
    """What does not change from one answer to the next."""
    headers, policies = [], []
    for name, limit in ((b"requests", requests), (b"tokens", tokens)):
        if limit is not None:
            headers.append((b"x-ratelimit-limit-" + name, b"%d" % limit))
            policies.append(b'"%b";q=%d;w=%d' % (name, _sf_integer(limit), window_s))
    if policies:
        headers.append((b"ratelimit-policy", b", ".join(policies)))
    return tuple(headers)


def _sf_integer(value: int) -> int:
    return value if value <= _SF_INTEGER_MAX else _SF_INTEGER_MAX


def duration(seconds: float) -> str:
    """OpenAI's (Go's) notation, rounded up to a millisecond: ``12ms``, ``8.64s``, ``6m0s``."""
    return _duration(_millis(seconds)).decode()


def _millis(seconds: float) -> int:
    """Rounded up, but for what is no more than the noise of a float."""
    millis = math.ceil(seconds * 1000 - 0.0005)
    return millis if millis > 0 else 0


def _duration(millis: int) -> bytes:
    if 0 < millis < 1000:
        return b"%dms" % millis
    seconds, millis = divmod(millis, 1000)
    minutes, seconds = divmod(seconds, 60)
    text = b"%ds" % seconds
    if millis:
        text = (b"%d.%03d" % (seconds, millis)).rstrip(b"0") + b"s"
    if not minutes:
        return text
    hours, minutes = divmod(minutes, 60)
    return b"%dh%dm%b" % (hours, minutes, text) if hours else b"%dm%b" % (minutes, text)


def retry_after(seconds: float, rng: Random) -> int:
    """Whole seconds from 1 to 120, spread so that refused clients do not come back together.

    Never before ``seconds``, but for waits near or over the cap, which are spread below it.
    """
    whole = max(math.ceil(min(seconds, MAX_RETRY_AFTER_S / (1 + _JITTER))), 1)
    return whole + int(rng.random() * max(whole * _JITTER, 2))


def error_response(
    refusal: Refusal,
    *,
    request_id: str,
    rng: Random,
    accept: bytes = b"",
    limits: LimitView | None = None,
    lane: str = "",
    queue_s: float | None = None,
) -> ErrorResponse:
    """The answer for ``refusal``: an OpenAI error object, or RFC 9457 for clients that ask."""
    problem = wants_problem(accept)
    body = _encode(_problem(refusal, request_id) if problem else _openai_error(refusal))
    kind = b"application/problem+json" if problem else b"application/json"
    headers = [
        (b"content-type", kind),
        (b"content-length", b"%d" % len(body)),
        *route_headers(request_id, lane=lane, queue_s=queue_s),
        *(limit_headers(limits) if limits else ()),
        *_status_headers(refusal, rng),
    ]
    return ErrorResponse(refusal.status, headers, body)


def _status_headers(refusal: Refusal, rng: Random) -> list[Header]:
    if refusal.status == HTTPStatus.UNAUTHORIZED:
        return [(b"www-authenticate", b"Bearer")]
    if refusal.status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
        return [(b"accept-encoding", b"identity")]
    if refusal.status not in _RETRY_LATER:
        return []
    wait_s = _DEFAULT_RETRY_S if refusal.retry_after is None else refusal.retry_after
    headers = [(b"retry-after", b"%d" % retry_after(wait_s, rng))]
    if wait_s > MAX_RETRY_AFTER_S:
        # Within its two or three tries, no client would live to see this limit reset.
        headers.append((b"x-should-retry", b"false"))
    return headers


def wants_problem(accept: bytes) -> bool:
    """The client takes ``application/problem+json`` and does not name ``application/json``."""
    if b"problem+json" not in accept.lower():
        return False
    kinds = {_media_type(item) for item in accept.lower().split(b",")}
    return b"application/problem+json" in kinds and b"application/json" not in kinds


def _media_type(item: bytes) -> bytes:
    """Its type; nothing if it is refused with ``q=0``."""
    kind, *parameters = (part.strip() for part in item.split(b";"))
    refused = any(re.fullmatch(rb"q=0(\.0*)?", parameter) for parameter in parameters)
    return b"" if refused else kind


def _openai_error(refusal: Refusal) -> dict[str, object]:
    return {
        "error": {
            "message": refusal.message,
            "type": refusal.type,
            "param": refusal.param,
            "code": refusal.code,
        }
    }


def _problem(refusal: Refusal, request_id: str) -> dict[str, object]:
    problem: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(refusal.status).phrase,
        "status": refusal.status,
        "detail": refusal.message,
        "code": refusal.code,
        "param": refusal.param,
        "request_id": request_id,
    }
    if isinstance(refusal, Throttled) and refusal.limit != "queue":
        problem["type"] = _PROBLEM_TYPES + "quota-exceeded"
        problem["title"] = "Request cannot be satisfied as assigned quota has been exceeded"
        problem["violated-policies"] = [refusal.limit]
    elif isinstance(refusal, Throttled | QueueTimeout) or refusal.status == 503:
        problem["type"] = _PROBLEM_TYPES + "temporary-reduced-capacity"
        problem["title"] = (
            "Request cannot be satisfied due to temporary server capacity constraints"
        )
    return problem


def sse_error(message: str, code: str, *, type: str = "server_error") -> bytes:  # noqa: A002 # the wire's word
    """The last event of a stream that broke off; OpenAI clients raise on it.

    Begins with a blank line, which ends an event that was sent in part. No ``[DONE]`` follows: a
    client that overlooks errors must not take the answer for complete.
    """
    error = {"message": message, "type": type, "param": None, "code": code}
    return b"\n\ndata: " + _encode({"error": error}) + b"\n\n"


def length(declared: bytes | None) -> int | None:
    """What a ``content-length`` says; ``None`` where there is none."""
    if declared is None or not declared.isdigit():
        return None
    digits = declared.lstrip(b"0") or b"0"
    return int(digits) if len(digits) <= _LENGTH_DIGITS else sys.maxsize


def _safe(value: str) -> bytes:
    """A header value of visible ASCII and spaces; anything else becomes ``?``."""
    if value.isascii() and value.isprintable():  # mostly
        return value.encode()
    return _UNSAFE.sub(b"?", value.encode("ascii", "replace"))
