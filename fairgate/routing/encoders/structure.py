"""What the form of a prompt tells about its difficulty: lengths, choices, digits, formulas, code.

None of it depends on what the prompt is about, so it holds for topics that were never seen.
"""

from __future__ import annotations

import re
from itertools import islice
from math import log1p, sqrt

import numpy as np
from numpy.typing import NDArray

from fairgate.routing.encoders.text import Hashes, Text

_EMPHASIS: tuple[bytes, ...] = (b" NOT ", b"EXCEPT", b"LEAST", b"\\", b"^", b"=", b"$", b"%", b'"')
_NUMBER_LENGTH = 18
"""A choice with digits in it and no longer than this is taken for a number or a formula."""

_LENGTHS = 11
_CHOICES = 7
WIDTH = _LENGTHS + _CHOICES + len(_EMPHASIS)

_A, _LETTERS, _BEYOND = np.uint8(ord("A")), np.uint8(26), np.uint8(128)
_CHOICE = re.compile(rb"\n[A-J]\. ")
_MAX_CHOICES = 10


def structure(text: Text, words: Hashes) -> NDArray[np.float32]:
    """:data:`WIDTH` numbers that describe the form of ``text``, whose words are ``words``."""
    choices, question_bytes = _choices(text)
    values = _lengths(text, question_bytes)
    values.append(_distinct(words) / max(len(words), 1))
    values += choices
    values += [float(sign in text.data) for sign in _EMPHASIS]
    return np.array(values, np.float32)


def _distinct(words: Hashes) -> int:
    """How many of ``words`` differ, but for a few collisions."""
    seen = np.zeros(2**16, np.bool_)
    seen[(words >> np.uint64(48)).astype(np.int64)] = True
    return int(np.count_nonzero(seen))


def _lengths(text: Text, question_bytes: int) -> list[float]:
    size, words = len(text.data) + 1, len(text.starts)
    letters = int(text.ends.sum()) - int(text.starts.sum())
    before = int(np.searchsorted(text.starts, question_bytes))
    sentences = 1 + text.data.count(b". ", 0, question_bytes) + text.data.count(b"?")
    digits, capitals, foreign = _characters(text)
    return [
        log1p(size),
        log1p(question_bytes),
        log1p(words),
        letters / max(words, 1),
        before / sentences / 20,
        10 * digits / size,
        log1p(digits),
        10 * capitals / size,
        10 * foreign / size,
        float(text.data[:question_bytes].rstrip()[-1:] == b"?"),
    ]


def _characters(text: Text) -> tuple[int, int, int]:
    """How many bytes are digits, capitals, and of letters beyond ASCII."""
    codes = np.frombuffer(text.data, np.uint8)
    capitals = int(np.count_nonzero(codes - _A < _LETTERS))  # what is below A wraps around
    foreign = 0 if text.data.isascii() else int(np.count_nonzero(codes >= _BEYOND))
    return text.folded.count(b"0"), capitals, foreign


def _choices(text: Text) -> tuple[list[float], int]:
    """Lines such as ``B. some answer``: what they look like, and where the first one begins."""
    found = [match.start() for match in islice(_CHOICE.finditer(text.data), _MAX_CHOICES)]
    if not found:
        return [0.0] * _CHOICES, len(text.data)
    end = text.data.find(b"\n", found[-1] + 1)
    ends = [*found[1:], end if end >= 0 else len(text.data)]
    lengths = [max(after - start - 4, 0) for start, after in zip(found, ends, strict=True)]
    numbers = sum(
        length <= _NUMBER_LENGTH and b"0" in text.folded[start:after]
        for start, after, length in zip(found, ends, lengths, strict=True)
    )
    mean = sum(lengths) / len(lengths)
    deviation = sqrt(sum((length - mean) ** 2 for length in lengths) / len(lengths))
    return [
        1.0,
        len(found) / 4,
        log1p(mean),
        log1p(max(lengths)),
        log1p(min(lengths)),
        deviation / (1 + mean),
        numbers / len(found),
    ], found[0]
