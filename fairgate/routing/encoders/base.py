"""What every encoder is: a prompt in, sparse buckets and a dense vector out."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Buckets = NDArray[np.int64]
Vector = NDArray[np.float32]

WORDS = 2**19
"""Hashes of single words: so many that few words share one."""


class Encoded(NamedTuple):
    """A prompt in numbers."""

    buckets: Buckets
    """Which hashed n-grams occur in it: distinct, each in ``0..encoder.buckets - 1``."""

    dense: Vector
    """``encoder.width`` numbers of any scale."""

    words: Buckets
    """A hash of each word, in order, in ``0..WORDS - 1``."""


class Encoder(Protocol):
    """Holds no state that changes; the same prompt gives the same numbers on every machine."""

    name: str
    buckets: int
    width: int

    def encode(self, prompt: str) -> Encoded:
        """``prompt`` in numbers; never fails, whatever the text."""
