"""Service that tenants received, as a function of time.

Service is VTC's cost (OSDI'24, arXiv 2401.00588): ``w_in`` per prompt token and ``w_out`` per
output token, 1 and 2 by default as there. A client cannot see when tokens are
computed, so the prompt counts when the first token comes and output tokens evenly from then to the
end. Times are seconds since the start of the replay.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat

from loadgen.records import Outcome

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Price:
    """Service units per token."""

    prompt: float = 1.0
    output: float = 2.0

    def cost(self, prompt_tokens: int, output_tokens: int) -> float:
        """Service units of so many tokens."""
        return self.prompt * prompt_tokens + self.output * output_tokens

    def per(self, unit: float) -> Price:
        """The same, measured in multiples of ``unit``."""
        return Price(self.prompt / unit, self.output / unit)

    def received(self, outcome: Outcome) -> float:
        """Service delivered by one call, whole or not."""
        return self.cost(outcome.prompt_tokens, outcome.completion_tokens)

    def demanded(self, outcome: Outcome) -> float:
        """Service that a call asked for: a completed one what it got, a lost one what it wanted."""
        received = self.received(outcome)
        if outcome.result == "completed":
            return received
        return max(received, self.cost(outcome.wanted_prompt_tokens, outcome.wanted_output_tokens))


class Accumulated:
    """Service accumulated over some calls: piecewise linear with a step at each first token.

    ``units``, one for each call, measure its service in a unit of its own, such as what a typical
    request of its app costs.
    """

    def __init__(
        self, outcomes: Iterable[Outcome], price: Price, units: Iterable[float] | None = None
    ) -> None:
        changes: defaultdict[float, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for outcome, unit in zip(outcomes, repeat(1.0) if units is None else units, strict=False):
            _add(changes, outcome, price.per(unit))
        self.times = sorted(changes)
        """Seconds at which it steps or changes slope."""
        self._before: list[float] = []
        self._after: list[float] = []
        self._slopes: list[float] = []
        total = slope = last_s = 0.0
        for at_s in self.times:
            step, bend = changes[at_s]
            total += slope * (at_s - last_s)
            self._before.append(total)
            total, slope, last_s = total + step, slope + bend, at_s
            self._after.append(total)
            self._slopes.append(slope)

    def until(self, at_s: float) -> float:
        """Service before ``at_s``, a step at that very time left out."""
        index = bisect_left(self.times, at_s)
        if index < len(self.times) and self.times[index] == at_s:
            return self._before[index]
        return self._extend(index - 1, at_s)

    def through(self, at_s: float) -> float:
        """Service up to and with a step at ``at_s``."""
        return self._extend(bisect_right(self.times, at_s) - 1, at_s)

    def between(self, start_s: float, end_s: float) -> Sequence[float]:
        """The times of change that lie strictly inside."""
        return self.times[bisect_right(self.times, start_s) : bisect_left(self.times, end_s)]

    def _extend(self, index: int, at_s: float) -> float:
        if index < 0:
            return 0.0
        return self._after[index] + self._slopes[index] * (at_s - self.times[index])


def _add(changes: defaultdict[float, list[float]], outcome: Outcome, price: Price) -> None:
    first_s, end_s = outcome.first_token_s, outcome.end_s
    if first_s is None:
        # Delivered without a visible token (all of its text was empty): at its end.
        changes[end_s][0] += price.received(outcome)
        return
    changes[first_s][0] += price.cost(outcome.prompt_tokens, 0)
    output = price.cost(0, outcome.completion_tokens)
    if end_s <= first_s:
        changes[first_s][0] += output
        return
    slope = output / (end_s - first_s)
    changes[first_s][1] += slope
    changes[end_s][1] -= slope


def waiting(outcome: Outcome) -> Interval:
    """From when until when a call waited for service.

    It ends when the call left the line, as ``x-fairgate-queue-ms`` tells; of other targets a client
    sees only the first token. A call that never got that far waited until its end.
    """
    for until_s in (outcome.granted_s, outcome.first_token_s):
        if until_s is not None:
            return outcome.intended_s, max(outcome.intended_s, until_s)
    return outcome.intended_s, outcome.end_s


def backlog(outcomes: Iterable[Outcome]) -> list[Interval]:
    """Times during which at least one of the calls waited: disjoint, in order."""
    merged: list[Interval] = []
    for start_s, end_s in sorted(map(waiting, outcomes)):
        if merged and start_s <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end_s))
        elif end_s > start_s:
            merged.append((start_s, end_s))
    return merged


def overlap(ones: Sequence[Interval], others: Sequence[Interval]) -> list[Interval]:
    """Times that are in both."""
    common = []
    i = j = 0
    while i < len(ones) and j < len(others):
        start_s, end_s = max(ones[i][0], others[j][0]), min(ones[i][1], others[j][1])
        if start_s < end_s:
            common.append((start_s, end_s))
        if ones[i][1] < others[j][1]:
            i += 1
        else:
            j += 1
    return common
