"""Synthesise interactions: how many calls serve one action of a user.

Shaped on the Copilot sample of FairServe's artifact (arXiv 2411.15997): 69 % of the interactions
are a single call, the mean is 1.9 calls, the longest has 288.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from random import Random

SINGLE_SHARE = 0.69
LONGEST = 288
TAIL_EXPONENT = 2.6415
"""P(n) ~ n^-TAIL_EXPONENT for 2 to 288 calls: makes the mean over all interactions 1.9 calls."""

_LENGTHS = range(2, LONGEST + 1)
_CUMULATIVE = tuple(accumulate(n**-TAIL_EXPONENT for n in _LENGTHS))


def draw_length(random: Random) -> int:
    """Number of calls of one interaction."""
    if random.random() < SINGLE_SHARE:
        return 1
    return random.choices(_LENGTHS, cum_weights=_CUMULATIVE)[0]


def split(arrivals: Sequence[float], random: Random) -> Iterator[tuple[float, slice]]:
    """Turn one user's arrivals into interactions: start, and which of its requests they hold.

    Every request stays, so the load keeps its size; interactions start at a random choice of the
    arrivals, so it keeps its shape. Further calls come when the previous one has ended.
    """
    bounds = [0]
    while bounds[-1] < len(arrivals):
        bounds.append(min(bounds[-1] + draw_length(random), len(arrivals)))
    starts = sorted(random.sample(arrivals, len(bounds) - 1))
    for start_s, first, end in zip(starts, bounds, bounds[1:], strict=False):
        yield start_s, slice(first, end)
