"""How often each of several answers is the one that a scorer picks: BEST-Route's "best of n".

Source: arXiv 2506.22716, section 3, which draws n of the recorded answers ten times; here all ways
to draw them count.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from fairgate.errors import EngineError
from fairgate.scoring.base import Answer, Scorer, ScoringFailed

MOST_ANSWERS = 10
"""There are 637 ways to draw 1 to 5 of so many."""

_DIGITS = 5


async def chosen(
    scorer: Scorer, prompt: str, answers: Sequence[Answer], most: int
) -> list[list[float]]:
    """``[n-1][i]``: the chance that the scorer picks answer i of n of ``answers`` drawn at random.

    For n up to ``most``; among equal ones all have the same chance. Scorers may compare the answers
    that they are given with each other, so each draw is scored by itself. Raises ``EngineError``
    where the scorer fails. Cancelled: nothing stays behind.
    """
    found = []
    for n in range(1, most + 1):
        row = [0.0] * len(answers)
        draws = list(itertools.combinations(range(len(answers)), n))
        for drawn in draws:
            best = await _best(scorer, prompt, [answers[i] for i in drawn])
            for at in best:
                row[drawn[at]] += 1 / len(best) / len(draws)
        found.append([round(chance, _DIGITS) for chance in row])
    return found


async def _best(scorer: Scorer, prompt: str, answers: Sequence[Answer]) -> list[int]:
    if len(answers) == 1:
        return [0]
    try:
        scores = await scorer.score(prompt, answers)
    except ScoringFailed as failure:
        raise EngineError(f"scorer: {failure}, for the prompt {prompt[:40]!r}") from failure
    return [i for i, score in enumerate(scores) if score == max(scores)]
