"""The bytes of a prompt as arrays: where words begin, and hashes of words and character n-grams.

Everything is computed for the whole text at once. The hash of a span ``[i, j)`` is a polynomial in
an odd number P modulo 2^64 (Rabin and Karp), from prefix sums: ``(S[j] - S[i]) * P^-i``, so
that equal spans have equal hashes wherever they stand, on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 4096
"""Of longer prompts the beginning and the end are read, half of this each."""

Bytes = NDArray[np.uint8]
Hashes = NDArray[np.uint64]
Positions = NDArray[np.int64]

_MODULUS = 2**64
_P = 0x9E3779B97F4A7C15
_HEAD = MAX_BYTES // 2


def _powers(base: int) -> Hashes:
    powers = np.empty(MAX_BYTES + 1, np.uint64)
    value = 1
    for i in range(len(powers)):
        powers[i] = value
        value = value * base % _MODULUS
    return powers


_POWERS = _powers(_P)
_INVERSE_POWERS = _powers(pow(_P, -1, _MODULUS))
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_MIX_PAIR = np.uint64(0x94D049BB133111EB)
_SHIFT = np.uint64(29)


def _folding() -> bytes:
    """Lower case, every digit 0, every blank a space: what n-grams are made of."""
    table = bytearray(bytes(range(256)).lower())
    for digit in b"0123456789":
        table[digit] = ord("0")
    for blank in b"\t\r\f\v":
        table[blank] = ord(" ")
    return bytes(table)


_FOLDED = _folding()
_IN_WORD = bytes(int(chr(code).isalnum() or code >= 128) for code in range(256))


class Text:
    """One prompt, cut to :data:`MAX_BYTES`."""

    __slots__ = ("_sums", "data", "ends", "folded", "starts")

    def __init__(self, prompt: str) -> None:
        data = prompt.encode(errors="replace")
        if len(data) > MAX_BYTES:
            data = data[:_HEAD] + data[_HEAD - MAX_BYTES :]
        self.data = data
        self.folded = data.translate(_FOLDED)
        folded = np.frombuffer(self.folded, np.uint8)
        in_word = np.frombuffer(b"\0" + self.folded.translate(_IN_WORD) + b"\0", np.uint8)
        edges = np.flatnonzero(in_word[1:] != in_word[:-1])
        self.starts: Positions = edges[::2]
        self.ends: Positions = edges[1::2]
        self._sums = np.zeros(len(data) + 1, np.uint64)
        np.cumsum(
            (folded.astype(np.uint64) + np.uint64(1)) * _POWERS[: len(data)], out=self._sums[1:]
        )

    def words(self) -> Hashes:
        """A hash of each word, in order."""
        spans = self._sums[self.ends] - self._sums[self.starts]
        return _mixed(spans * _INVERSE_POWERS[self.starts])

    def ngrams(self, length: int) -> Hashes:
        """A hash of each run of ``length`` bytes, blanks and punctuation included."""
        count = len(self.data) - length
        if count < 0:
            return np.empty(0, np.uint64)
        spans = self._sums[length:] - self._sums[: count + 1]
        return _mixed(spans * _INVERSE_POWERS[: count + 1])


def pairs(words: Hashes) -> Hashes:
    """A hash of each two words that follow each other."""
    first, second = words[:-1], words[1:]
    return _mixed(first * np.uint64(31) + second * _MIX_PAIR)


def _mixed(hashes: Hashes) -> Hashes:
    return (hashes ^ (hashes >> _SHIFT)) * _MIX
