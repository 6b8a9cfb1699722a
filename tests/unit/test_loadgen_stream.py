"""What the client reads from a streamed answer, however the bytes are cut."""

from __future__ import annotations

import json

import pytest

from loadgen.observation import Observation
from loadgen.records import Call
from loadgen.stream import StreamScan

ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}], "usage": None}
TOKEN = {"choices": [{"index": 0, "delta": {"content": "hi"}}], "usage": None}
USAGE = {"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 34}}
CALL = Call(0, "a", None, None, 10, 20)


def sse(*events: object, done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()


def scan(data: bytes, step: int) -> StreamScan:
    got = StreamScan()
    for number, start in enumerate(range(0, len(data), step)):
        got.feed(data[start : start + step], float(number))
    return got


@pytest.mark.parametrize("step", [1, 7, 64, 100_000])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_first_token_and_usage_survive_any_cut(step: int, newline: bytes) -> None:
    data = sse(ROLE, *[TOKEN] * 100, USAGE).replace(b"\n", newline)
    got = scan(data, step)
    assert got.usage() == (12, 34)
    assert got.fault() == ""
    first_end = data.index(b"hi") + data[data.index(b"hi") :].index(b"\n")
    assert got.first_token_s == first_end // step


@pytest.mark.parametrize(
    "delta",
    [{"reasoning_content": "hm"}, {"tool_calls": [{"index": 0}]}, {"content": "x"}],
)
def test_everything_that_a_model_says_is_a_first_token(delta: dict[str, object]) -> None:
    assert scan(sse({"choices": [{"delta": delta}]}), 50_000).first_token_s == 0
    assert scan(sse({"choices": [{"text": "x"}]}), 50_000).first_token_s == 0
    assert (
        scan(sse(ROLE, {"choices": None}, {"choices": [{"delta": None}]}), 9).first_token_s is None
    )


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (sse(TOKEN, done=False), "truncated"),
        (b"", "no_stream"),
        (b'{"choices": []}', "no_stream"),
        (sse(TOKEN, {"error": {"code": "engine_failed"}}), "stream:engine_failed"),
        (sse(TOKEN, {"error": {"code": 500, "type": "InternalError"}}), "stream:InternalError"),
        (sse(TOKEN, {"error": "boom"}), "stream:error"),
        (sse({**TOKEN, "error": None}), ""),
    ],
)
def test_faults(data: bytes, fault: str) -> None:
    assert scan(data, 11).fault() == fault


def test_a_cut_off_stream_counts_what_came() -> None:
    seen = Observation(CALL, intended_s=1.0)
    seen.begin(1.5)
    seen.answered(200, {"x-fairgate-queue-ms": "250", "x-fairgate-lane": "small"})
    seen.scan.feed(sse(TOKEN, TOKEN, TOKEN, done=False), 2.0)
    outcome = seen.seal(3.0)
    assert (outcome.result, outcome.reason) == ("error", "cut_off")
    assert (outcome.prompt_tokens, outcome.completion_tokens) == (10, 3)
    assert (outcome.sent_s, outcome.granted_s, outcome.first_token_s) == (1.5, 1.75, 2.0)
    assert outcome.lane == "small"


def test_a_retry_forgets_the_attempt_before() -> None:
    seen = Observation(CALL, intended_s=0.0)
    seen.begin(0.0)
    seen.answered(429, {"Retry-After": "3", "x-fairgate-queue-ms": "soon"})
    seen.lose("http_429")
    assert (seen.result, seen.retryable, seen.retry_after_s) == ("throttled", True, 3)
    seen.begin(3.0)
    seen.answered(200, {})
    seen.scan.feed(sse(TOKEN, USAGE), 4.0)
    seen.complete()
    outcome = seen.seal(5.0)
    assert (outcome.result, outcome.retries, outcome.status) == ("completed", 1, 200)
    assert (outcome.sent_s, outcome.prompt_tokens, outcome.queue_s) == (0.0, 12, None)


@pytest.mark.parametrize(
    ("status", "again"), [(400, False), (401, False), (429, True), (503, True)]
)
def test_what_is_worth_a_retry(status: int, again: bool) -> None:
    seen = Observation(CALL, 0.0)
    seen.begin(0.0)
    seen.answered(status, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})
    seen.lose(f"http_{status}")
    assert (seen.retryable, seen.retry_after_s) == (again, None)


def test_never_sent() -> None:
    outcome = Observation(CALL, 2.0).seal(2.0)
    assert (outcome.sent_s, outcome.result, outcome.status) == (2.0, "error", 0)
