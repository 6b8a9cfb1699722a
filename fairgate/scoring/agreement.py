"""Scores answers in free text by how much they have in common with the others."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from fairgate.scoring.base import Answer

MAX_CHARS = 16_384
"""Of a longer answer only so much is compared."""

Embed = Callable[[str], Mapping[int, float]]
"""Makes a text a sparse vector: weights by feature."""

_WORD = re.compile(r"\w+")


class Agreement:
    """The mean cosine similarity to the other answers; the best one is their medoid.

    ``embed`` may be any embedding; by default words and pairs of words.
    """

    needs_logprobs = False
    compares = True

    def __init__(self, embed: Embed | None = None) -> None:
        self._embed = embed or word_pairs

    async def score(self, prompt: str, answers: Sequence[Answer]) -> Sequence[float]:
        """See :class:`fairgate.scoring.base.Scorer`. An answer that stands alone scores 1."""
        if len(answers) == 1:
            return [1.0]
        vectors = [_unit(self._embed(answer.text[:MAX_CHARS])) for answer in answers]
        # Of unit vectors the similarities to all sum up to the product with their sum.
        total: defaultdict[int, float] = defaultdict(float)
        for vector in vectors:
            for feature, weight in vector.items():
                total[feature] += weight
        return [(_dot(v, total) - _dot(v, v)) / (len(vectors) - 1) for v in vectors]


def word_pairs(text: str) -> Mapping[int, float]:
    """Hashed words and pairs of neighbours, each as the logarithm of how often it stands there."""
    words = _WORD.findall(text.lower())
    counts = Counter(map(hash, words))
    counts.update(map(hash, itertools.pairwise(words)))
    return {feature: 1 + math.log(count) for feature, count in counts.items()}


def _unit(vector: Mapping[int, float]) -> Mapping[int, float]:
    length = math.sqrt(sum(weight * weight for weight in vector.values()))
    return {f: w / length for f, w in vector.items()} if length else {}


def _dot(a: Mapping[int, float], b: Mapping[int, float]) -> float:
    return sum(weight * b[feature] for feature, weight in a.items())
