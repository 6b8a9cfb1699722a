"""Has a model judge answers: a mark from 0 to 10, or which of two answers is better."""

from __future__ import annotations

import re

from fairgate.errors import EngineError
from fairgate.labelling.engine import Asked

_MARK = """You judge answers. Give a mark from 0 (useless or wrong) to 10 (correct and complete).
Reply with the mark only, as in: Mark: 7

[Question]
{prompt}

[Answer]
{answer}
"""

_PAIR = """You compare two answers. Judge correctness first, then helpfulness; ignore their order
and length. Reply with one word: A, B or TIE.

[Question]
{prompt}

[Answer A]
{a}

[Answer B]
{b}
"""

_TOKENS = 16


async def mark(judge: Asked, prompt: str, answer: str) -> float:
    """Score in 0..1. Raises ``EngineError`` where the judge gives no mark."""
    told = await judge.answer(_MARK.format(prompt=prompt, answer=answer), max_tokens=_TOKENS)
    found = re.search(r"\d+(?:\.\d+)?", told)
    if found is None or not 0 <= float(found[0]) <= 10:
        raise EngineError(f"the judge gave no mark from 0 to 10, but {told[:60]!r}")
    return float(found[0]) / 10


async def compare(judge: Asked, prompt: str, first: str, second: str) -> float:
    """How far ``first`` is better than ``second``: 1 better, 0 worse, 0.5 as good.

    The judge sees them in both orders, since judges like what stands first; where it changes its
    mind they are as good. Raises ``EngineError`` where it does not choose.
    """
    if first.strip() == second.strip():
        return 0.5
    ahead = await _choice(judge, prompt, first, second)
    behind = await _choice(judge, prompt, second, first)
    return (ahead + 1 - behind) / 2


async def _choice(judge: Asked, prompt: str, a: str, b: str) -> float:
    told = await judge.answer(_PAIR.format(prompt=prompt, a=a, b=b), max_tokens=_TOKENS)
    found = re.search(r"\b(A|B|TIE)\b", told.upper())
    if found is None:
        raise EngineError(f"the judge chose neither A nor B nor TIE, but {told[:60]!r}")
    return {"A": 1.0, "B": 0.0, "TIE": 0.5}[found[1]]
