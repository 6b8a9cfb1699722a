"""What became of interactions: finished, broken, or refused before anything was served."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from loadgen.records import Outcome


@dataclass(frozen=True, slots=True)
class Endings:
    """Interactions by how they ended."""

    completed: Mapping[str, float]
    """With the seconds at which their last call ended."""
    broken: frozenset[str]
    """Lost a call after at least one of them was served: that work was in vain."""
    refused: frozenset[str]
    """Lost their first call: nothing was served."""

    def completed_by(self, at_s: float) -> list[str]:
        """Those whose last call had ended then."""
        return [name for name, end_s in self.completed.items() if end_s <= at_s]


def endings(outcomes: Iterable[Outcome]) -> Endings:
    """Of every interaction that ``outcomes`` name; calls without one are left out."""
    lost: dict[str, int] = {}
    done: Counter[str] = Counter()
    sizes: dict[str, int] = {}
    ends_s: dict[str, float] = {}
    for o in outcomes:
        if o.interaction is None:
            continue
        sizes[o.interaction] = o.calls
        if o.result == "completed":
            done[o.interaction] += 1
            ends_s[o.interaction] = max(o.end_s, ends_s.get(o.interaction, 0.0))
        else:
            lost[o.interaction] = o.number
    return Endings(
        completed={name: ends_s[name] for name, size in sizes.items() if done[name] == size},
        broken=frozenset(name for name, number in lost.items() if number > 0),
        refused=frozenset(name for name, number in lost.items() if number == 0),
    )
