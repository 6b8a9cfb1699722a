"""What became of interactions: finished, broken, or refused before anything was served."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from loadgen.records import Outcome


@dataclass(frozen=True, slots=True)
class Endings:
    """Interactions by how they ended."""

    completed: frozenset[str]
    broken: frozenset[str]
    """Lost a call after at least one of them was served: that work was in vain."""
    refused: frozenset[str]
    """Lost their first call: nothing was served."""


def endings(outcomes: Iterable[Outcome]) -> Endings:
    """Of every interaction that ``outcomes`` name; calls without one are left out."""
    lost: dict[str, int] = {}
    done: Counter[str] = Counter()
    sizes: dict[str, int] = {}
    for o in outcomes:
        if o.interaction is None:
            continue
        sizes[o.interaction] = o.calls
        if o.result == "completed":
            done[o.interaction] += 1
        else:
            lost[o.interaction] = o.number
    return Endings(
        completed=frozenset(name for name, size in sizes.items() if done[name] == size),
        broken=frozenset(name for name, number in lost.items() if number > 0),
        refused=frozenset(name for name, number in lost.items() if number == 0),
    )
