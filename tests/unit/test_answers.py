"""An answer with several choices, of which one is left."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fairgate.choices import read_choices
from fairgate.gateway.restreaming import as_stream
from fairgate.scoring.base import Answer


def chat(*choices: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps(
        {"id": "x", "object": "chat.completion", "choices": choices, **fields}
    ).encode()


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
FIRST = {
    "index": 0,
    "message": {"role": "assistant", "content": "one", "tool_calls": []},
    "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -1.5}]},
    "finish_reason": "stop",
}
SECOND = {
    "index": 1,
    "message": {"role": "assistant", "content": None, "tool_calls": [CALL]},
    "logprobs": {"content": None},
    "finish_reason": "tool_calls",
}


def test_what_is_compared() -> None:
    choices = read_choices(chat(FIRST, SECOND))
    assert choices is not None
    assert choices.answers == [Answer("one", [-0.5, -1.5]), Answer('f({"a": 1})', [])]
    text = {"text": "two", "logprobs": {"token_logprobs": [None, -2.0]}}
    choices = read_choices(chat(text))
    assert choices is not None
    assert choices.answers == [Answer("two", [-2.0])]


def test_the_one_that_is_left_keeps_its_bytes() -> None:
    body = (
        b'{"big":12345678901234567890,"choices":[{"index":0},{"index":1,"f":1.50,"logprobs":{}}]}'
    )
    choices = read_choices(body)
    assert choices is not None
    left = choices.only(1, without_logprobs=False)
    assert left == b'{"big":12345678901234567890,"choices":[{"index":0,"f":1.50,"logprobs":{}}]}'
    assert json.loads(choices.only(1, without_logprobs=True))["choices"][0]["logprobs"] is None


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"choices":[]}', b'{"choices":null}', b'{"choices":{}}',
     b'{"choices":[1]}', b'{"choices":[{"message":{"content":5}}]}', b'{"choices":' + b"[" * 9999],
)  # fmt: skip
def test_what_has_no_choices(body: bytes) -> None:
    assert read_choices(body) is None


def events(stream: bytes) -> list[dict[str, Any]]:
    *parts, done, rest = stream.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [json.loads(part.removeprefix(b"data: ")) for part in parts]


def test_as_a_stream() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    choices = read_choices(chat(FIRST, SECOND, usage=usage))
    assert choices is not None
    told = events(as_stream(choices, 1, without_logprobs=True))
    assert {e["object"] for e in told} == {"chat.completion.chunk"}
    assert [e["choices"][0]["delta"] for e in told[:-1]] == [
        {"role": "assistant", "content": ""},
        {"tool_calls": [{"index": 0, **CALL}]},
        {},
    ]
    assert [e["choices"][0]["finish_reason"] for e in told[:-1]] == [None, None, "tool_calls"]
    assert (told[-1]["choices"], told[-1]["usage"]) == ([], usage)
    with_logprobs = events(as_stream(choices, 0, without_logprobs=False))
    assert with_logprobs[1]["choices"][0]["logprobs"] == FIRST["logprobs"]


def test_text_as_a_stream() -> None:
    choices = read_choices(chat({"index": 0, "text": "fern", "finish_reason": "stop"}))
    assert choices is not None
    (only,) = events(as_stream(choices, 0, without_logprobs=False))
    assert only["choices"] == [{"index": 0, "text": "fern", "finish_reason": "stop"}]
