"""How often each of several answers is the one that a scorer picks: BEST-Route's "best of n".

Source: arXiv 2506.22716, section 3, which draws n of the recorded answers ten times; here all ways
to draw them count.
"""

from __future__ import annotations

import itertools
import math
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

    For n up to ``most``; among equal ones all have the same chance. A scorer that compares answers
    scores each draw by itself, any other all of them once. Raises ``EngineError`` where the scorer
    fails. Cancelled: nothing stays behind.
    """
    known = None
    if most > 1 and not scorer.compares:
        known = await _scores(scorer, prompt, answers)
    found = []
    for n in range(1, most + 1):
        row = [0.0] * len(answers)
        draws = list(itertools.combinations(range(len(answers)), n))
        for drawn in draws:
            if n == 1:
                scores: Sequence[float] = [0.0]
            elif known is not None:
                scores = [known[i] for i in drawn]
            else:
                scores = await _scores(scorer, prompt, [answers[i] for i in drawn])
            best = [i for i, score in zip(drawn, scores, strict=True) if score == max(scores)]
            for i in best:
                row[i] += 1 / len(best) / len(draws)
        found.append([round(chance, _DIGITS) for chance in row])
    return found


async def _scores(scorer: Scorer, prompt: str, answers: Sequence[Answer]) -> Sequence[float]:
    try:
        scores = await scorer.score(prompt, answers)
    except ScoringFailed as failure:
        raise EngineError(f"scorer: {failure}, for the prompt {prompt[:40]!r}") from failure
    if len(scores) != len(answers) or not all(math.isfinite(score) for score in scores):
        raise EngineError(
            f"scorer: expected {len(answers)} numbers, got {list(scores)}, "
            f"for the prompt {prompt[:40]!r}"
        )
    return scores
