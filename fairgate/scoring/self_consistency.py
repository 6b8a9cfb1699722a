"""Scores answers by how many of them come to the same result (arXiv 2203.11171)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from fairgate.scoring.base import Answer

TAIL_CHARS = 4096
"""Results stand at the end; of a longer answer only so much is looked at."""

_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_MARKED = re.compile(r"####\s*([^\n]+)")
_SAID = re.compile(
    r"\b(?:final answer|answer|result|solution)\b\W{0,3}(?:(?:is|are|=|:)\W{0,4})([^\n]+)",
    re.IGNORECASE,
)
_LETTER = re.compile(r"^\W*([A-Z])(?:\W|$)")
_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\.\d+")
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)")
_WORD = re.compile(r"\w+")


class SelfConsistency:
    """The share of the answers with the same final answer; one alone is at one with itself."""

    needs_logprobs = False
    compares = True

    async def score(self, prompt: str, answers: Sequence[Answer]) -> Sequence[float]:
        """See :class:`fairgate.scoring.base.Scorer`. An answer without a result scores 0."""
        results = [final_answer(answer.text) for answer in answers]
        votes = Counter(result for result in results if result)
        return [votes[result] / len(answers) if result else 0.0 for result in results]


def final_answer(text: str) -> str:
    r"""The result that ``text`` comes to, normalised; empty where it says nothing.

    What stands in the last ``\boxed{}``, after ``####`` or after words such as "the answer is";
    else a text of a few words as a whole, else the last number. Of these a choice's letter or a
    number counts, such as ``c`` or ``1234.5``, else the words in lower case.
    """
    tail = text[-TAIL_CHARS:].strip()
    for mark in (_BOXED, _MARKED, _SAID):
        if found := mark.findall(tail):
            return _normalised(_SENTENCE_END.split(found[-1], maxsplit=1)[0])
    if len(_WORD.findall(tail)) <= 3:
        return _normalised(tail)
    numbers = _NUMBER.findall(tail)
    return _number(numbers[-1]) if numbers else _words(tail.splitlines()[-1])


def _normalised(result: str) -> str:
    if letter := _LETTER.match(result):
        return letter[1].lower()
    if numbers := _NUMBER.findall(result):
        return _number(numbers[-1])
    return _words(result)


def _number(text: str) -> str:
    """``1,234.50`` as ``1234.5``."""
    try:
        value = Decimal(text.replace(",", ""))
    except InvalidOperation:
        return text
    return format(value.normalize(), "f") if value else "0"


def _words(text: str) -> str:
    return " ".join(_WORD.findall(text.lower()))
