"""Scores an answer by how sure the model itself was of its words."""

from __future__ import annotations

from collections.abc import Sequence

from fairgate.scoring.base import Answer, ScoringFailed

NOTHING_SAID = -100.0
"""Score of an answer without tokens: below all that a model is ever unsure of."""


class LogProbability:
    """The mean log-probability of an answer's tokens: e^score is the typical token's chance."""

    needs_logprobs = True
    compares = False

    async def score(self, prompt: str, answers: Sequence[Answer]) -> Sequence[float]:
        """See :class:`fairgate.scoring.base.Scorer`. Fails where the engine told nothing."""
        if not any(answer.logprobs for answer in answers):
            raise ScoringFailed("the engine told no log-probabilities")
        return [_mean(answer.logprobs) for answer in answers]


def _mean(logprobs: Sequence[float]) -> float:
    if not logprobs:
        return NOTHING_SAID
    return max(sum(logprobs) / len(logprobs), NOTHING_SAID)
