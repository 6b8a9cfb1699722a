"""What the form of a prompt tells about its difficulty: lengths, choices, digits, formulas, code.

None of it depends on what the prompt is about, so it holds for topics that were never seen.
"""

from __future__ import annotations

from math import log1p

import numpy as np
from numpy.typing import NDArray

from fairgate.routing.encoders.text import Hashes, Text

_EMPHASIS: tuple[bytes, ...] = (b" NOT ", b"EXCEPT", b"LEAST", b"\\", b"^", b"=", b"$", b"%", b'"')
_NUMBER_LENGTH = 18
"""A choice with digits in it and no longer than this is taken for a number or a formula."""

_LENGTHS = 11
_CHOICES = 7
WIDTH = _LENGTHS + _CHOICES + len(_EMPHASIS)

_DIGITS = slice(ord("0"), ord("9") + 1)
_CAPITALS = slice(ord("A"), ord("Z") + 1)
_NEWLINE = ord("\n")


def structure(text: Text, words: Hashes) -> NDArray[np.float32]:
    """:data:`WIDTH` numbers that describe the form of ``text``, whose words are ``words``."""
    codes = np.frombuffer(text.data, np.uint8)
    choices, question_bytes = _choices(codes)
    values = _lengths(text, np.bincount(codes, minlength=256), question_bytes)
    values.append(_distinct(words) / max(len(words), 1))
    values += choices
    values += [float(sign in text.data) for sign in _EMPHASIS]
    return np.array(values, np.float32)


def _distinct(words: Hashes) -> int:
    """How many of ``words`` differ, but for a few collisions."""
    seen = np.zeros(2**16, np.bool_)
    seen[(words >> np.uint64(48)).astype(np.int64)] = True
    return int(np.count_nonzero(seen))


def _lengths(text: Text, counts: NDArray[np.int64], question_bytes: int) -> list[float]:
    size, words = len(text.data) + 1, len(text.starts)
    letters = int((text.ends - text.starts).sum())
    before = int(np.searchsorted(text.starts, question_bytes))
    sentences = 1 + text.data.count(b". ", 0, question_bytes) + text.data.count(b"?")
    digits, capitals = int(counts[_DIGITS].sum()), int(counts[_CAPITALS].sum())
    return [
        log1p(size),
        log1p(question_bytes),
        log1p(words),
        letters / max(words, 1),
        before / sentences / 20,
        10 * digits / size,
        log1p(digits),
        10 * capitals / size,
        10 * int(counts[128:].sum()) / size,
        float(text.data[:question_bytes].rstrip()[-1:] == b"?"),
    ]


def _choices(codes: NDArray[np.uint8]) -> tuple[list[float], int]:
    """Lines such as ``B. some answer``: what they look like, and where the first one begins."""
    breaks = np.flatnonzero(codes[:-3] == _NEWLINE) if len(codes) > 3 else np.empty(0, np.int64)
    letter = codes[breaks + 1] - np.uint8(ord("A"))
    starts = breaks[(letter < 10) & (codes[breaks + 2] == ord(".")) & (codes[breaks + 3] == 32)]
    if len(starts) == 0:
        return [0.0] * _CHOICES, len(codes)
    after = breaks[breaks > starts[-1]]
    last = after[0] if len(after) else len(codes)
    lengths = np.maximum(np.diff(starts, append=last) - 4, 0)
    is_digit = (codes[starts[0] : last] - np.uint8(ord("0"))) < 10
    digits = np.add.reduceat(is_digit, starts - starts[0], dtype=np.int64)
    mean = float(lengths.mean())
    return [
        1.0,
        len(starts) / 4,
        log1p(mean),
        log1p(int(lengths.max())),
        log1p(int(lengths.min())),
        float(lengths.std()) / (1 + mean),
        float(np.mean((digits > 0) & (lengths <= _NUMBER_LENGTH))),
    ], int(starts[0])
