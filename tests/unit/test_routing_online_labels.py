"""Labels: exact answers, unit checks, live feedback."""

from __future__ import annotations

import pytest
from msgspec.json import encode
from support.live_routing import CHAT

from fairgate import codec
from fairgate.errors import EngineError
from fairgate.labelling.choosing import chosen
from fairgate.labelling.exact import Check, matches, passes
from fairgate.labelling.feedback import joined
from fairgate.labelling.run import Labeller, Prompt, Several
from fairgate.routing.checks import checked
from fairgate.scoring.base import Answer
from fairgate.scoring.log_probability import LogProbability
from fairgate.scoring.self_consistency import SelfConsistency
from fairgate.scoring.verifier import Verifier


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


def test_the_best_of_several_answers_is_no_label_of_one() -> None:
    lines = [
        {"event": "served", "id": str(n), "prompt": "?", "model": "m", "samples": n} for n in (1, 3)
    ]
    lines += [{"event": "scored", "id": str(n), "score": 1.0} for n in (3, 1)]
    assert list(joined(lines)) == [{"prompt": "?", "task": "live", "scores": {"m": 1.0}}]


async def test_how_often_a_scorer_picks_which_answer() -> None:
    answers = [Answer("4"), Answer("4"), Answer("5")]
    assert await chosen(SelfConsistency(), "2 + 2?", answers, 3) == [
        pytest.approx([1 / 3] * 3, abs=1e-4),
        # Of 4 and 5 each one is as good: of the three pairs, two are such.
        pytest.approx([1 / 3] * 3, abs=1e-4),
        pytest.approx([1 / 2, 1 / 2, 0], abs=1e-4),
    ]
    sure = [Answer("a", [-1.0]), Answer("b", [-3.0]), Answer("c", [-2.0])]
    assert await chosen(LogProbability(), "?", sure, 3) == [
        pytest.approx([1 / 3] * 3, abs=1e-4),
        pytest.approx([2 / 3, 0, 1 / 3], abs=1e-4),
        [1, 0, 0],
    ]
    with pytest.raises(EngineError, match="scorer: the engine told no log-probabilities, for the"):
        await chosen(LogProbability(), "?", answers, 2)


async def test_a_verifier_is_asked_once_for_each_answer() -> None:
    asked: list[str] = []

    def verify(_: str, answer: str) -> float:
        asked.append(answer)
        return float(answer)

    answers = [Answer("4"), Answer("3"), Answer("5"), Answer("1")]
    best = await chosen(Verifier(verify, 10.0), "?", answers, 4)
    assert best[3] == [0, 0, 1, 0]
    assert sorted(asked) == ["1", "3", "4", "5"]
    broken = Verifier(lambda *_: float("nan"), 10.0)
    with pytest.raises(EngineError, match=r"scorer: expected 4 numbers, got \[nan"):
        await chosen(broken, "?", answers, 2)


async def test_as_many_answers_as_are_to_be_picked_among() -> None:
    several = Several(3, 2, SelfConsistency(), "self-consistency")
    prompt = Prompt("2 + 2?", expected=4, answers={"m": ["4", "5", "4"], "l": ["4", "4", "4"]})
    label = await Labeller("exact", {}, several=several).label(prompt)
    assert label.scores == {"m": [1, 0, 1], "l": [1, 1, 1]}
    assert (label.scorer, len(label.chosen["m"])) == ("self-consistency", 2)
    assert label.answers == prompt.answers
    few = Prompt("2 + 2?", expected=4, answers={"m": "4"})
    with pytest.raises(
        EngineError, match=r"answers.m: expected 3 for the prompt '2 \+ 2\?', got 1"
    ):
        await Labeller("exact", {}, several=several).label(few)
