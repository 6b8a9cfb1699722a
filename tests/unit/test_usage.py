"""Usage read from answers that pass by, however their bytes are cut into chunks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairgate.scanners import (
    HEAD_BYTES,
    HELD_BYTES,
    LINE_BYTES,
    TAIL_BYTES,
    HidingScanner,
    JsonScanner,
    SseScanner,
    UsageScanner,
    scanner_for,
)
from fairgate.usage import Usage

USAGE = {
    "prompt_tokens": 25,
    "total_tokens": 37,
    "completion_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 16},
}
EXACT = Usage(25, 12, 16, True)


def chunk(content: str, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
    return event({"id": "c-1", "object": "chat.completion.chunk", "choices": [choice], **more})


def event(data: dict[str, Any]) -> bytes:
    return (
        b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    )


CONTENT = (
    event({"id": "c-1", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    + chunk("hé")
    + b": keep-alive\n\n"
    + chunk('"usage":{"prompt_tokens":1}')
    + chunk("data: \n\n x")
)
USAGE_EVENT = event({"id": "c-1", "object": "chat.completion.chunk", "choices": [], "usage": USAGE})
DONE = b"data: [DONE]\n\n"
STREAM = CONTENT + USAGE_EVENT + DONE


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def run(scanner: UsageScanner, chunks: Sequence[bytes]) -> bytes:
    return b"".join([*(scanner.feed(piece) for piece in chunks), scanner.finish()])


CUTS = st.lists(st.integers(min_value=0, max_value=5000), max_size=12)


def test_the_content_type_chooses_the_scanner() -> None:
    assert type(scanner_for("chat", b"text/event-stream; charset=utf-8")) is SseScanner
    assert type(scanner_for("chat", b"text/event-stream", hide_usage=True)) is HidingScanner
    assert type(scanner_for("chat", b"Application/JSON", hide_usage=True)) is JsonScanner
    other = scanner_for("embeddings", b"application/octet-stream")
    assert run(other, [b'"usage":{"prompt_tokens":1}']) == b'"usage":{"prompt_tokens":1}'
    assert other.usage == Usage()


@given(CUTS)
def test_a_stream_passes_unchanged_and_tells_its_usage(cuts: list[int]) -> None:
    scanner = SseScanner("chat")
    assert run(scanner, pieces(STREAM, cuts)) == STREAM
    assert scanner.usage == EXACT
    assert (scanner.events, scanner.failed) == (4, False)


@given(CUTS, st.sampled_from((b"\n", b"\r\n")))
def test_hidden_usage_is_cut_out_wherever_chunks_split(cuts: list[int], newline: bytes) -> None:
    stream, expected = (data.replace(b"\n", newline) for data in (STREAM, CONTENT + DONE))
    scanner = HidingScanner("chat")
    assert run(scanner, pieces(stream, cuts)) == expected
    assert scanner.usage == EXACT


def test_hiding_byte_by_byte() -> None:
    scanner = HidingScanner("chat")
    assert run(scanner, [STREAM[i : i + 1] for i in range(len(STREAM))]) == CONTENT + DONE


@given(CUTS, st.integers(min_value=0, max_value=len(STREAM)))
def test_a_stream_that_breaks_off_leaves_the_client_between_two_events(
    cuts: list[int], end: int
) -> None:
    scanner = SseScanner("chat")
    passed = b"".join(scanner.feed(piece) for piece in pieces(STREAM[:end], cuts))
    assert scanner.cut()
    assert passed == STREAM[: STREAM.rfind(b"\n\n", 0, end) + 2 if b"\n\n" in STREAM[:end] else 0]


@given(CUTS, st.integers(min_value=0, max_value=len(STREAM)))
def test_a_stream_that_ends_inside_an_event_ends_with_an_error(cuts: list[int], end: int) -> None:
    scanner = HidingScanner("chat")
    passed = run(scanner, pieces(STREAM[:end], cuts))
    assert b'"completion_tokens":12' not in passed
    if scanner.failed:
        *_, last, nothing = passed.split(b"\n\n")
        assert (
            "ended inside an event" in json.loads(last.removeprefix(b"data: "))["error"]["message"]
        )
        assert nothing == b""
    else:
        after_usage = STREAM[len(CONTENT + USAGE_EVENT) : end]
        assert passed in (STREAM[:end], CONTENT + after_usage)


def test_a_stream_may_end_without_its_last_blank_line() -> None:
    for last in (b"data: [DONE]", chunk("x").rstrip(), b": bye", b"data: [DONE]\r\n"):
        scanner = SseScanner("chat")
        assert run(scanner, [CONTENT, last]) == CONTENT + last
        assert not scanner.failed


def test_whole_events_are_never_delayed_or_copied() -> None:
    for scanner in (SseScanner("chat"), HidingScanner("chat")):
        for piece in (chunk("a"), chunk("b") + chunk("c"), chunk("null", usage=None)):
            assert scanner.feed(piece) is piece


def test_a_partial_event_waits_for_its_end() -> None:
    scanner = SseScanner("chat")
    piece = chunk("a long event that comes in three parts")
    assert scanner.feed(chunk("b") + piece[:20]) == chunk("b")
    assert scanner.feed(piece[20:-1]) == b""
    assert scanner.feed(piece[-1:]) == piece


@given(CUTS, st.integers(min_value=1, max_value=3))
def test_a_very_long_event_is_passed_on_before_its_end(cuts: list[int], times: int) -> None:
    long = b"data: " + b"x" * (times * HELD_BYTES)
    usage = b'"usage":{"prompt_tokens":3,"completion_tokens":4}\n\n'
    scanner = HidingScanner("chat")
    assert scanner.feed(long) == long
    assert not scanner.cut()  # nothing may follow the half of an event
    scanner = HidingScanner("chat")
    stream = long + usage + chunk("after") + USAGE_EVENT + DONE
    assert run(scanner, pieces(stream, [c * 50 * times for c in cuts])) == stream.replace(
        USAGE_EVENT, b""
    )


def test_usage_beside_content_is_not_hidden() -> None:
    stream = chunk("last", usage=USAGE) + DONE
    scanner = HidingScanner("chat")
    assert run(scanner, [stream]) == stream
    assert scanner.usage == EXACT


def test_continuous_usage_the_last_one_counts() -> None:
    scanner = SseScanner("chat")
    for tokens in (1, 2, 3):
        scanner.feed(chunk("x", usage={"prompt_tokens": 9, "completion_tokens": tokens}))
    assert scanner.usage == Usage(9, 3, 0, True)  # so an aborted stream settles exactly


def test_an_aborted_stream_tells_what_arrived() -> None:
    scanner = SseScanner("chat")
    scanner.feed(CONTENT)
    assert scanner.usage == Usage(None, 3, 0, False)
    spaced = SseScanner("completions")
    spaced.feed(b'data: {"choices": [{"text": "a"}]}\n\ndata: {"choices": [{"text": "b"}]}\n\n')
    assert spaced.usage == Usage(None, 2, 0, False)


@given(CUTS)
def test_responses_stream(cuts: list[int]) -> None:
    usage = {"input_tokens": 8, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 5}
    tools = [
        {"name": "f", "parameters": {"usage": {"type": "string"}, "error": {"type": "string"}}}
    ]
    stream = b"".join(
        b"event: " + str(data["type"]).encode() + b"\n" + event(data)
        for data in (
            {
                "type": "response.created",
                "response": {"tools": tools, "error": None, "usage": None},
            },
            {"type": "response.output_text.delta", "delta": "a"},
            {"type": "response.output_text.delta", "delta": "b"},
            {
                "type": "response.completed",
                "response": {"tools": tools, "usage": usage, "user": "u"},
            },
        )
    )
    scanner = SseScanner("responses")
    assert run(scanner, pieces(stream, cuts)) == stream
    assert scanner.usage == Usage(8, 5, 4, True)
    assert (scanner.events, scanner.failed) == (2, False)


FORGED = {"usage": {"input_tokens": 0, "output_tokens": 0, "prompt_tokens": 0}}
ECHO = {"tools": [{"name": "f", "parameters": FORGED}], "metadata": FORGED, **FORGED["usage"]}


def test_what_a_response_echoes_of_the_request_is_no_usage() -> None:
    scanner = SseScanner("responses")
    scanner.feed(event({"type": "response.created", "response": {**ECHO, "usage": None}}))
    scanner.feed(event({"type": "response.output_text.delta", "delta": "a"}))
    assert scanner.usage == Usage(None, 1, 0, False)  # here the client leaves
    told = {"input_tokens": 8, "output_tokens": 1}
    done = {"type": "response.completed", "response": {"usage": told, **ECHO}, "sequence_number": 9}
    scanner.feed(event(done))
    assert scanner.usage == Usage(8, 1, 0, True)


@pytest.mark.parametrize("first", [True, False])
def test_what_a_long_answer_echoes_is_no_usage(first: bool) -> None:
    output = [{"content": [{"text": 'long "}]{ ' * 10_000}]}]
    told = {"usage": {"input_tokens": 8, "output_tokens": 1}}
    fields = (told, ECHO) if first else (ECHO, told)
    body = json.dumps({**fields[0], "output": output, **fields[1], "user": None}).encode()
    scanner = JsonScanner()
    run(scanner, pieces(body, range(0, len(body), 1000)))
    assert scanner.usage == Usage(8, 1, 0, True)


@pytest.mark.parametrize(
    "error",
    [
        event({"error": {"message": "engine died", "code": 500}}),
        b'data: {"object": "error", "message": "\\"error\\"", "code": 500}\n\n',
        b'event: error\ndata: {"type":"error","code":"x"}\n\n',
        b'event: response.failed\ndata: {"response":{"error":{}},"type":"response.failed"}\n\n',
    ],
)
@given(cuts=CUTS)
def test_an_error_event_is_noticed(error: bytes, cuts: list[int]) -> None:
    scanner = SseScanner("chat")
    run(scanner, pieces(chunk("a") + error, cuts))
    assert scanner.failed


def test_the_word_error_in_content_is_no_failure() -> None:
    scanner = SseScanner("chat")
    scanner.feed(chunk('data: {"error": {"x": 1}}', error=None, logprobs=["error"]))
    assert not scanner.failed


def answer(**more: Any) -> bytes:
    message = {"role": "assistant", "content": 'the "usage": {"prompt_tokens": 1}'}
    return json.dumps({"choices": [{"message": message}], **more}).encode()


@given(CUTS)
def test_a_json_answer(cuts: list[int]) -> None:
    body = answer(usage=USAGE, prompt_logprobs=None)
    scanner = JsonScanner()
    assert run(scanner, pieces(body, cuts)) == body
    assert scanner.usage == EXACT


@pytest.mark.parametrize(
    "body", [answer(), answer(usage=None), answer(usage=USAGE)[:-30], b"<html>"]
)
def test_a_json_answer_without_usage(body: bytes) -> None:
    scanner = JsonScanner()
    assert run(scanner, [body]) == body
    assert scanner.usage == Usage()


def test_only_top_level_usage_of_a_json_answer_counts() -> None:
    scanner = JsonScanner()
    run(scanner, [answer(usage=USAGE, metadata={"usage": {"prompt_tokens": 1}})])
    assert scanner.usage == EXACT


@pytest.mark.parametrize("first", [True, False])
def test_a_long_json_answer_is_kept_only_at_its_ends(first: bool) -> None:
    data = [{"embedding": [0.125] * 20_000}]
    usage = {"prompt_tokens": 8, "total_tokens": 8}
    body = {"usage": usage, "data": data} if first else {"data": data, "usage": usage}
    raw = json.dumps(body).encode()
    scanner = JsonScanner()
    assert run(scanner, pieces(raw, range(0, len(raw), 1000))) == raw
    assert scanner.usage == Usage(8, 0, 0, True)
    scanner.feed(raw)
    assert len(scanner._kept) <= 2 * (HEAD_BYTES + TAIL_BYTES)


def test_an_event_without_end_is_not_collected() -> None:
    scanner = SseScanner("chat")
    for _ in range(1200):
        scanner.feed(b"x" * 1000)
        assert len(scanner._waiting) <= HELD_BYTES + LINE_BYTES
    scanner.feed(b',"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n')
    assert scanner.usage == Usage(3, 4, 0, True)


@pytest.mark.parametrize(
    "usage",
    [
        '{"prompt_tokens":"3"}',
        '{"completion_tokens":3}',
        '{"prompt_tokens":1e999}',
        '{"prompt_tokens":1,"completion_tokens":1000000000000000000}',
        '{"prompt_tokens":123456789012345678901234567890,"completion_tokens":1}',
        "{}",
        '{"a":{"b":{"c":{}}}}',
        "[",
    ],
)
def test_odd_usage_is_ignored(usage: str) -> None:
    scanner = SseScanner("chat")
    scanner.feed(f'data: {{"choices":[{{}}],"usage":{usage}}}\n\n'.encode())
    assert not scanner.usage.exact


@given(
    st.lists(
        st.binary(max_size=30) | st.sampled_from((b"data: ", b'"usage"', b"\n\n", USAGE_EVENT))
    )
)
def test_noise_passes_unchanged(noise: list[bytes]) -> None:
    sse = SseScanner("chat")
    passed = b"".join(map(sse.feed, noise))
    assert b"".join(noise).startswith(passed)
    assert passed + sse._rest() == b"".join(noise)
    assert run(JsonScanner(), noise) == b"".join(noise)
    hiding = HidingScanner("chat")
    passed = b"".join(map(hiding.feed, noise))
    assert len(passed) <= len(b"".join(noise))
