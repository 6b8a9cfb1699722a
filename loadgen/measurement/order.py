"""Whether real and simulated runs put the policies in the same order.

As Kendall's rank correlation does, every pair of policies is looked at, for each figure that has a
better and a worse direction. On either side a pair is *ordered* if the two differ by more than the
noise: if the gap between the intervals that their seeds span (with one seed, between the values)
exceeds both a share of the larger value (``noise``) and the figure's own floor
(:data:`FLOORS`); else it is a *tie*. A pair agrees if both sides order it the same way, disagrees
if they order it in opposite ways, and is undecided if either side has a tie: a difference that one
side shows and the other cannot resolve contradicts nothing. The order of a figure agrees unless a
pair disagrees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from loadgen.simulation.figures import Run
from loadgen.simulation.statistics import Spread
from loadgen.simulation.table import COLUMNS, Column, spread_of

NOISE_SHARE: Final = 0.2
"""Unless told. Where the engines' capacity changed by more during the runs, that share counts."""

FLOORS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "Jain": 0.02,
        "TTFT p99 of the worst tenant, s": 0.25,
        "throttled %": 1.0,
        "interactions done": 2.0,
        "interactions broken": 2.0,
        "victim slowdown": 0.5,
        "share error %": 5.0,
        "user spread %": 5.0,
        "bound violations": 1.0,
        "service difference / bound": 0.25,
    }
)
"""By the title of its column: a difference that no reader would care about, in its own unit."""


class Agreement(Struct, frozen=True, kw_only=True):
    """One figure in one scenario: how many pairs of policies both sides order alike."""

    scenario: str
    figure: str
    agreeing: int
    undecided: int
    disagreeing: list[tuple[str, str]]

    @property
    def text(self) -> str:
        """In a word or two."""
        if self.disagreeing:
            pairs = ", ".join("/".join(pair) for pair in self.disagreeing)
            return f"DISAGREES: {pairs}"
        if not self.agreeing:
            return "tie"
        return f"agrees ({self.agreeing} of {self.agreeing + self.undecided} pairs, others tie)"


def agreements(
    scenario: str, real: Sequence[Run], simulated: Sequence[Run], *, noise: float = NOISE_SHARE
) -> list[Agreement]:
    """One for each figure that has a direction and that both sides know for some pair."""
    found = []
    for column in COLUMNS:
        if column.better:
            one, other = _by_policy(real, column), _by_policy(simulated, column)
            if len(one.keys() & other.keys()) > 1:
                found.append(_compare(scenario, column, one, other, noise))
    return found


def ordered(a: Spread, b: Spread, *, floor: float, share: float) -> int:
    """-1 if ``a`` is smaller, 1 if it is larger, 0 if they differ by no more than the noise."""
    gap = max(a.low - b.high, b.low - a.high)
    if gap <= max(floor, share * max(abs(a.median), abs(b.median))):
        return 0
    return 1 if a.median > b.median else -1


def _compare(
    scenario: str, column: Column, real: Mapping[str, Spread], simulated: Mapping[str, Spread],
    noise: float,
) -> Agreement:  # fmt: skip
    floor = FLOORS.get(column.title, 0.0)
    agreeing = undecided = 0
    disagreeing = []
    for a, b in combinations([policy for policy in real if policy in simulated], 2):
        product = ordered(real[a], real[b], floor=floor, share=noise) * ordered(
            simulated[a], simulated[b], floor=floor, share=noise
        )
        agreeing += product > 0
        undecided += product == 0
        if product < 0:
            disagreeing.append((a, b))
    return Agreement(
        scenario=scenario,
        figure=column.title,
        agreeing=agreeing,
        undecided=undecided,
        disagreeing=disagreeing,
    )


def _by_policy(runs: Sequence[Run], column: Column) -> dict[str, Spread]:
    policies = dict.fromkeys(run.policy for run in runs)
    spreads = {p: spread_of([run for run in runs if run.policy == p], column) for p in policies}
    return {policy: spread for policy, spread in spreads.items() if spread is not None}
