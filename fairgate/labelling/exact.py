"""Scores that need no judgement: an exact answer, and small checks that a record names."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")
_CHOICE = re.compile(r"\b([A-J])\b")
_LETTER = re.compile(r"[A-J]")


class Check(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What an answer must fulfil; all that is named counts."""

    equals: str | None = None
    """As :func:`matches`."""
    contains: tuple[str, ...] = ()
    """Texts that stand in it, whatever their case."""
    regex: Annotated[str, Meta(max_length=500)] | None = None
    """Found in it."""
    number: float | None = None
    """The last number in it, to a millionth."""
    json: bool = False
    """It is JSON, by itself or in a fence."""
    max_words: Annotated[int, Meta(ge=1)] | None = None


def matches(expected: str, answer: str) -> bool:
    """Whether ``answer`` says ``expected``: a number if it is one, a letter of a choice, else text.

    Of numbers the last one counts, of letters the last one that stands alone: answers reason first.
    Text matches where it is all of the answer or of its last line, but for case, blanks and
    punctuation around it.
    """
    expected = expected.strip()
    if _NUMBER.fullmatch(expected):
        return _says_number(float(expected.replace(",", "")), answer)
    if _LETTER.fullmatch(expected):
        letters = _CHOICE.findall(answer)
        return bool(letters) and letters[-1] == expected
    lines = [_plain(line) for line in answer.strip().splitlines() if line.strip()]
    return bool(lines) and _plain(expected) in (lines[-1], " ".join(lines))


def passes(check: Check, answer: str) -> bool:
    """Whether ``answer`` fulfils all of ``check``."""
    low = answer.lower()
    return (
        (check.equals is None or matches(check.equals, answer))
        and all(text.lower() in low for text in check.contains)
        and (check.regex is None or re.search(check.regex, answer) is not None)
        and (check.number is None or _says_number(check.number, answer))
        and (not check.json or _is_json(answer))
        and (check.max_words is None or len(answer.split()) <= check.max_words)
    )


def _says_number(expected: float, answer: str) -> bool:
    numbers = _NUMBER.findall(answer)
    if not numbers:
        return False
    return abs(float(numbers[-1].replace(",", "")) - expected) <= 1e-6 * max(1.0, abs(expected))


def _is_json(answer: str) -> bool:
    fenced = re.search(r"```(?:json)?\s*(.*?)```", answer, re.DOTALL)
    try:
        msgspec.json.decode((fenced[1] if fenced else answer).strip())
    except msgspec.DecodeError:
        return False
    return True


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"^\W+|\W+$", "", folded).split())
