"""Scorers: which of several answers is the best."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import aiohttp
import pytest

from fairgate.config import sampling
from fairgate.errors import ConfigError
from fairgate.scoring.agreement import Agreement
from fairgate.scoring.base import Answer, ScoringFailed
from fairgate.scoring.build import build_scorer
from fairgate.scoring.log_probability import NOTHING_SAID, LogProbability
from fairgate.scoring.self_consistency import SelfConsistency, final_answer
from fairgate.scoring.verifier import Reward, Verifier


def said(*texts: str) -> list[Answer]:
    return [Answer(text) for text in texts]


async def test_the_mean_log_probability_not_the_sum() -> None:
    answers = [Answer("long", [-0.5] * 100), Answer("short", [-1.0]), Answer("", [])]
    assert await LogProbability().score("", answers) == [-0.5, -1.0, NOTHING_SAID]


async def test_an_engine_that_tells_no_log_probabilities() -> None:
    with pytest.raises(ScoringFailed, match="told no log-probabilities"):
        await LogProbability().score("", said("a", "b"))


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("17 + 25 = 42", "42"),
        ("The answer is 42.", "42"),
        ("So the final answer is: **1,234.50**.\nHope this helps, 7 times!", "1234.5"),
        ("We get 3 apples.\n#### 18", "18"),
        (r"Thus \boxed{-0.50} holds for all 9 cases", "-0.5"),
        ("The answer is (C) because 7 > 3.", "c"),
        ("C", "c"),
        ("B. Nine", "b"),
        ("answer: Paris.", "paris"),
        ("Paris", "paris"),
        ("  PARIS!  ", "paris"),
        ("A fern is a plant.\nIt likes the shade a lot.", "it likes the shade a lot"),
        ("First 10, then 20, in all 30 dollars.", "30"),
        ("0.0", "0"),
        ("-", ""),
        ("", ""),
    ],
)
def test_the_final_answer(text: str, result: str) -> None:
    assert final_answer(text) == result


async def test_the_majority_wins_however_it_is_put() -> None:
    answers = said(
        "It is 41.", "The answer is 42", "17 + 25 makes 42.0", "no idea what to say here"
    )
    assert await SelfConsistency().score("", answers) == [0.25, 0.5, 0.5, 0.25]


async def test_an_answer_without_a_result_has_no_vote() -> None:
    assert await SelfConsistency().score("", said("", "", "7")) == [0, 0, pytest.approx(1 / 3)]


async def test_the_medoid_of_free_text() -> None:
    answers = said(
        "Ferns like shade and water.",
        "Ferns like shade and damp soil.",
        "Cars need petrol.",
        "Ferns like shade.",
    )
    scores = await Agreement().score("", answers)
    assert max(range(4), key=scores.__getitem__) in (0, 3)
    assert scores[2] == pytest.approx(0)
    assert await Agreement().score("", said("same words", "same words")) == pytest.approx([1, 1])
    assert await Agreement().score("", said("", "")) == [0, 0]
    assert await Agreement().score("", said("alone")) == [1]


async def test_agreement_by_an_embedding_of_ones_own() -> None:
    places = {"north": {0: 1.0}, "north-east": {0: 1.0, 1: 1.0}, "east": {1: 1.0}}
    scores = await Agreement(places.__getitem__).score("", said(*places))
    assert scores == pytest.approx([0.5**0.5 / 2, 0.5**0.5, 0.5**0.5 / 2])


async def test_a_plain_verifier_runs_beside_the_loop() -> None:
    turned = threading.Event()

    def verify(prompt: str, answer: str) -> float:
        if not turned.wait(10):
            raise TimeoutError("the loop stands still")
        return answer in prompt

    scoring = asyncio.ensure_future(Verifier(verify, 20).score("is it b?", said("a", "b", "c")))
    asyncio.get_running_loop().call_later(0.01, turned.set)
    assert await scoring == [0.0, 1.0, 0.0]


async def test_an_async_verifier() -> None:
    async def verify(prompt: str, answer: str) -> float:
        await asyncio.sleep(0)
        return len(answer)

    assert await Verifier(verify, 5).score("", said("a", "bcd")) == [1.0, 3.0]


async def test_a_verifier_that_fails_or_hangs() -> None:
    async def hangs(prompt: str, answer: str) -> float:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    def fails(prompt: str, answer: str) -> float:
        raise LookupError("no such test")

    with pytest.raises(ScoringFailed, match=r"longer than 0\.05 s"):
        await Verifier(hangs, 0.05).score("", said("a"))
    with pytest.raises(ScoringFailed, match="LookupError: no such test"):
        await Verifier(fails, 5).score("", said("a"))


async def test_a_reward_model_sees_all_answers_at_once() -> None:
    class Model:
        async def rewards(self, prompt: str, answers: Sequence[str]) -> Sequence[float]:
            if not prompt:
                raise RuntimeError("no prompt")
            return [float(len(answer)) for answer in answers]

    assert await Reward(Model(), 1).score("p", said("a", "bb")) == [1.0, 2.0]
    with pytest.raises(ScoringFailed, match="RuntimeError: no prompt"):
        await Reward(Model(), 1).score("", said("a"))


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        (sampling.LogProbability(), LogProbability),
        (sampling.SelfConsistency(), SelfConsistency),
        (sampling.Agreement(), Agreement),
        (sampling.Verifier(function="operator:contains"), Verifier),
        (sampling.HttpScorer(url="http://127.0.0.1:9"), Reward),
    ],
)
async def test_scorers_by_name(
    session: aiohttp.ClientSession, section: sampling.Scorer, kind: type
) -> None:
    assert isinstance(build_scorer(section, session), kind)


async def test_a_scorer_that_nobody_listens_for(session: aiohttp.ClientSession) -> None:
    scorer = build_scorer(sampling.HttpScorer(url="http://127.0.0.1:9"), session)
    with pytest.raises(ScoringFailed, match="ClientConnectorError"):
        await scorer.score("", said("a"))


@pytest.mark.parametrize("function", ["nowhere:verify", "operator:nothing"])
async def test_a_verifier_that_cannot_be_imported(
    session: aiohttp.ClientSession, function: str
) -> None:
    with pytest.raises(ConfigError, match=f"scorer.function: {function} cannot be imported"):
        build_scorer(sampling.Verifier(function=function), session)
