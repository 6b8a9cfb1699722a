"""Who demands more than its share, who is protected from that, and who suffers from it.

What runs in a pool is divided by weighted max-min fairness among those who want some of it: who
wants less than its share by weight gets all that it wants, and what it leaves goes to the others by
weight (Bertsekas and Gallager, Data Networks, section 6.5.2). A fair queue settles there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

_FLOODS = 2.0
"""Times its share that a tenant must want to count as one who floods."""
_GETS = 0.6
"""Part of what it is due below which a waiting tenant is held back."""
_HARDLY = 0.5
"""Requests in line, on average, that are no waiting to speak of."""


class Role(StrEnum):
    """What a tenant is to the others at the moment."""

    IDLE = "idle"
    """Wants nothing."""
    SERVED = "served"
    """Wants something, and nobody has to wait."""
    PROTECTED = "protected"
    """Wants no more than its share and gets it, while others wait."""
    OVER = "over"
    """Wants more than its share, and so waits."""
    FLOODS = "floods"
    """Wants a multiple of its share."""
    HELD_BACK = "held-back"
    """Wants no more than its share, or has less than it, and waits for others."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What one tenant wants, averaged over some seconds."""

    weight: float
    running: float
    """Requests."""
    waiting: float
    refused: float = 0.0
    """Requests that limits refused, in the time that a request takes."""

    @property
    def wanted(self) -> float:
        """Sequences that it would run if it could."""
        return self.running + self.waiting + self.refused


@dataclass(frozen=True, slots=True)
class Standing:
    """How one tenant stands among those of its pool."""

    role: Role
    fair: float
    """Share by weight among those who want something, 0 to 1."""
    due: float
    """Sequences that max-min fairness gives it of those that run."""
    excess: float
    """What it wants as a multiple of what it is due; 0: it wants nothing."""


def standings(demands: Mapping[str, Demand]) -> dict[str, Standing]:
    """By tenant. A pool in which nobody waits is not divided: everybody gets what it wants."""
    wanting = {name: d for name, d in demands.items() if d.wanted > 0}
    contended = sum(d.waiting + d.refused for d in wanting.values()) > _HARDLY
    running = sum(d.running for d in wanting.values())
    due = entitlements(wanting, running) if contended else {}
    weights = sum(d.weight for d in wanting.values())
    found = {}
    for name, d in demands.items():
        if name not in wanting:
            found[name] = Standing(Role.IDLE, 0.0, 0.0, 0.0)
            continue
        part = due.get(name, d.wanted)
        excess = d.wanted / part if part > 0 else 1.0
        role = _role(d, part, excess) if contended else Role.SERVED
        found[name] = Standing(role, d.weight / weights, part, excess)
    return found


def _role(d: Demand, due: float, excess: float) -> Role:
    if d.waiting > _HARDLY and d.running < _GETS * min(d.wanted, due):
        return Role.HELD_BACK
    if excess >= _FLOODS:
        return Role.FLOODS
    if excess > 1.05 and d.waiting + d.refused > _HARDLY:
        return Role.OVER
    return Role.PROTECTED


def entitlements(demands: Mapping[str, Demand], capacity: float) -> dict[str, float]:
    """Divides ``capacity`` sequences by weighted max-min fairness."""
    due: dict[str, float] = {}
    left, weights = capacity, sum(d.weight for d in demands.values())
    by_need = sorted(demands.items(), key=lambda item: item[1].wanted / item[1].weight)
    for name, d in by_need:
        due[name] = min(d.wanted, left * d.weight / weights)
        left, weights = max(0.0, left - due[name]), max(weights - d.weight, 1e-9)
    return due
