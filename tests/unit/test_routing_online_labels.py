"""Labels: exact answers, unit checks, live feedback."""

from __future__ import annotations

import pytest
from msgspec.json import encode
from support.live_routing import CHAT

from fairgate import codec
from fairgate.labelling.exact import Check, matches, passes
from fairgate.labelling.feedback import joined
from fairgate.routing.checks import checked


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ("42", "17 + 25 = 42"),
        ("1,250", "so 1250."),
        ("-3.5", "It is -3.5"),
        ("B", "A is wrong, hence the answer is (B)."),
        ("Paris", "paris."),
        ("Paris", "Let me think.\n**Paris**"),
        ("new york", "New  York"),
    ],
)
def test_answers_that_match(expected: str, answer: str) -> None:
    assert matches(expected, answer)


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ("42", "42 is wrong, it is 32"),
        ("42", "I do not know"),
        ("42", ""),
        ("B", "Both are possible"),
        ("B", "B or rather C"),
        ("Paris", "Not Paris but Lyon"),
    ],
)
def test_answers_that_do_not_match(expected: str, answer: str) -> None:
    assert not matches(expected, answer)


def test_a_check_needs_all_that_it_names() -> None:
    check = Check(contains=("Fern",), regex=r"\bspores?\b", max_words=8)
    assert passes(check, "A fern spreads by spores.")
    assert not passes(check, "A fern spreads by seeds.")
    assert not passes(check, "A fern spreads by spores, and not by seeds or by birds.")
    assert passes(Check(number=0.1), "about 0.1000000001")
    assert not passes(Check(number=0.1), "about 0.11")
    assert passes(Check(json=True), 'Here:\n```json\n{"a": 1}\n```')
    assert not passes(Check(json=True), "{a: 1}")
    assert passes(Check(equals="yes"), "Yes!")


def test_records_join_their_feedback_and_need_a_prompt() -> None:
    served = {"event": "served", "id": "1", "model": "m", "prompt": "p", "app": "chat"}
    scored = {"event": "scored", "id": "1", "score": 0.5}
    nothing = {"event": "served", "id": "2", "model": "m"}
    other = {"event": "scored", "id": "2", "score": 1.0}
    found = list(joined([served, nothing, scored, scored, other]))
    assert found == [{"prompt": "p", "task": "chat", "scores": {"m": 0.5}}]


def answer(content: str | None, reason: str = "stop", **message: object) -> bytes:
    said = {"role": "assistant", "content": content, **message}
    return encode({"choices": [{"index": 0, "message": said, "finish_reason": reason}]})


def test_what_an_answer_tells_by_itself() -> None:
    asks_json = encode({"messages": [], "response_format": {"type": "json_object"}})
    wants = codec.decode(CHAT, asks_json, max_choices=1)
    plain = codec.decode(CHAT, b'{"messages": []}', max_choices=1)
    both = ("finished", "json")
    assert checked(plain, answer("fine"), both) == 1
    assert checked(plain, answer("cut", "length"), both) == 0
    assert checked(plain, answer(" "), both) == 0
    assert checked(plain, answer(None, "tool_calls", tool_calls=[{}]), both) == 1
    assert checked(wants, answer('{"a": 1}'), both) == 1
    assert checked(wants, answer("{a"), both) == 0
    assert checked(plain, answer("{a"), ("json",)) is None
    assert checked(plain, b"no json", both) is None
    assert checked(plain, answer("fine"), ()) is None
