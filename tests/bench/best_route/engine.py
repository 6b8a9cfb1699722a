"""``python -m tests.bench.best_route.engine URL``: how much an engine's answers to a prompt vary,
and how well scorers that need no other model tell the right ones.

Asks sums, differences and products of a seed, several answers to each in one request.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass
from typing import Annotated

import aiohttp
import numpy as np
import typer

from fairgate.choices import read_choices
from fairgate.routing.learning.several_answers import (
    Array,
    fit_concentration,
    pairwise_accuracy,
)
from fairgate.scoring.base import Answer, Scorer
from fairgate.scoring.log_probability import LogProbability
from fairgate.scoring.self_consistency import SelfConsistency, final_answer

_AT_ONCE = 4
_KINDS = (("+", 2, 20), ("+", 20, 99), ("+", 100, 999), ("*", 3, 12), ("*", 11, 40), ("-", 10, 999))
"""Operation, smallest and largest operand."""


@dataclass(frozen=True)
class Task:
    kind: int
    prompt: str
    result: str


def tasks(count: int, seed: int) -> list[Task]:
    """Each kind equally often."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        kind = number % len(_KINDS)
        operation, least, most = _KINDS[kind]
        a, b = rng.randint(least, most), rng.randint(least, most)
        results = {"+": a + b, "-": a - b, "*": a * b}
        prompt = f"What is {a} {operation} {b}? Answer with the number only."
        made.append(Task(kind, prompt, str(results[operation])))
    return made


def main(
    url: Annotated[str, typer.Argument(help="An OpenAI-compatible server, without /v1.")],
    model: Annotated[str, typer.Option(help="Its name for the model.")] = "m",
    count: Annotated[int, typer.Option(min=12, help="Prompts.")] = 90,
    samples: Annotated[int, typer.Option(min=2, help="Answers to each.")] = 8,
    seed: int = 1,
) -> None:
    """Print what the choice of lane and number of answers needs to know of a model."""
    asked = tasks(count, seed)
    answers = asyncio.run(_ask_all(url, model, asked, samples))
    right = np.array(
        [
            [float(final_answer(one.text) == task.result) for one in each]
            for task, each in zip(asked, answers, strict=True)
        ]
    )
    print(f"right: {right.mean():.3f} of {right.size} answers to {count} prompts")
    print(f"kappa, the kind of task known: {_kappa(right, [task.kind for task in asked]):.2f}")
    print(f"kappa, nothing known: {_kappa(right, [0] * count):.2f}")
    for scorer in (LogProbability(), SelfConsistency()):
        asyncio.run(_report(scorer, asked, answers, right))


def _kappa(right: Array, groups: list[int]) -> float:
    means = [right[np.equal(groups, group)].mean() for group in groups]
    count = np.full(len(right), float(right.shape[1]))
    return fit_concentration(right.sum(axis=1), count, np.clip(means, 0.01, 0.99))


async def _report(
    scorer: Scorer, asked: list[Task], answers: list[list[Answer]], right: Array
) -> None:
    async def scores(n: int) -> list[Array]:
        each = zip(asked, answers, strict=True)
        return [np.array(await scorer.score(task.prompt, all_[:n])) for task, all_ in each]

    accuracy = pairwise_accuracy(await scores(right.shape[1]), list(right))
    picked = []
    for n in range(1, right.shape[1] + 1):
        best = [int(np.argmax(one)) for one in await scores(n)]
        picked.append(float(np.mean([right[i, at] for i, at in enumerate(best)])))
    shown = " ".join(f"{share:.2f}" for share in picked)
    print(f"{type(scorer).__name__}: {accuracy:.3f} on pairs; best of 1, 2, … right: {shown}")


async def _ask_all(url: str, model: str, asked: list[Task], samples: int) -> list[list[Answer]]:
    turn = asyncio.Semaphore(_AT_ONCE)
    async with aiohttp.ClientSession() as session:

        async def ask(task: Task) -> list[Answer]:
            body = {
                "model": model,
                "messages": [{"role": "user", "content": task.prompt}],
                "n": samples,
                "logprobs": True,
                "temperature": 1.0,
                "max_tokens": 12,
            }
            async with turn, session.post(f"{url}/v1/chat/completions", json=body) as response:
                text = await response.read()
            choices = read_choices(text)
            if choices is None:
                raise SystemExit(f"{url} answered {json.loads(text)}")
            return choices.answers

        return await asyncio.gather(*map(ask, asked))


if __name__ == "__main__":
    typer.run(main)
