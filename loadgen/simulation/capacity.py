"""What engines can serve: how many calls a second, when a sample of them comes all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from loadgen.records import Call, Chain, Outcome
from loadgen.simulation.driver import simulate
from loadgen.simulation.policies import PRESETS
from loadgen.simulation.workload import Workload

_PROBE_CALLS = 1500
_PATIENT_S = 3600.0


def measure_capacity(workload: Workload, store: str, seed: int) -> float:
    """Calls per second that the simulated engines serve under ``fcfs``; ``store`` is a socket."""
    probe = burst(workload, seed, _PROBE_CALLS)
    return served_per_s(simulate(probe, PRESETS["fcfs"], store, seed=seed).outcomes)


def burst(workload: Workload, seed: int, calls: int) -> Workload:
    """A sample of its calls, all at once, on one gateway, and nobody gives up."""
    plan = [Chain(0.0, (call,)) for call in sampled(workload, f"burst {seed}", calls)]
    return replace(workload, plan=plan, gateways=1).with_deadline(_PATIENT_S)


def sampled(workload: Workload, seed: str, calls: int) -> list[Call]:
    """So many of its calls, or all, each on its own."""
    known = [call for chain in workload.plan for call in chain.calls]
    chosen = Random(seed).sample(known, min(calls, len(known)))  # noqa: S311
    return [replace(c, interaction=None, number=0, calls=1, think_s=0.0) for c in chosen]


def served_per_s(outcomes: Sequence[Outcome]) -> float:
    """Calls per second between two fifths and nine tenths of the answers to a burst.

    Before, the apps' profiles are not yet learned and more is reserved than needed; after, the last
    stragglers remain.
    """
    ends = sorted(o.end_s for o in outcomes if o.result == "completed")
    first, last = len(ends) * 2 // 5, len(ends) * 9 // 10
    return (last - first) / (ends[last] - ends[first])
