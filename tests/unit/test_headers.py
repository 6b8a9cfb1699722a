"""Headers and error bodies that fairgate writes itself."""

from __future__ import annotations

import json
import re
import sys
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairgate.errors import (
    BadRequest,
    NotFound,
    QueueTimeout,
    Refusal,
    Throttled,
    Unauthenticated,
    Unavailable,
)
from fairgate.headers import (
    MAX_RETRY_AFTER_S,
    LimitView,
    duration,
    error_response,
    length,
    limit_headers,
    request_id,
    retry_after,
    route_headers,
    sse_error,
    wants_problem,
)

RPM = Throttled("slow down", limit="tenant.rpm", retry_after=5.0)
PROBLEM = b"application/problem+json"


def respond(refusal: Refusal, **more: Any) -> tuple[int, dict[bytes, bytes], dict[str, Any]]:
    status, headers, body = error_response(refusal, request_id="r-1", rng=Random(7), **more)
    assert dict(headers)[b"content-length"] == str(len(body)).encode()
    assert len(dict(headers)) == len(headers)
    return status, dict(headers), json.loads(body)


def test_limits_in_both_notations() -> None:
    view = LimitView(
        limit_requests=60,
        remaining_requests=59,
        reset_requests_s=0.012,
        limit_tokens=60_000,
        remaining_tokens=-5,
        reset_tokens_s=359.2,
    )
    assert dict(limit_headers(view)) == {
        b"x-ratelimit-limit-requests": b"60",
        b"x-ratelimit-remaining-requests": b"59",
        b"x-ratelimit-reset-requests": b"12ms",
        b"x-ratelimit-limit-tokens": b"60000",
        b"x-ratelimit-remaining-tokens": b"0",
        b"x-ratelimit-reset-tokens": b"5m59.2s",
        b"ratelimit-policy": b'"requests";q=60;w=60, "tokens";q=60000;w=60',
        b"ratelimit": b'"requests";r=59;t=1, "tokens";r=0;t=360',
    }


