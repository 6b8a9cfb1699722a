"""What finished interactions cost the engines, beside all that were offered.

Who never breaks an interaction finishes short and long ones alike: as many as the work that it
delivers holds of average ones. Who judges every call by itself, as ``fcfs`` with a deadline does,
loses long interactions more often than short ones, and the same work finishes more of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from fairgate.config import Lane
from loadgen.records import Chain, Outcome
from loadgen.simulation.endings import Endings
from loadgen.simulation.work import Cost, Work, named_engines


@dataclass(frozen=True, slots=True)
class Finishing:
    """Work is in engine seconds, see :mod:`loadgen.simulation.work`; ``None``: not known."""

    useful_s: float | None
    """Delivered, less what went into interactions that were broken."""
    each_s: float | None
    """Mean of the interactions that were finished."""
    offered_each_s: float | None
    """Mean of those that were offered, had all been served."""
    possible: int | None
    """How many the useful work would have finished, the cheapest first whoever sent them: no policy
    finishes more with it, and none knows their cost beforehand."""
    shares: dict[str, float]
    """Of the interactions that each tenant offered, those that were finished."""


def finishing(
    outcomes: Sequence[Outcome], ended: Endings, plan: Iterable[Chain], lanes: Mapping[str, Lane]
) -> Finishing:
    """Of a run; ``plan`` is what was offered. Engines of several kinds count as the first."""
    offered = [chain for chain in plan if chain.calls[0].interaction]
    shares = _shares(offered, ended)
    engines = named_engines(lanes)
    if not engines:
        return Finishing(None, None, None, None, shares)
    cost = Cost(engines[0][1])
    asked_s = {
        chain.calls[0].interaction: sum(
            cost.call_s(call.prompt_tokens, call.output_tokens) for call in chain.calls
        )
        for chain in offered
    }
    kept = [o for o in outcomes if o.interaction not in ended.broken]
    useful_s = Work(kept, lanes).total_s
    alone_s = Work([o for o in kept if o.interaction is None], lanes).total_s
    return Finishing(
        useful_s=useful_s,
        each_s=_mean([asked_s[name] for name in asked_s if name in ended.completed]),
        offered_each_s=_mean(list(asked_s.values())),
        possible=bisect_right(
            list(accumulate(sorted(asked_s.values()))), useful_s - alone_s + 1e-9
        ),
        shares=shares,
    )


def _shares(offered: Iterable[Chain], ended: Endings) -> dict[str, float]:
    sent: Counter[str] = Counter()
    done: Counter[str] = Counter()
    for chain in offered:
        call = chain.calls[0]
        sent[call.tenant] += 1
        done[call.tenant] += call.interaction in ended.completed
    return {tenant: done[tenant] / sent[tenant] for tenant in sorted(sent)}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