def test_without_limits_there_are_no_headers() -> None:
    assert limit_headers(LimitView()) == []
    only = dict(limit_headers(LimitView(limit_tokens=10**18, window_s=1)))
    assert only[b"ratelimit-policy"] == b'"tokens";q=999999999999999;w=1'  # RFC 9651 integers
    assert b"x-ratelimit-limit-requests" not in only


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0s"),
        (0, "0s"),
        (0.0121, "13ms"),
        (0.9999, "1s"),
        (8.64, "8.64s"),
        (59.9999, "1m0s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
        (90_061.5, "25h1m1.5s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(min_value=0, max_value=1e7))
def test_durations_never_promise_too_early(seconds: float) -> None:
    match = re.fullmatch(
        r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:([\d.]+)s)?(?:(\d+)ms)?", duration(seconds)
    )
    assert match
    hours, minutes, rest, millis = (float(group or 0) for group in match.groups())
    told = hours * 3600 + minutes * 60 + rest + millis / 1000
    assert seconds - 1e-6 <= told < seconds + 0.0011


@given(st.floats(min_value=-10, max_value=1e9), st.randoms(use_true_random=False))
def test_retry_after_is_bounded_and_not_too_early(seconds: float, rng: Random) -> None:
    wait = retry_after(seconds, rng)
    assert 1 <= wait <= MAX_RETRY_AFTER_S
    assert wait >= min(seconds, 96)


@pytest.mark.parametrize("seconds", [0, 1, 30, 1e6])
def test_retry_after_is_spread(seconds: float) -> None:
    rng = Random(1)
    assert len({retry_after(seconds, rng) for _ in range(100)}) > 1


@pytest.mark.parametrize("sane", [b"a", b"req-1/2:3", b"~" * 128])
def test_a_sane_request_id_is_kept(sane: bytes) -> None:
    assert request_id(sane) == sane.decode()


@pytest.mark.parametrize(
    "odd", [None, b"", b"x" * 129, b"a b", b"a\r\nset-cookie: x", b"a\n", b"\xff", b"\x00"]
)
def test_another_request_id_is_replaced(odd: bytes | None) -> None:
    made = {request_id(odd), request_id(odd)}
    assert len(made) == 2
    assert all(re.fullmatch(r"req_[0-9a-f]{32}", text) for text in made)


def test_route_headers_leave_out_what_is_not_known() -> None:
    assert route_headers("r") == [(b"x-request-id", b"r")]
    assert dict(route_headers("r", lane="small", engine="gpu-0", queue_s=0.0126)) == {
        b"x-request-id": b"r",
        b"x-fairgate-queue-ms": b"13",
        b"x-fairgate-lane": b"small",
        b"x-fairgate-engine": b"gpu-0",
    }


@given(st.text(), st.text(), st.text())
def test_no_value_can_begin_another_header(request: str, lane: str, engine: str) -> None:
    for _, value in route_headers(request, lane=lane, engine=engine):
        assert re.fullmatch(rb"[\x20-\x7e]*", value)


def test_an_openai_error_object() -> None:
    status, headers, body = respond(BadRequest("n: too large", param="n"))
    assert (status, headers[b"content-type"]) == (400, b"application/json")
    assert headers[b"x-request-id"] == b"r-1"
    assert b"retry-after" not in headers
    error = {"message": "n: too large", "type": "invalid_request_error", "param": "n", "code": None}
    assert body == {"error": error}


def test_a_throttled_answer_tells_limits_and_when_to_come_back() -> None:
    view = LimitView(limit_requests=60, reset_requests_s=5)
    status, headers, body = respond(RPM, limits=view, lane="small", queue_s=0.5)
    assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 5 <= int(headers[b"retry-after"]) <= 7
    assert headers[b"x-ratelimit-remaining-requests"] == b"0"
    assert (headers[b"x-fairgate-lane"], headers[b"x-fairgate-queue-ms"]) == (b"small", b"500")
    assert b"x-should-retry" not in headers


def test_a_limit_that_resets_late_stops_clients_from_retrying() -> None:
    refusal = Throttled("spent", limit="daily_tokens", retry_after=9e4, code="insufficient_quota")
    _, headers, _ = respond(refusal)
    assert headers[b"x-should-retry"] == b"false"
    assert int(headers[b"retry-after"]) <= MAX_RETRY_AFTER_S


@pytest.mark.parametrize("refusal", [Unavailable("no engine"), QueueTimeout("waited 120 s")])
def test_every_429_and_503_says_when_to_come_back(refusal: Refusal) -> None:
    _, headers, _ = respond(refusal)
    assert int(headers[b"retry-after"]) >= 1


def test_a_401_names_the_scheme() -> None:
    assert respond(Unauthenticated("no key"))[1][b"www-authenticate"] == b"Bearer"


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (RPM, "https://iana.org/assignments/http-problem-types#quota-exceeded"),
        (
            Unavailable("x"),
            "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
        ),
        (
            QueueTimeout("x"),
            "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
        ),
        (NotFound("no model x", code="model_not_found"), "about:blank"),
    ],
)
def test_problem_details(refusal: Refusal, kind: str) -> None:
    status, headers, body = respond(refusal, accept=PROBLEM)
    assert headers[b"content-type"] == PROBLEM
    assert (body["type"], body["status"], body["detail"]) == (kind, status, refusal.message)
    assert (body["code"], body["request_id"]) == (refusal.code, "r-1")
    assert body.get("violated-policies") == (["tenant.rpm"] if refusal is RPM else None)


def test_a_full_line_is_no_quota_problem() -> None:
    _, _, body = respond(Throttled("full", limit="queue", retry_after=1), accept=PROBLEM)
    assert body["type"].endswith("#temporary-reduced-capacity")


@pytest.mark.parametrize(
    ("accept", "problem"),
    [
        (b"", False),
        (b"*/*", False),
        (b"application/json", False),
        (PROBLEM, True),
        (b"Application/Problem+JSON; q=0.9, text/html", True),
        (b"application/problem+json, application/json", False),
        (b"application/problem+json;q=0", False),
        (b"application/problem+json, application/json;q=0.0", True),
        (b"application/problem+json-ld", False),
    ],
)
def test_who_gets_problem_details(accept: bytes, problem: bool) -> None:
    assert wants_problem(accept) is problem


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        (None, None),
        (b"", None),
        (b"-1", None),
        (b"1e3", None),
        (b"0", 0),
        (b"000017", 17),
        (b"0" * 5000 + b"17", 17),
        (b"9" * 18, 10**18 - 1),
        (b"1" + b"0" * 18, sys.maxsize),
        (b"9" * 5000, sys.maxsize),  # Python makes no number of so many digits
    ],
)
def test_what_a_length_says(declared: bytes | None, expected: int | None) -> None:
    assert length(declared) == expected


@given(st.text(), st.text())
def test_a_stream_error_is_one_event(message: str, code: str) -> None:
    sent = sse_error(message, code)
    assert sent.startswith(b"\n\ndata: ")
    assert sent.endswith(b"\n\n")
    line = sent.strip(b"\n")
    assert b"\n" not in line
    assert json.loads(line.removeprefix(b"data: "))["error"]["message"] == message
